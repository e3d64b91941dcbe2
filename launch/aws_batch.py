"""AWS Batch: an embedding as an array job."""

import argparse
import json
from typing import Any

from mae_jax.errors import FINAL, InputError

from .commands import Command, command
from .runs import Run, positive_int

MAX_ATTEMPTS = 10  # of AWS Batch
MAX_TASKS = 10_000
MIB_PER_GIB = 1024


class AwsBatch:
    """Array jobs of a queue of AWS Batch."""

    help = "an embedding as an array job of AWS Batch"
    example = (
        "  mae-jax launch aws-batch submit screen --queue gpus --num-tasks 64 --gpus 1 \\\n"
        "      --image 123456789012.dkr.ecr.us-east-1.amazonaws.com/mae-jax:cuda12 \\\n"
        "      --runs s3://my-bucket/embeddings \\\n"
        "      -- embed --encoder s3://my-bucket/model --index s3://my-bucket/index.parquet"
    )
    uses_preempted_exit_code = True

    def add_location_args(self, parser: argparse.ArgumentParser) -> None:
        """Adds the options that name the queue and the region."""
        parser.add_argument("--queue", required=True, help="job queue")
        parser.add_argument("--region", default="", help="region (that of the AWS configuration)")

    def add_submit_args(self, parser: argparse.ArgumentParser) -> None:
        """Adds the options of `submit`."""
        add = parser.add_argument
        add("--image", required=True, help="container image (launch/Dockerfile)")
        add("--gpus", type=int, default=0, metavar="N", help="GPUs per task (0)")
        add("--cpus", type=positive_int, default=8, metavar="N", help="CPUs per task (8)")
        add("--memory", type=positive_int, default=30, metavar="GIB", help="GiB per task (30)")
        add("--job-role", default="", metavar="ARN", help="role of the tasks, for their buckets")
        add("--execution-role", default="", metavar="ARN", help="role that pulls the image")

    def submit(self, run: Run, args: argparse.Namespace) -> list[Command]:
        """Registers a job definition of the run's name, and submits an array of it."""
        if run.is_training:
            raise InputError(
                "aws-batch runs embed alone; launch a training on kubernetes or slurm."
            )
        if "://" not in run.folder:
            raise InputError(f"--runs {run.folder} is a folder of one machine; give s3://…")
        if run.num_tasks > MAX_TASKS:
            raise InputError(f"an array of AWS Batch has at most {MAX_TASKS:,} tasks.")
        if args.max_parallel:
            raise InputError(
                "AWS Batch takes no --max-parallel: the maximum of vCPUs of the queue's compute "
                "environment limits it."
            )
        definition = json.dumps(self._definition(run, args), indent=2)
        array = f"--array-properties=size={run.num_tasks}" if run.num_tasks > 1 else ""
        return [
            self._batch(
                args,
                "register-job-definition",
                "--cli-input-json=file:///dev/stdin",
                stdin=definition,
            ),
            self._batch(
                args,
                "submit-job",
                f"--job-name={run.name}",
                f"--job-queue={args.queue}",
                f"--job-definition={run.name}",
                array,
            ),
        ]

    def status(self, args: argparse.Namespace) -> list[Command]:
        """Shows the jobs of this name and the states of their tasks."""
        query = "jobSummaryList[].[jobId,status,createdAt,arrayProperties.statusSummary]"
        return [self._list(args, f"--query={query}", "--output=yaml")]

    def logs(self, args: argparse.Namespace) -> list[Command]:
        """Follows the output of all tasks; Batch names streams by tasks it alone knows."""
        del args.process
        region = [f"--region={args.region}"] * bool(args.region)
        prefix = f"--log-stream-name-prefix={args.name}/"
        return [command("aws", "logs", "tail", "/aws/batch/job", prefix, "--follow", *region)]

    def stop(self, args: argparse.Namespace) -> list[Command]:
        """Terminates all jobs of this name: SIGTERM, then the end after 30 seconds."""
        ids = self._list(args, "--query=jobSummaryList[].jobId", "--output=text")
        region = f" --region={args.region}" if args.region else ""
        end = f"aws batch terminate-job{region} --reason=stopped --job-id"
        return [command("bash", "-c", f"{ids} | xargs --no-run-if-empty --max-args=1 {end}")]

    def _definition(self, run: Run, args: argparse.Namespace) -> dict[str, Any]:
        resources = {"VCPU": args.cpus, "MEMORY": args.memory * MIB_PER_GIB, "GPU": args.gpus}
        container: dict[str, Any] = {
            "image": args.image,
            "command": list(run.argv),
            "environment": [{"name": n, "value": v} for n, v in run.environment.items()],
            "resourceRequirements": [
                {"type": name, "value": str(value)} for name, value in resources.items() if value
            ],
            # 64 MiB by default: too little for the processes that decode images.
            "linuxParameters": {"sharedMemorySize": args.memory * MIB_PER_GIB // 2},
        }
        for key, role in (("jobRoleArn", args.job_role), ("executionRoleArn", args.execution_role)):
            if role:
                container[key] = role
        wrong = [{"onExitCode": str(status), "action": "EXIT"} for status in FINAL]
        return {
            "jobDefinitionName": run.name,
            "type": "container",
            "containerProperties": container,
            "retryStrategy": {
                "attempts": min(args.max_restarts + 1, MAX_ATTEMPTS),
                "evaluateOnExit": [*wrong, {"onReason": "*", "action": "RETRY"}],
            },
        }

    def _list(self, args: argparse.Namespace, *more: str) -> Command:
        names = f"--filters=name=JOB_NAME,values={args.name}"
        return self._batch(args, "list-jobs", f"--job-queue={args.queue}", names, *more)

    def _batch(
        self, args: argparse.Namespace, verb: str, *more: str, stdin: str | None = None
    ) -> Command:
        region = [f"--region={args.region}"] * bool(args.region)
        return command("aws", "batch", verb, *region, *more, stdin=stdin)


AWS_BATCH = AwsBatch()

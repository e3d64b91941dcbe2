"""TPU hosts of Compute Engine: one machine, with TPU7x among the generations."""

import argparse

from mae_jax.errors import InputError

from .commands import Command, command
from .runs import Run
from .tpu_vm import CONTAINER, STOP_FILE, startup_script
from .tpus import machine_type


class TpuInstance:
    """A single TPU host."""

    help = "a single TPU host of Compute Engine, TPU7x among them"
    example = (
        "  mae-jax launch tpu-instance submit vits --zone us-central1-c --tpu tpu7x-8 \\\n"
        "      --image us-docker.pkg.dev/my-project/mae-jax/tpu --nfs 10.0.0.2:/share:/share \\\n"
        "      --runs /share/runs -- train --config configs/small.py "
        "--config.data.index=/share/index.parquet"
    )
    uses_preempted_exit_code = True

    def add_location_args(self, parser: argparse.ArgumentParser) -> None:
        """Adds the options that name zone and project; gcloud's configuration is the default."""
        parser.add_argument("--zone", default="", help="zone (gcloud's)")
        parser.add_argument("--project", default="", help="project (gcloud's)")

    def add_submit_args(self, parser: argparse.ArgumentParser) -> None:
        """Adds the options of `submit`."""
        add = parser.add_argument
        add("--tpu", required=True, metavar="SLICE", help="v6e-1, v6e-4, v6e-8, tpu7x-2 or tpu7x-8")
        add("--image", required=True, help="container image (launch/Dockerfile, DEVICE=tpu)")
        add("--nfs", action="append", default=[], metavar="SERVER:/EXPORT:/PATH",
            help="a file system to mount on the host and in the container")  # fmt: skip
        add("--spot", action="store_true", help="spot capacity: cheaper, may be preempted")
        add("--flex-start", default="", metavar="HOURS",
            help="wait for capacity and keep it so many hours, at most 168")  # fmt: skip
        add("--leave-running", action="store_true", help="keep the machine after the run's end")
        add("--gcloud", action="append", default=[], metavar="OPTION",
            help="other option of gcloud's create, such as --gcloud=--network=mine")  # fmt: skip

    def submit(self, run: Run, args: argparse.Namespace) -> list[Command]:
        """Creates the machine, which starts the run whenever it boots."""
        if not run.is_training:
            raise InputError("embed runs as tasks; launch it on gke-tpu, kubernetes or slurm.")
        if args.spot and args.flex_start:
            raise InputError("--spot and --flex-start are two kinds of capacity; give one.")
        machine, family = machine_type(args.tpu)
        # The processes of one host need no way to find each other.
        words = [word for word in run.argv if word != "--distributed"]
        delete = [] if args.leave_running else list(self._delete(args, zone=False).argv)
        return [
            self._instances(
                args,
                "create",
                f"--machine-type={machine}",
                "--image-project=ubuntu-os-accelerator-images",
                f"--image-family={family}",
                "--maintenance-policy=TERMINATE",
                "--scopes=cloud-platform",
                *self._provisioning(args),
                *args.gcloud,
                "--metadata-from-file=startup-script=/dev/stdin",
                stdin=startup_script(run, args, words, delete, ""),
            )
        ]

    def status(self, args: argparse.Namespace) -> list[Command]:
        """Shows the state of the machine."""
        return [self._instances(args, "describe", "--format=yaml(name,status,lastStartTimestamp)")]

    def logs(self, args: argparse.Namespace) -> list[Command]:
        """Follows the output of the container."""
        if args.process:
            raise InputError(f"there is no host {args.process}: the machine is a single one.")
        return [self._ssh(args, f"sudo docker logs --tail=100 --follow {CONTAINER}")]

    def stop(self, args: argparse.Namespace) -> list[Command]:
        """Sends SIGTERM to the container, waits for it to save, then deletes the machine."""
        save = f"sudo touch {STOP_FILE}; sudo docker stop -t 180 {CONTAINER}"
        return [self._ssh(args, save, may_fail=True), self._delete(args)]

    def _provisioning(self, args: argparse.Namespace) -> list[str]:
        if args.spot:
            return ["--provisioning-model=SPOT", "--instance-termination-action=STOP"]
        if not args.flex_start:
            return []
        if not args.flex_start.isdigit() or not 1 <= int(args.flex_start) <= 168:
            raise InputError(f"--flex-start takes 1 to 168 hours, not {args.flex_start}.")
        return [
            "--provisioning-model=FLEX_START",
            "--request-valid-for-duration=2h",
            f"--max-run-duration={args.flex_start}h",
            "--instance-termination-action=DELETE",
            "--reservation-affinity=none",
        ]

    def _delete(self, args: argparse.Namespace, *, zone: bool = True) -> Command:
        return self._instances(args, "delete", "--quiet", zone=zone)

    def _instances(
        self,
        args: argparse.Namespace,
        verb: str,
        *more: str,
        zone: bool = True,
        stdin: str | None = None,
    ) -> Command:
        location = [f"--zone={args.zone}"] * bool(zone and args.zone)
        location += [f"--project={args.project}"] * bool(args.project)
        words = ("gcloud", "compute", "instances", verb, args.name)
        return command(*words, *location, *more, stdin=stdin)

    def _ssh(self, args: argparse.Namespace, remote: str, *, may_fail: bool = False) -> Command:
        location = [f"--{name}={value}" for name in ("zone", "project")
                    if (value := getattr(args, name))]  # fmt: skip
        words = ("gcloud", "compute", "ssh", args.name)
        return command(*words, *location, f"--command={remote}", may_fail=may_fail)


TPU_INSTANCE = TpuInstance()

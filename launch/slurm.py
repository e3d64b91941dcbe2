"""SLURM: a training on GPU nodes, an embedding as a job array."""

import argparse
import getpass
import os
import shlex
from pathlib import Path

from mae_jax.errors import InputError

from .commands import Command, bash_array, command
from .runs import Run, positive_int

BODY = Path(__file__).parent / "slurm.sh"
IMAGE_WORKDIR = "/opt/mae_jax"  # of launch/Dockerfile, with the configs


class Slurm:
    """Jobs of a SLURM cluster."""

    help = "GPU nodes of a SLURM cluster, with or without containers"
    example = """\
  mae-jax launch slurm submit vitl8 --nodes 4 --gpus 8 --time 24:00:00 --venv .venv \\
      --runs /scratch/runs -- train --config configs/demo.py --config.data.index=/data/index.parquet
  mae-jax launch slurm submit screen --num-tasks 64 --gpus 1 --time 4:00:00 --venv .venv \\
      --runs /scratch/embeddings -- embed --encoder /scratch/runs/vitl8/model \\
      --index /data/index.parquet"""
    # srun kills all processes when one of them fails, so a preempted one must end with status 0.
    # The saved model shows whether a training is finished.
    uses_preempted_exit_code = False

    def add_location_args(self, parser: argparse.ArgumentParser) -> None:
        """Adds no option: SLURM's commands know their cluster."""

    def add_submit_args(self, parser: argparse.ArgumentParser) -> None:
        """Adds the options of `submit`."""
        add = parser.add_argument
        add("--nodes", type=positive_int, default=1, help="nodes of a training (1)")
        add(
            "--gpus",
            type=positive_int,
            required=True,
            help="GPUs per node of a training, or per task of an embedding",
        )
        add("--cpus-per-gpu", type=positive_int, default=8, metavar="N", help="CPUs per GPU (8)")
        add("--time", required=True, help="time limit of a job, which is requeued at its end")
        add("--partition", default="", help="partition")
        add("--account", default="", help="account")
        add("--venv", default="", help="a virtual environment with mae_jax, on all nodes; or")
        add(
            "--image",
            default="",
            help="a container image (registry#image:tag, .sqsh or .sif), with",
        )
        add("--container", choices=("pyxis", "apptainer"), help="the runtime of the image")
        add("--bind", action="append", default=[], metavar="PATH[:PATH]",
            help="a folder to mount in the container, besides --runs")  # fmt: skip
        add("--sbatch", action="append", default=[], metavar="OPTION",
            help="any other option of sbatch, such as --sbatch=--mem=0")  # fmt: skip

    def submit(self, run: Run, args: argparse.Namespace) -> list[Command]:
        """Submits the job, after creating the folders of its log and output."""
        return [
            command("mkdir", "-p", str(_log(run.name, "0").parent), run.folder),
            command("sbatch", stdin=script(run, args)),
        ]

    def status(self, args: argparse.Namespace) -> list[Command]:
        """Shows the run's jobs that wait or run, and the ends of earlier ones."""
        selection = (f"--user={getpass.getuser()}", f"--name={args.name}")
        return [
            command("squeue", *selection, "--format=%.18i %.12T %.12M %.12l %.6D %R"),
            # Clusters without accounting have no sacct.
            command(
                "sacct",
                *selection,
                "--allocations",
                "--starttime=now-30days",
                "--format=JobID,State,Elapsed,Start,End,ExitCode",
                may_fail=True,
            ),
        ]

    def logs(self, args: argparse.Namespace) -> list[Command]:
        """Follows the log of the training, or of task `--process`."""
        return [command("tail", "-n", "100", "-F", str(_log(args.name, str(args.process))))]

    def stop(self, args: argparse.Namespace) -> list[Command]:
        """Sends SIGTERM to all processes; SLURM kills those that still run after KillWait."""
        return [command("scancel", f"--user={getpass.getuser()}", f"--name={args.name}")]


def script(run: Run, args: argparse.Namespace) -> str:
    """The batch script: SLURM's options, the variables of the body, and the body (slurm.sh)."""
    step, prefix = _step(run, args)
    lines = [
        "#!/usr/bin/env bash",
        *(f"#SBATCH {shlex.quote(option)}" for option in _directives(run, args)),
        "",
        *(f"export {name}={shlex.quote(value)}" for name, value in run.environment.items()),
        *([f"source {shlex.quote(_absolute(args.venv))}/bin/activate"] if args.venv else []),
        bash_array("step", step),
        bash_array("command", [*prefix, "mae-jax", *run.argv]),
        f"finished={shlex.quote(run.folder + '/model' if run.is_training else '')}",
        f"max_restarts={args.max_restarts}",
        "",
        "",
    ]
    body = BODY.read_text().split("\n", 2)[2]  # without its first two lines
    return "\n".join(lines) + body


def _directives(run: Run, args: argparse.Namespace) -> list[str]:
    # One process per GPU, as JAX expects under SLURM. An embedding is one process per task.
    tasks = args.gpus if run.is_training else 1
    options = [
        f"--job-name={run.name}",
        f"--nodes={args.nodes if run.is_training else 1}",
        f"--ntasks-per-node={tasks}",
        f"--gpus-per-node={args.gpus}",
        f"--cpus-per-task={args.cpus_per_gpu * args.gpus // tasks}",
        f"--time={args.time}",
        f"--output={_log(run.name, '0' if run.is_training else '%a')}",
        "--open-mode=append",
        "--requeue",
        "--signal=TERM@180",
    ]
    if run.is_training:
        options.append("--dependency=singleton")  # jobs of one name run one after the other
    else:
        limit = f"%{args.max_parallel}" if args.max_parallel else ""
        options.append(f"--array=0-{run.num_tasks - 1}{limit}")
    options += [f"--{name}={value}" for name in ("partition", "account")
               if (value := getattr(args, name))]  # fmt: skip
    options += args.sbatch
    for option in options:
        if "\n" in option:
            raise InputError(f"{option.splitlines()[0]}: an option of sbatch is one line.")
    return options


def _step(run: Run, args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The options of srun, and the words before `mae-jax`."""
    if bool(args.image) == bool(args.venv):
        raise InputError(
            "mae-jax has no source; give --venv FOLDER, or --image IMAGE with --container."
        )
    if bool(args.image) != bool(args.container):
        raise InputError("--image and --container (pyxis or apptainer) need each other; give both.")
    # Since SLURM 22.05 srun does not inherit --cpus-per-task from the job.
    cpus = args.cpus_per_gpu if run.is_training else args.cpus_per_gpu * args.gpus
    step = ["--kill-on-bad-exit=1", "--label", f"--cpus-per-task={cpus}"]
    root = os.path.dirname(run.folder)
    binds = [bind if ":" in bind else f"{bind}:{bind}" for bind in [root, *args.bind]]
    if args.container == "pyxis":
        step += [
            f"--container-image={args.image}",
            f"--container-mounts={','.join(binds)}",
            f"--container-workdir={IMAGE_WORKDIR}",
        ]
    elif args.container == "apptainer":
        return step, [
            "apptainer", "exec", "--nv", "--bind", ",".join(binds), "--pwd", IMAGE_WORKDIR,
            args.image,
        ]  # fmt: skip
    return step, []


def _log(name: str, task: str) -> Path:
    """The log of a task, or of a training; its path follows from the run's name."""
    return Path.home() / "mae-jax-logs" / f"{name}-{task}.log"


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


SLURM = Slurm()

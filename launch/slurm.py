"""SLURM: a training on GPU nodes, or an embedding as a job array."""

import argparse
import getpass
import os
import shlex
from pathlib import Path

from launch.commands import Call, bash_list, call
from launch.runs import Run, count
from mae_jax.errors import InputError

BODY = Path(__file__).parent / "slurm.sh"
IN_IMAGE = "/opt/mae_jax"  # where the image of launch/Dockerfile keeps its configs


class Slurm:
    """Jobs of SLURM."""

    help = "GPU nodes of a SLURM cluster, with or without containers"
    example = """\
  python -m launch slurm submit vitl8 --nodes 4 --gpus 8 --time 24:00:00 --venv .venv \\
      --runs /scratch/runs -- train --config configs/demo.py --config.data.index=/data/index.parquet
  python -m launch slurm submit screen --shards 64 --gpus 1 --time 4:00:00 --venv .venv \\
      --runs /scratch/embeddings -- embed --encoder /scratch/runs/vitl8/model \\
      --index /data/index.parquet"""
    # srun kills all others when the first process ends with a status; the model's being there
    # says as well whether a training is finished.
    stopped_status = False

    def place(self, parser: argparse.ArgumentParser) -> None:
        """SLURM's commands know their cluster: nothing says where."""

    def options(self, parser: argparse.ArgumentParser) -> None:
        """Declares what `submit` takes."""
        add = parser.add_argument
        add("--nodes", type=count, default=1, help="nodes of a training (1)")
        add("--gpus", type=count, required=True, help="GPUs a node, or a share of an embedding")
        add(
            "--cpus-per-gpu", type=count, default=8, metavar="N", help="processors for each GPU (8)"
        )
        add("--time", required=True, help="time limit of a job; at its end the job is requeued")
        add("--partition", default="", help="partition")
        add("--account", default="", help="account")
        add("--venv", default="", help="an environment with mae_jax that all nodes see, or")
        add(
            "--image",
            default="",
            help="a container image (registry#image:tag, .sqsh or .sif), with",
        )
        add("--container", choices=("pyxis", "apptainer"), help="what runs the image")
        add("--bind", action="append", default=[], metavar="PATH[:PATH]",
            help="a folder to show inside the container, besides --runs")  # fmt: skip
        add("--sbatch", action="append", default=[], metavar="OPTION",
            help="any other option of sbatch, as --sbatch=--mem=0")  # fmt: skip

    def submit(self, run: Run, args: argparse.Namespace) -> list[Call]:
        """The job, with the folder of its log."""
        return [
            call("mkdir", "-p", str(_log(run.name, "0").parent), run.folder),
            call("sbatch", document=script(run, args)),
        ]

    def status(self, args: argparse.Namespace) -> list[Call]:
        """What waits or runs now, and what became of the run's jobs."""
        mine = (f"--user={getpass.getuser()}", f"--name={args.name}")
        return [
            call("squeue", *mine, "--format=%.18i %.12T %.12M %.12l %.6D %R"),
            # Clusters without accounting have no sacct.
            call(
                "sacct",
                *mine,
                "--allocations",
                "--starttime=now-30days",
                "--format=JobID,State,Elapsed,Start,End,ExitCode",
                may_fail=True,
            ),
        ]

    def logs(self, args: argparse.Namespace) -> list[Call]:
        """The end of the run's log, and what is written to it from now on."""
        return [call("tail", "-n", "100", "-F", str(_log(args.name, str(args.process))))]

    def stop(self, args: argparse.Namespace) -> list[Call]:
        """SIGTERM to all processes; SLURM kills what has not saved after its KillWait."""
        return [call("scancel", f"--user={getpass.getuser()}", f"--name={args.name}")]


def script(run: Run, args: argparse.Namespace) -> str:
    """The job: SLURM's options, what the body needs, the body."""
    step, command = _step(run, args)
    lines = [
        "#!/usr/bin/env bash",
        *(f"#SBATCH {option}" for option in _directives(run, args)),
        "",
        *(f"export {name}={shlex.quote(value)}" for name, value in run.environment.items()),
        *([f"source {shlex.quote(_absolute(args.venv))}/bin/activate"] if args.venv else []),
        bash_list("step", step),
        bash_list("command", [*command, "mae-jax", *run.words]),
        f"finished={shlex.quote(run.folder + '/model' if run.training else '')}",
        f"most_restarts={args.restarts}",
        "",
        "",
    ]
    body = BODY.read_text().split("\n", 2)[2]  # without its first two lines
    return "\n".join(lines) + body


def _directives(run: Run, args: argparse.Namespace) -> list[str]:
    # One process a GPU, as JAX wants it under SLURM. An embedding is one process a share.
    tasks = args.gpus if run.training else 1
    listed = [
        f"--job-name={run.name}",
        f"--nodes={args.nodes if run.training else 1}",
        f"--ntasks-per-node={tasks}",
        f"--gpus-per-node={args.gpus}",
        f"--cpus-per-task={args.cpus_per_gpu * args.gpus // tasks}",
        f"--time={args.time}",
        f"--output={_log(run.name, '0' if run.training else '%a')}",
        "--open-mode=append",
        "--requeue",
        "--signal=TERM@180",
    ]
    if run.training:
        listed.append("--dependency=singleton")  # the same name twice: one after the other
    else:
        at_once = f"%{args.at_once}" if args.at_once else ""
        listed.append(f"--array=0-{run.shards - 1}{at_once}")
    listed += [f"--{name}={value}" for name in ("partition", "account")
               if (value := getattr(args, name))]  # fmt: skip
    return listed + args.sbatch


def _step(run: Run, args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The options of srun, and what stands before `mae-jax`."""
    if bool(args.image) == bool(args.venv):
        raise InputError(
            "say where mae-jax comes from: --venv FOLDER, or --image IMAGE with --container."
        )
    if bool(args.image) != bool(args.container):
        raise InputError("--image and --container (pyxis or apptainer) go together.")
    # Since SLURM 22.05 srun does not take --cpus-per-task over from the job.
    cpus = args.cpus_per_gpu if run.training else args.cpus_per_gpu * args.gpus
    step = ["--kill-on-bad-exit=1", "--label", f"--cpus-per-task={cpus}"]
    root = os.path.dirname(run.folder)
    binds = [bind if ":" in bind else f"{bind}:{bind}" for bind in [root, *args.bind]]
    if args.container == "pyxis":
        step += [
            f"--container-image={args.image}",
            f"--container-mounts={','.join(binds)}",
            f"--container-workdir={IN_IMAGE}",
        ]
    elif args.container == "apptainer":
        return step, [
            "apptainer", "exec", "--nv", "--bind", ",".join(binds), "--pwd", IN_IMAGE, args.image,
        ]  # fmt: skip
    return step, []


def _log(name: str, share: str) -> Path:
    """The log of a share, or of all a training, where the run's name alone leads."""
    return Path.home() / "mae-jax-logs" / f"{name}-{share}.log"


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


SLURM = Slurm()

"""`mae-jax launch TARGET submit|status|logs|stop NAME …`."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn, Protocol, runtime_checkable

from mae_jax.errors import DONE, INTERRUPTED, WRONG_INPUT, InputError, redact_credentials

from .aws_batch import AWS_BATCH
from .commands import Command
from .kubernetes import GKE_GPU, GKE_TPU, KUBERNETES
from .runs import Run, check_name, make_run, positive_int
from .slurm import SLURM
from .tpu_instance import TPU_INSTANCE
from .tpu_vm import TPU_QUEUED_RESOURCE, TPU_VM


@runtime_checkable
class Target(Protocol):
    """Machines that runs are launched on.

    A target keeps no state: all that does not follow from a run's name is read from the machines.

    Attributes:
      help, example: for the command line.
      uses_preempted_exit_code: whether a preempted training ends with the status `PREEMPTED`
        there, rather than 0.
    """

    @property
    def help(self) -> str: ...
    @property
    def example(self) -> str: ...
    @property
    def uses_preempted_exit_code(self) -> bool: ...

    def add_location_args(self, parser: argparse.ArgumentParser) -> None:
        """Add the options that say where the machines are, which every verb takes."""

    def add_submit_args(self, parser: argparse.ArgumentParser) -> None:
        """Add the further options of `submit`."""

    def submit(self, run: Run, args: argparse.Namespace) -> list[Command]:
        """The commands that start the run, or resume it.

        Raises:
          InputError: the target cannot run it, or an option is wrong.
        """

    def status(self, args: argparse.Namespace) -> list[Command]:
        """The commands that show whether the run waits, runs or has ended."""

    def logs(self, args: argparse.Namespace) -> list[Command]:
        """The commands that follow the output of host, pod or task `args.process`."""

    def stop(self, args: argparse.Namespace) -> list[Command]:
        """The commands that let the run save its state, and end it."""


@runtime_checkable
class WatchedTarget(Target, Protocol):
    """A target that does not restart runs after a preemption: `submit --watch` does."""

    def watch(self, run: Run, args: argparse.Namespace) -> None:
        """Submit the run, and again after each preemption, until it is finished or stopped.

        Raises:
          InputError: the run has failed.
        """

    def describe_watch(self, args: argparse.Namespace) -> str:
        """The further commands of `watch` as a script, for --dry-run."""


TARGETS: dict[str, Target] = {
    "tpu-vm": TPU_VM,
    "tpu-queued-resource": TPU_QUEUED_RESOURCE,
    "tpu-instance": TPU_INSTANCE,
    "gke-tpu": GKE_TPU,
    "gke-gpu": GKE_GPU,
    "kubernetes": KUBERNETES,
    "slurm": SLURM,
    "aws-batch": AWS_BATCH,
}
VERBS = {
    "submit": "start the run, or resume it",
    "status": "show whether the run waits, runs or has ended",
    "logs": "show the end of the run's output, and follow it",
    "stop": "let the run save its state, and end it",
}
# Earlier names of targets and options.
RENAMED_TARGETS = {"tpu-queue": "tpu-queued-resource"}
RENAMED_OPTIONS = {
    "--shards": "--num-tasks",
    "--at-once": "--max-parallel",
    "--restarts": "--max-restarts",
    "--keep": "--watch",
}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} ({self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit status (see `mae_jax.errors`)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    options, words = argv, []
    if "--" in argv:  # the command of mae-jax follows
        options, words = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    try:
        _refuse_renamed(options)
        args = build_parser().parse_args(options)
        check_name(args.name)
        target = TARGETS[args.target]
        wants_watch = getattr(args, "watch", False)
        watched = target if wants_watch and isinstance(target, WatchedTarget) else None
        if args.verb != "submit":
            if words:
                raise InputError(f"{args.verb} takes no command after --.")
            commands = getattr(target, args.verb)(args)
        else:
            run = make_run(
                args.name,
                args.runs,
                words,
                num_tasks=args.num_tasks,
                environment=args.env,
                uses_preempted_exit_code=target.uses_preempted_exit_code,
            )
            commands = target.submit(run, args)
            if watched and not args.dry_run:
                watched.watch(run, args)
                return DONE
        for command in commands:
            if args.dry_run:
                print(redact_credentials(str(command)))
            else:
                command.run()
        if watched:
            print(watched.describe_watch(args))
    except InputError as error:
        print(redact_credentials(f"launch: {error}"), file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:  # the end of `logs`
        return INTERRUPTED
    except BrokenPipeError:  # `… --dry-run | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return DONE


def build_parser() -> argparse.ArgumentParser:
    """The command line: targets, their verbs, and the options of each."""
    root = Parser(
        prog="mae-jax launch",
        description="Start runs on other machines, and look after them.",
        epilog=f"example:\n{KUBERNETES.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    targets = root.add_subparsers(dest="target", required=True, metavar="TARGET")
    for name, target in TARGETS.items():
        target_parser = targets.add_parser(name, help=target.help)
        verbs = target_parser.add_subparsers(dest="verb", required=True, metavar="VERB")
        for verb, text in VERBS.items():
            parser = verbs.add_parser(
                verb,
                help=text,
                description=f"{target.help}: {text}.",
                epilog=f"example:\n{target.example}" if verb == "submit" else None,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
            _add_arguments(parser, verb, target)
    return root


def _add_arguments(parser: argparse.ArgumentParser, verb: str, target: Target) -> None:
    add = parser.add_argument
    add("name", metavar="NAME", help="the run's name")
    add("--dry-run", action="store_true", help="print all commands, and run nothing")
    target.add_location_args(parser)
    if verb == "logs":
        add("--process", type=int, default=0, metavar="N",
            help="the host, pod or task whose output is shown (0)")  # fmt: skip
    if verb == "submit":
        add("--runs", required=True, metavar="FOLDER",
            help="folder of all runs, on all machines; this run writes to FOLDER/NAME")  # fmt: skip
        add("--num-tasks", type=positive_int, metavar="N", help="tasks of an embedding")
        add("--max-parallel", type=positive_int, metavar="N",
            help="tasks that run at the same time, at most (all)")  # fmt: skip
        add("--max-restarts", type=int, default=50, metavar="N",
            help="restarts after failures, at most (50)")  # fmt: skip
        add("--env", action="append", default=[], metavar="NAME=VALUE",
            help="environment variable of its processes")  # fmt: skip
        target.add_submit_args(parser)


def _refuse_renamed(options: Sequence[str]) -> None:
    if options and options[0] in RENAMED_TARGETS:
        raise InputError(f"{options[0]} is now {RENAMED_TARGETS[options[0]]}.")
    for word in options:
        name = word.split("=")[0]
        if name in RENAMED_OPTIONS:
            raise InputError(f"{name} is now {RENAMED_OPTIONS[name]}.")


if __name__ == "__main__":
    sys.exit(main())

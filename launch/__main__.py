"""`python -m launch TARGET submit|status|logs|stop NAME …`."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, Protocol

from launch.commands import Call
from launch.kubernetes import GKE_GPU, GKE_TPU, KUBERNETES
from launch.runs import Run, check_name, count, make_run
from launch.slurm import SLURM
from launch.tpu_vm import TPU_QUEUE, TPU_VM
from mae_jax.errors import InputError


class Target(Protocol):
    """A kind of machines that runs are launched on. Nothing is remembered here: what a run's name
    does not tell, the machines are asked.

    Attributes:
      help, example: for the command line.
      stopped_status: whether a stopped training must end with a status of its own there.
    """

    @property
    def help(self) -> str: ...
    @property
    def example(self) -> str: ...
    @property
    def stopped_status(self) -> bool: ...
    def place(self, parser: argparse.ArgumentParser) -> None: ...
    def options(self, parser: argparse.ArgumentParser) -> None: ...
    def submit(self, run: Run, args: argparse.Namespace) -> list[Call]: ...
    def status(self, args: argparse.Namespace) -> list[Call]: ...
    def logs(self, args: argparse.Namespace) -> list[Call]: ...
    def stop(self, args: argparse.Namespace) -> list[Call]: ...


TARGETS: dict[str, Target] = {
    "tpu-vm": TPU_VM,
    "tpu-queue": TPU_QUEUE,
    "gke-tpu": GKE_TPU,
    "gke-gpu": GKE_GPU,
    "kubernetes": KUBERNETES,
    "slurm": SLURM,
}
VERBS = {
    "submit": "start the run, or go on with it where it stopped",
    "status": "say whether it waits, runs or has ended",
    "logs": "show the end of what it prints, and what comes",
    "stop": "let it save, and end it",
}


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one sentence."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} ({self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Does what the command line says; returns the exit status (0 done, 2 not possible)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    options, words = argv, []
    if "--" in argv:  # what follows is the command of mae-jax
        options, words = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    try:
        args = parser().parse_args(options)
        check_name(args.name)
        target = TARGETS[args.target]
        if args.verb != "submit":
            if words:
                raise InputError(f"{args.verb} takes no command after --.")
            calls = getattr(target, args.verb)(args)
        else:
            run = make_run(
                args.name,
                args.runs,
                words,
                shards=args.shards,
                environment=args.env,
                stopped_status=target.stopped_status,
            )
            calls = target.submit(run, args)
            if getattr(args, "keep", False):
                keep = TPU_QUEUE.show_keeping if args.dry_run else TPU_QUEUE.keep
                keep(run, args)
                return 0
        for call in calls:
            if args.dry_run:
                print(call)
            else:
                call.run()
    except InputError as problem:
        print(f"launch: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # the end of `logs`
        return 130
    except BrokenPipeError:  # `… --dry-run | head`: the reader has gone, which is its right
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line: targets, their verbs, and the options of each."""
    root = Parser(prog="python -m launch", description="Runs of mae-jax on other machines.")
    targets = root.add_subparsers(dest="target", required=True, metavar="TARGET")
    for name, target in TARGETS.items():
        chosen = targets.add_parser(name, help=target.help)
        verbs = chosen.add_subparsers(dest="verb", required=True, metavar="VERB")
        for verb, says in VERBS.items():
            one = verbs.add_parser(
                verb,
                help=says,
                description=f"{target.help}: {says}.",
                epilog=f"example:\n{target.example}" if verb == "submit" else None,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
            _declare(one, verb, target)
    return root


def _declare(parser: argparse.ArgumentParser, verb: str, target: Target) -> None:
    add: Any = parser.add_argument
    add("name", metavar="NAME", help="the run's name")
    add("--dry-run", action="store_true", help="print all that would be run, and run nothing")
    target.place(parser)
    if verb == "logs":
        text = "the host, pod or share whose output is shown (the first, 0)"
        add("--process", type=int, default=0, metavar="N", help=text)
    if verb == "submit":
        runs = "folder of all runs, seen by all machines: this one's is the folder NAME in it"
        add("--runs", required=True, metavar="FOLDER", help=runs)
        add("--shards", type=count, metavar="N", help="shares of an embedding")
        add("--at-once", type=count, metavar="N", help="shares that run at once, at most (all)")
        add("--restarts", type=int, default=50, metavar="N", help="after failures, at most (50)")
        add("--env", action="append", default=[], metavar="NAME=VALUE", help="for its processes")
        target.options(parser)


if __name__ == "__main__":
    sys.exit(main())

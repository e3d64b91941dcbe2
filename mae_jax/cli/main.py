"""`mae-jax`: finds the command's module, parses, runs, and prints an input error as one line."""

import argparse
import glob
import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Sequence

from mae_jax import __version__
from mae_jax.config import nearest
from mae_jax.errors import InputError

# In the order of a screen's life; each names the module mae_jax.cli.<command>.
COMMANDS = {
    "synth": "draw a synthetic Cell Painting screen with known biology",
    "index": "make one index (parquet) of a screen's images and metadata",
    "pack": "convert a screen into a store that training reads quickly",
    "train": "train a network as a config says, resuming by itself",
    "embed": "turn every well into an embedding with any encoder",
    "reconstruct": "show masked, reconstructed and original images",
    "correct": "remove batch effects from embeddings",
    "evaluate": "score embeddings: recall of known relationships and more",
    "report": "write one HTML page about a run",
    "view": "look at embeddings: plates, a map of all wells, images, neighbours",
    "plan": "say before a run what it needs: memory, FLOPs, time",
    "convert": "read and write the weights of other implementations",
    "demo": "all of it, end to end, on a synthetic screen",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status (0 done, 2 wrong input, 130 interrupted)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if argv[0] == "--version":
        print(f"mae-jax {__version__}")
        return 0
    name = argv[0]
    if name not in COMMANDS:
        print(f"mae-jax: no command '{name}': {nearest(name, list(COMMANDS))}", file=sys.stderr)
        return 2
    command = importlib.import_module(f"mae_jax.cli.{name}")
    parser = argparse.ArgumentParser(
        prog=f"mae-jax {name}",
        description=command.HELP,
        epilog=f"example:\n{command.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.arguments(parser)
    if getattr(command, "TAKES_OVERRIDES", False):
        args, overrides = parser.parse_known_args(argv[1:])
        args.overrides = overrides
    else:
        args = parser.parse_args(argv[1:])
    _no_search_for_tpus()
    logging.getLogger("tifffile").disabled = True  # what is wrong with a file, we say ourselves
    try:
        command.run(args)
    except InputError as problem:
        print(f"mae-jax {name}: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"\nmae-jax {name}: interrupted; the same command goes on from here.", file=sys.stderr
        )
        return 130
    except BrokenPipeError:  # `mae-jax … | head`: the reader has gone, which is its right
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 0


def _no_search_for_tpus() -> None:
    """Tells JAX at once that there is no accelerator, on machines that have the TPU compiler alone.

    With libtpu installed (`mae-jax plan` compiles with it), JAX looks for TPUs and complains at
    length where it finds none.
    """
    found = any(glob.glob(f"/dev/{name}") for name in ("accel*", "vfio/[0-9]*", "nvidia[0-9]*"))
    if not found and importlib.util.find_spec("libtpu"):
        os.environ.setdefault("JAX_PLATFORMS", "cpu")


def _overview() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {says}" for name, says in COMMANDS.items())
    return (
        f"mae-jax {__version__}: masked autoencoders for microscopy\n\n"
        f"usage: mae-jax COMMAND [options]\n\n{rows}\n\n"
        "`mae-jax COMMAND --help` shows the options and an example."
    )


if __name__ == "__main__":
    sys.exit(main())

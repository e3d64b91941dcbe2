"""What the person who waits sees: a bar with time left, or a line now and then."""

import sys

from tqdm import tqdm


def progress_bar(steps: int, start: int, *, visible: bool) -> tqdm:
    """A bar with time left; where no one watches, a line now and then."""
    watched = sys.stderr.isatty()
    return tqdm(
        total=steps,
        initial=start,
        desc="train",
        unit="step",
        disable=not visible,
        mininterval=0.3 if watched else 20,
        dynamic_ncols=watched,
    )

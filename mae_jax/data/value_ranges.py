"""The range of gray values that a screen really uses, measured on a sample of its sites.

A type alone says little: cameras of 12 bits write 16-bit files, and 32-bit integers have no scale
of their own. Training and embedding choose the scale of their input from what is measured here.
"""

from dataclasses import replace

import numpy as np

from mae_jax.data.images import read_planes
from mae_jax.data.index import Index, ValueRange
from mae_jax.errors import InputError

SAMPLE = 16  # sites, spread evenly over the index


def measure_value_ranges(index: Index, sample: int = SAMPLE) -> dict[str, ValueRange]:
    """For each channel the range of its gray values on `sample` sites.

    Sites that cannot be read are left out, and so are channels without a readable site.
    """
    rows = np.unique(np.linspace(0, len(index) - 1, min(sample, len(index))).astype(int))
    planes: dict[str, list[ValueRange]] = {}
    for channel in index.channels:
        of_channel = [row for row in rows if channel in index.sites[row][0]]
        if not of_channel:  # a channel of few sites
            having = [row for row, (names, _) in enumerate(index.sites) if channel in names]
            of_channel = having[:: -(-len(having) // sample)]
        for row in of_channel:
            try:
                plane = read_planes(index.image_uris(int(row), [channel]))[0]
            except InputError:
                continue
            finite = plane[np.isfinite(plane)] if plane.dtype.kind == "f" else plane
            if finite.size:
                low, high = float(finite.min()), float(finite.max())
                top = float(np.percentile(finite, 99.9))
                planes.setdefault(channel, []).append(ValueRange(str(plane.dtype), low, high, top))
    return {
        channel: ValueRange(
            "/".join(sorted({p.dtype for p in measured})),
            min(p.low for p in measured),
            max(p.high for p in measured),
            float(np.median([p.p99_9 for p in measured])),
        )
        for channel, measured in planes.items()
    }


def with_value_ranges(index: Index, sample: int = SAMPLE) -> Index:
    """The index with the ranges of its channels."""
    return replace(index, value_ranges=measure_value_ranges(index, sample))

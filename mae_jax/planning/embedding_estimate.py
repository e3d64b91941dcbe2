"""The cost of embedding a screen before it runs: crops, hours per device, and money."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from mae_jax.data.images import read_site
from mae_jax.data.index import Index
from mae_jax.distributed.hardware import Slice
from mae_jax.errors import InputError
from mae_jax.inference.embedding_job import resolve_channels
from mae_jax.inference.embedding_plan import make_plan
from mae_jax.networks.encoder import Encoder
from mae_jax.networks.flops import traced_flops
from mae_jax.networks.image_embedding import crop_corners

# Of the peak, where none was measured: an assumption, not a measurement.
ASSUMED_MFU = 0.3
_SAMPLED_SITES = 8


@dataclass(frozen=True)
class EmbeddingEstimate:
    """What embedding a screen takes.

    Attributes:
      encoder: its name.
      channels: that are read.
      wells, sites, crops: of the whole screen; crops as in the sites that were looked at.
      crop: side of a crop in pixels.
      flops_per_crop: of the forward pass.
      pixel_bytes: of all sites, decoded.
      slice: the devices.
      mfu: share of the peak FLOP/s that is reached.
      assumed: whether `mfu` is an assumption.
      price: of one device for an hour, or None.
    """

    encoder: str
    channels: tuple[str, ...]
    wells: int
    sites: int
    crops: int
    crop: int
    flops_per_crop: float
    pixel_bytes: float
    slice: Slice
    mfu: float
    assumed: bool
    price: float | None

    @property
    def peak_seconds(self) -> float:
        """Seconds of all devices together at their peak: no run is faster."""
        total = self.crops * self.flops_per_crop
        return total / (self.slice.devices * self.slice.accelerator.peak_flops)

    @property
    def seconds(self) -> float:
        """Seconds at `mfu`."""
        return self.peak_seconds / self.mfu

    @property
    def device_hours(self) -> float:
        """Hours of one device that did it alone."""
        return self.seconds * self.slice.devices / 3600

    @property
    def cost(self) -> float | None:
        """Device-hours at the price."""
        return None if self.price is None else self.device_hours * self.price

    @property
    def pixel_bandwidth(self) -> float:
        """Bytes/s of decoded pixels that keep the devices busy."""
        return self.pixel_bytes / self.seconds if self.seconds else math.inf


def estimate_embedding(
    encoder: Encoder,
    index: Index,
    slice_: Slice,
    *,
    pooling: str | None = None,
    channels: Sequence[str] | None = None,
    crop: int | None = None,
    mfu: float | None = None,
    price: float | None = None,
) -> EmbeddingEstimate:
    """Estimate the embedding of all wells of an index.

    A few sites, evenly spread over the index, are read for the size of their images; the FLOPs of a
    crop are counted in the trace of the encoder. Reading and decoding are taken to keep up with
    the devices: `pixel_bandwidth` says how fast they must be.

    Args:
      encoder, index: what and with what, as for `embed_index`; so are pooling, channels and crop.
      slice_: the devices.
      mfu: share of the peak that a similar job reached; None assumes `ASSUMED_MFU`.
      price: of one device for an hour.

    Raises:
      InputError: the encoder cannot embed the screen, a number is out of range, or a site cannot
        be read.
    """
    if mfu is not None and not 0 < mfu <= 1:
        raise InputError(f"--mfu is {mfu}; give a share of the peak between 0 and 1.")
    if price is not None and not 0 <= price < math.inf:
        raise InputError(f"--price is {price}; give the price of one device for an hour.")
    pooling = pooling or encoder.default_pooling
    encoder.check_pooling(pooling)
    plan = make_plan(index, channels=channels, crop=crop)
    encoder.check_crop(plan.crop or encoder.preprocessing.crop)
    plan, _ = resolve_channels(encoder, plan, pooling)
    counts, sizes, side = [], [], 0
    names: tuple[str, ...] = ()
    for row in np.unique(np.linspace(0, plan.num_sites - 1, _SAMPLED_SITES).astype(int)):
        available = plan.index.sites[row][0]
        names = encoder.select_channels(plan.channels or available, plan.assigned)
        pixels = read_site(plan.index, int(row), names)
        side, corners = crop_corners(encoder, *pixels.shape[1:], crop=plan.crop)
        counts.append(len(corners))
        sizes.append(pixels.nbytes)
    black = 0 if encoder.recipe is None else encoder.recipe.pad_channels
    shape = (1, max(len(names), black), side, side)

    def embed(params: object, batch: jax.Array) -> jax.Array:
        return encoder.forward(params, batch, pooling=pooling)

    flops = traced_flops(embed, encoder.params, jax.ShapeDtypeStruct(shape, jnp.uint16))
    return EmbeddingEstimate(
        encoder=encoder.name,
        channels=tuple(names),
        wells=plan.num_wells,
        sites=plan.num_sites,
        crops=round(float(np.mean(counts)) * plan.num_sites),
        crop=side,
        flops_per_crop=flops,
        pixel_bytes=float(np.mean(sizes)) * plan.num_sites,
        slice=slice_,
        mfu=ASSUMED_MFU if mfu is None else mfu,
        assumed=mfu is None,
        price=price,
    )


def format_embedding(estimate: EmbeddingEstimate) -> str:
    """The lines that `mae-jax plan --encoder` prints."""
    slice_, accelerator = estimate.slice, estimate.slice.accelerator
    devices = f"{slice_.devices} device{'s' if slice_.devices > 1 else ''}"
    hours = estimate.seconds / 3600
    if not estimate.flops_per_crop:
        return (f"screen       {estimate.wells:,} wells, {estimate.sites:,} sites, "
                f"{estimate.crops:,} crops of {estimate.crop} pixels\n"
                f"time         that of reading {estimate.pixel_bytes / 1e9:,.1f} GB of pixels: "
                f"{estimate.encoder} has no matrix products")  # fmt: skip
    how = "assumed; --mfu takes a measured one" if estimate.assumed else "as given"
    lines = [
        ("screen", f"{estimate.wells:,} wells, {estimate.sites:,} sites, {estimate.crops:,} crops "
                   f"of {estimate.crop} pixels"),
        ("encoder", f"{estimate.encoder} on {', '.join(estimate.channels)}: "
                    f"{estimate.flops_per_crop / 1e9:,.2f} GFLOP per crop"),
        ("slice", f"{slice_.name}: {devices} ({accelerator.name}) with "
                  f"{accelerator.peak_flops / 1e12:g} TFLOP/s each"),
        ("time", f"{_hours(hours)} at {100 * estimate.mfu:g} % of the peak ({how}), "
                 f"{_hours(estimate.peak_seconds / 3600)} at the peak"),
        ("images", f"{estimate.pixel_bytes / 1e9:,.1f} GB decoded; reading keeps up at "
                   f"{estimate.pixel_bandwidth / 1e9:,.2f} GB/s"),
        ("device-hours", _number(estimate.device_hours)),
    ]  # fmt: skip
    if estimate.cost is not None:
        price = f"{estimate.price:g} per device and hour"
        lines.append(("money", f"{_number(estimate.cost)} at {price}"))
    return "\n".join(f"{name:<13}{value}" for name, value in lines)


def embedding_to_json(estimate: EmbeddingEstimate) -> dict[str, object]:
    """The estimate as plain numbers: bytes, seconds and FLOPs."""
    return {
        "slice": estimate.slice.name,
        "devices": estimate.slice.devices,
        "encoder": estimate.encoder,
        "channels": list(estimate.channels),
        "wells": estimate.wells,
        "sites": estimate.sites,
        "crops": estimate.crops,
        "crop": estimate.crop,
        "flops_per_crop": estimate.flops_per_crop,
        "pixel_bytes": estimate.pixel_bytes,
        "mfu": estimate.mfu,
        "mfu_assumed": estimate.assumed,
        "seconds": estimate.seconds,
        "peak_seconds": estimate.peak_seconds,
        "device_hours": estimate.device_hours,
        "price_per_device_hour": estimate.price,
        "cost": estimate.cost,
    }


def _number(value: float) -> str:
    return f"{value:,.2f}" if value >= 1 or not value else f"{value:.2g}"


def _hours(hours: float) -> str:
    """A time in the unit that fits it."""
    if hours >= 48:
        return f"{hours / 24:,.1f} days"
    if hours >= 1:
        return f"{hours:,.1f} hours"
    return f"{hours * 60:.1f} minutes" if hours * 60 >= 1 else f"{hours * 3600:.1f} seconds"

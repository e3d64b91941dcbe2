"""Properties of imported weights that no tensor shows."""

import dataclasses
import re
from collections.abc import Mapping

import numpy as np

from mae_jax.config import nearest
from mae_jax.errors import InputError

BIAS_LAYOUTS = ("legacy", "fixed")
RGB = ("red", "green", "blue")
# Attention heads of the published vision transformers, by width (ViT-Ti to ViT-G).
_PUBLISHED_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1536: 24, 1664: 16}


@dataclasses.dataclass(frozen=True)
class ImportOptions:
    """Properties of a PyTorch state dict; None for the values that files state or published
    models have.

    Attributes:
      channels: names of the channels in the model's order. RGB models are adapted to that many
        (their first kernel); all others must have that number.
      bias_layout: where a masked autoencoder's MLP bias was added in training: "legacy" for
        timm <= 1.0.24 and all released weights (the default), or "fixed".
      heads: attention heads of the encoder.
      decoder_heads: attention heads of a masked autoencoder's decoder.
      norm_eps: epsilon of the encoder's LayerNorms.
      decoder_norm_eps: epsilon of the decoder's LayerNorms.
    """

    channels: tuple[str, ...] | None = None
    bias_layout: str | None = None
    heads: int | None = None
    decoder_heads: int | None = None
    norm_eps: float | None = None
    decoder_norm_eps: float | None = None

    def __post_init__(self) -> None:
        if self.bias_layout is not None and self.bias_layout not in BIAS_LAYOUTS:
            raise InputError(
                f"bias_layout cannot be '{self.bias_layout}': "
                f"{nearest(self.bias_layout.lower(), BIAS_LAYOUTS)}"
            )

    def given(self) -> dict[str, object]:
        """Return the options that are not None, by name."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def channel_names(self, count: int, source: str) -> tuple[str, ...]:
        """Return the names of `count` channels: those given, or red, green, blue, or numbers.

        Raises:
          InputError: another number of names is given.
        """
        if self.channels is None:
            return RGB if count == 3 else tuple(f"channel_{i + 1}" for i in range(count))
        if len(self.channels) != count:
            raise InputError(
                f"{source} has {count} channels, but {len(self.channels)} names are given "
                f"({', '.join(self.channels)}); name every channel of the model, in its order."
            )
        return self.channels

    @staticmethod
    def check_named(channels: tuple[str, ...], source: str) -> None:
        """Raise InputError if these are the numbers that stand for names which nobody gave."""
        if channels[:1] != ("channel_1",):
            return
        count = len(channels)
        which = f"its {count} channels" if count > 1 else "the channels that it was trained on"
        example = ",".join(("DNA", "ER", "RNA", "AGP", "Mito", "BF", "…")[: max(count, 2)])
        raise InputError(
            f"{source} does not name {which}: which are they, in the model's order? Name them with "
            f"`mae-jax convert {source} FOLDER --channels {example}`"
            f"{f' ({count} names)' if count > 1 else ''}, and take the model that it writes."
        )

    def encoder_heads(self, width: int, source: str) -> int:
        """Return the attention heads of an encoder of `width` whose tensors do not show them.

        Raises:
          InputError: no published model has that width, and `heads` is not given.
        """
        if self.heads is not None:
            return self.heads
        if width not in _PUBLISHED_HEADS:
            raise InputError(
                f"{source} does not show how many attention heads its encoder of width {width} "
                "has; give heads (--heads)."
            )
        return _PUBLISHED_HEADS[width]


def count_matches(tensors: Mapping[str, np.ndarray], pattern: str) -> int:
    """Return one more than the largest number that `pattern`'s group matches in any name."""
    matches = [re.fullmatch(pattern, name) for name in tensors]
    return 1 + max((int(match.group(1)) for match in matches if match), default=-1)

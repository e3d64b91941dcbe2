"""Random masks over tokens, and gathers whose backward pass needs no scatter."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from mae_jax.errors import InputError


class Masking(NamedTuple):
    """One sample's split into kept and masked tokens.

    Attributes:
      ids_shuffle: positions, the kept ones first; within each part by rising noise.
      ids_restore: the inverse of `ids_shuffle`: where in `ids_shuffle` each position stands.
      mask: 1 where a position is masked (removed), 0 where it is kept.
    """

    ids_shuffle: Int[Array, "batch tokens"]
    ids_restore: Int[Array, "batch tokens"]
    mask: Float[Array, "batch tokens"]


def num_keep(tokens: int, mask_ratio: float) -> int:
    """The number of tokens that are kept: int(tokens * (1 - mask_ratio)).

    Raises:
      InputError: a ratio outside [0, 1).
    """
    if not 0 <= mask_ratio < 1:
        raise InputError(f"mask_ratio must be at least 0 and below 1, not {mask_ratio}.")
    return int(tokens * (1 - mask_ratio))


def random_masking(noise: Float[Array, "batch tokens"], kept: int) -> Masking:
    """Keeps the `kept` tokens of lowest noise in each sample; ties go to the earlier token."""
    ids_shuffle = jnp.argsort(noise, axis=1)
    ids_restore = jnp.argsort(ids_shuffle, axis=1)
    return Masking(ids_shuffle, ids_restore, (ids_restore >= kept).astype(jnp.float32))


def noise_from_mask(
    keep_mask: Bool[Array, "batch tokens"] | Bool[np.ndarray, "batch tokens"],
    tokens: int,
    mask_ratio: float | None = None,
) -> tuple[Float[Array, "batch tokens"], int]:
    """A given mask as noise, 0 where kept and 1 where masked; and the number of kept tokens.

    Under `jax.jit` the number must be known from `mask_ratio`; otherwise it is counted, and must
    be that of `mask_ratio` if it is given too.

    Args:
      keep_mask: True where a token is kept.
      tokens: of each sample.

    Raises:
      InputError: a mask of another number of tokens, samples that keep different numbers, a
        number that contradicts `mask_ratio`, or a traced mask without `mask_ratio`.
    """
    if keep_mask.shape[1] != tokens:
        raise InputError(
            f"keep_mask must be of {tokens} tokens per sample, not {keep_mask.shape[1]}."
        )
    kept = None if mask_ratio is None else num_keep(tokens, mask_ratio)
    if isinstance(keep_mask, jax.core.Tracer):
        if kept is None:
            raise InputError(
                "inside jax.jit a keep_mask needs mask_ratio, to know how many tokens it keeps."
            )
    else:
        counts = np.asarray(keep_mask).sum(axis=1)
        if counts.min() != counts.max():
            raise InputError(
                f"keep_mask must keep the same number of tokens in every sample, not "
                f"{counts.min()} in one and {counts.max()} in another."
            )
        if kept is not None and kept != counts[0]:
            raise InputError(
                f"keep_mask keeps {counts[0]} of {tokens} tokens, but mask_ratio {mask_ratio} "
                f"keeps {kept}; give one of the two."
            )
        kept = int(counts[0])
    return 1.0 - jnp.asarray(keep_mask).astype(jnp.float32), kept


def take_tokens(
    tokens: Shaped[Array, "batch tokens dim"], ids: Int[Array, "batch taken"]
) -> Shaped[Array, "batch taken dim"]:
    """Whole rows `ids` of each sample. Differentiating by `tokens` scatters."""
    take = jax.vmap(lambda rows, i: rows.at[i].get(mode="promise_in_bounds"))
    return take(tokens, ids)


def unshuffle(
    kept: Float[Array, "batch kept dim"],
    filler: Float[Array, " dim"],
    masking: Masking,
) -> Float[Array, "batch tokens dim"]:
    """Puts kept tokens back to their positions and `filler` (the mask token) everywhere else.

    The backward pass gathers by `ids_shuffle` where plain indexing would scatter by `ids_restore`.
    """
    if kept.shape[1] == 0:
        batch, tokens = masking.mask.shape
        return jnp.broadcast_to(filler, (batch, tokens, filler.shape[0]))
    placed = _place(kept, masking.ids_shuffle[:, : kept.shape[1]], masking.ids_restore)
    return jnp.where(masking.mask[..., None] > 0, filler, placed)


@jax.custom_vjp
def _place(
    kept: Float[Array, "batch kept dim"],
    ids_shuffle: Int[Array, "batch kept"],
    ids_restore: Int[Array, "batch tokens"],
) -> Float[Array, "batch tokens dim"]:
    return take_tokens(kept, jnp.minimum(ids_restore, kept.shape[1] - 1))


def _place_forward(
    kept: Float[Array, "batch kept dim"],
    ids_shuffle: Int[Array, "batch kept"],
    ids_restore: Int[Array, "batch tokens"],
) -> tuple[Float[Array, "batch tokens dim"], Int[Array, "batch kept"]]:
    return _place(kept, ids_shuffle, ids_restore), ids_shuffle


def _place_backward(
    ids_shuffle: Int[Array, "batch kept"], cotangent: Float[Array, "batch tokens dim"]
) -> tuple[Float[Array, "batch kept dim"], None, None]:
    # Exact only because the caller overwrites every masked row with the filler, whose
    # cotangent here is zero: a kept row then flows to exactly one position, ids_shuffle[k].
    return take_tokens(cotangent, ids_shuffle), None, None


_place.defvjp(_place_forward, _place_backward)

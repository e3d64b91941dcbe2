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
    """How many of `tokens` are kept: int(tokens * (1 - mask_ratio))."""
    return int(tokens * (1 - mask_ratio))


def random_masking(noise: Float[Array, "batch tokens"], kept: int) -> Masking:
    """Keeps the `kept` tokens of lowest noise in each sample; ties go to the earlier token."""
    ids_shuffle = jnp.argsort(noise, axis=1)
    ids_restore = jnp.argsort(ids_shuffle, axis=1)
    return Masking(ids_shuffle, ids_restore, (ids_restore >= kept).astype(jnp.float32))


def noise_from_mask(
    keep: Bool[Array, "batch tokens"] | Bool[np.ndarray, "batch tokens"],
    mask_ratio: float | None = None,
) -> tuple[Float[Array, "batch tokens"], int]:
    """A caller's own mask as noise: 0 where kept, 1 where masked; and the number kept.

    Under `jax.jit` the number must be known from `mask_ratio`; otherwise it is counted.

    Raises:
      InputError: the samples keep different numbers of tokens, or the mask is traced and
        `mask_ratio` is not given.
    """
    if mask_ratio is not None:
        kept = num_keep(keep.shape[1], mask_ratio)
    elif isinstance(keep, jax.core.Tracer):
        raise InputError("inside jax.jit a keep mask needs mask_ratio, to know how many it keeps.")
    else:
        counts = np.asarray(keep).sum(axis=1)
        if counts.min() != counts.max():
            raise InputError(
                f"keep must keep as many tokens in every sample, not {counts.min()} in one and "
                f"{counts.max()} in another."
            )
        kept = int(counts[0])
    return 1.0 - jnp.asarray(keep).astype(jnp.float32), kept


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

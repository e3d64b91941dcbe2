import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.errors import InputError
from mae_jax.nn.masking import noise_from_mask, num_keep, random_masking, unshuffle


def test_the_lowest_noises_are_kept():
    noise = jnp.array([[0.3, 0.1, 0.9, 0.2], [0.5, 0.6, 0.1, 0.7]])
    masking = random_masking(noise, 2)
    np.testing.assert_array_equal(masking.mask, [[1, 0, 1, 0], [0, 1, 0, 1]])
    np.testing.assert_array_equal(masking.ids_shuffle, [[1, 3, 0, 2], [2, 0, 1, 3]])
    np.testing.assert_array_equal(
        np.take_along_axis(masking.ids_restore, masking.ids_shuffle, 1)[0], range(4)
    )


@pytest.mark.parametrize(("tokens", "ratio", "kept"), [(1536, 0.75, 384), (1536, 0.85, 230)])
def test_counts_as_the_reference(tokens, ratio, kept):
    assert num_keep(tokens, ratio) == kept


def test_restoring_and_its_gradient_equal_plain_indexing():
    rng = np.random.default_rng(0)
    masking = random_masking(jnp.asarray(rng.random((3, 10), dtype=np.float32)), 4)
    kept = jnp.asarray(rng.normal(size=(3, 4, 5)).astype(np.float32))
    filler = jnp.asarray(rng.normal(size=5).astype(np.float32))
    readout = jnp.asarray(rng.normal(size=(3, 10, 5)).astype(np.float32))

    def plain(kept, filler):
        whole = jnp.concatenate([kept, jnp.broadcast_to(filler, (3, 6, 5))], axis=1)
        return jnp.take_along_axis(whole, masking.ids_restore[..., None], axis=1)

    def ours(kept, filler):
        return unshuffle(kept, filler, masking)

    np.testing.assert_array_equal(ours(kept, filler), plain(kept, filler))
    for argument in (0, 1):
        gradients = [
            jax.grad(lambda *a, f=f: (f(*a) * readout).sum(), argnums=argument)(kept, filler)
            for f in (ours, plain)
        ]
        np.testing.assert_allclose(*gradients, rtol=1e-6, atol=1e-6)


def test_a_keep_mask_counts_itself_and_must_be_even():
    keep = np.array([[True, False, True], [False, True, True]])
    noise, kept = noise_from_mask(keep, 3)
    assert kept == 2
    np.testing.assert_array_equal(random_masking(noise, kept).mask, 1 - keep)
    with pytest.raises(InputError, match="same number of tokens in every sample"):
        noise_from_mask(np.array([[True, True], [True, False]]), 2)
    with pytest.raises(InputError, match="mask_ratio"):
        jax.jit(lambda k: noise_from_mask(k, 3)[0])(keep)


def test_a_keep_mask_must_fit_the_tokens_and_the_ratio():
    keep = np.array([[True, False, True, False]])
    assert noise_from_mask(keep, 4, 0.5)[1] == 2
    with pytest.raises(InputError, match=r"keeps 2 of 4 tokens, but mask_ratio 0\.75 keeps 1"):
        noise_from_mask(keep, 4, 0.75)
    with pytest.raises(InputError, match="must be of 16 tokens per sample, not 4"):
        noise_from_mask(keep, 16)


@pytest.mark.parametrize("ratio", [1.5, 1.0, -0.1, float("nan")])
def test_a_ratio_that_masks_all_or_less_than_nothing_is_refused(ratio):
    with pytest.raises(InputError, match="mask_ratio must be at least 0 and below 1"):
        num_keep(16, ratio)

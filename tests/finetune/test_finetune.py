import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mae_jax.errors import InputError
from mae_jax.finetune import (
    AttentiveProbe,
    LinearProbe,
    dotted_names,
    fit,
    freeze,
    layer_decay,
    lora_init,
    lora_merge,
    trainable_mask,
)
from mae_jax.networks.mae.config import ParallelViTConfig
from mae_jax.networks.mae.encoder import MAEEncoder
from mae_jax.networks.mae.parallel_vit import ParallelViT
from mae_jax.weights.preprocessing import Preprocessing

CONFIG = ParallelViTConfig(patch=8, width=32, depth=2, heads=2, crop=16, channels=("a", "b"))


@pytest.fixture(scope="module")
def encoder():
    params = jax.jit(ParallelViT(CONFIG).init)(jax.random.key(0), jnp.zeros((1, 2, 16, 16)))[
        "params"
    ]
    return MAEEncoder(CONFIG, params, Preprocessing(("a", "b"), True, 16))


def stripes(count, seed):
    """Crops of noise whose class is the frequency of faint stripes at a random phase."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    x = np.arange(16)
    phase = rng.uniform(0, 2 * np.pi, (count, 1))
    waves = np.sin(2 * np.pi * (labels[:, None] + 2) * x / 16 + phase)
    images = rng.normal(size=(count, 2, 16, 16)) + 0.9 * waves[:, None, None, :]
    return (1000 + 100 * images).astype(np.uint16), labels.astype(np.int32)


def batches(seed, steps, size=32):
    crops, labels = stripes(512, seed)
    rng = np.random.default_rng(seed)
    picks = [rng.choice(512, size, replace=False) for _ in range(steps)]
    return [(jnp.asarray(crops[i]), jnp.asarray(labels[i])) for i in picks]


@pytest.mark.slow
def test_fine_tuning_beats_the_frozen_probe(encoder):
    """The whole recipe on synthetic perturbations: probe alone, then some blocks, then LoRA."""
    probe = LinearProbe(classes=3)
    train = batches(0, 150)
    crops, labels = stripes(256, seed=1)
    head = probe.init(jax.random.key(1), encoder.embed(train[0][0]))["params"]
    start = {"encoder": encoder.params, "head": head}

    def logits(params, crops):
        features = encoder.forward(params["encoder"], crops)
        return probe.apply({"params": params["head"]}, features)

    def loss(params, crops, labels):
        scores = logits(params, crops)
        return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()

    def accuracy(params):
        return float((jax.jit(logits)(params, crops).argmax(-1) == labels).mean())

    frozen, _ = fit(loss, start, train, freeze(optax.adam(1e-2), start, trainable=("head",)))
    jax.tree.map(np.testing.assert_array_equal, frozen["encoder"], start["encoder"])
    tuned, losses = fit(
        loss, start, train, layer_decay(optax.adam(5e-3), start, decay=0.8, depth=2)
    )
    assert losses[-1] < losses[0]
    assert accuracy(tuned) > accuracy(frozen) + 0.05

    lora = {"lora": lora_init(jax.random.key(2), encoder.params, rank=4), "head": head}

    def lora_loss(params, crops, labels):
        merged = lora_merge(encoder.params, params["lora"], scale=4.0)
        return loss({"encoder": merged, "head": params["head"]}, crops, labels)

    adapted, losses = fit(lora_loss, lora, train, optax.adam(1e-2))
    merged = lora_merge(encoder.params, adapted["lora"], scale=4.0)
    assert losses[-1] < losses[0]
    assert accuracy({"encoder": merged, "head": adapted["head"]}) > accuracy(frozen)


def test_lora_starts_at_the_encoder_itself_and_touches_attention_and_mlp(encoder):
    lora = lora_init(jax.random.key(0), encoder.params, rank=2)
    assert set(lora) == {
        f"block_{i:02d}.{name}"
        for i in range(2)
        for name in ("in_proj", "attn_out_proj.kernel", "mlp_out_proj.kernel")
    }
    jax.tree.map(np.testing.assert_array_equal, lora_merge(encoder.params, lora), encoder.params)
    lora["block_00.in_proj"]["b"] = jnp.ones_like(lora["block_00.in_proj"]["b"])
    change = lora_merge(encoder.params, lora)["block_00"]["in_proj"]
    change -= encoder.params["block_00"]["in_proj"]
    assert np.linalg.matrix_rank(np.asarray(change), tol=1e-4) == 1
    with pytest.raises(InputError, match="no parameter matches"):
        lora_init(jax.random.key(0), encoder.params, targets="nothing")


def test_masks_by_name(encoder):
    mask = trainable_mask(encoder.params, ("block_01", "cls_token"))
    names = jax.tree.leaves(dotted_names(encoder.params))
    for name, train in zip(names, jax.tree.leaves(mask), strict=True):
        assert train == (name.startswith("block_01.") or name == "cls_token")
    with pytest.raises(InputError, match="'block_1'"):
        trainable_mask(encoder.params, ("block_1",))


def test_updates_shrink_towards_the_patches(encoder):
    params = {"encoder": encoder.params, "head": {"kernel": jnp.zeros((2, 2))}}
    tx = layer_decay(optax.sgd(1.0), params, decay=0.5, depth=2)
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = tx.update(ones, tx.init(params), params)
    assert float(updates["head"]["kernel"][0, 0]) == -1
    assert float(updates["encoder"]["block_01"]["mlp_bias"][0]) == -1
    assert float(updates["encoder"]["block_00"]["mlp_bias"][0]) == -0.5
    assert float(updates["encoder"]["patch_embed"]["bias"][0]) == -0.25
    assert float(updates["encoder"]["cls_token"][0, 0, 0]) == -0.25


def test_an_attentive_probe_reads_what_one_token_says():
    """The class stands in one token among many at a random place, so a mean sees little of it."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    tokens = rng.normal(size=(400, 32, 8)).astype(np.float32)
    place = rng.integers(0, 32, 400)
    tokens[np.arange(400), place] = np.where(labels[:, None] == 1, 5, -5) * np.eye(8)[0]
    tokens[np.arange(400), place, 1] = 8
    probe = AttentiveProbe(classes=2, heads=2)
    params = probe.init(jax.random.key(0), jnp.asarray(tokens[:1]))["params"]

    def loss(params, tokens, labels):
        scores = probe.apply({"params": params}, tokens)
        return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()

    train = [(jnp.asarray(tokens[:300]), jnp.asarray(labels[:300], jnp.int32))] * 150
    params, _ = fit(loss, params, train, optax.adam(1e-2))
    scores = probe.apply({"params": params}, jnp.asarray(tokens[300:]))
    assert float((scores.argmax(-1) == labels[300:]).mean()) > 0.95

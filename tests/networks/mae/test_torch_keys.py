import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from mae_jax.errors import InputError
from mae_jax.networks.mae.config import (
    DecoderConfig,
    MAEConfig,
    ParallelViTConfig,
    mae_config,
    parallel_vit_config,
)
from mae_jax.networks.mae.model import MAE
from mae_jax.networks.mae.parallel_vit import ParallelViT
from mae_jax.networks.mae.torch_keys import (
    key_map,
)
from mae_jax.networks.registry import init_params, param_shapes
from mae_jax.networks.torch_import import export_state_dict, import_state_dict
from mae_jax.nn.masking import random_masking
from mae_jax.nn.pooling import pool
from mae_jax.weights.import_options import ImportOptions
from mae_jax.weights.key_map import source_shapes
from mae_jax.weights.pytree_paths import flatten
from mae_jax.weights.state_dict import read_state_dict

SIZES = {  # width, depth, heads, patch, decoder heads; head_dim 64 as in every real size
    "narrow": (64, 2, 1, 8, 8),
    "wide": (128, 3, 2, 16, 16),
}


def small(agnostic, size, bias_layout="fixed"):
    width, depth, heads, patch, decoder_heads = SIZES[size]
    return MAEConfig(
        encoder=ParallelViTConfig(
            patch=patch,
            width=width,
            depth=depth,
            heads=heads,
            crop=4 * patch,
            channels=("a", "b", "c"),
            channel_agnostic=agnostic,
            bias_layout=bias_layout,
            drop_path=0.1,
        ),
        decoder=DecoderConfig(
            width=64, depth=2, heads=decoder_heads, norm_eps=1e-5 if agnostic else 1e-6
        ),
    )


def random_params(config, seed=0):
    """Every parameter random: no zero biases, no scales of one."""
    rng = np.random.default_rng(seed)
    shapes = param_shapes(config)
    return jax.tree.map(lambda s: (0.15 * rng.normal(size=s.shape)).astype(np.float32), shapes)


def timm_encoder(torch_reference, config):
    """timm's ViT with the reference's options, and its channel-agnostic tokens."""
    timm = torch_reference.import_timm()
    from timm.models.vision_transformer import ParallelScalingBlock

    encoder = config.encoder
    return timm.models.vision_transformer.VisionTransformer(
        img_size=encoder.crop,
        patch_size=encoder.patch,
        in_chans=1 if encoder.channel_agnostic else len(encoder.channels),
        embed_dim=encoder.width,
        depth=encoder.depth,
        num_heads=encoder.heads,
        qkv_bias=False,
        qk_norm=True,
        init_values=1e-4,
        num_classes=0,
        global_pool="avg",
        block_fn=ParallelScalingBlock,
    ).eval()


def timm_tokens(backbone, state, config, x):
    """Tokens of timm's blocks under our exported weights, one channel after another."""
    import torch

    own = {
        name.removeprefix("encoder.vit_backbone."): torch.from_numpy(value)
        for name, value in state.items()
        if name.startswith("encoder.vit_backbone.") and not name.endswith("pos_embed")
    }
    missing, surplus = backbone.load_state_dict(own, strict=False)
    assert missing == ["pos_embed"]
    assert not surplus
    table = torch.from_numpy(state["encoder.vit_backbone.pos_embed"])
    with torch.no_grad():
        if config.encoder.channel_agnostic:
            parts = [backbone.patch_embed(x[:, c : c + 1]) for c in range(x.shape[1])]
            patches = torch.cat(parts, dim=1)
        else:
            patches = backbone.patch_embed(x)
        tokens = torch.cat([backbone.cls_token.expand(len(x), -1, -1), patches], dim=1)
        return backbone.blocks(tokens + table[:, : tokens.shape[1]])


@pytest.mark.parametrize("agnostic", [True, False], ids=["channel-agnostic", "joint"])
@pytest.mark.parametrize("size", SIZES)
def test_encoder_and_decoder_agree_with_torch(torch_reference, agnostic, size):
    torch = pytest.importorskip("torch")
    config = small(agnostic, size)
    params = random_params(config)
    state = export_state_dict(params, config)
    rng = np.random.default_rng(1)
    side = config.encoder.crop
    x = rng.normal(size=(2, 3, side, side)).astype(np.float32)
    backbone = timm_encoder(torch_reference, config)
    theirs = timm_tokens(backbone, state, config, torch.from_numpy(x))

    ours = jax.jit(ParallelViT(config.encoder).apply)({"params": params["encoder"]}, jnp.asarray(x))
    close(ours, theirs.numpy())
    close(pool(ours, "class"), theirs[:, 0].numpy())
    close(pool(ours, "mean"), theirs[:, 1:].mean(dim=1).numpy())
    if agnostic:
        by_channel = theirs[:, 1:].reshape(2, 3, 16, -1).mean(dim=2).reshape(2, -1)
        close(pool(ours, "channel", 3), by_channel.numpy())

    # The whole autoencoder with a given mask: timm's blocks on the kept tokens, then the
    # transcribed decoder.
    noise = rng.random((2, 48 if agnostic else 16)).astype(np.float32)
    out = jax.jit(lambda p, x: MAE(config).apply({"params": p}, x, noise=noise, predict="all"))(
        params, jnp.asarray(x)
    )
    kept = int(noise.shape[1] * 0.25)
    masking = random_masking(jnp.asarray(noise), kept)
    with torch.no_grad():
        whole = embedded(backbone, state, config, torch.from_numpy(x))
        order = torch.from_numpy(np.array(masking.ids_shuffle[:, :kept])).long()
        seen = torch.stack([whole[b, 1:][order[b]] for b in range(2)])
        tokens = backbone.blocks(torch.cat([whole[:, :1], seen], dim=1))
        p = {name: torch.from_numpy(value) for name, value in state.items()}
        rank = torch.from_numpy(np.array(masking.ids_restore)).long()
        options = {"depth": 2, "heads": config.decoder.heads, "eps": config.decoder.norm_eps}
        positions = p["decoder.pos_embeddings"]
        if agnostic:
            expected = torch_reference.transcribe_channel_decoder(
                p, tokens, rank, positions[:, 1:], channels=3, **options
            )
        else:
            expected = torch_reference.transcribe_joint_decoder(
                p, tokens, rank, positions, **options
            )
    order = np.argsort(np.asarray(out.patch_ids), axis=1)
    close(np.take_along_axis(np.asarray(out.prediction), order[..., None], 1), expected.numpy())


def embedded(backbone, state, config, x):
    """Tokens with positions, before the blocks."""
    import torch

    blocks, backbone.blocks = backbone.blocks, torch.nn.Identity()
    try:
        kept = {name: value for name, value in state.items() if ".blocks." not in name}
        own = {
            name.removeprefix("encoder.vit_backbone."): torch.from_numpy(value)
            for name, value in kept.items()
            if name.startswith("encoder.vit_backbone.") and not name.endswith("pos_embed")
        }
        backbone.load_state_dict(own, strict=False)
        return timm_tokens_without_blocks(backbone, state, config, x)
    finally:
        backbone.blocks = blocks


def timm_tokens_without_blocks(backbone, state, config, x):
    import torch

    table = torch.from_numpy(state["encoder.vit_backbone.pos_embed"])
    count = x.shape[1] if config.encoder.channel_agnostic else 1
    step = x.shape[1] // count
    parts = [backbone.patch_embed(x[:, c * step : (c + 1) * step]) for c in range(count)]
    first = backbone.cls_token.expand(len(x), -1, -1)
    tokens = torch.cat([first, *parts], dim=1)
    return tokens + table[:, : tokens.shape[1]]


def close(ours, theirs, tolerance=1e-5):
    """Within 1e-5 of the reference, relative to its largest value."""
    theirs = np.asarray(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * np.abs(theirs).max())


def test_the_legacy_bias_as_a_bias_over_all_outputs(torch_reference):
    """timm <= 1.0.24 added [zeros(3D) | mlp_bias] to the outputs [mlp | q | k | v]."""
    torch = pytest.importorskip("torch")
    config = small(True, "narrow", "legacy")
    params = random_params(config)
    state = export_state_dict(params, config)
    x = np.random.default_rng(1).normal(size=(2, 3, 32, 32)).astype(np.float32)
    backbone = timm_encoder(torch_reference, config)
    timm_tokens(backbone, state, config, torch.from_numpy(x))  # loads the weights
    for block in backbone.blocks:
        bias = torch.cat([torch.zeros(3 * 64), block.mlp_bias.detach()])
        block.in_proj.bias = torch.nn.Parameter(bias)
        block.mlp_bias = None
    with torch.no_grad():
        tokens = timm_tokens_without_blocks(backbone, state, config, torch.from_numpy(x))
        theirs = backbone.blocks(tokens)
    ours = jax.jit(ParallelViT(config.encoder).apply)({"params": params["encoder"]}, jnp.asarray(x))
    close(ours, theirs.numpy())
    fixed = dataclasses.replace(config.encoder, bias_layout="fixed")
    other = jax.jit(ParallelViT(fixed).apply)({"params": params["encoder"]}, jnp.asarray(x))
    assert np.abs(np.asarray(other) - np.asarray(ours)).max() > 1e-2


def open_phenom():
    config = mae_config("vit_s16", channels=tuple("abcdef"), bias_layout="legacy")
    assert config.decoder == DecoderConfig(512, 8, 16, 8, 4.0, 1e-5)
    return config


def test_the_released_layout_has_765_keys():
    config = open_phenom()
    shapes = source_shapes(key_map(config), param_shapes(config))
    assert len(shapes) == 765
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 178_045_568
    for name, shape in {
        "encoder.vit_backbone.pos_embed": (1, 2817, 384),
        "encoder.vit_backbone.patch_embed.proj.weight": (384, 1, 16, 16),
        "encoder.vit_backbone.blocks.11.mlp_bias": (1536,),
        "encoder.vit_backbone.blocks.0.in_proj.weight": (2688, 384),
        "encoder.vit_backbone.blocks.5.mlp_out_proj.weight": (384, 1536),
        "decoder.pos_embeddings": (1, 1537, 512),
        "decoder.modality_tokens.5": (1, 1, 512),
        "decoder.placeholder": (1, 1, 512),
        "decoder.cross_attention.kv.weight": (1024, 512),
        "decoder.decoders.5.7.attn.qkv.weight": (1536, 512),
        "encoder_decoder_proj.weight": (512, 384),
        "decoder_pred.weight": (256, 512),
    }.items():
        assert shapes[name] == shape


# What the reference counts: learned parameters, the table of positions, the unused norm.
@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("vit_s16", 21.97),
        ("vit_b16", 86.40),
        ("vit_b8", 86.11),
        ("vit_l16", 304.06),
        ("vit_l8", 303.66),
    ],
)
def test_parameter_counts_of_the_paper(name, millions):
    encoder = parallel_vit_config(name, channel_agnostic=False, channels=tuple("abcdef"))
    config = MAEConfig(encoder=encoder, decoder=DecoderConfig())
    shapes = source_shapes(key_map(config), param_shapes(config))
    count = sum(int(np.prod(s)) for n, s in shapes.items() if n.startswith("encoder.vit"))
    assert abs(count / 1e6 / millions - 1) < 1e-3


@pytest.mark.parametrize(
    ("name", "millions"), [("vit_h14", 632), ("vit_g14", 1011), ("vit_gg14", 1843)]
)
def test_sizes_beyond_the_paper_are_near_those_published(name, millions):
    config = parallel_vit_config(name, channel_agnostic=False, channels=("red", "green", "blue"))
    shapes = jax.tree.leaves(param_shapes(config))
    assert abs(sum(int(np.prod(leaf.shape)) for leaf in shapes) / 1e6 / millions - 1) < 5e-3


def test_decoder_counts_of_the_paper():
    def millions(config):
        shapes = source_shapes(key_map(config), param_shapes(config))
        return sum(int(np.prod(s)) for n, s in shapes.items() if n.startswith("decoder.")) / 1e6

    joint = mae_config("vit_s16", channel_agnostic=False, channels=tuple("abcdef"))
    assert round(millions(joint)) == 25
    assert round(millions(open_phenom())) == 155


def saved_by_torch(path, state):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(value) for name, value in state.items()}
    torch.save({"state_dict": tensors, "epoch": 3}, path)
    return path


@pytest.mark.parametrize("agnostic", [True, False], ids=["channel-agnostic", "joint"])
def test_both_formats_come_back_exactly(tmp_path, agnostic):
    config = small(agnostic, "wide", "legacy")
    params = random_params(config)
    state = export_state_dict(params, config)
    disguised = saved_by_torch(tmp_path / "model.safetensors", state)
    true = tmp_path / "true.safetensors"
    safetensors.numpy.save_file(state, true)
    for path in (disguised, true):
        tensors = read_state_dict(path)
        assert tensors.keys() == state.keys()
        options = ImportOptions(("a", "b", "c"), decoder_heads=16)
        imported, loaded = import_state_dict(tensors, str(path), options)
        assert imported == config
        loaded = flatten(loaded)
        for name, value in flatten(params).items():
            np.testing.assert_array_equal(loaded[name], value, strict=True)


def test_missing_unexpected_and_misshapen_keys_are_listed():
    config = small(True, "narrow")
    state = export_state_dict(random_params(config), config)
    del state["decoder.modality_tokens.1"], state["decoder_pred.bias"]
    state["decoder.extra"] = np.zeros(3, np.float32)
    state["decoder.mask_token"] = np.zeros((1, 1, 7), np.float32)
    with pytest.raises(InputError) as problem:
        import_state_dict(state, "the file", config=config)
    for part in (
        "2 missing: decoder.modality_tokens.1, decoder_pred.bias",
        "1 unexpected: decoder.extra",
        "decoder.mask_token (has (1, 1, 7), expected (1, 1, 64))",
    ):
        assert part in str(problem.value)


def test_fresh_parameters_follow_the_reference():
    config = small(True, "wide")
    params = jax.jit(lambda rng: init_params(config, rng))(jax.random.key(0))
    block = params["encoder"]["block_01"]
    assert abs(float(block["in_proj"].std()) - 0.02) < 1e-3
    assert not block["mlp_bias"].any()
    np.testing.assert_allclose(block["layer_scale"], 1e-4)
    assert float(jnp.abs(params["encoder"]["cls_token"]).max()) < 1e-5
    assert not params["decoder"]["mask_token"].any()
    assert not params["decoder"]["channel_tokens"].any()
    # Blocks of different channels start differently.
    kernels = params["decoder"]["block_00"]["qkv"]["kernel"]
    assert float(jnp.abs(kernels[0] - kernels[1]).max()) > 0.01

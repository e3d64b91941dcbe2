import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mae_jax
from mae_jax.cli.main import main
from mae_jax.encoders.pretrained import from_pretrained
from mae_jax.errors import InputError
from mae_jax.networks.densenet.config import DenseNetConfig
from mae_jax.networks.densenet.encoder import DenseNetEncoder
from mae_jax.networks.densenet.model import DenseNet
from mae_jax.networks.mae.config import DecoderConfig, MAEConfig, ParallelViTConfig
from mae_jax.networks.mae.parallel_vit import ParallelViT
from mae_jax.networks.registry import init_params, param_shapes
from mae_jax.networks.saved_model import save_model
from mae_jax.networks.torch_import import export_model, export_state_dict, import_state_dict
from mae_jax.networks.unet.config import UNetConfig, unet_config
from mae_jax.networks.unet.model import UNet
from mae_jax.networks.vit.config import vit_config
from mae_jax.networks.vit.model import ViT
from mae_jax.nn.pos_embed import sincos_pos_embed
from mae_jax.weights.import_options import ImportOptions
from mae_jax.weights.preprocessing import Preprocessing
from mae_jax.weights.pytree_paths import flatten
from mae_jax.weights.state_dict import read_state_dict, write_state_dict

CHANNELS = ("a", "b", "c", "d", "e")


def close(ours, theirs, tolerance=1e-5):
    theirs = np.asarray(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * np.abs(theirs).max())


def randomized(module, seed=0):
    """Every tensor of a torch module random, running variances positive."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in module.state_dict().items():
        if value.dtype.is_floating_point:
            value = 0.2 * torch.randn(value.shape, generator=generator)
            if name.endswith("running_var") or ("norm" in name and name.endswith("weight")):
                value = 0.5 + value.abs()
        state[name] = value
    module.load_state_dict(state)
    return module.eval(), {k: v.numpy() for k, v in state.items()}


def test_a_timm_vit_agrees_and_adapts_to_more_channels(torch_reference):
    torch = pytest.importorskip("torch")
    timm = torch_reference.import_timm()
    vit = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=128, depth=2, num_heads=2, num_classes=7
    )
    vit, state = randomized(vit)
    config, params = import_state_dict(state, "vit", ImportOptions(heads=2))
    assert (config.heads, config.grid, config.classes) == (2, 4, 7)
    x = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        theirs = vit.forward_features(torch.from_numpy(x)).numpy()
        logits = vit(torch.from_numpy(x)).numpy()
    close(jax.jit(ViT(config).apply)({"params": params}, x), theirs)
    close(ViT(config).apply({"params": params}, jnp.asarray(x), method=ViT.logits), logits)
    exported = export_state_dict(params, config)
    assert exported.keys() == state.keys()
    for name in state:
        np.testing.assert_array_equal(exported[name], state[name])

    from timm.models._manipulate import adapt_input_conv

    five, wide = import_state_dict(state, "vit", ImportOptions(CHANNELS, heads=2))
    kernel = adapt_input_conv(5, torch.from_numpy(state["patch_embed.proj.weight"])).numpy()
    expected = kernel.transpose(2, 3, 1, 0).reshape(-1, 128)
    np.testing.assert_allclose(wide["patch_embed"]["kernel"], expected, rtol=1e-6)
    # Another size than that of training: the table of positions is interpolated.
    y = jnp.zeros((1, 5, 64, 48))
    assert ViT(five).apply({"params": wide}, y).shape == (1, 1 + 8 * 6, 128)


def test_a_torchvision_densenet_agrees(torch_reference):
    torch = pytest.importorskip("torch")
    torchvision = torch_reference.import_torchvision()
    net = torchvision.models.DenseNet(
        growth_rate=8, block_config=(2, 3), num_init_features=16, num_classes=4
    )
    net, state = randomized(net)
    config, variables = import_state_dict(state, "densenet")
    assert (config.growth, config.stem, config.layers) == (8, 16, (2, 3))
    x = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
    with torch.no_grad():
        theirs = torch.relu(net.features(torch.from_numpy(x))).mean((2, 3)).numpy()
    ours = jax.jit(lambda v, x: DenseNet(config).apply(v, x, output="features"))(variables, x)
    close(ours, theirs)
    again, same = import_state_dict(export_state_dict(variables, config), "ours")
    assert again == config
    for name, value in flatten(variables).items():
        np.testing.assert_array_equal(flatten(same)[name], value)
    # The names that torchvision's published files still have.
    old = {re.sub(r"(denselayer\d\.\w+)([12]\.)", r"\1.\2", k): v for k, v in state.items()}
    assert "features.denseblock1.denselayer1.norm.1.running_var" in old
    assert import_state_dict(old, "old")[0] == config
    five, adapted = import_state_dict(state, "densenet", ImportOptions(CHANNELS))
    assert adapted["params"]["conv0"]["kernel"].shape == (7, 7, 5, 16)
    assert five.channels == CHANNELS


def test_a_torch_mu_net_agrees(torch_reference):
    torch = pytest.importorskip("torch")
    config = UNetConfig(widths=(8, 16), convolutions=(1, 2), channels=("a", "b"), patch=4, crop=16)
    shapes = param_shapes(config)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: (0.3 * rng.normal(size=s.shape)).astype(np.float32), shapes)
    state = export_state_dict(params, config)
    found, loaded = import_state_dict(state, "unet")
    assert (found.widths, found.convolutions) == (config.widths, config.convolutions)
    for name, value in flatten(params).items():
        np.testing.assert_array_equal(flatten(loaded)[name], value)

    x = rng.normal(size=(2, 2, 16, 16)).astype(np.float32)
    noise = rng.random((2, 16)).astype(np.float32)
    out = UNet(config).apply({"params": params}, jnp.asarray(x), noise=noise)
    p = {name: torch.from_numpy(value) for name, value in state.items()}
    f = torch.nn.functional

    def level(name, y):
        i = 0
        while f"{name}.{i}.conv.weight" in p:
            y = f.conv2d(y, p[f"{name}.{i}.conv.weight"], p[f"{name}.{i}.conv.bias"], padding=1)
            weight, bias = p[f"{name}.{i}.norm.weight"], p[f"{name}.{i}.norm.bias"]
            y = torch.relu(f.group_norm(y, y.shape[1] // 8, weight, bias, eps=1e-6))
            i += 1
        return y

    blanked = torch.from_numpy(np.array(x * (1 - np.asarray(out.mask))))
    top = level("down.0", blanked)
    deep = level("down.1", f.max_pool2d(top, 2))
    up = f.conv_transpose2d(deep, p["upsample.0.weight"], p["upsample.0.bias"], stride=2)
    y = level("up.0", torch.cat([up, top], dim=1))
    expected = f.conv2d(y, p["head.weight"], p["head.bias"])
    close(out.prediction, expected.numpy(), 2e-5)
    whole = torch.from_numpy(x)
    pooled = level("down.1", f.max_pool2d(level("down.0", whole), 2)).mean((2, 3))
    close(
        UNet(config).apply({"params": params}, jnp.asarray(x), method=UNet.embed),
        pooled.numpy(),
        2e-5,
    )


def test_an_unknown_layout_is_told():
    with pytest.raises(InputError, match=r"none of the known formats.*first keys are conv\.weight"):
        import_state_dict({"conv.weight": np.zeros(3)}, "file.pt")


@pytest.mark.parametrize(
    ("config", "millions", "within"),
    [
        (unet_config("mu_net_m", channels=tuple("abcdef")), 52, 0.01),
        (unet_config("mu_net_l", channels=tuple("abcdef")), 135, 0.01),
        (DenseNetConfig(channels=tuple("abcdef")), 28, 0.02),
        (vit_config("vit_b16", channels=tuple("abcdef")), 86, 0.01),
        (vit_config("vit_l16", channels=tuple("abcdef")), 304, 0.01),
    ],
    ids=["mu-net-m", "mu-net-l", "densenet-161", "vit-b", "vit-l"],
)
def test_sizes_of_the_paper(config, millions, within):
    shapes = param_shapes(config)
    shapes = shapes.get("params", shapes)
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))
    assert abs(count / 1e6 / millions - 1) < within


SMALL = {
    "vit": vit_config("vit_s16", width=64, heads=1, depth=1, grid=2, channels=CHANNELS),
    "densenet": DenseNetConfig(
        growth=4, stem=8, layers=(1, 1), embedding_dims=(8, 6), channels=CHANNELS, classes=3
    ),
    "unet": UNetConfig(widths=(8, 16), convolutions=(1, 1), channels=CHANNELS),
}


@pytest.mark.parametrize("kind", SMALL)
def test_saved_models_of_every_kind_are_encoders(kind, tmp_path):
    config = SMALL[kind]
    params = jax.jit(lambda rng: init_params(config, rng))(jax.random.key(0))
    save_model(tmp_path / "model", params, config, Preprocessing(CHANNELS, crop=64))
    encoder = mae_jax.load_encoder(tmp_path / "model")
    pixels = np.random.default_rng(0).integers(0, 9999, (2, 5, 64, 64)).astype(np.uint16)
    embedding = encoder.embed(pixels)
    assert embedding.shape == (2, encoder.width(5, "mean"))
    assert np.isfinite(embedding).all()
    assert np.abs(np.asarray(embedding[0] - embedding[1])).max() > 0
    with pytest.raises(InputError, match=r"not 'channel'"):
        encoder.embed(pixels, pooling="channel")


def test_embeddings_of_one_crop_do_not_depend_on_its_batch():
    config = SMALL["densenet"]
    params = jax.jit(lambda rng: init_params(config, rng))(jax.random.key(0))
    encoder = DenseNetEncoder(config, params, Preprocessing(CHANNELS, crop=64))
    pixels = np.random.default_rng(0).integers(0, 9999, (4, 5, 64, 64)).astype(np.uint16)
    np.testing.assert_allclose(
        encoder.embed(pixels)[:2], encoder.embed(pixels[:2]), rtol=1e-4, atol=1e-5
    )


def test_adabn_takes_each_domains_statistics():
    config = dataclasses.replace(SMALL["densenet"], norm="adabn", ghost_batch_size=4)
    params = jax.jit(lambda rng: init_params(config, rng))(jax.random.key(0))
    encoder = DenseNetEncoder(config, params, Preprocessing(CHANNELS, crop=64, scale=255.0))
    rng = np.random.default_rng(0)
    plate = jnp.asarray(rng.integers(0, 255, (2, 8, 5, 64, 64)).astype(np.uint8))
    adapted = encoder.with_adabn(plate)
    before, after = (e.params["batch_stats"]["norm0"] for e in (encoder, adapted))
    assert np.abs(after["mean"] - before["mean"]).max() > 1e-3
    assert adapted.fingerprint != encoder.fingerprint
    # The stem's statistics in closed form: unbiased variances of the ghost batches, averaged.
    from mae_jax.nn.standardize import self_standardize

    x = jnp.moveaxis(self_standardize(plate.reshape(16, 5, 64, 64), 255.0), 1, -1)
    y = jax.lax.conv_general_dilated(
        x,
        params["params"]["conv0"]["kernel"],
        (2, 2),
        ((3, 3), (3, 3)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    groups = np.asarray(y).reshape(4, -1, 8)
    np.testing.assert_allclose(after["mean"], groups.mean(1).mean(0), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(after["var"], groups.var(1, ddof=1).mean(0), rtol=1e-3)


def test_training_statistics_of_ghost_batches():
    from mae_jax.networks.densenet.model import GhostBatchNorm

    x = jnp.asarray(np.random.default_rng(0).normal(3, 2, (8, 5, 5, 4)).astype(np.float32))
    norm = GhostBatchNorm(sub_batch=4, momentum=0.9)
    variables = norm.init(jax.random.key(0), x, False)
    y, updated = norm.apply(variables, x, True, mutable=["batch_stats"])
    for part in (slice(0, 4), slice(4, 8)):
        np.testing.assert_allclose(np.asarray(y[part]).mean((0, 1, 2)), 0, atol=1e-5)
        np.testing.assert_allclose(np.asarray(y[part]).var((0, 1, 2)), 1, rtol=1e-4)
    expected = 0.1 * np.asarray(x).mean((0, 1, 2))
    np.testing.assert_allclose(updated["batch_stats"]["mean"], expected, rtol=1e-4)
    with pytest.raises(InputError, match="sub-batches of 4"):
        norm.apply(variables, x[:6], True, mutable=["batch_stats"])


def mae():
    config = MAEConfig(
        encoder=ParallelViTConfig(
            patch=8, width=64, depth=1, heads=1, crop=16, channels=("a", "b"), bias_layout="legacy"
        ),
        decoder=DecoderConfig(width=32, depth=1, heads=16, norm_eps=1e-5),
    )
    return config, jax.jit(lambda rng: init_params(config, rng))(jax.random.key(0))


def test_convert_there_and_back(tmp_path, capsys):
    config, params = mae()
    save_model(tmp_path / "model", params, config, Preprocessing(("a", "b"), True, 16))
    assert (
        main(["convert", str(tmp_path / "model"), str(tmp_path / "w.safetensors"), "--export"]) == 0
    )
    target = tmp_path / "again"
    arguments = ["--channels", "a,b", "--scale", "255"]
    assert main(["convert", str(tmp_path / "w.safetensors"), str(target), *arguments]) == 0
    assert "mae, " in capsys.readouterr().out
    found, loaded, preprocessing = from_pretrained(target)
    assert found == config
    assert preprocessing == Preprocessing(("a", "b"), True, 16, 255.0)
    for name, value in flatten(params).items():
        np.testing.assert_array_equal(flatten(loaded)[name], value)
    assert main(["convert", str(tmp_path / "none.pt"), str(tmp_path / "x")]) == 2
    assert "does not exist" in capsys.readouterr().err
    words = ["convert", str(tmp_path / "w.safetensors"), str(target), "--overwrite"]
    assert main([*words, "--channels", "a"]) == 2
    assert "states channels ('a', 'b') in its metadata" in capsys.readouterr().err


def test_a_foreign_folder_is_an_encoder(tmp_path, capsys):
    config, params = mae()
    folder = tmp_path / "release"
    write_state_dict(folder / "model.safetensors", export_state_dict(params, config))
    (folder / "config.json").write_text('{"model_type": "another"}')
    encoder = mae_jax.load_encoder(folder, channels=("a", "b"), decoder_heads=16)
    assert encoder.encoder_config.bias_layout == "legacy"
    assert encoder.select_channels(["x", "b"]) == ("b", "x")
    options = {"channels": ("a", "b"), "decoder_heads": 16}
    fixed = mae_jax.load_encoder(folder, bias_layout="fixed", **options)
    assert fixed.encoder_config.bias_layout == "fixed"
    # Published weights were trained on 8-bit images.
    assert encoder.preprocessing.scale == 255.0
    with pytest.raises(InputError, match=r"its 2 channels.*--channels DNA,ER` \(2 na"):
        mae_jax.load_encoder(folder, decoder_heads=16)
    target = str(tmp_path / "saved")
    assert main(["convert", str(folder), target, "--decoder-heads", "16"]) == 2
    assert "does not name its 2 channels: which are they" in capsys.readouterr().err
    with pytest.raises(InputError, match="2 channels, but 1 names"):
        mae_jax.load_encoder(folder, channels=("a",), decoder_heads=16)
    with pytest.raises(InputError, match="bias_layout cannot be 'Legacy': did you mean 'legacy'"):
        mae_jax.load_encoder(folder, bias_layout="Legacy")


def test_a_hub_name_is_fetched_at_its_revision(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    config, params = mae()
    save_model(tmp_path / "cache", params, config, Preprocessing(("a", "b"), True, 16))
    asked = []

    def fake(name, revision, allow_patterns):
        asked.append((name, revision))
        return str(tmp_path / "cache")

    monkeypatch.setattr(hub, "snapshot_download", fake)
    assert mae_jax.from_pretrained("someone/model", revision="v2")[0] == config
    assert asked == [("someone/model", "v2")]

    def broken(*args, **options):
        raise OSError("no network\nmore lines")

    monkeypatch.setattr(hub, "snapshot_download", broken)
    with pytest.raises(InputError, match=r"someone/model .*\(no network\)"):
        mae_jax.from_pretrained("someone/model")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_an_exported_file_is_read_back_as_the_same_encoder(tmp_path, suffix):
    """Bias layout, heads, epsilons and scale come from the file, not from defaults."""
    config = MAEConfig(
        encoder=ParallelViTConfig(
            patch=8, width=64, depth=2, heads=4, crop=16, channels=("a", "b"), qk_norm=False,
            bias_layout="fixed", norm_eps=1e-3,
        ),
        decoder=DecoderConfig(width=32, depth=1, heads=4, cross_heads=2, norm_eps=1e-4),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda s: (0.2 * rng.normal(size=s.shape)).astype(np.float32), param_shapes(config)
    )
    preprocessing = Preprocessing(("a", "b"), True, 16, 4095.0, 1e-6)
    save_model(tmp_path / "model", params, config, preprocessing)
    path = tmp_path / "export" / "weights.safetensors"
    assert main(["convert", str(tmp_path / "model"), str(path), "--export"]) == 0
    stated = json.loads((path.parent / "config.json").read_text())
    assert stated["mae_jax"]["architecture"]["encoder"]["heads"] == 4
    if suffix == ".pt":  # resaved by PyTorch, without metadata: config.json beside it is read
        torch = pytest.importorskip("torch")
        tensors = {k: torch.from_numpy(v) for k, v in read_state_dict(path).items()}
        path.unlink()
        torch.save(tensors, path.with_suffix(".pt"))
        stated["weights"] = "weights.pt"
        (path.parent / "config.json").write_text(json.dumps(stated))
    again = from_pretrained(path.with_suffix(suffix))
    assert (again.config, again.preprocessing) == (config, preprocessing)
    pixels = rng.integers(0, 4095, (2, 2, 16, 16)).astype(np.uint16)
    before = mae_jax.load_encoder(tmp_path / "model").embed(pixels)
    after = mae_jax.load_encoder(path.with_suffix(suffix)).embed(pixels)
    np.testing.assert_array_equal(before, after)
    with pytest.raises(InputError, match="states bias_layout fixed in its metadata, not legacy"):
        from_pretrained(path.with_suffix(suffix), bias_layout="legacy")


def test_an_export_does_not_replace_the_config_of_something_else(tmp_path):
    config, params = mae()
    (tmp_path / "config.json").write_text('{"kind": "mae"}')
    with pytest.raises(InputError, match=r"config\.json belongs to something else"):
        export_model(tmp_path / "w.safetensors", params, config, Preprocessing(("a", "b")))


def test_heads_that_no_tensor_shows_are_published_or_given():
    assert ImportOptions().encoder_heads(1280, "ViT-H/14") == 16  # not 1280 / 64
    with pytest.raises(InputError, match=r"width 256 has; give heads"):
        ImportOptions().encoder_heads(256, "file")
    assert ImportOptions(heads=8).encoder_heads(256, "file") == 8


def test_an_encoder_alone_is_imported():
    config, params = mae()
    state = export_state_dict(params, config)
    for prefix in ("encoder.", "encoder.vit_backbone."):
        alone = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        imported, loaded = import_state_dict(alone, "alone", ImportOptions(("a", "b")))
        # The crop is that of the position table.
        assert imported == config.encoder
        for name, value in flatten(params["encoder"]).items():
            np.testing.assert_array_equal(flatten(loaded)[name], value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("encoder.vit_backbone.pos_embed", "learned position tables are not supported"),
        ("decoder.pos_embeddings", "learned position tables are not supported"),
        ("encoder.vit_backbone.fc_norm.weight", "was trained"),
        ("encoder.vit_backbone.fc_norm.bias", "was trained"),
        ("encoder.vit_backbone.blocks.0.mlp_bias", "not finite in"),
    ],
)
def test_tensors_that_would_be_lost_are_refused(name, message):
    config, params = mae()
    state = export_state_dict(params, config)
    import_state_dict(state, "file.pt", ImportOptions(decoder_heads=16))
    changed = np.nan if "blocks" in name else 0.1
    state[name] = state[name] + np.float32(changed)
    with pytest.raises(InputError, match=message) as problem:
        import_state_dict(state, "file.pt", ImportOptions(decoder_heads=16))
    assert str(problem.value).startswith("file.pt")


def test_a_joint_vit_with_a_final_norm_agrees_with_torch(torch_reference):
    """The official example's encoder: global_pool="token", whose tokens pass `norm`."""
    torch = pytest.importorskip("torch")
    timm = torch_reference.import_timm()
    from timm.models.vision_transformer import ParallelScalingBlock

    vit = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, in_chans=3, embed_dim=64, depth=2, num_heads=1,
        qkv_bias=False, qk_norm=True, init_values=1e-4, num_classes=0, global_pool="token",
        block_fn=ParallelScalingBlock,
    )  # fmt: skip
    vit, state = randomized(vit)
    with torch.no_grad():
        vit.pos_embed.copy_(torch.from_numpy(sincos_pos_embed(4, 4, 64, class_token=True)[None]))
    state["pos_embed"] = vit.pos_embed.detach().numpy()
    config, params = import_state_dict(
        state, "joint", ImportOptions(("r", "g", "b"), bias_layout="fixed")
    )
    assert config.final_norm
    x = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        theirs = vit.forward_features(torch.from_numpy(x)).numpy()
    close(jax.jit(ParallelViT(config).apply)({"params": params}, x), theirs)


def test_a_timm_vit_pooled_through_fc_norm_agrees(torch_reference):
    torch = pytest.importorskip("torch")
    timm = torch_reference.import_timm()
    vit = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=2, num_classes=3,
        global_pool="avg",
    )  # fmt: skip
    vit, state = randomized(vit)
    assert "fc_norm.weight" in state
    config, params = import_state_dict(state, "vit", ImportOptions(heads=2))
    assert config.fc_norm
    x = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        pooled = vit.forward_head(vit.forward_features(torch.from_numpy(x)), pre_logits=True)
        logits = vit(torch.from_numpy(x)).numpy()
    variables = {"params": params}
    close(
        ViT(config).apply(variables, jnp.asarray(x), pooling="mean", method=ViT.embed),
        pooled.numpy(),
    )
    close(ViT(config).apply(variables, jnp.asarray(x), method=ViT.logits), logits)
    assert export_state_dict(params, config).keys() == state.keys()


def test_the_epsilon_of_norms_can_be_given(torch_reference):
    torch = pytest.importorskip("torch")
    timm = torch_reference.import_timm()
    vit = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=64, depth=1, num_heads=2, num_classes=0,
        norm_layer=lambda width, **_: torch.nn.LayerNorm(width, eps=0.1),
    )  # fmt: skip
    vit, state = randomized(vit)
    x = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        theirs = vit.forward_features(torch.from_numpy(x)).numpy()
    config, params = import_state_dict(state, "vit", ImportOptions(heads=2, norm_eps=0.1))
    close(ViT(config).apply({"params": params}, jnp.asarray(x)), theirs)

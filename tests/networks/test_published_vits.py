"""Published vision transformers against timm and transcriptions in torch, with random weights.

Networks are tiny here; those of full size are compared by the names and shapes of their tensors.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.errors import InputError
from mae_jax.networks.registry import param_shapes
from mae_jax.networks.torch_import import export_state_dict, import_state_dict
from mae_jax.networks.vit.config import vit_config
from mae_jax.networks.vit.model import ViT
from mae_jax.networks.vit.torch_keys import key_map
from mae_jax.nn.position_resize import resize_positions
from mae_jax.weights.import_options import ImportOptions
from mae_jax.weights.key_map import source_shapes
from mae_jax.weights.pytree_paths import flatten

WIDTH, HEADS, DEPTH, PATCH = 24, 3, 2, 4
OPTIONS = ImportOptions(heads=HEADS)


def weights(shapes, seed=0):
    """Random tensors of these shapes: scales near 1, and biases that are not zero."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes.items():
        value = 0.3 * rng.normal(size=shape)
        if "norm" in name and name.endswith("weight"):
            value += 1
        if name.endswith("gamma") or "gamma_" in name:
            value += 0.5
        tensors[name] = value.astype(np.float32)
    return tensors


def meta_shapes(channels=3, grid=4, registers=0, scale=True, swiglu=0):
    """Names and shapes of the tensors of DINOv2 (Meta's), and of DINO without `scale`."""
    shapes = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, 1 + grid**2, WIDTH),
        "patch_embed.proj.weight": (WIDTH, channels, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
    }
    if scale:
        shapes["mask_token"] = (1, WIDTH)
    if registers:
        shapes["register_tokens"] = (1, registers, WIDTH)
    hidden = swiglu or 4 * WIDTH
    layers = {
        "attn.qkv": (3 * WIDTH, WIDTH),
        "attn.proj": (WIDTH, WIDTH),
        "mlp.w12" if swiglu else "mlp.fc1": (2 * hidden if swiglu else hidden, WIDTH),
        "mlp.w3" if swiglu else "mlp.fc2": (WIDTH, hidden),
    }
    for i in range(DEPTH):
        for name, shape in layers.items():
            shapes[f"blocks.{i}.{name}.weight"] = shape
            shapes[f"blocks.{i}.{name}.bias"] = shape[:1]
        for norm in ("norm1", "norm2"):
            for kind in ("weight", "bias"):
                shapes[f"blocks.{i}.{norm}.{kind}"] = (WIDTH,)
        if scale:
            shapes |= {f"blocks.{i}.ls{n}.gamma": (WIDTH,) for n in (1, 2)}
    return shapes


def torch_vit(state, x, eps=1e-6, table=None, rope=None):
    """A transcription: tokens of a batch after the final norm.

    Args:
      table: (state's table of patches (1, D, M, M), rows, columns) -> the one of this image.
      rope: (q or k of the patches) -> rotated.
    """
    import torch

    p = {name: torch.from_numpy(np.asarray(value)) for name, value in state.items()}
    f = torch.nn.functional

    def linear(name, y):
        return f.linear(y, p[f"{name}.weight"], p[f"{name}.bias"])

    def norm(name, y):
        return f.layer_norm(y, (WIDTH,), p[f"{name}.weight"], p[f"{name}.bias"], eps)

    y = f.conv2d(torch.from_numpy(x), p["patch_embed.proj.weight"], p["patch_embed.proj.bias"],
                 stride=PATCH)  # fmt: skip
    rows, columns = y.shape[2:]
    y = y.flatten(2).transpose(1, 2)
    first = p["cls_token"]
    if "pos_embed" in p:
        side = round((p["pos_embed"].shape[1] - 1) ** 0.5)
        patches = p["pos_embed"][:, 1:].reshape(1, side, side, WIDTH).permute(0, 3, 1, 2)
        if (rows, columns) != (side, side):
            patches = table(patches, rows, columns)
        y = y + patches.permute(0, 2, 3, 1).reshape(1, rows * columns, WIDTH)
        first = first + p["pos_embed"][:, :1]
    prefix = [first] + ([p["register_tokens"]] if "register_tokens" in p else [])
    y = torch.cat([*(t.expand(len(y), -1, -1) for t in prefix), y], dim=1)
    skip = sum(t.shape[1] for t in prefix)
    for i in range(DEPTH):
        b = f"blocks.{i}"
        qkv = linear(f"{b}.attn.qkv", norm(f"{b}.norm1", y))
        q, k, v = qkv.reshape(*y.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        if rope is not None:
            q, k = (torch.cat([t[:, :, :skip], rope(t[:, :, skip:], rows, columns)], dim=2)
                    for t in (q, k))  # fmt: skip
        a = torch.softmax(q @ k.transpose(2, 3) / q.shape[-1] ** 0.5, dim=-1) @ v
        a = linear(f"{b}.attn.proj", a.transpose(1, 2).flatten(2))
        y = y + p.get(f"{b}.ls1.gamma", 1) * a
        m = norm(f"{b}.norm2", y)
        if f"{b}.mlp.w12.weight" in p:
            gate, up = linear(f"{b}.mlp.w12", m).chunk(2, dim=-1)
            m = linear(f"{b}.mlp.w3", f.silu(gate) * up)
        else:
            m = linear(f"{b}.mlp.fc2", f.gelu(linear(f"{b}.mlp.fc1", m)))
        y = y + p.get(f"{b}.ls2.gamma", 1) * m
    return norm("norm", y).numpy()


def with_offset(table, rows, columns):
    import torch

    side = table.shape[2]
    scale = ((rows + 0.1) / side, (columns + 0.1) / side)
    return torch.nn.functional.interpolate(table, scale_factor=scale, mode="bicubic")


def with_size(table, rows, columns, antialias=False):
    import torch

    return torch.nn.functional.interpolate(
        table, size=(rows, columns), mode="bicubic", antialias=antialias
    )


def antialiased(table, rows, columns):
    return with_size(table, rows, columns, antialias=True)


def pixels(channels=3, height=16, width=16, seed=1):
    shape = (2, channels, height, width)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def tokens(config, params, x):
    return np.asarray(jax.jit(ViT(config).apply)({"params": params}, jnp.asarray(x)))


def embed(config, params, x, pooling):
    apply = jax.jit(lambda p, x: ViT(config).apply(p, x, pooling=pooling, method=ViT.embed))
    return np.asarray(apply({"params": params}, jnp.asarray(x)))


def agree(state, x, reference, **expected):
    """Import a state dict, check properties of its config, and compare the tokens of a batch."""
    config, params = import_state_dict(state, "file", OPTIONS)
    for name, value in expected.items():
        assert getattr(config, name) == value, name
    np.testing.assert_allclose(tokens(config, params, x), reference, rtol=1e-5, atol=1e-5)
    return config, params


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


# ---- position tables


@pytest.mark.parametrize(("rows", "columns"), [(16, 16), (32, 40), (3, 2)])
def test_tables_are_resized_as_by_torch(torch, rows, columns):
    table = np.random.default_rng(0).normal(size=(14, 14, 5)).astype(np.float32)
    first = torch.from_numpy(table).permute(2, 0, 1)[None]
    for rule, reference in {
        "antialias": antialiased,
        "bicubic": with_size,
        "bicubic_offset": with_offset,
    }.items():
        theirs = reference(first, rows, columns)[0].permute(1, 2, 0).numpy()
        ours = resize_positions(jnp.asarray(table), rows, columns, rule)
        np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=rule)
    differ = [np.asarray(resize_positions(jnp.asarray(table), rows, columns, rule))
              for rule in ("antialias", "bicubic", "bicubic_offset")]  # fmt: skip
    assert np.abs(differ[1] - differ[2]).max() > 1e-3
    assert np.abs(differ[0] - differ[1]).max() > 1e-3


# ---- DINO, DINOv2


def test_dinov2_and_dino_by_a_transcription(torch):
    state = weights(meta_shapes())
    x, large = pixels(), pixels(height=24, width=32)
    config, params = agree(
        state, x, torch_vit(state, x), position_resize="bicubic_offset", norm_eps=1e-6
    )
    theirs = torch_vit(state, large, table=with_offset)
    np.testing.assert_allclose(tokens(config, params, large), theirs, rtol=1e-5, atol=1e-5)
    state = weights(meta_shapes(registers=4, swiglu=56))
    agree(
        state, large, torch_vit(state, large, table=antialiased),
        registers=4, mlp="swiglu", position_resize="antialias",
    )  # fmt: skip
    # DINO: one channel at a time, no layer scale.
    state = weights(meta_shapes(channels=1, scale=False))
    one = pixels(1)
    agree(state, one, torch_vit(state, one), layer_scale=None, channels=("any",))


def test_poolings_leave_registers_out(torch):
    state = weights(meta_shapes(registers=4))
    config, params = import_state_dict(state, "file", OPTIONS)
    x = pixels()
    theirs = torch_vit(state, x)
    for pooling, wanted in {"class": theirs[:, 0], "mean": theirs[:, 5:].mean(1)}.items():
        ours = embed(config, params, x, pooling)
        np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5)


def chunked(state):
    """Cell-DINO's names: blocks in chunks (here of one), with a number that counts on."""
    return {
        re.sub(r"blocks\.(\d+)\.", lambda m: f"blocks.{m[1]}.{m[1]}.", name): value
        for name, value in state.items()
    }


def in_training(state):
    """A training's checkpoint: student and teacher with heads."""
    teacher = {f"teacher.backbone.{name}": value for name, value in state.items()}
    student = {f"student.backbone.{name}": value + 1 for name, value in state.items()}
    heads = {"teacher.dino_head.mlp.0.weight": np.ones((2, 2), np.float32)}
    return student | teacher | heads | {"teacher.head.last_layer.weight": np.ones(2, np.float32)}


def in_transformers(state):
    """The names of Dinov2Model and Dinov2WithRegistersModel."""
    named = {}
    for name, value in state.items():
        name = re.sub(r"^patch_embed\.proj", "embeddings.patch_embeddings.projection", name)
        name = re.sub(r"^pos_embed", "embeddings.position_embeddings", name)
        name = re.sub(r"^(cls_token|mask_token|register_tokens)", r"embeddings.\1", name)
        name = re.sub(r"^norm\.", "layernorm.", name)
        name = re.sub(r"^blocks\.", "encoder.layer.", name)
        name = name.replace("attn.proj", "attention.output.dense")
        name = re.sub(r"ls(\d)\.gamma", r"layer_scale\1.lambda1", name)
        name = name.replace("w12", "weights_in").replace("w3", "weights_out")
        if "attn.qkv" in name:
            for role, part in zip(("query", "key", "value"), np.split(value, 3), strict=True):
                named[name.replace("attn.qkv", f"attention.attention.{role}")] = part
        else:
            named[name] = value
    return named


def in_timm(state):
    """timm's DINOv2 with registers: no row of the class token, whose position it includes."""
    state = dict(state)
    del state["mask_token"]
    state["reg_token"] = state.pop("register_tokens")
    state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
    state["pos_embed"] = state["pos_embed"][:, 1:]
    return {n.replace("w12", "fc1").replace("w3", "fc2"): v for n, v in state.items()}


@pytest.mark.parametrize("dialect", [chunked, in_training, in_transformers, in_timm])
@pytest.mark.parametrize("swiglu", [0, 56])
def test_dialects_of_dinov2_are_one_network(dialect, swiglu):
    state = weights(meta_shapes(registers=4, swiglu=swiglu))
    config, params = import_state_dict(state, "file", OPTIONS)
    other, same = import_state_dict(dialect(state), "file", OPTIONS)
    assert other == config
    wanted, got = flatten(params), flatten(same)
    if dialect is in_timm:
        assert not got["pos_embed"][0, 0].any()
        for flat in (wanted, got):
            flat["cls_token"] = flat["cls_token"] + flat["pos_embed"][:, :1]
            flat["pos_embed"] = flat["pos_embed"][:, 1:]
    for name, value in wanted.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)
    again, _ = import_state_dict(export_state_dict(params, config), "ours", config=config)
    assert again == config


@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2_by_timm(torch_reference, registers):
    torch = pytest.importorskip("torch")
    timm = torch_reference.import_timm()
    from timm.layers import SwiGLUPacked

    net = timm.models.vision_transformer.VisionTransformer(
        img_size=16, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, num_classes=0,
        init_values=1e-5, reg_tokens=registers, no_embed_class=bool(registers),
        dynamic_img_size=True,
        **({"mlp_layer": SwiGLUPacked, "act_layer": torch.nn.SiLU} if registers else {}),
    )  # fmt: skip
    state = weights({name: tuple(v.shape) for name, v in net.state_dict().items()})
    net.load_state_dict({name: torch.from_numpy(v) for name, v in state.items()})
    net.eval()
    for x in (pixels(), pixels(height=24, width=32)):
        with torch.no_grad():
            theirs = net.forward_features(torch.from_numpy(x)).numpy()
        agree(state, x, theirs, registers=registers, position_resize="antialias")


# ---- DINOv3


def dinov3_shapes(swiglu=0):
    shapes = meta_shapes(registers=4, swiglu=swiglu)
    del shapes["pos_embed"]
    shapes["storage_tokens"] = shapes.pop("register_tokens")
    shapes["rope_embed.periods"] = (WIDTH // HEADS // 4,)
    shapes |= {f"blocks.{i}.attn.qkv.bias_mask": (3 * WIDTH,) for i in range(DEPTH)}
    return shapes


def rope(x, rows, columns):
    """DINOv3's rotation, angle by angle."""
    import torch

    size = x.shape[-1]
    out = torch.empty_like(x)
    for t in range(rows * columns):
        i, j = divmod(t, columns)
        places = ((i + 0.5) / rows * 2 - 1, (j + 0.5) / columns * 2 - 1)
        for u in range(size // 2):
            axis, k = divmod(u, size // 4)
            angle = torch.tensor(2 * np.pi * places[axis] / 100 ** (2 * k / (size / 2)))
            a, b = x[:, :, t, u], x[:, :, t, u + size // 2]
            out[:, :, t, u] = a * torch.cos(angle) - b * torch.sin(angle)
            out[:, :, t, u + size // 2] = b * torch.cos(angle) + a * torch.sin(angle)
    return out


def masked(state):
    """The biases that DINOv3 uses: none on keys; and the names of the transcription."""
    state = dict(state)
    for name in [n for n in state if n.endswith("qkv.bias")]:
        bias = state[name].copy()
        bias[WIDTH : 2 * WIDTH] = 0
        state[name] = bias
    state["register_tokens"] = state["storage_tokens"]
    return state


def test_dinov3_by_a_transcription(torch):
    state = weights(dinov3_shapes())
    x = pixels(height=16, width=24)
    agree(
        state, x, torch_vit(masked(state), x, eps=1e-5, rope=rope),
        positions="rotary", norm_eps=1e-5, registers=4,
    )  # fmt: skip


def test_dinov3_in_the_names_of_transformers_and_with_gates_apart():
    state = weights(dinov3_shapes(swiglu=56))
    config, params = import_state_dict(state, "file", OPTIONS)
    apart, named = {}, {}
    for name, value in state.items():
        if "mlp.w12" in name:
            apart[name.replace("w12", "w1")], apart[name.replace("w12", "w2")] = np.split(value, 2)
        else:
            apart[name] = value
    for name, value in masked(apart).items():
        if name.endswith(("bias_mask", "periods", "storage_tokens")):
            continue
        name = re.sub(r"^patch_embed\.proj", "embeddings.patch_embeddings", name)
        name = re.sub(r"^(cls_token|mask_token|register_tokens)", r"embeddings.\1", name)
        name = re.sub(r"^blocks\.", "layer.", name).replace("attn.proj", "attention.o_proj")
        name = re.sub(r"ls(\d)\.gamma", r"layer_scale\1.lambda1", name)
        for old, new in {"w1": "gate_proj", "w2": "up_proj", "w3": "down_proj"}.items():
            name = name.replace(f"mlp.{old}.", f"mlp.{new}.")
        if "attn.qkv" in name:
            for role, part in zip("qkv", np.split(value, 3), strict=True):
                if not (role == "k" and name.endswith("bias")):
                    named[name.replace("attn.qkv", f"attention.{role}_proj")] = part
        else:
            named[name] = value
    for other in (apart, named):
        found, same = import_state_dict(other, "file", OPTIONS)
        assert found == config
        for key, value in flatten(params).items():
            np.testing.assert_array_equal(flatten(same)[key], value, err_msg=key)


@pytest.mark.parametrize("bias", [True, False])
def test_dinov3_by_timm(torch_reference, bias):
    torch = pytest.importorskip("torch")
    timm = torch_reference.import_timm()
    from functools import partial

    net = timm.models.eva.Eva(
        img_size=16, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, num_classes=0,
        qkv_bias=bias, init_values=1e-5, rope_type="dinov3", rope_temperature=100,
        rope_rotate_half=True, use_rot_pos_emb=True, use_abs_pos_emb=False, num_reg_tokens=4,
        use_fc_norm=False, dynamic_img_size=True, norm_layer=partial(torch.nn.LayerNorm, eps=1e-5),
    )  # fmt: skip
    state = weights({name: tuple(v.shape) for name, v in net.state_dict().items()})
    net.load_state_dict({name: torch.from_numpy(v) for name, v in state.items()})
    net.eval()
    x = pixels(height=16, width=24)
    with torch.no_grad():
        theirs = net.forward_features(torch.from_numpy(x)).numpy()
    agree(state, x, theirs, positions="rotary", norm_eps=1e-5, registers=4)


# ---- SubCell


def test_subcell_by_a_transcription(torch):
    f = torch.nn.functional
    state = weights(meta_shapes(channels=4, scale=False))
    pooler = weights(
        {
            "pool_model.attention_v.1.weight": (8, WIDTH),
            "pool_model.attention_v.1.bias": (8,),
            "pool_model.attention_u.1.weight": (8, WIDTH),
            "pool_model.attention_u.1.bias": (8,),
            "pool_model.attention.weight": (2, 8),
            "pool_model.attention.bias": (2,),
        }
    )
    named = {}
    for name, value in in_transformers(state).items():
        for old, new in {"norm1": "layernorm_before", "norm2": "layernorm_after"}.items():
            name = name.replace(old, new)
        name = name.replace("mlp.fc1", "intermediate.dense").replace("mlp.fc2", "output.dense")
        named[f"encoder.{name}"] = value
    named["classifier.0.weight"] = np.ones((2, 2), np.float32)
    x = pixels(4, height=24, width=16)
    options = ImportOptions(("r", "y", "b", "g"), heads=HEADS)
    config, params = import_state_dict(named | pooler, "file", options)
    assert (config.norm_eps, config.position_resize) == (1e-12, "bicubic")
    assert (config.pooler_heads, config.pooler_hidden) == (2, 8)
    theirs = torch_vit(state, x, eps=1e-12, table=with_size)
    np.testing.assert_allclose(tokens(config, params, x), theirs, rtol=1e-5, atol=1e-5)
    p = {name.removeprefix("pool_model."): torch.from_numpy(v) for name, v in pooler.items()}
    y = torch.from_numpy(theirs)
    v = torch.tanh(f.linear(y, p["attention_v.1.weight"], p["attention_v.1.bias"]))
    u = f.gelu(f.linear(y, p["attention_u.1.weight"], p["attention_u.1.bias"]))
    share = torch.softmax(f.linear(v * u, p["attention.weight"], p["attention.bias"]), dim=1)
    wanted = torch.cat([(share[..., h, None] * y).sum(1) for h in range(2)], dim=1).numpy()
    ours = embed(config, params, x, "attention")
    np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5)


# ---- full sizes, by shapes


SIZES = {
    "morphem": 21_469_056, "dinov2-s": 22_056_576, "dinov2-reg-s": 22_058_112,
    "dinov3-s": 21_601_152, "cell-dino-cp-s": 21_526_272,
}  # fmt: skip
LARGE_SIZES = {
    "dinov2-b": 86_580_480, "dinov2-l": 304_368_640, "dinov2-reg-b": 86_583_552,
    "dinov2-reg-l": 304_372_736, "dinov3-b": 85_669_632, "dinov3-l": 303_154_176,
    "cell-dino-hpa-l16": 303_613_952, "channel-adaptive-dino-l": 302_827_520,
    "subcell": 86_446_848 + 788_482,
}  # fmt: skip


def count_published(name):
    """The number of parameters of the state dict, with the mask token that no forward reads."""
    config = vit_config(name)
    shapes = source_shapes(key_map(config), param_shapes(config))
    count = sum(int(np.prod(shape)) for shape in shapes.values())
    return count + (0 if config.layer_scale is None else config.width)


def test_small_ones_have_the_published_number_of_parameters():
    assert {name: count_published(name) for name in SIZES} == SIZES


@pytest.mark.slow
def test_large_ones_have_the_published_number_of_parameters():
    assert {name: count_published(name) for name in LARGE_SIZES} == LARGE_SIZES
    config = vit_config("dinov2-reg-g")
    shapes = source_shapes(key_map(config), param_shapes(config))
    assert shapes["blocks.39.mlp.w12.weight"] == (8192, 1536)
    assert shapes["blocks.39.mlp.w3.weight"] == (1536, 4096)
    assert shapes["pos_embed"] == (1, 1370, 1536)
    assert config.width // config.heads == 64


def test_rotary_positions_need_heads_of_quarters():
    with pytest.raises(InputError, match="multiple of 4"):
        vit_config("dinov3-s", width=18, heads=3)

"""Training in bfloat16 on NVIDIA GPUs: traced here, and compiled where CUDA's plugin is.

A class token makes lengths odd, and the derivative of cuDNN's attention takes even ones alone.
"""

import functools
import importlib.util
import os
import subprocess
import sys
import textwrap
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.distributed.mesh import make_mesh
from mae_jax.kernels.attention_cudnn import padded_attention
from mae_jax.networks.mae import DecoderConfig, MAEConfig, ParallelViTConfig
from mae_jax.networks.mae.task import MAETask
from mae_jax.networks.registry import init_params
from mae_jax.train.compiled import build
from mae_jax.train.config import DataConfig, TrainConfig

# 17 tokens per channel, of which the encoder sees 5.
MODELS = {
    "joint": MAEConfig(
        ParallelViTConfig(patch=8, width=32, depth=2, heads=2, crop=32, channels=("DNA", "ER"),
                          channel_agnostic=False),
        DecoderConfig(width=32, depth=1, heads=2),
    ),
    # The decoder's blocks of all channels are mapped by vmap.
    "channel agnostic": MAEConfig(
        ParallelViTConfig(patch=8, width=32, depth=2, heads=2, crop=24, channels=("a", "b", "c")),
        DecoderConfig(width=32, depth=1, heads=2, cross_heads=2),
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("model", "options"),
    [("joint", {"scan": True, "remat": "dots"}), ("channel agnostic", {})],
    ids=MODELS,
)
def test_a_sharded_step_is_traced_with_cudnn(monkeypatch, model, options):
    # Tracing asks cuDNN, which is not here, for its version.
    monkeypatch.setattr(
        "jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91000
    )
    encoder = replace(MODELS[model].encoder, dtype="bfloat16", attention="cudnn", **options)
    model = replace(MODELS[model], encoder=encoder)
    config = TrainConfig(model=model, data=DataConfig(batch=16), steps=10)
    functions = build(config, make_mesh(config.mesh))
    traced = functions.step.trace(functions.state, functions.batch, None)
    text = str(traced.jaxpr)
    assert "dot_product_attention_fwd" in text
    assert "dot_product_attention_bwd" in text


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_padded_lengths_leave_loss_and_gradients_as_they_are(monkeypatch, model):
    model = replace(
        model, encoder=replace(model.encoder, attention="xla", depth=1), fourier_weight=0.0
    )
    task = MAETask(model, model.encoder.crop)
    rng = np.random.default_rng(0)
    batch = jax.tree.map(
        lambda s: jnp.asarray(rng.integers(0, 255, s.shape), s.dtype), task.batch(2)
    )
    params = jax.jit(functools.partial(init_params, model))(jax.random.key(0))

    def value_and_grad():
        def loss(params):
            return task.loss(params, {}, batch, jax.random.key(1), train=True)[0]

        return jax.jit(jax.value_and_grad(loss))(params)

    plain = value_and_grad()
    calls = []

    def padded(query, key, value):
        calls.append(query.shape[1])
        return padded_attention(query, key, value, implementation="xla")

    monkeypatch.setattr("mae_jax.kernels.attention._xla", padded)
    result = value_and_grad()
    assert any(length % 2 for length in calls)
    np.testing.assert_allclose(result[0], plain[0], rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), result[1], plain[1]
    )


# An H100 as XLA's GpuTargetConfigProto describes it.
H100 = """
    gpu_device_info {
      threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
      shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
      shared_memory_per_core: 233472 core_count: 132 fpus_per_core: 128
      block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
      memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
      device_memory_size: 84942979072 cuda_compute_capability { major: 9 minor: 0 }
      registers_per_core_limit: 65536 registers_per_block_limit: 65536
    }
    platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 }
    device_description_str: "NVIDIA H100 80GB HBM3"
"""

PROGRAM = """
    import sys
    from dataclasses import replace
    from jax.experimental import topologies
    from mae_jax.distributed.mesh import make_mesh
    from mae_jax.networks.mae import DecoderConfig, MAEConfig, ParallelViTConfig
    from mae_jax.train.compiled import build
    from mae_jax.train.config import DataConfig, TrainConfig
    devices = topologies.get_topology_desc(
        platform="cuda", topology_name="h100", target_config=sys.argv[1], topology="1x1x8"
    ).devices
    # ViT-S/16 and its decoder, of two blocks and of one: heads of 64, 32 and 64.
    encoder = ParallelViTConfig(depth=2, channels=("DNA", "ER", "Mito"), dtype="bfloat16")
    decoder = DecoderConfig(depth=1)
    for channel_agnostic in (False, True):
        model = MAEConfig(replace(encoder, channel_agnostic=channel_agnostic), decoder)
        config = TrainConfig(model=model, data=DataConfig(batch=32), steps=10)
        functions = build(config, make_mesh(config.mesh, devices))
        lowered = functions.step.lower(functions.state, functions.batch, None)
        text = lowered.compile().as_text()
        print(text.count('"__cudnn$fmhaSoftmax"'), text.count('"__cudnn$fmhaSoftmaxBackward"'))
"""


@pytest.mark.slow
def test_a_step_in_bfloat16_compiles_for_eight_h100():
    """In this process's environment, with LD_LIBRARY_PATH where cuDNN is not beside the plugin."""
    if importlib.util.find_spec("jax_cuda12_plugin") is None:
        pytest.skip("jax-cuda12-plugin, the compiler for NVIDIA GPUs, is not installed")
    program = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(PROGRAM), H100]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    run = subprocess.run(program, capture_output=True, text=True, env=environment, timeout=900)
    if run.returncode and "cuDNN not found" in run.stderr:
        pytest.skip("nvidia-cudnn-cu12 is not installed")
    assert run.returncode == 0, run.stderr[-3000:]
    joint, channel_agnostic = ([int(n) for n in line.split()] for line in run.stdout.splitlines())
    assert joint == [3, 3]  # both blocks of the encoder, one of the decoder
    assert channel_agnostic == [4, 4]  # and the cross-attention

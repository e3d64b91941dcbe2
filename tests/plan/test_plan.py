"""Memory and collectives come from the compiled step."""

import jax
import pytest

from mae_jax.models import DecoderConfig, EncoderConfig, MAEConfig
from mae_jax.plan import needs
from mae_jax.train.config import DataConfig, TrainConfig

JOINT = MAEConfig(
    EncoderConfig(patch=8, width=128, depth=2, heads=2, crop=64, channels=("DNA", "ER", "Mito"),
                  channel_agnostic=False, attention="xla"),
    DecoderConfig(width=128, depth=1, heads=2),
)  # fmt: skip


def test_needs_of_a_small_run():
    config = TrainConfig(model=JOINT, data=DataConfig(batch=4), steps=10)
    need = needs(config, jax.devices()[:1])
    state = 2 * need.parameters * 4  # parameters and Lion's momentum
    assert state < need.state_bytes < 1.1 * state + 4 * 3 * 64 * 64 * 2
    assert need.collectives == {}
    assert need.crops == 40
    assert need.fits(2.0**40)
    assert not need.fits(float(need.state_bytes))
    assert need.device_hours(1e12, 0.5) == pytest.approx(10 * need.step_flops / 0.5e12 / 3600)

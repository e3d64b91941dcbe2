"""Encoders for other programs: a StableHLO function, and a PyTorch module with its weights."""

import os
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from mae_jax.config_keys import has_key, with_key
from mae_jax.errors import InputError
from mae_jax.files import replacing, write_json
from mae_jax.networks import torch_import
from mae_jax.networks.mae.config import MAEConfig, ParallelViTConfig
from mae_jax.networks.registry import make_encoder
from mae_jax.networks.saved_model import PretrainedModel
from mae_jax.networks.vit.config import ViTConfig

MODULE = "encoder.py"
PLATFORMS = ("cpu", "cuda", "tpu")


def export_stablehlo(
    path: str | os.PathLike[str],
    model: PretrainedModel,
    *,
    pooling: str | None = None,
    channels: int | None = None,
    batch_size: int | None = None,
) -> dict[str, Any]:
    """Write raw pixels -> embeddings as one function, weights included, for CPUs, GPUs and TPUs.

    `jax.export.deserialize(bytearray(path.read_bytes())).call(pixels)` runs it; `path` + ".json"
    says what it takes. Pixels are float32 (batch, channels, crop, crop), raw.

    Args:
      pooling: of the encoder's; None for "channel" of a bag of channels, else "mean".
      channels: how many; None for as many as in training.
      batch_size: of each call; None for any.

    Returns:
      What was written to the JSON file.

    Raises:
      InputError: the scale of the pixels is not recorded, or the number of channels is not known.
    """
    import flatbuffers  # noqa: F401  (which jax.export needs; found missing before the work)

    config, params, preprocessing = model
    if preprocessing.scale is None:
        raise InputError(
            "the model divides pixels by the maximum of their type, which a function of float32 "
            "does not know; say by what: --scale 65535 for 16 bits."
        )
    count = channels or len(preprocessing.channels)
    if not count:
        raise InputError("the encoder takes any channels: name those to export for (--channels).")
    if has_key(config, "attention"):  # kernels are of one platform
        config = with_key(config, "attention", "xla")
    encoder = make_encoder(config, params, preprocessing)
    pooling = pooling or ("channel" if preprocessing.bag_of_channels else "mean")
    encoder.check_pooling(pooling)
    side = preprocessing.crop

    def embed(pixels: Any) -> Any:
        return encoder.forward(encoder.params, pixels, pooling=pooling)

    (batch,) = export.symbolic_shape("batch") if batch_size is None else (batch_size,)
    shape = jax.ShapeDtypeStruct((batch, count, side, side), jnp.float32)
    exported = export.export(jax.jit(embed), platforms=PLATFORMS)(shape)
    names = list(preprocessing.channels)
    record = {
        "format": "jax.export",
        "calling_convention_version": exported.calling_convention_version,
        "platforms": list(PLATFORMS),
        "pixels": ["batch" if batch_size is None else batch_size, count, side, side],
        "dtype": "float32",
        "channels": names if len(names) == count else None,
        "scale": preprocessing.scale,
        "pooling": pooling,
        "features": encoder.width(count, pooling),
        "fingerprint": encoder.fingerprint,
    }
    with replacing(path) as tmp_path:
        tmp_path.write_bytes(exported.serialize())
    write_json(Path(f"{path}.json"), record)
    return record


def export_torch(path: str | os.PathLike[str], model: PretrainedModel) -> int:
    """Write a state dict, its config.json and, for vision transformers, `encoder.py` that runs it.

    Returns:
      The number of tensors.

    Raises:
      InputError: the network has no PyTorch format, or another `config.json` is there.
    """
    count = torch_import.export_model(path, model.params, model.config, model.preprocessing)
    if isinstance(model.config, MAEConfig | ParallelViTConfig | ViTConfig):
        source = Path(torch_import.__file__).with_name("torch_module.py")
        with replacing(Path(path).with_name(MODULE)) as tmp_path:
            shutil.copyfile(source, tmp_path)
    return count

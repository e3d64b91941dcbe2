"""Key maps between this package's parameters and a PyTorch state dict.

A key map is a list of entries. Each names a tensor of the state dict (the source) and the
parameter it becomes (the target), so the same list imports and exports, and a tensor that no
entry names is an unexpected key.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mae_jax.weights.import_options import ImportOptions
from mae_jax.weights.pytree_paths import (
    HasShape,
    check_finite,
    check_keys,
    flatten,
    flatten_leaves,
    unflatten,
)


@dataclasses.dataclass(frozen=True)
class KeyMapEntry:
    """One tensor of the state dict.

    Attributes:
      source: its name in the state dict.
      target: the dotted name of the parameter; "" for a tensor that has none.
      transform: "same", "linear" ((out, in) to (in, out)), "conv" (OIHW to HWIO),
        "conv_transpose" (IOHW to HWIO, rotated by 180 degrees), "patchN" (OIHW with N inputs to
        (HWI, O), for flat patches) or "row" (any shape to one axis).
      index: index along the parameter's first axis, where it stacks several source tensors.
      default: makes the source tensor on export, where `target` is "".
    """

    source: str
    target: str = ""
    transform: str = "same"
    index: int | None = None
    default: Callable[[], np.ndarray] | None = None


@dataclasses.dataclass(frozen=True)
class TorchFormat:
    """The PyTorch state dict of one network: how to recognize, import and export it.

    Attributes:
      name: of the format, for messages.
      config_type: the network's config.
      matches: whether a state dict is in this format.
      infer_config: the architecture of a state dict (tensors, file, options).
      key_map: the key map of an architecture.
      adapt: changes tensors to fit an architecture before they are mapped.
    """

    name: str
    config_type: type
    matches: Callable[[Mapping[str, np.ndarray]], bool]
    infer_config: Callable[[Mapping[str, np.ndarray], str, ImportOptions], Any]
    key_map: Callable[[Any], list[KeyMapEntry]]
    adapt: Callable[[Mapping[str, np.ndarray], Any], dict[str, np.ndarray]] = lambda tensors, _: (
        dict(tensors)
    )


def import_tensors(
    tensors: Mapping[str, np.ndarray],
    key_map: Sequence[KeyMapEntry],
    shapes: Mapping[str, Any],
    source: str,
) -> dict[str, Any]:
    """Convert a state dict to nested float32 parameters.

    Args:
      shapes: the parameters' shapes (`param_shapes`).
      source: the file of the state dict, for messages.

    Raises:
      InputError: lists every missing, unexpected and mis-shaped key, or names a tensor that is not
        finite.
    """
    targets = flatten_leaves(shapes)
    # Tensors without a target (position tables, unused norms) may be absent.
    required = {e.source: _Shape(_source_shape(e, targets)) for e in key_map if e.target}
    optional = {entry.source for entry in key_map if not entry.target}
    check_keys({k: v for k, v in tensors.items() if k not in optional}, required, source)
    check_finite({name: tensors[name] for name in required}, source)
    flat: dict[str, np.ndarray] = {}
    stacks: dict[str, list[np.ndarray]] = {}
    for entry in sorted((e for e in key_map if e.target), key=lambda e: e.index or 0):
        value = _to_target(entry.transform, np.asarray(tensors[entry.source], np.float32))
        if entry.index is None:
            flat[entry.target] = value.reshape(targets[entry.target].shape)
        else:
            stacks.setdefault(entry.target, []).append(value)
    flat |= {name: np.stack(v).reshape(targets[name].shape) for name, v in stacks.items()}
    check_keys(flat, targets, f"{source}, converted,")
    return unflatten(flat)


def export_tensors(
    params: Mapping[str, Any], key_map: Sequence[KeyMapEntry]
) -> dict[str, np.ndarray]:
    """Convert nested parameters to a float32 state dict; the inverse of `import_tensors`."""
    flat = flatten(params)
    tensors = {}
    for entry in key_map:
        if not entry.target:
            assert entry.default is not None
            tensors[entry.source] = entry.default()
            continue
        value = flat[entry.target]
        value = value if entry.index is None else value[entry.index]
        shape = _untransformed(entry, value.shape)
        tensors[entry.source] = np.ascontiguousarray(_to_source(entry.transform, value, shape))
    return tensors


def adapt_rgb_kernel(
    tensors: Mapping[str, np.ndarray], name: str, channels: int
) -> dict[str, np.ndarray]:
    """Adapt the first kernel of an RGB model, (out, 3, height, width), to `channels` inputs.

    Its three inputs are repeated in turn and scaled by 3 / channels, which preserves the size of
    the sum over inputs (the rule of timm). Other kernels are left for the comparison of shapes.
    """
    kernel = tensors[name]
    if kernel.ndim != 4 or kernel.shape[1] != 3 or channels == 3:
        return dict(tensors)
    repeats = -(-channels // 3)
    adapted = np.tile(kernel.astype(np.float32), (1, repeats, 1, 1))[:, :channels]
    return {**tensors, name: adapted * np.float32(3 / channels)}


def source_shapes(
    key_map: Sequence[KeyMapEntry], shapes: Mapping[str, Any]
) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor that `export_tensors` would write."""
    targets = flatten_leaves(shapes)
    result = {}
    for entry in key_map:
        if entry.target:
            result[entry.source] = _source_shape(entry, targets)
        else:
            assert entry.default is not None
            result[entry.source] = entry.default().shape
    return result


@dataclasses.dataclass(frozen=True)
class _Shape:
    shape: tuple[int, ...]


def _source_shape(entry: KeyMapEntry, targets: Mapping[str, HasShape]) -> tuple[int, ...]:
    shape = tuple(targets[entry.target].shape)
    return _untransformed(entry, shape if entry.index is None else shape[1:])


def _untransformed(entry: KeyMapEntry, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the source tensor's shape for a parameter of `shape`."""
    if entry.transform == "linear":
        return shape[::-1]
    if entry.transform == "conv":
        return (shape[3], shape[2], shape[0], shape[1])
    if entry.transform == "conv_transpose":
        return (shape[2], shape[3], shape[0], shape[1])
    if entry.transform == "row":
        return (1, 1, *shape)
    if entry.transform.startswith("patch"):
        channels = int(entry.transform.removeprefix("patch"))
        side = round((shape[0] // channels) ** 0.5)
        return (shape[1], channels, side, side)
    return shape


def _to_target(transform: str, value: np.ndarray) -> np.ndarray:
    if transform == "linear":
        return value.T
    if transform == "conv":
        return value.transpose(2, 3, 1, 0)
    if transform == "conv_transpose":
        # PyTorch rotates the kernel of a transposed convolution, JAX does not.
        return value.transpose(2, 3, 0, 1)[::-1, ::-1]
    if transform.startswith("patch"):
        return value.transpose(2, 3, 1, 0).reshape(-1, value.shape[0])
    return value.reshape(-1) if transform == "row" else value


def _to_source(transform: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if transform == "linear":
        return value.T
    if transform == "conv":
        return value.transpose(3, 2, 0, 1)
    if transform == "conv_transpose":
        return value[::-1, ::-1].transpose(2, 3, 0, 1)
    if transform.startswith("patch"):
        out, channels, height, width = shape
        return value.reshape(height, width, channels, out).transpose(3, 2, 0, 1)
    return value.reshape(shape)

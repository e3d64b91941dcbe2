"""Links between our parameters and the names and shapes of another implementation.

A layout is a list of links. Each says where a foreign tensor goes, so the same list imports and
exports, and a key that no link names is a surplus key.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mae_jax.networks.saved_model import flatten_shapes
from mae_jax.weights.pytree_paths import check_keys, flatten, unflatten

Shaper = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Link:
    """One foreign tensor.

    Attributes:
      theirs: its name.
      ours: the dotted name of our parameter; "" for one that we do not keep.
      kind: "same", "linear" ((out, in) to (in, out)), "conv" (OIHW to HWIO),
        "conv_transpose" (IOHW to HWIO, turned by 180 degrees), "patchN" (OIHW of N inputs to
        (HWI, O), our flat patches) or "row" (any shape to one axis).
      part: its place along our first axis, where ours stacks several of theirs.
      value: makes the foreign tensor on export, where `ours` is "".
    """

    theirs: str
    ours: str = ""
    kind: str = "same"
    part: int | None = None
    value: Callable[[], np.ndarray] | None = None


def import_tensors(
    tensors: Mapping[str, np.ndarray], links: Sequence[Link], shapes: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Foreign tensors as our nested parameters, float32.

    Args:
      shapes: our parameters' shapes (`param_shapes`).

    Raises:
      InputError: lists every missing, surplus and misshapen foreign key.
    """
    ours = flatten_shapes(shapes)
    expected = {link.theirs: _expected(link, ours) for link in links}
    # Tensors that we make ourselves (tables of positions, unused norms) may be left out.
    required = {name: shape for name, shape in expected.items() if shape is not None}
    optional = {link.theirs for link in links if not link.ours}
    found = {name: value for name, value in tensors.items() if name not in optional}
    check_keys(found, required, where)
    flat: dict[str, Any] = {}
    stacks: dict[str, list[np.ndarray]] = {}
    for link in sorted((link for link in links if link.ours), key=lambda link: link.part or 0):
        value = _to_ours(link.kind, np.asarray(tensors[link.theirs], np.float32))
        if link.part is None:
            flat[link.ours] = value.reshape(ours[link.ours].shape)
        else:
            stacks.setdefault(link.ours, []).append(value)
    flat |= {name: np.stack(parts).reshape(ours[name].shape) for name, parts in stacks.items()}
    check_keys(flat, ours, f"{where}, converted,")
    return unflatten(flat)


def export_tensors(params: Mapping[str, Any], links: Sequence[Link]) -> dict[str, np.ndarray]:
    """Our nested parameters as foreign tensors, float32; the inverse of `import_tensors`."""
    flat = flatten(params)
    tensors = {}
    for link in links:
        if not link.ours:
            assert link.value is not None
            tensors[link.theirs] = link.value()
            continue
        value = flat[link.ours] if link.part is None else flat[link.ours][link.part]
        shape = _their_shape(link, value.shape)
        tensors[link.theirs] = np.ascontiguousarray(_to_theirs(link.kind, value, shape))
    return tensors


def foreign_shapes(links: Sequence[Link], shapes: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that `export_tensors` would write."""
    ours = flatten_shapes(shapes)
    result = {}
    for link in links:
        expected = _expected(link, ours)
        if expected is not None:
            result[link.theirs] = expected.shape
        else:
            assert link.value is not None
            result[link.theirs] = link.value().shape
    return result


@dataclasses.dataclass(frozen=True)
class _Shape:
    shape: tuple[int, ...]


def _expected(link: Link, ours: Mapping[str, Any]) -> _Shape | None:
    if not link.ours:
        return None
    shape = tuple(ours[link.ours].shape)
    return _Shape(_their_shape(link, shape[1:] if link.part is not None else shape))


def _their_shape(link: Link, shape: tuple[int, ...]) -> tuple[int, ...]:
    if link.kind == "linear":
        return shape[::-1]
    if link.kind == "conv":
        return (shape[3], shape[2], shape[0], shape[1])
    if link.kind == "conv_transpose":
        return (shape[2], shape[3], shape[0], shape[1])
    if link.kind == "row":
        return (1, 1, *shape)
    if link.kind.startswith("patch"):
        channels = int(link.kind.removeprefix("patch"))
        side = round((shape[0] // channels) ** 0.5)
        return (shape[1], channels, side, side)
    return shape


def _to_ours(kind: str, value: np.ndarray) -> np.ndarray:
    if kind == "linear":
        return value.T
    if kind == "conv":
        return value.transpose(2, 3, 1, 0)
    if kind == "conv_transpose":
        # JAX's transposed convolution does not turn its kernel, PyTorch's does.
        return value.transpose(2, 3, 0, 1)[::-1, ::-1]
    if kind.startswith("patch"):
        return value.transpose(2, 3, 1, 0).reshape(-1, value.shape[0])
    return value.reshape(-1) if kind == "row" else value


def _to_theirs(kind: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if kind == "linear":
        return value.T
    if kind == "conv":
        return value.transpose(3, 2, 0, 1)
    if kind == "conv_transpose":
        return value[::-1, ::-1].transpose(2, 3, 0, 1)
    if kind.startswith("patch"):
        out, channels, height, width = shape
        return value.reshape(height, width, channels, out).transpose(3, 2, 0, 1)
    return value.reshape(shape)

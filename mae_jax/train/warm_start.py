"""Initialization from the weights of another model, such as ImageNet's or a released MAE's."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float

from mae_jax.config import to_dict
from mae_jax.encoders.pretrained import from_pretrained
from mae_jax.errors import InputError
from mae_jax.networks.registry import of_config, param_shapes
from mae_jax.networks.saved_model import PretrainedModel
from mae_jax.networks.task import Task
from mae_jax.train.optimizer import restarted
from mae_jax.train.step import TrainState
from mae_jax.weights.import_options import RGB
from mae_jax.weights.pytree_paths import flatten, flatten_leaves

log = logging.getLogger(__name__)

# Settings that no parameter's shape shows: with other values, the same weights embed otherwise.
_COMPARED = (
    *("heads", "cross_heads", "bias_layout", "norm_eps"),
    *("qk_norm", "final_norm", "fc_norm", "channel_agnostic"),
)


def warm_start(path: str, task: Task, state: TrainState) -> TrainState:
    """Replace the parameters of `state` by those of another model.

    Heads for a task's own classes (`task.reinit`) and, where the model is an encoder alone, the
    decoder keep their initial values. Channels are matched by name: the model may have more, and
    those it lacks keep their initial values. A learned position table of another grid is resized.
    RGB weights are adapted to the task's channels.

    Args:
      path: anything that `from_pretrained` reads.

    Raises:
      InputError: another architecture (heads, bias layout, epsilons are compared), no channel in
        common, or parameters that are missing or have another shape (all are listed).
    """
    model = read_initial_model(path, task)
    _compare(path, model, task)
    source = flatten(_nested(model.params, model, task))
    common = [name for name in task.channels if name in model.preprocessing.channels]
    axes = channel_axes(task.model) if common else {}
    problems: list[str] = []

    def new_value(name: str, initial: jax.Array) -> jax.Array:
        top = name.removeprefix("params.").split(".")[0]
        value = source.get(name)
        if top in task.reinit or (value is None and top != "encoder" and _is_encoder_alone(model)):
            return initial
        if value is not None and top == "pos_embed" and value.shape != initial.shape:
            value = resize_position_table(value, initial.shape[1])
        if value is not None and name in axes:
            value = _select_channels(
                value, initial, axes[name], model.preprocessing.channels, task.channels
            )
        if value is None or value.shape != initial.shape:
            problems.append(f"{name} {tuple(initial.shape)}")
            return initial
        array = np.asarray(value, initial.dtype)
        return jax.make_array_from_callback(
            initial.shape, initial.sharding, lambda index: array[index]
        )

    def walk(tree: Any, prefix: str = "") -> Any:
        if isinstance(tree, dict):
            return {name: walk(value, f"{prefix}{name}.") for name, value in tree.items()}
        return new_value(prefix[:-1], tree)

    saved = walk(task.to_saved(state.params, state.model_state))
    if problems:
        raise InputError(
            f"init_from: {path} does not fit the network; missing or of another shape: "
            f"{', '.join(problems)}."
        )
    params, model_state = task.from_saved(saved)
    ema = None if state.ema is None else jax.tree.map(lambda a: a.copy(), params)
    opt_state = restarted(state.opt_state, params)
    return state.replace(params=params, model_state=model_state, ema=ema, opt_state=opt_state)


def read_initial_model(path: str, task: Task) -> PretrainedModel:
    """Read the model that a task starts from, RGB weights with the task's channels.

    Raises:
      InputError: the model cannot be read, or has another number of channels and no names of them.
    """
    model = from_pretrained(path)
    names = model.preprocessing.channels
    if names == task.channels or not (names == RGB or names[:1] == ("channel_1",)):
        return model
    # PyTorch weights without channel names: RGB kernels are adapted, other counts must agree.
    # An encoder alone that is channel-agnostic counts one.
    if names != RGB and len(names) not in (1, len(task.channels)):
        raise InputError(
            f"init_from: {path} does not name its {len(names)} channels, and the model has "
            f"{len(task.channels)} ({', '.join(task.channels)}); name them with `mae-jax convert "
            "--channels`, and start from the model that it writes."
        )
    return from_pretrained(path, channels=task.channels)


def is_encoder_of(initial: Any, config: Any) -> bool:
    """Whether a model's config is that of the encoder alone of another config."""
    return hasattr(config, "encoder") and of_config(initial).has_config(config.encoder)


def check_network(path: str, initial: Any, config: Any) -> None:
    """Compare the network of the initial model with the one to train.

    Raises:
      InputError: they differ, and it is not the encoder of the one to train either.
    """
    own, other = of_config(config), of_config(initial)
    if not other.has_config(config) and not is_encoder_of(initial, config):
        raise InputError(
            f"init_from: {path} is of the network '{other.name}', but network is '{own.name}'; "
            "start from a model of the same network, or change network and model."
        )


def resize_position_table(
    table: Float[np.ndarray, "1 old_rows width"], rows: int
) -> Float[np.ndarray, "1 {rows} width"]:
    """Resize a position table to another square grid, bicubic; the class token's row stays."""
    old, new, width = round((table.shape[1] - 1) ** 0.5), round((rows - 1) ** 0.5), table.shape[2]
    image = table[0, 1:].reshape(old, old, width)
    image = np.asarray(jax.image.resize(image, (new, new, width), "bicubic"))
    return np.concatenate([table[:, :1], image.reshape(1, new * new, width)], axis=1)


def channel_axes(config: Any) -> dict[str, int]:
    """Return the axis along which each parameter has its channels, by dotted name.

    It is the axis that grows when the network gets another channel. Where the axis holds several
    values per channel, the channel is the fastest index.
    """
    encoder = getattr(config, "encoder", None)
    channels = (config if encoder is None else encoder).channels
    more: dict[str, Any] = {"channels": (*channels, "another channel")}
    if encoder is not None:
        more = {"encoder": dataclasses.replace(encoder, **more)}
    small = flatten_leaves(param_shapes(config))
    large = flatten_leaves(param_shapes(dataclasses.replace(config, **more)))
    axes = {}
    for name, leaf in small.items():
        grown = [a for a, n in enumerate(leaf.shape) if large[name].shape[a] != n]
        if grown:
            axes[name] = grown[0]
    return axes


def _compare(path: str, model: PretrainedModel, task: Task) -> None:
    check_network(path, model.config, task.model)
    theirs = flatten_leaves(_nested(to_dict(model.config), model, task))
    own = flatten_leaves(to_dict(task.model))
    differing = [
        name
        for name, value in theirs.items()
        if name.rsplit(".", 1)[-1] in _COMPARED and name in own and own[name] != value
    ]
    if differing:
        options = " ".join(f"--config.model.{name}={theirs[name]}" for name in differing)
        raise InputError(
            f"init_from: {path} has {', '.join(f'{n} {theirs[n]}' for n in differing)}, but the "
            f"model has {', '.join(str(own[n]) for n in differing)}; give {options}, or "
            "--config.init_architecture=own to continue from the model's own."
        )
    scale, own_scale = model.preprocessing.scale, task.preprocessing().scale
    if scale != own_scale and scale is not None:
        log.warning(
            "init_from: %s was trained on pixels divided by %g, the run divides by %s; "
            "--config.data.scale=%g keeps it.",
            path, scale, own_scale or "the type's maximum", scale,
        )  # fmt: skip
    names = model.preprocessing.channels
    missing = [name for name in task.channels if name not in names]
    if len(missing) == len(task.channels):
        raise InputError(
            f"init_from: {path} has the channels {', '.join(names)}, none of the model's "
            f"({', '.join(task.channels)}); name them alike."
        )
    if missing:
        log.warning(
            "init_from: %s has no channel %s: its weights start from random values.",
            path, ", ".join(missing),
        )  # fmt: skip


def _is_encoder_alone(model: PretrainedModel) -> bool:
    return "encoder" not in model.params


def _nested(tree: Mapping[str, Any], model: PretrainedModel, task: Task) -> dict[str, Any]:
    """Put the config or parameters of an encoder alone where the task's network has them."""
    if hasattr(task.model, "encoder") and _is_encoder_alone(model):
        return {"encoder": dict(tree)}
    return dict(tree)


def _select_channels(
    value: np.ndarray,
    initial: jax.Array,
    axis: int,
    names: tuple[str, ...],
    wanted: tuple[str, ...],
) -> np.ndarray | None:
    """Reorder the channels of a parameter; those that it lacks keep their initial values."""
    if value.ndim != initial.ndim or value.shape[axis] % len(names):
        return None
    per_channel = value.shape[axis] // len(names)
    source = np.moveaxis(value, axis, 0).reshape(per_channel, len(names), -1)
    if all(name in names for name in wanted):
        target = source[:, [names.index(name) for name in wanted]]
    else:
        whole = np.asarray(multihost_utils.process_allgather(initial, tiled=True))
        target = np.moveaxis(whole, axis, 0).reshape(per_channel, len(wanted), -1).copy()
        for i, name in enumerate(wanted):
            if name in names:
                target[:, i] = source[:, names.index(name)]
    rest = [n for a, n in enumerate(value.shape) if a != axis]
    return np.moveaxis(target.reshape(per_channel * len(wanted), *rest), 0, axis)

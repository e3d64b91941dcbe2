"""The registry of networks: the one place that knows which networks exist and what belongs to each.

Training, saving, loading, embedding and planning ask it by the network's name or by its config. The
networks of this package are registered in `mae_jax.networks`; another one is registered by its own
module, which must be imported before its name is used:

    from mae_jax import networks

    networks.register(networks.Network("my_net", config=MyConfig, init=init, task=MyTask))
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from mae_jax.config import from_saved, nearest, to_dict
from mae_jax.distributed.config import ShardingRule
from mae_jax.errors import InputError
from mae_jax.networks.bag_of_channels import PREPARED, BagOfChannels
from mae_jax.networks.encoder import Encoder
from mae_jax.networks.task import Task
from mae_jax.nn.standardize import DEFAULT_EPS
from mae_jax.weights.key_map import TorchFormat
from mae_jax.weights.preprocessing import Preprocessing

Params = dict[str, Any]


@dataclass(frozen=True)
class Network:
    """A kind of network, and everything that the rest of the package needs to know of it.

    Attributes:
      name: in `network` of training configs and `kind` of saved models.
      config: its config class, a dataclass with `mae_jax.config.schema`.
      init: (config, key) -> fresh parameters, as a saved model holds them: nested dicts.
      task: what it is trained for (`networks.task.Task`); None for networks that are only loaded.
      encoder: (config, params, preprocessing) -> its `networks.encoder.Encoder`; None for networks
        without embeddings.
      preprocessing: config -> the preprocessing of a model that does not record its own; by default
        the config's `channels` and `crop` (256 without one).
      sharding_rules: how its parameters are sharded, first match first (`networks.sharding_rules`).
      forward_flops: (config, crop) -> FLOPs of one crop's forward pass in training; by default
        counted in the trace of the task's loss.
      torch: its state dict in PyTorch, if it has one.
      old_names: names in files of earlier versions.
    """

    name: str
    config: type
    init: Callable[[Any, jax.Array], Params]
    task: type[Task] | None = None
    encoder: Callable[[Any, Params, Preprocessing], Encoder] | None = None
    preprocessing: Callable[[Any], Preprocessing] | None = None
    sharding_rules: tuple[ShardingRule, ...] = ()
    forward_flops: Callable[[Any, int], float] | None = None
    torch: TorchFormat | None = None
    old_names: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        """The module that defines the config class: importing it registers the network."""
        # Config files may register a network too; they run under a name of their own.
        return self.config.__module__.removeprefix("config_file_")

    def has_config(self, config: Any) -> bool:
        """Whether this is the network of a config; a module may have run more than once."""
        own, other = self.config, type(config)
        return own is other or (own.__module__, own.__qualname__) == (
            other.__module__,
            other.__qualname__,
        )

    def default_preprocessing(self, config: Any) -> Preprocessing:
        """The preprocessing of a model that does not record its own, such as imported weights."""
        if self.preprocessing is not None:
            return self.preprocessing(config)
        # Section 4: every network of the paper saw crops of 256 pixels.
        return Preprocessing(config.channels, crop=getattr(config, "crop", 256))


_networks: dict[str, Network] = {}


def register(network: Network) -> Network:
    """Add a network; registering the same module's network again replaces it.

    Raises:
      InputError: the name or the config class belongs to another network.
    """
    for other in _networks.values():
        if other.module == network.module and other.name == network.name:
            continue
        taken = {other.name, *other.old_names} & {network.name, *network.old_names}
        if taken:
            raise InputError(
                f"network '{min(taken)}' is already registered by {other.module}; "
                "choose another name."
            )
        if other.config is network.config:
            raise InputError(
                f"{network.config.__name__} is already the config of network '{other.name}'; "
                "every network needs a config class of its own."
            )
    _networks[network.name] = network
    return network


def names(*, trainable: bool = False) -> tuple[str, ...]:
    """The names of all registered networks, or of those with a task."""
    return tuple(n.name for n in _networks.values() if n.task is not None or not trainable)


def get(name: str) -> Network:
    """The network of a name.

    Raises:
      InputError: no network of that name is registered.
    """
    if name in _networks:
        return _networks[name]
    raise InputError(f"no network is called '{name}': {nearest(str(name), names())}")


def current_name(name: str) -> str:
    """The name today of a network that files of earlier versions may call otherwise."""
    return next((n.name for n in _networks.values() if name in n.old_names), name)


def of_config(config: Any) -> Network:
    """The network whose config this is.

    Raises:
      InputError: no registered network has a config of that class.
    """
    for network in _networks.values():
        if network.has_config(config):
            return network
    raise InputError(
        f"{type(config).__name__} is not the config of a registered network; "
        "call mae_jax.networks.register first."
    )


def make_task(
    config: Any, crop: int = 256, *, scale: float | None = None, eps: float = DEFAULT_EPS
) -> Task:
    """The task of a network's config.

    Args:
      crop: side of the training crops, for configs that do not state one.
      scale, eps: of the preprocessing that the network is trained with (`Preprocessing`).

    Raises:
      InputError: the network cannot be trained.
    """
    network = of_config(config)
    if network.task is None:
        raise InputError(
            f"network '{network.name}' has no task; trainable: {', '.join(names(trainable=True))}."
        )
    task = network.task(config, crop)
    task.scale, task.eps = scale, eps
    return task


def make_encoder(config: Any, params: Params, preprocessing: Preprocessing) -> Encoder:
    """The encoder of a network with its parameters.

    Raises:
      InputError: the network has no embeddings.
    """
    network = of_config(config)
    if network.encoder is None:
        raise InputError(f"network '{network.name}' has no encoder; it gives no embeddings.")
    if not preprocessing.bag_of_channels:
        return network.encoder(config, params, preprocessing)
    channels = config.channels
    inner = network.encoder(config, params, Preprocessing(channels, **PREPARED))
    return BagOfChannels(inner, len(channels), preprocessing)


def init_params(config: Any, key: jax.Array) -> Params:
    """Fresh parameters of the network that `config` describes, as a saved model holds them.

    Those of a DenseNet are {"params": …, "batch_stats": …}: its running statistics are saved too.
    """
    return of_config(config).init(config, key)


def param_shapes(config: Any) -> Params:
    """The parameters' shapes and types, without computing any."""
    return jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))


# ---- saved models


def to_json(config: Any) -> dict[str, Any]:
    """Network and architecture, ready for JSON."""
    network = of_config(config)
    record = {"kind": network.name, "architecture": to_dict(config)}
    if network.module.split(".")[0] != __name__.split(".")[0]:
        record["module"] = network.module
    return record


def from_json(record: Mapping[str, Any], source: str) -> Any:
    """The inverse of `to_json`; also reads the records of earlier versions.

    Raises:
      InputError: an unknown network (a module that registers it is named, and never imported from
        here), or an architecture that does not fit its config.
    """
    kind = current_name(str(record.get("kind")))
    if kind not in _networks:
        module = record.get("module")
        if isinstance(module, str) and module not in sys.modules:
            raise InputError(
                f"{source} is of the network '{kind}', which the module {module} registers; "
                f"import that module first (on the command line: --import {module})."
            )
        raise InputError(f"{source} has the unknown kind '{kind}': {nearest(str(kind), names())}")
    if "architecture" not in record:
        raise InputError(f"{source} has no 'architecture'; save the model again.")
    return from_saved(_networks[kind].config, record["architecture"], f"{source}: architecture")

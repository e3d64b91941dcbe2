"""Networks: one folder each, and the registry that lists them.

A network is a pure function of parameters and images; nothing here knows of training or files.
"""

from mae_jax.networks.densenet.network import DENSENET_NETWORK
from mae_jax.networks.mae.network import MAE_NETWORK, PARALLEL_VIT_NETWORK
from mae_jax.networks.registry import Network, TorchFormat, get, names, of_config, register
from mae_jax.networks.unet.network import UNET_NETWORK
from mae_jax.networks.vit.network import VIT_NETWORK

for _network in (MAE_NETWORK, PARALLEL_VIT_NETWORK, VIT_NETWORK, DENSENET_NETWORK, UNET_NETWORK):
    register(_network)

__all__ = ["Network", "TorchFormat", "get", "names", "of_config", "register"]

"""Types of the config keys that change how a network is computed, not what it computes."""

from typing import Literal

Attention = Literal["auto", "xla", "cudnn", "tpu_flash", "tpu_splash", "chunked"]
Remat = Literal["none", "full", "dots"]
Dtype = Literal["float32", "bfloat16"]

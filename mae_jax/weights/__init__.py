"""Parameter pytrees on disk: names, PyTorch and safetensors files, key maps, preprocessing."""

"""Trees of parameters on disk: names, files of PyTorch and safetensors, maps between layouts."""

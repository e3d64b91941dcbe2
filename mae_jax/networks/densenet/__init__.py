"""DenseNet-161: weakly supervised classifiers."""

"""The ordinary vision transformer: ImageNet baselines and classifiers."""

"""Launching of `mae-jax` on TPU slices, Kubernetes and SLURM; see launch/README.md."""

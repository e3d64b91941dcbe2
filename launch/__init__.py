"""Runs of `mae-jax` on TPU pods, Kubernetes and SLURM: see the README beside this file."""

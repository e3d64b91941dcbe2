"""Public data sets: their contents, and downloads that end with an index."""

from mae_jax.data.fetch.datasets import DATASETS, Dataset
from mae_jax.data.fetch.job import FetchPlan, fetch, plan_fetch
from mae_jax.data.fetch.selection import Selection

__all__ = ["DATASETS", "Dataset", "FetchPlan", "Selection", "fetch", "plan_fetch"]

"""Harmony: moves each well by its memberships in clusters of all wells (harmonypy)."""

import numpy as np

from mae_jax.errors import InputError
from mae_jax.evaluation.correction_spec import HarmonySpec
from mae_jax.evaluation.profiles import ColumnSchema, Profiles, batch_labels


def apply_harmony(profiles: Profiles, spec: HarmonySpec, schema: ColumnSchema) -> Profiles:
    """Correct profiles with Harmony; the result depends on all wells given.

    Raises:
      InputError: harmonypy is not installed, or there is a single batch.
    """
    import pandas as pd

    try:
        import harmonypy
    except ImportError:
        raise InputError(
            "harmony needs the package harmonypy (GPL-3.0); install it with "
            "`pip install 'mae_jax[harmony]'`."
        ) from None
    labels = batch_labels(profiles.metadata, spec.batch, schema).astype(str)
    if len(np.unique(labels)) < 2:
        raise InputError(
            f"harmony mixes batches, and all wells have the same {spec.batch}; leave it out."
        )
    result = harmonypy.run_harmony(
        profiles.features.astype(np.float64),
        pd.DataFrame({"batch": labels}),
        "batch",
        theta=spec.theta,
        nclust=spec.clusters or None,
        max_iter_harmony=spec.iterations,
        verbose=False,
        random_state=0,
        ncores=1,
    )
    corrected = np.asarray(result.Z_corr)
    if corrected.shape != profiles.features.shape:  # features × wells before harmonypy 2
        corrected = corrected.T
    features = np.ascontiguousarray(corrected, np.float32)
    return Profiles(profiles.metadata, features, profiles.names)

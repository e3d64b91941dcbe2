"""Recall for several embeddings, corrections and databases at once (Tables 2, 3, 6; Fig. 5)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mae_jax.errors import InputError
from mae_jax.evaluation.aggregation import aggregate
from mae_jax.evaluation.corrections import correct, label
from mae_jax.evaluation.profiles import ColumnSchema, Profiles
from mae_jax.evaluation.relationship_recall import SWEEP, Recall, cosine_matrix, recall
from mae_jax.evaluation.relationships import Relationships

# More genes than this make a picture whose pixels nobody can see, and a file of gigabytes.
HEATMAP_GENES = 4000


@dataclass(frozen=True)
class RecallTables:
    """What `recall_tables` found.

    Attributes:
      table: one row per embeddings × correction × database: embeddings, correction, label,
        database, recall, low, high, pairs_used, pairs_dropped, self_pairs, duplicates, genes,
        wells, features, degenerate.
      sweep: embeddings, correction, database, percentile (width of each tail in %), recall.
      best: the (embeddings, correction) of the highest recall, averaged over the databases.
      cosines: genes × genes of the best, or None if there are more than 4,000 genes.
      results: every `Recall` by (embeddings, correction).
    """

    table: pd.DataFrame
    sweep: pd.DataFrame
    best: tuple[str, str]
    cosines: pd.DataFrame | None
    results: dict[tuple[str, str], list[Recall]]


def random_profiles(profiles: Profiles, width: int = 1024, seed: int = 0) -> Profiles:
    """The random baseline of Table 3: the same wells with independent normal features."""
    features = np.random.default_rng(seed).standard_normal((len(profiles), width), np.float32)
    return Profiles(
        profiles.metadata, features, tuple(f"Image_Random_{i:04d}" for i in range(width))
    )


def recall_tables(
    embeddings: Mapping[str, Profiles],
    databases: Sequence[Relationships],
    corrections: Sequence[str],
    *,
    by: str = "Metadata_Gene",
    levels: Sequence[str] = (),
    fit_on: str = "controls",
    batch: str | None = None,
    schema: ColumnSchema | None = None,
    chromosome_arms: Callable[[Profiles], Profiles] | None = None,
    tails: tuple[float, float] = (0.05, 0.95),
    sweep: Sequence[float] = SWEEP,
    progress: Callable[[str], None] = lambda message: None,
) -> RecallTables:
    """Correct, aggregate and score every embedding with every correction.

    Args:
      embeddings: name -> wells.
      databases: known relationships.
      corrections: see `corrections.fit`.
      by, levels: the columns to aggregate by, see `aggregate`.
      fit_on, batch, schema: see `corrections.fit`.
      chromosome_arms: the chromosome-arm correction, if any: takes and returns aggregated genes.
      tails, sweep: see `recall`.
      progress: called with a line about each step.

    Raises:
      InputError: whatever the steps refuse, or nothing to score.
    """
    if not embeddings or not corrections:
        raise InputError("give at least one set of embeddings and one correction.")
    schema = schema or ColumnSchema()
    rows, sweeps, results = [], [], {}
    best: tuple[float, str, str, Profiles] | None = None
    for name, profiles in embeddings.items():
        for method in corrections:
            progress(f"{name}: {label(method)}")
            corrected = correct(profiles, method, fit_on=fit_on, batch=batch, schema=schema)
            genes = aggregate(corrected, by, levels=levels, controls=schema.origin_controls)
            genes = chromosome_arms(genes) if chromosome_arms else genes
            recalls = recall(genes, databases, by=by, tails=tails, sweep=sweep)
            results[name, method] = recalls
            for result in recalls:
                rows.append(
                    {
                        "embeddings": name,
                        "correction": method,
                        "label": label(method),
                        "database": result.database,
                        "recall": result.recall,
                        "low": result.low,
                        "high": result.high,
                        "pairs_used": result.pairs_used,
                        "pairs_dropped": result.pairs_dropped,
                        "self_pairs": result.self_pairs,
                        "duplicates": result.duplicates,
                        "genes": result.genes,
                        "wells": len(profiles),
                        "features": corrected.width,
                        "degenerate": result.degenerate,
                    }
                )
                sweeps.append(
                    result.sweep.assign(
                        embeddings=name, correction=method, database=result.database
                    )
                )
            mean = float(np.mean([result.recall for result in recalls]))
            if best is None or mean > best[0]:
                best = (mean, name, method, genes)
    assert best is not None
    _, name, method, genes = best
    order = ["embeddings", "correction", "database", "percentile", "recall"]
    return RecallTables(
        table=pd.DataFrame(rows),
        sweep=pd.concat(sweeps, ignore_index=True)[order],
        best=(name, method),
        cosines=_cosines(genes, by),
        results=results,
    )


def best_of_each(tables: RecallTables) -> dict[str, list[Recall]]:
    """Every embedding's results under its own best correction, by the mean over the databases.

    What a comparison of embeddings that need unlike corrections starts from. Each figure is the
    highest of as many as there are corrections, so all are a little too high, in the same way.
    """
    means = tables.table.groupby(["embeddings", "correction"], sort=False)["recall"].mean()
    best = means.groupby("embeddings", sort=False).idxmax()
    return {str(name): tables.results[name, method] for name, method in best}


def _cosines(genes: Profiles, by: str) -> pd.DataFrame | None:
    if len(genes) > HEATMAP_GENES:
        return None
    names = [str(v) for v in genes.column(by)]
    return pd.DataFrame(cosine_matrix(genes.features), index=names, columns=names)

"""Which of several models is better, and is the difference more than chance (paired comparison)?"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mae_jax.errors import InputError
from mae_jax.evaluation.pair_intervals import difference_interval
from mae_jax.evaluation.profiles import Profiles
from mae_jax.evaluation.relationship_recall import Recall, recall
from mae_jax.evaluation.relationships import Relationships


def compare_recall(
    results: Mapping[str, Sequence[Recall]], *, confidence: float = 0.95
) -> pd.DataFrame:
    """Every two models' difference in recall, on the relationships that both maps hold.

    Each relationship is gained, lost or the same. The interval and p of the mean difference count
    relationships that share a gene as dependent, see `pair_intervals`.

    Args:
      results: model -> its `recall` on the databases.
      confidence: of the intervals.

    Returns:
      One row per database and pair of models: database, a, b, recall_a, recall_b, difference
      (b − a), low, high, p (two-sided), pairs (in common).

    Raises:
      InputError: fewer than two models.
    """
    if len(results) < 2:
        raise InputError("a comparison needs at least two models.")
    rows = []
    for a, b in itertools.combinations(results, 2):
        others = {result.database: result for result in results[b]}
        for result in results[a]:
            if result.database not in others:
                continue
            keys = ["entity1", "entity2"]
            left = result.pairs.set_index(keys)["recalled"]
            right = others[result.database].pairs.set_index(keys)["recalled"]
            both = left.index.intersection(right.index)
            if not len(both):
                continue
            hit_a = left.loc[both].to_numpy(np.float64)
            hit_b = right.loc[both].to_numpy(np.float64)
            names = np.array([tuple(pair) for pair in both], dtype=str)
            ends = np.unique(names, return_inverse=True)[1].reshape(-1, 2)
            interval, p = difference_interval(hit_b - hit_a, ends, confidence)
            rows.append(
                {
                    "database": result.database,
                    "a": a,
                    "b": b,
                    "recall_a": float(hit_a.mean()),
                    "recall_b": float(hit_b.mean()),
                    "difference": float((hit_b - hit_a).mean()),
                    "low": interval.low,
                    "high": interval.high,
                    "p": p,
                    "pairs": len(both),
                }
            )
    return pd.DataFrame(rows)


def probe_blocks(
    blocks: Mapping[str, Profiles],
    databases: Sequence[Relationships],
    *,
    by: str = "Metadata_Gene",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Which block of an encoder makes the best map?

    Args:
      blocks: name of the block -> the map of genes made from it (corrected and aggregated), in
        order.
      databases, by: as for `recall`.

    Returns:
      One row per block and database: block, order, database, recall, low, high. And the paired
      comparison of every block with the last one, as `compare_recall` gives, with `b` the block.

    Raises:
      InputError: no blocks.
    """
    if not blocks:
        raise InputError("give the embeddings of at least one block.")
    results: dict[str, list[Recall]] = {}
    rows = []
    for order, (name, genes) in enumerate(blocks.items()):
        results[name] = recall(genes, databases, by=by)
        for result in results[name]:
            rows.append((name, order, result.database, result.recall, result.low, result.high))
    table = pd.DataFrame(rows, columns=["block", "order", "database", "recall", "low", "high"])
    last = list(blocks)[-1]
    against = [
        compare_recall({last: results[last], name: results[name]}) for name in list(blocks)[:-1]
    ]
    return table, pd.concat(against, ignore_index=True) if against else pd.DataFrame()

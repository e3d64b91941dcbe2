"""Which of several models is better, and is the difference more than chance (paired bootstrap)?"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mae_jax.errors import InputError
from mae_jax.evaluation.profiles import Profiles
from mae_jax.evaluation.relationship_recall import Recall, recall
from mae_jax.evaluation.relationships import Relationships


def compare_recall(
    results: Mapping[str, Sequence[Recall]],
    *,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Every two models' difference in recall, on the relationships that both maps hold.

    Relationships are drawn with replacement, the same for both models. Each is recalled by both,
    by one or by none of them, so a resample is one draw from a multinomial over these outcomes.

    Args:
      results: model -> its `recall` on the databases.
      resamples, confidence, seed: of the bootstrap.

    Returns:
      One row per database and pair of models: database, a, b, recall_a, recall_b, difference
      (b − a), low, high, p (two-sided: twice the smaller share of resamples at or beyond 0),
      pairs (in common).

    Raises:
      InputError: fewer than two models.
    """
    if len(results) < 2:
        raise InputError("A comparison needs at least two models.")
    rng = np.random.default_rng(seed)
    rows = []
    for a, b in itertools.combinations(results, 2):
        theirs = {one.database: one for one in results[b]}
        for one in results[a]:
            if one.database not in theirs:
                continue
            keys = ["entity1", "entity2"]
            left = one.pairs.set_index(keys)["recalled"]
            right = theirs[one.database].pairs.set_index(keys)["recalled"]
            both = left.index.intersection(right.index)
            hit_a, hit_b = left.loc[both].to_numpy(bool), right.loc[both].to_numpy(bool)
            gained = int((hit_b & ~hit_a).sum())
            lost = int((hit_a & ~hit_b).sum())
            n = len(both)
            if not n:
                continue
            shares = [gained / n, lost / n, 1 - (gained + lost) / n]
            draws = rng.multinomial(n, shares, size=resamples)
            change = (draws[:, 0] - draws[:, 1]) / n
            tail = (1 - confidence) / 2
            low, high = np.quantile(change, [tail, 1 - tail])
            beyond = min((change <= 0).sum(), (change >= 0).sum())
            rows.append(
                {
                    "database": one.database,
                    "a": a,
                    "b": b,
                    "recall_a": float(hit_a.mean()),
                    "recall_b": float(hit_b.mean()),
                    "difference": (gained - lost) / n,
                    "low": float(low),
                    "high": float(high),
                    "p": min(1.0, 2 * (1 + int(beyond)) / (1 + resamples)),
                    "pairs": n,
                }
            )
    return pd.DataFrame(rows)


def probe_blocks(
    blocks: Mapping[str, Profiles],
    databases: Sequence[Relationships],
    *,
    by: str = "Metadata_Gene",
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Which block of an encoder makes the best map?

    Args:
      blocks: name of the block -> the map of genes made from it (corrected and aggregated), in
        order.
      databases, by, resamples, seed: as for `recall`.

    Returns:
      One row per block and database: block, order, database, recall, low, high. And the paired
      comparison of every block with the last one, as `compare_recall` gives, with `b` the block.

    Raises:
      InputError: no blocks.
    """
    if not blocks:
        raise InputError("Give the embeddings of at least one block.")
    results: dict[str, list[Recall]] = {}
    rows = []
    for order, (name, genes) in enumerate(blocks.items()):
        results[name] = recall(genes, databases, by=by, resamples=resamples, seed=seed)
        for one in results[name]:
            rows.append((name, order, one.database, one.recall, one.low, one.high))
    table = pd.DataFrame(rows, columns=["block", "order", "database", "recall", "low", "high"])
    last = list(blocks)[-1]
    against = [
        compare_recall({last: results[last], name: results[name]}, seed=seed)
        for name in list(blocks)[:-1]
    ]
    return table, pd.concat(against, ignore_index=True) if against else pd.DataFrame()

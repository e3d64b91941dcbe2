"""Recall of known relationships (section 5.1, Tables 2, 3 and 6, Fig. 5).

The null is the cosine of all n(n−1)/2 pairs of genes. A known pair of cosine q has the ranks
R = #{null ≤ q}/N and L = #{null < q}/N, and is recalled at the tails (low, high) if R ≤ low or
L ≥ high, both inclusive. All is exact: no sampling and no histogram.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Int

from mae_jax.errors import InputError
from mae_jax.evaluation.aggregation import l2_normalize
from mae_jax.evaluation.pair_intervals import share_interval
from mae_jax.evaluation.profiles import Profiles
from mae_jax.evaluation.relationships import Relationships

MIN_GENES = 20
# The tails' widths of the sweep, in per cent of all pairs on each side (Fig. 5, right).
SWEEP = (0.5, *map(float, range(1, 26)), 30.0, 35.0, 40.0, 45.0, 50.0)

_ROWS = 1024  # rows of the Gram matrix at a time
_NOISE = 4e-6  # what float32 rounding makes of equal cosines


@dataclass(frozen=True)
class Recall:
    """How many of a database's pairs lie in the tails of all cosines.

    Attributes:
      database: its name.
      recall: the share of the used pairs recalled, in [0, 1].
      low, high: the 95 % interval.
      pairs_used: pairs of which both genes are in the map.
      pairs_dropped: pairs of which a gene is not.
      self_pairs, duplicates: rows of the database left out before.
      genes: n, the genes in the map.
      degenerate: all cosines of the map are equal, so that recall is 0.
      pairs: per used pair: entity1, entity2, cosine, rank_low (L), rank_high (R), recalled.
      sweep: per tail width in per cent: recall.
    """

    database: str
    recall: float
    low: float
    high: float
    pairs_used: int
    pairs_dropped: int
    self_pairs: int
    duplicates: int
    genes: int
    degenerate: bool
    pairs: pd.DataFrame
    sweep: pd.DataFrame


def recall(
    genes: Profiles,
    databases: Sequence[Relationships],
    *,
    by: str = "Metadata_Gene",
    tails: tuple[float, float] = (0.05, 0.95),
    sweep: Sequence[float] = SWEEP,
    confidence: float = 0.95,
) -> list[Recall]:
    """Recall of each database's pairs in the tails of all cosines between genes.

    Args:
      genes: one row per gene, as `aggregate` gives (the origin is already at the controls).
      databases: the known pairs.
      by: the column that names the gene.
      tails: the lower and upper quantile; both ends count (inclusive).
      sweep: widths of each tail in per cent, for recall against the percentile.
      confidence: of the intervals, which count pairs that share a gene as dependent
        (`pair_intervals`).

    Raises:
      InputError: fewer than 20 genes, a gene twice, values that are not finite, or a database
        that shares no pair with the map.
    """
    names = _gene_names(genes, by)
    if not databases:
        raise InputError("recall needs at least one database of relationships.")
    matches = [database.within(names) for database in databases]
    for database, (ends, _) in zip(databases, matches, strict=True):
        if not len(ends):
            raise InputError(
                f"{database.name} shares no pair with the map's {len(names)} genes (such as "
                f"{', '.join(names[:3])}); check that both name genes in the same way."
            )
    cosines, low_ranks, high_ranks, degenerate = pair_ranks(
        genes.features, np.concatenate([ends for ends, _ in matches])
    )
    results, start = [], 0
    for database, (ends, numbers) in zip(databases, matches, strict=True):
        part = slice(start, start + len(ends))
        start += len(ends)
        less, up_to = low_ranks[part], high_ranks[part]
        hit = np.zeros(len(ends), bool) if degenerate else in_tails(less, up_to, *tails)
        low, high = share_interval(hit.astype(np.float64), ends, confidence)
        results.append(
            Recall(
                database=database.name,
                recall=float(hit.mean()),
                low=low,
                high=high,
                pairs_used=len(ends),
                pairs_dropped=len(database) - len(ends),
                self_pairs=database.self_pairs,
                duplicates=database.duplicates,
                genes=len(names),
                degenerate=degenerate,
                pairs=pd.DataFrame(
                    {
                        "entity1": database.pairs[numbers, 0],
                        "entity2": database.pairs[numbers, 1],
                        "cosine": cosines[part],
                        "rank_low": less,
                        "rank_high": up_to,
                        "recalled": hit,
                    }
                ),
                sweep=_sweep(less, up_to, sweep, degenerate),
            )
        )
    return results


def in_tails(
    less: Float[np.ndarray, " pairs"],
    up_to: Float[np.ndarray, " pairs"],
    low: float = 0.05,
    high: float = 0.95,
) -> np.ndarray:
    """Which pairs are recalled: R = #{null ≤ q}/N ≤ low or L = #{null < q}/N ≥ high."""
    # A rank is a ratio of integers: 0.05·N may round to either side of the count it stands for.
    slack = 1e-12
    return (up_to <= low + slack) | (less >= high - slack)


def cosine_matrix(
    features: Float32[np.ndarray, "genes features"],
) -> Float32[np.ndarray, "genes genes"]:
    """All cosines (n, n), float32."""
    rows = l2_normalize(features)
    return rows @ np.ascontiguousarray(rows.T)  # a copy, so that BLAS takes GEMM and not SYRK


def pair_ranks(
    features: Float32[np.ndarray, "genes features"], pairs: Int[np.ndarray, "pairs 2"]
) -> tuple[
    Float32[np.ndarray, " pairs"], Float[np.ndarray, " pairs"], Float[np.ndarray, " pairs"], bool
]:
    """Cosines of some pairs and their ranks among all n(n−1)/2.

    The upper triangle is computed in blocks of rows (n(n−1)/2 float32 in all: 578 MB for 17,000
    genes), each block is sorted by itself, and counts below q add up over blocks.

    Args:
      features: (n, F).
      pairs: (M, 2) rows i < j.

    Returns:
      cosines q; L = #{null < q}/N; R = #{null ≤ q}/N; whether all cosines are equal (but for
      float32 rounding), in which case no rank means anything.
    """
    rows = l2_normalize(features)
    n = len(rows)
    columns = np.ascontiguousarray(rows.T)
    cosines = np.empty(len(pairs), np.float32)
    order = np.argsort(pairs[:, 0], kind="stable")
    first = pairs[order, 0]
    blocks = []
    with ThreadPoolExecutor(2) as pool:  # sorting lets go of the interpreter's lock
        sorting = []
        for start in range(0, n - 1, _ROWS):
            stop = min(start + _ROWS, n)
            # Only columns from `start` on: the lower triangle is never computed.
            gram = rows[start:stop] @ columns[:, start:]
            in_block = order[np.searchsorted(first, start) : np.searchsorted(first, stop)]
            cosines[in_block] = gram[pairs[in_block, 0] - start, pairs[in_block, 1] - start]
            block = np.concatenate([gram[i, i + 1 :] for i in range(stop - start)])
            blocks.append(block)
            sorting.append(pool.submit(block.sort))
        for job in sorting:
            job.result()
    total = n * (n - 1) // 2
    blocks = [b for b in blocks if len(b)]
    degenerate = bool(max(b[-1] for b in blocks) - min(b[0] for b in blocks) <= _NOISE)
    ascending = np.argsort(cosines)
    queries = cosines[ascending]
    less, up_to = np.zeros(len(pairs)), np.zeros(len(pairs))
    for block in blocks:
        less[ascending] += np.searchsorted(block, queries, side="left")
        up_to[ascending] += np.searchsorted(block, queries, side="right")
    return cosines, less / total, up_to / total, degenerate


def _sweep(
    less: np.ndarray, up_to: np.ndarray, widths: Sequence[float], degenerate: bool
) -> pd.DataFrame:
    recalls = [
        0.0 if degenerate else float(in_tails(less, up_to, w / 100, 1 - w / 100).mean())
        for w in widths
    ]
    return pd.DataFrame({"percentile": list(widths), "recall": recalls})


def _gene_names(genes: Profiles, by: str) -> list[str]:
    names = [str(v) for v in genes.column(by)]
    if len(names) < MIN_GENES:
        raise InputError(
            f"recall needs at least {MIN_GENES} genes, the map has {len(names)}: with fewer, "
            "5 % of the pairs are too few to mean anything."
        )
    again = pd.Index(names).duplicated()
    if again.any():
        raise InputError(
            f"gene {names[int(np.argmax(again))]} comes more than once in {by}; aggregate the "
            "wells first, so that each gene has one row."
        )
    if not np.isfinite(genes.features).all():
        row = int(np.argmin(np.isfinite(genes.features).all(axis=1)))
        raise InputError(f"gene {names[row]} has NaN or infinity in its features; drop it.")
    return names

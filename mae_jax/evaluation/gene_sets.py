"""StringDB recall at 5 % false positives on gene sets (section 5.4, Table 5)."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mae_jax.errors import InputError
from mae_jax.evaluation.profiles import Profiles
from mae_jax.evaluation.relationship_recall import cosine_matrix
from mae_jax.evaluation.relationships import Relationships


def recall_at_false_positives(
    genes: Profiles,
    database: Relationships,
    sets: Mapping[str, Sequence[str]],
    *,
    by: str = "Metadata_Gene",
    rate: float = 0.05,
) -> pd.DataFrame:
    """The share of a database's pairs above the cosine that `rate` of all other pairs exceed.

    The threshold is the 95th percentile (linear interpolation) of the cosines of the set's pairs
    that are not in the database; a known pair counts if its cosine is greater.

    Args:
      genes: one row per gene.
      database: StringDB, in the paper.
      sets: name -> genes. The lists are the user's (the paper's three are Sivanandan et al.'s).
      by: the column that names the gene.
      rate: of false positives.

    Returns:
      One row per set: set, recall, threshold, genes (of the set, in the map), missing, pairs,
      others.

    Raises:
      InputError: a set without known pairs, or without other pairs, in the map.
    """
    names = [str(v) for v in genes.column(by)]
    row_of = {name: i for i, name in enumerate(names)}
    if len(row_of) != len(names):
        raise InputError(f"a gene comes more than once in {by}; aggregate the wells first.")
    rows = []
    for title, set_genes in sets.items():
        unique = list(dict.fromkeys(set_genes))
        present = [g for g in unique if g in row_of]
        pairs, _ = database.within(present)
        if not len(pairs) or len(pairs) == len(present) * (len(present) - 1) // 2:
            quantity = "no pair" if not len(pairs) else "every pair"
            raise InputError(
                f"gene set {title}: {quantity} of its {len(present)} genes in the map is in "
                f"{database.name}, so recall at a false-positive rate is not defined."
            )
        cosines = cosine_matrix(genes.features[[row_of[g] for g in present]])
        known = np.zeros(cosines.shape, bool)
        known[pairs[:, 0], pairs[:, 1]] = True
        upper = np.triu_indices(len(present), 1)
        values, is_known = cosines[upper], known[upper]
        threshold = float(np.quantile(values[~is_known].astype(np.float64), 1 - rate))
        rows.append(
            {
                "set": title,
                "recall": float((values[is_known] > threshold).mean()),
                "threshold": threshold,
                "genes": len(present),
                "missing": len(unique) - len(present),
                "pairs": int(is_known.sum()),
                "others": int((~is_known).sum()),
            }
        )
    return pd.DataFrame(rows)

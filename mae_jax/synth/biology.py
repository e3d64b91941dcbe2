"""Effects of knock-outs in a space of interpretable morphological parameters.

Every cell is drawn from the parameters below, each in units of its natural spread: 0 is the
typical control cell. A complex is a direction in this space; its genes push cells along it, each
with its own strength, plus something of their own.

The choice of phenotypes decides which methods can detect them. Here they are phenotypes of shape,
texture and location: nearly all parameters move or re-texture the stains of a cell and keep their
total amounts (see `cells`), since brightness also varies with stains, lamps and plates. Intensity
statistics therefore detect little: the size of nuclei, and the effect of blur and noise on finer or
coarser grains. No phenotype is one of brightness alone, although real screens have such phenotypes
too; a network that standardizes its input could not detect them.
"""

import functools

import numpy as np
import pandas as pd
from jaxtyping import Float

from mae_jax.synth.config import ScreenConfig
from mae_jax.synth.rng import generator

PARAMETERS = (
    "nucleus_size",
    "nucleus_elongation",
    "chromatin_grain",  # fine to coarse
    "nucleoli_number",  # few and large to many and small
    "binucleation",  # share of cells with two nuclei
    "cell_elongation",
    "rna_grain",  # fine to coarse granules in the cytoplasm
    "er_grain",  # fine to coarse reticulum
    "er_spread",  # perinuclear to peripheral
    "actin_coherence",  # tangled to parallel fibres
    "actin_cortex",  # fibres across the cell to a rim along its border
    "golgi_spread",  # one cap beside the nucleus to pieces all around it
    "mito_fragmentation",  # filaments to dots
    "mito_spread",  # perinuclear to peripheral
)

CONTROL_NAME = "non-targeting"
_EFFECT = 2.6  # length of a strength-1 effect, in natural spreads
_OWN_PART = 0.4  # length of a gene's own part, relative to its complex's
_ACTIVE = 5  # parameters that a direction moves
_CANDIDATES = 200


def gene_names(config: ScreenConfig) -> tuple[str, ...]:
    """Names of the genes, `SYN01`, `SYN02`, …: those of a complex are not neighbors."""
    digits = max(2, len(str(config.genes)))
    return tuple(f"SYN{i + 1:0{digits}d}" for i in range(config.genes))


@functools.lru_cache(maxsize=8)
def _effects(config: ScreenConfig) -> pd.DataFrame:
    rng = generator(config.seed, "biology")
    names = np.array(gene_names(config))[rng.permutation(config.genes)]
    lone = config.genes - sum(config.complex_sizes)
    directions = _directions(rng, len(config.complex_sizes) + lone)
    rows = []
    gene = 0
    for number, size in enumerate((*config.complex_sizes, *(1,) * lone)):
        in_complex = number < len(config.complex_sizes)
        # Evenly spaced over the range, not random.
        strengths = np.linspace(0.6, 1.3, size) if size > 1 else np.array([1.0])
        for strength in rng.permutation(strengths):
            own = rng.standard_normal(len(PARAMETERS))
            own *= _OWN_PART / np.linalg.norm(own)
            effect = _EFFECT * config.phenotype_strength * (strength * directions[number] + own)
            rows.append(
                {
                    "Metadata_Gene": names[gene],
                    "Complex": f"complex-{number + 1:02d}" if in_complex else "",
                    "Strength": round(float(strength), 3),
                    **dict(zip(PARAMETERS, effect.round(4).tolist(), strict=True)),
                }
            )
            gene += 1
    return pd.DataFrame(rows)


def _directions(rng: np.random.Generator, number: int) -> Float[np.ndarray, "number parameters"]:
    """Sparse unit vectors far from each other: of many candidates, the one of smallest cosine."""
    chosen = np.zeros((0, len(PARAMETERS)))
    for _ in range(number):
        candidates = rng.standard_normal((_CANDIDATES, len(PARAMETERS)))
        ranks = rng.random(candidates.shape).argsort(axis=1)
        # Magnitudes of at least a half, so that all the active parameters matter.
        candidates = np.sign(candidates) * (0.5 + np.abs(candidates)) * (ranks < _ACTIVE)
        candidates /= np.linalg.norm(candidates, axis=1, keepdims=True)
        if len(chosen):
            closeness = np.abs(candidates @ chosen.T).max(axis=1)
        else:
            closeness = np.zeros(_CANDIDATES)
        chosen = np.vstack([chosen, candidates[closeness.argmin()]])
    return chosen


def gene_effects(config: ScreenConfig) -> pd.DataFrame:
    """Ground truth of every gene, one row each.

    Columns: `Metadata_Gene`, `Complex` ("" for genes in no complex), `Strength` along the complex's
    direction, and one column for each of `PARAMETERS`: the mean shift of the gene's cells.
    """
    return _effects(config).copy()


def known_relationships(config: ScreenConfig) -> pd.DataFrame:
    """All pairs of genes within a complex: columns `entity1`, `entity2`, each pair sorted."""
    pairs = []
    table = _effects(config)
    for _, members in table[table["Complex"] != ""].groupby("Complex", sort=True):
        genes = sorted(members["Metadata_Gene"])
        pairs += [(a, b) for i, a in enumerate(genes) for b in genes[i + 1 :]]
    return pd.DataFrame(sorted(pairs), columns=["entity1", "entity2"])

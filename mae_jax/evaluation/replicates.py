"""Replicate consistency and perturbation strength, with permutation p-values that respect plates.

Both scores are those of the maps-of-biology literature (Celik et al. and EFAAR): do a
perturbation's replicates agree more than wells drawn at random, and does it move away from the
negative controls? Every null keeps the wells on their plates, so that differences between plates
make no perturbation look consistent or strong.

The p-values of strength hold for controls that no correction was fitted on: a correction shrinks
the controls of its fit. `holdout.correct_with_holdout` gives such wells.
"""

import zlib
from collections.abc import Iterator

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Int

from mae_jax.errors import InputError
from mae_jax.evaluation.aggregation import l2_normalize
from mae_jax.evaluation.average_precision import benjamini_hochberg
from mae_jax.evaluation.profiles import ColumnSchema, Profiles

# Energy distance: (squared distances, within-group mean over n(n − 1) pairs instead of n²).
ENERGIES = {"efaar": (False, False), "pertpy": (False, True), "scperturb": (True, True)}
MAX_CONTROLS = 1000  # controls per perturbation, drawn plate by plate where there are more (EFAAR)
_CHUNK = 1 << 24  # numbers held at a time


def mean_cosine(rows: Float32[np.ndarray, "rows features"]) -> float:
    """The mean cosine of all pairs among n unit rows: (|Σx|² − Σ|x|²) / (n(n−1))."""
    n = len(rows)
    total = rows.sum(axis=0, dtype=np.float64)
    own = float((rows.astype(np.float64) ** 2).sum())
    return float((total @ total - own) / (n * (n - 1)))


def energy_distance(
    x: Float[np.ndarray, "n features"],
    y: Float[np.ndarray, "m features"],
    variant: str = "efaar",
) -> float:
    """2 E|x − y| − E|x − x'| − E|y − y'| between two sets of rows.

    Published variants differ by more than a factor:
      "efaar": Euclidean; the means within a set are over all n² pairs, each row with itself too
        (EFAAR's perturbation magnitude; twice geomloss's value).
      "pertpy": Euclidean; means within a set are over the n(n − 1) pairs of unlike rows (pertpy's
        E-distance). It may be negative.
      "scperturb": as "pertpy", of squared Euclidean distances (scperturb's E-distance).
    A set of one row has a mean of 0.

    Raises:
      InputError: there is no such variant.
    """
    squared, unbiased = _energy_variant(variant)
    distances = _distances(np.concatenate([x, y]).astype(np.float64), squared)
    member = np.arange(len(distances)) < len(x)
    return float(_energy(distances, member[None], unbiased)[0])


def _energy_variant(name: str) -> tuple[bool, bool]:
    if name not in ENERGIES:
        raise InputError(f"there is no energy distance '{name}'; choose {', '.join(ENERGIES)}.")
    return ENERGIES[name]


def replicate_consistency(
    profiles: Profiles,
    *,
    by: str = "Metadata_Perturbation",
    schema: ColumnSchema | None = None,
    permutations: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Do the replicates of each perturbation agree more than treated wells of the same plates?

    The statistic is the mean cosine among the replicates. The null draws as many treated wells
    from each plate as the perturbation has there, without replacement.
    p = (1 + #{null ≥ statistic})/(1 + permutations).

    Returns:
      One row per perturbation with two or more wells: replicates, consistency, null_mean, z (the
      statistic's distance from null_mean in standard deviations of the null), p, q.

    Raises:
      InputError: no perturbation has two wells.
    """
    schema = schema or ColumnSchema()
    treated = profiles.take(~profiles.controls(schema.controls))
    treated = treated.take((treated.column(by) != "").to_numpy(dtype=bool))
    rows = l2_normalize(treated.features)
    plates = _plates(treated, schema)
    wells_of = [np.flatnonzero(plates == p) for p in range(plates.max(initial=-1) + 1)]
    nulls: dict[tuple[tuple[int, int], ...], np.ndarray] = {}
    results = []
    for name, wells in groups_of(treated, by):
        if len(wells) < 2:
            continue
        counts = np.unique(plates[wells], return_counts=True)
        layout = tuple((int(p), int(c)) for p, c in zip(*counts, strict=True))
        if layout not in nulls:
            rng = np.random.default_rng([seed, *(n for pair in layout for n in pair)])
            draws = [
                wells_of[p][_subsets(rng, len(wells_of[p]), c, permutations)] for p, c in layout
            ]
            nulls[layout] = _mean_cosines(rows, np.concatenate(draws, axis=1))
        value, null = mean_cosine(rows[wells]), nulls[layout]
        summary = (float(null.mean()), _z_score(value, null), _p_value(value, null))
        results.append((name, len(wells), value, *summary))
    if not results:
        raise InputError(f"no value of {by} has two treated wells, so there are no replicates.")
    table = pd.DataFrame(results, columns=[by, "replicates", "consistency", "null_mean", "z", "p"])
    return table.assign(q=benjamini_hochberg(table["p"].to_numpy()))


def perturbation_strength(
    profiles: Profiles,
    *,
    by: str = "Metadata_Perturbation",
    schema: ColumnSchema | None = None,
    energy: str = "efaar",
    permutations: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Is each perturbation farther from the negative controls of its plates than chance has it?

    Two statistics. `strength` is the length of the mean difference between the perturbation's
    wells and the controls, taken plate by plate and weighted by the wells on each plate, so that
    offsets between plates cancel. `energy` is the energy distance between the perturbation's
    wells and the controls of its plates, of the variant `energy` (`energy_distance`). Both nulls
    exchange the labels "perturbation" and "control" at random within each plate.
    p = (1 + #{null ≥ statistic})/(1 + permutations).

    With few replicates and controls p cannot be small: one well among 8 controls gives 1/9.

    Returns:
      One row per perturbation: replicates (on plates with controls), controls, strength,
      null_mean, z (see `replicate_consistency`), p, q, energy, energy_z, energy_p, energy_q; NaN
      where no plate has controls.

    Raises:
      InputError: no controls or no treated well, or an unknown variant.
    """
    squared, unbiased = _energy_variant(energy)
    schema = schema or ColumnSchema()
    is_control = profiles.controls(schema.controls)
    plates = _plates(profiles, schema)
    controls_of = [
        np.flatnonzero(is_control & (plates == p)) for p in range(plates.max(initial=-1) + 1)
    ]
    treated = ~is_control & (profiles.column(by) != "").to_numpy(dtype=bool)
    if not treated.any():
        raise InputError(f"no treated row has a value in {by}.")
    results = []
    for name, wells in groups_of(profiles, by, treated):
        wells = wells[[len(controls_of[p]) > 0 for p in plates[wells]]]
        if not len(wells):
            results.append((name, 0, 0, *[float("nan")] * 7))
            continue
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        own_plates, counts = np.unique(plates[wells], return_counts=True)
        share = min(1.0, MAX_CONTROLS / sum(len(controls_of[p]) for p in own_plates))
        pool, block = [], []
        for plate in own_plates:
            controls = controls_of[plate]
            if share < 1:
                kept = max(1, int(share * len(controls)))
                controls = np.sort(rng.choice(controls, kept, replace=False))
            pool += [wells[plates[wells] == plate], controls]
            block.append(len(controls))
        features = profiles.features[np.concatenate(pool)].astype(np.float64)
        members = _memberships(rng, counts, np.array(block), permutations)
        strength = _stratified_difference(features, members, counts, np.array(block))
        apart = _energy(_distances(features, squared), members, unbiased)
        row: list[object] = [name, len(wells), int(sum(block)), float(strength[0])]
        row.append(float(strength[1:].mean()))
        for values in (strength, apart):
            value, null = float(values[0]), values[1:]
            row += [] if values is strength else [value]
            row += [_z_score(value, null), _p_value(value, null)]
        results.append(tuple(row))
    names = ["replicates", "controls", "strength", "null_mean", "z", "p"]
    table = pd.DataFrame(results, columns=[by, *names, "energy", "energy_z", "energy_p"])
    table.insert(7, "q", adjusted(table["p"]))
    return table.assign(energy_q=adjusted(table["energy_p"]))


def _plates(profiles: Profiles, schema: ColumnSchema) -> Int[np.ndarray, " rows"]:
    """The plate of every row as a number; one plate where the table names none."""
    if schema.plate not in profiles.metadata:
        return np.zeros(len(profiles), np.int64)
    _, codes = np.unique(profiles.batches("plate", schema).astype(str), return_inverse=True)
    return codes.reshape(-1).astype(np.int64)


def groups_of(
    profiles: Profiles, by: str, mask: Bool[np.ndarray, " rows"] | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Every value of `by` with the row numbers (of `mask`) that have it."""
    rows = np.arange(len(profiles)) if mask is None else np.flatnonzero(mask)
    names, codes = np.unique(profiles.metadata[by].to_numpy(dtype=str)[rows], return_inverse=True)
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes, minlength=len(names)))
    for name, part in zip(names, np.split(rows[order], ends[:-1]), strict=True):
        yield str(name), part


def _subsets(
    rng: np.random.Generator, n: int, size: int, count: int
) -> Int[np.ndarray, "count size"]:
    """Random subsets of range(n), without replacement within each."""
    if size == 1:
        return rng.integers(0, n, (count, 1))
    keys = rng.random((count, n), dtype=np.float32)
    return np.argpartition(keys, size - 1, axis=1)[:, :size] if size < n else np.argsort(keys, 1)


def _mean_cosines(
    rows: Float32[np.ndarray, "rows features"], draws: Int[np.ndarray, "count size"]
) -> Float[np.ndarray, " count"]:
    """`mean_cosine` of every draw of unit rows."""
    count, size = draws.shape
    own = (rows.astype(np.float64) ** 2).sum(axis=1)
    step = max(1, _CHUNK // (size * rows.shape[1]))
    lengths = np.empty(count)
    for start in range(0, count, step):
        totals = rows[draws[start : start + step]].sum(axis=1, dtype=np.float64)
        lengths[start : start + step] = (totals**2).sum(axis=1)
    return (lengths - own[draws].sum(axis=1)) / (size * (size - 1))


def _memberships(
    rng: np.random.Generator,
    counts: Int[np.ndarray, " plates"],
    controls: Int[np.ndarray, " plates"],
    permutations: int,
) -> Bool[np.ndarray, "draws pool"]:
    """Who counts as the perturbation: first as it is, then with labels exchanged within plates.

    The pool is ordered by plate, and within each the perturbation's wells come first.
    """
    blocks = []
    for own, others in zip(counts, controls, strict=True):
        block = np.zeros((1 + permutations, own + others), bool)
        block[0, :own] = True
        drawn = _subsets(rng, int(own + others), int(own), permutations)
        np.put_along_axis(block[1:], drawn, True, axis=1)
        blocks.append(block)
    return np.concatenate(blocks, axis=1)


def _stratified_difference(
    features: Float[np.ndarray, "pool features"],
    members: Bool[np.ndarray, "draws pool"],
    counts: Int[np.ndarray, " plates"],
    controls: Int[np.ndarray, " plates"],
) -> Float[np.ndarray, " draws"]:
    """|Σ_p (c_p/Σc) (mean of members on p − mean of the others on p)| of every draw."""
    sizes = counts + controls
    weights = counts / counts.sum()
    member = np.repeat(weights * (1 / counts + 1 / controls), sizes)
    constant = np.repeat(weights / controls, sizes) @ features
    difference = (members * member) @ features - constant
    return np.sqrt((difference**2).sum(axis=1))


def _distances(
    features: Float[np.ndarray, "pool features"], squared: bool = False
) -> Float[np.ndarray, "pool pool"]:
    from scipy.spatial.distance import pdist, squareform

    return squareform(pdist(features, "sqeuclidean" if squared else "euclidean"))


def _energy(
    distances: Float[np.ndarray, "pool pool"],
    members: Bool[np.ndarray, "draws pool"],
    unbiased: bool = False,
) -> Float[np.ndarray, " draws"]:
    """The energy distance between the members and the others, of every draw."""
    weights = members.astype(np.float64)
    n = weights.sum(axis=1)
    m = members.shape[1] - n
    from_members = weights @ distances
    within = (from_members * weights).sum(axis=1)
    reached = from_members.sum(axis=1)
    between, others = reached - within, distances.sum() - 2 * reached + within
    # One row has no pair, and a sum of 0.
    pairs_n, pairs_m = (np.maximum(k * (k - 1), 1) if unbiased else k**2 for k in (n, m))
    return 2 * between / (n * m) - within / pairs_n - others / pairs_m


def _z_score(value: float, null: Float[np.ndarray, " draws"]) -> float:
    """(value − mean)/σ of the null; NaN where all draws are equal."""
    spread = float(null.std())
    if spread <= 1e-12 * max(abs(value), 1e-300):
        return float("nan")
    return (value - float(null.mean())) / spread


def _p_value(value: float, null: Float[np.ndarray, " draws"]) -> float:
    # A draw that is the perturbation itself equals it but for rounding.
    slack = 1e-9 * max(abs(value), 1e-300)
    return (1 + int((null >= value - slack).sum())) / (1 + len(null))


def adjusted(p: "pd.Series[float]") -> np.ndarray:
    """Benjamini–Hochberg over those that could be tested."""
    valid = p.notna().to_numpy()
    q = np.full(len(p), np.nan)
    q[valid] = benjamini_hochberg(p.to_numpy()[valid])
    return q

"""Inert perturbations as a null: EFAAR's signals by their formulas, and what noise gives."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import cosine_similarity

from mae_jax.errors import InputError
from mae_jax.evaluation import Profiles, ReplicatesSpec, run
from mae_jax.evaluation.inert_null import against_inert, efaar_signals, inert_perturbations
from mae_jax.evaluation.replicates import perturbation_strength, replicate_consistency

INERT = [f"I{i:02d}" for i in range(40)]


def screen(
    seed: int = 0, offsets: float = 0.0, effect: float = 0.0, lone: bool = False
) -> Profiles:
    """40 inert and 40 other perturbations, 6 wells each on 3 plates; `lone`: the others on one."""
    rng = np.random.default_rng(seed)
    plates = offsets * rng.standard_normal((3, 16))
    rows, features = [], []
    for plate in range(3):
        rows += [(f"P{plate}", "", "negcon")] * 12
        features += list(plates[plate] + rng.standard_normal((12, 16)))
    for i in range(80):
        own = effect * rng.standard_normal(16) if i >= 40 else np.zeros(16)
        for well in range(6):
            plate = i % 3 if lone and i >= 40 else well % 3
            rows.append((f"P{plate}", INERT[i] if i < 40 else f"T{i:02d}", ""))
            features.append(plates[plate] + own + rng.standard_normal(16))
    columns = ["Metadata_Plate", "Metadata_Perturbation", "Metadata_ControlType"]
    metadata = pd.DataFrame(rows, columns=columns)
    return Profiles(metadata, np.array(features, np.float32), tuple(map(str, range(16))))


def test_signals_are_efaars_formulas() -> None:
    wells = screen(effect=0.5)
    got = efaar_signals(wells, INERT).set_index("Metadata_Perturbation")
    names = wells.metadata["Metadata_Perturbation"]
    controls = wells.features[wells.controls()].astype(np.float64)
    cosine, energy = {}, {}
    for name in sorted(set(names) - {""}):
        x = wells.features[(names == name).to_numpy()].astype(np.float64)
        cosine[name] = cosine_similarity(x)[np.tril_indices(len(x), k=-1)].mean()
        within = cdist(x, x).mean() + cdist(controls, controls).mean()
        energy[name] = 2 * cdist(x, controls).mean() - within
    assert set(got.index) == set(cosine) - set(INERT)
    null = np.sort([cosine[i] for i in INERT])
    null_energy = np.sort([energy[i] for i in INERT])
    for name, row in got.iterrows():
        assert row["consistency"] == pytest.approx(cosine[str(name)], abs=1e-6)
        assert row["magnitude"] == pytest.approx(energy[str(name)], abs=1e-9)
        p = 1 - np.searchsorted(null, row["consistency"]) / 40
        assert row["consistency_p_efaar"] == pytest.approx(p)
        p = 1 - np.searchsorted(null_energy, row["magnitude"], side="right") / 40
        assert row["magnitude_p_efaar"] == pytest.approx(p)
        assert row["magnitude_p"] == pytest.approx(
            (1 + (null_energy >= energy[str(name)]).sum()) / 41
        )
    assert (got["magnitude_p_efaar"] == 0).any()  # which no number of inert perturbations allows


def small(p: np.ndarray) -> float:
    return float((p[np.isfinite(p)] < 0.05).mean())


@pytest.mark.parametrize(("offsets", "lone"), [(0.0, False), (2.0, False), (2.0, True)])
def test_nothing_is_significant_where_nothing_happens(offsets: float, lone: bool) -> None:
    """Standardized scores on noise and plate offsets, also where layouts of plates are unlike."""
    shares: dict[str, list[float]] = {}
    for seed in range(3):
        wells = screen(seed, offsets, lone=lone)
        consistency = replicate_consistency(wells, permutations=100)
        strength = perturbation_strength(wells, permutations=100)
        efaar = efaar_signals(wells, INERT)
        scores = {
            "consistency": against_inert(consistency, "z", INERT),
            "strength": against_inert(strength, "z", INERT),
            "energy": against_inert(strength, "energy_z", INERT),
        }
        if not lone:  # EFAAR pools plates: calibrated where all lie on plates alike
            for signal in ("consistency", "magnitude"):
                scores[f"EFAAR {signal}"] = (efaar[f"{signal}_p"], efaar[f"{signal}_q"])
        for name, (p, q) in scores.items():
            shares.setdefault(name, []).append(small(np.asarray(p)))
            assert small(np.asarray(q)) <= 1 / 40, name
    assert max(np.mean(v) for v in shares.values()) < 0.12, shares
    if lone:
        assert small(efaar["consistency_p_efaar"].to_numpy()) > 0.8  # what the plates alone give


def test_effects_are_found() -> None:
    wells = screen(offsets=1.0, effect=1.0)
    strength = perturbation_strength(wells, permutations=100)
    p, q = against_inert(strength, "energy_z", INERT)
    assert small(q) > 0.8
    assert np.isnan(p[strength["Metadata_Perturbation"].isin(INERT)]).all()


def test_inert_perturbations_are_named_in_three_ways(tmp_path: Path) -> None:
    wells = screen()
    names = wells.metadata["Metadata_Perturbation"]
    wells.metadata["Metadata_Kind"] = np.where(names.isin(INERT[:5]), "unexpressed", "")
    (tmp_path / "inert.txt").write_text("I00\nI01\nabsent\n")
    assert inert_perturbations(["I00", "I01", "absent"], wells) == {"I00", "I01"}
    assert inert_perturbations([str(tmp_path / "inert.txt")], wells) == {"I00", "I01"}
    assert inert_perturbations(["Metadata_Kind=unexpressed"], wells) == set(INERT[:5])
    with pytest.raises(InputError, match="0 of the 1 inert perturbations have wells"):
        inert_perturbations(["absent"], wells)


def test_specification() -> None:
    spec = ReplicatesSpec(
        embeddings={"m": screen(effect=1.0)},
        correction="none",
        null_perturbations=INERT,
        permutations=50,
        energy="scperturb",
    )
    result = run(spec)
    rows = result.tables["perturbations"]
    assert rows.columns[:5].tolist() == ["perturbation", "n", "score", "p", "q"]
    strength = result.tables["strength"]
    assert rows["score"].tolist() == strength["energy"].tolist()
    assert {"inert_p", "inert_q", "inert_energy_p", "inert_energy_q"} <= set(strength)
    text = "\n".join(result.summary)
    assert "strong by the energy distance (scperturb) against 40 inert perturbations" in text
    assert "magnitude of EFAAR of October 2024 (p = share of 40 inert perturbations" in text

"""NSC and NSCB: against loops over treatments, and what chance gives."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from mae_jax.errors import InputError
from mae_jax.evaluation import MechanismSpec, Profiles, run
from mae_jax.evaluation.mechanism import mechanism_accuracy


def library(seed: int = 0, effect: float = 1.0, week_effect: float = 0.0) -> Profiles:
    """16 compounds at 2 doses of 4 mechanisms; compounds of mechanism M3 stand in week W0 alone."""
    rng = np.random.default_rng(seed)
    mechanisms, weeks = rng.standard_normal((4, 8)), rng.standard_normal((2, 8))
    rows, features = [], []
    for compound in range(16):
        mechanism = compound % 4
        week = 0 if mechanism == 3 else (compound // 4) % 2
        own = effect * mechanisms[mechanism] + week_effect * weeks[week]
        for dose in range(2):
            for _ in range(2):
                name = f"c{compound:02d}"
                rows.append((f"W{week}", f"{name}@{dose}", name, f"M{mechanism}"))
                features.append(own + rng.standard_normal(8))
    names = ["Experiment", "Perturbation", "Compound", "MoA"]
    metadata = pd.DataFrame(rows, columns=[f"Metadata_{n}" for n in names])
    return Profiles(metadata, np.array(features, np.float32), tuple("abcdefgh"))


def by_loops(profiles: Profiles, same_batch: bool) -> dict[str, float]:
    table = profiles.metadata.assign(row=range(len(profiles)))
    treatments = dict(tuple(table.groupby("Metadata_Perturbation")))
    means = {t: profiles.features[part["row"]].mean(axis=0) for t, part in treatments.items()}
    keys = ["Metadata_Compound", "Metadata_MoA", "Metadata_Experiment"]
    about = {t: part[keys].iloc[0].tolist() for t, part in treatments.items()}
    right = {}
    for t, (compound, mechanism, week) in about.items():
        others = [
            u for u, (c, _, w) in about.items() if c != compound and (same_batch or w != week)
        ]
        if mechanism in {about[u][1] for u in others}:
            cosines = cosine_similarity([means[t]], [means[u] for u in others])[0]
            right[t] = float(about[others[int(cosines.argmax())]][1] == mechanism)
    return right


@pytest.mark.parametrize("name", ["nsc", "nscb"])
def test_is_the_nearest_by_loops(name: str) -> None:
    profiles = library()
    scores = mechanism_accuracy(profiles, batch="experiment", permutations=50)
    want = by_loops(profiles, same_batch=name == "nsc")
    tested = scores.treatments.dropna(subset=f"{name}_correct").set_index("treatment")
    assert tested[f"{name}_correct"].to_dict() == want
    accuracy = getattr(scores, name)
    assert accuracy.value == pytest.approx(np.mean(list(want.values())))
    assert accuracy.treatments == len(want) == (32 if name == "nsc" else 24)
    assert accuracy.interval.low < accuracy.value < accuracy.interval.high
    assert accuracy.value > 0.5 > accuracy.chance


def test_batches_help_nsc_but_not_nscb() -> None:
    """Mechanism M3 stands in one week: the week alone gives it away."""
    scores = mechanism_accuracy(library(effect=0.0, week_effect=3.0), batch="experiment")
    m3 = scores.treatments.query("mechanism == 'M3'")
    assert scores.treatments["nsc_correct"].mean() > 0.25
    assert m3["nscb_correct"].isna().all()
    assert mechanism_accuracy(library()).nscb is None


def test_a_treatment_in_both_batches_is_predicted_from_the_other() -> None:
    """Its own wells and those of its batch are no candidates, batch by batch."""
    x = np.array([[1, 0], [0, 1], [1, 0.1], [0.1, 1], [0.2, 1]], np.float32)
    metadata = pd.DataFrame(
        {
            "Metadata_Experiment": ["W0", "W1", "W0", "W1", "W0"],
            "Metadata_Perturbation": ["a@1", "a@1", "b@1", "b2@1", "c@1"],
            "Metadata_Compound": ["a", "a", "b", "b2", "c"],
            "Metadata_MoA": ["M", "M", "M", "M", "N"],
        }
    )
    table = mechanism_accuracy(
        Profiles(metadata, x, ("u", "v")), batch="experiment", permutations=9
    ).treatments.set_index("treatment")
    # Its W0 well sees W1's b2 (right); its W1 well sees b and c of W0, of which c is nearest.
    assert table.loc["a@1", "nscb_correct"] == 0.5


def test_p_is_calibrated_without_mechanisms() -> None:
    scores = [
        mechanism_accuracy(library(seed, effect=0.0), permutations=49, batch="experiment")
        for seed in range(60)
    ]
    for name in ("nsc", "nscb"):
        p = np.array([getattr(s, name).p for s in scores])
        # Accuracies are multiples of 1/treatments and ties count, so that p is a little too large.
        for level in (0.1, 0.25, 0.5):
            assert level / 4 < (p <= level).mean() < level + 0.12, (name, level)


def test_bad_columns_are_named() -> None:
    profiles = library()
    with pytest.raises(InputError, match="no column 'Metadata_Target'"):
        mechanism_accuracy(profiles, mechanism="Metadata_Target")
    profiles.metadata.loc[0, "Metadata_MoA"] = "M1"
    with pytest.raises(InputError, match="c00@0 has several compounds or mechanisms"):
        mechanism_accuracy(profiles)


def test_specification() -> None:
    result = run(MechanismSpec(embeddings={"m": library()}, correction="none", permutations=50))
    table = result.tables["accuracy"]
    assert table["score"].tolist() == ["NSC", "NSCB"]
    assert (table["chance"] < table["accuracy"]).all()
    assert "NSCB" in result.summary[1]

"""Labels of a table, and wells that no part shares."""

import numpy as np
import pandas as pd
import pytest

from mae_jax.errors import InputError
from mae_jax.finetune.config import FineTuneConfig
from mae_jax.finetune.splits import split_wells
from mae_jax.finetune.targets import read_targets


def test_names_are_classes_and_empty_ones_no_label():
    table = pd.DataFrame({"Metadata_Compound": ["b", "a", "", "b"]})
    targets = read_targets(table, ["Compound"])
    assert (targets.kind, targets.names) == ("classes", ("a", "b"))
    assert targets.codes.tolist() == [1, 0, -1, 1]
    assert targets.labelled.tolist() == [True, True, False, True]
    numbered = read_targets(pd.DataFrame({"Metadata_Phase": ["1", "2", "1"]}), ["Phase"])
    assert (numbered.kind, numbered.names) == ("classes", ("1", "2"))


def test_several_labels_of_one_cell_or_of_several_columns():
    table = pd.DataFrame({"Metadata_MoA": ["x|y", "y", "z | x", ""]})
    targets = read_targets(table, ["Metadata_MoA"])
    assert (targets.kind, targets.names) == ("multilabel", ("x", "y", "z"))
    assert targets.values[:3].tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]
    assert np.isnan(targets.values[3]).all()
    table = pd.DataFrame({"Metadata_A": ["1", "0", ""], "Metadata_B": ["0", "1", "1"]})
    targets = read_targets(table, ["A", "B"])
    assert (targets.kind, targets.names) == ("multilabel", ("Metadata_A", "Metadata_B"))
    np.testing.assert_array_equal(targets.values, [[1, 0], [0, 1], [np.nan, 1]])


def test_numbers_that_are_not_whole_are_a_regression():
    targets = read_targets(pd.DataFrame({"Metadata_Dose": ["0.5", "2", ""]}), ["Dose"])
    assert targets.kind == "regression"
    np.testing.assert_array_equal(targets.values[:, 0], [0.5, 2, np.nan])
    assert read_targets(pd.DataFrame({"Metadata_Dose": ["1", "2"]}), ["Dose"], "regression").kind
    with pytest.raises(InputError, match=r"row 1 .* 'high', which is not a number"):
        read_targets(pd.DataFrame({"Metadata_Dose": ["1", "high"]}), ["Dose"], "regression")


def test_wrong_labels_are_named():
    table = pd.DataFrame({"Metadata_Compound": ["a", "a"], "Metadata_Gene": ["", ""]})
    with pytest.raises(InputError, match="did you mean 'Metadata_Compound'"):
        read_targets(table, ["Metadata_Compond"])
    with pytest.raises(InputError, match="Metadata_Gene is empty"):
        read_targets(table, ["Gene"])
    with pytest.raises(InputError, match="nothing to tell apart"):
        read_targets(table, ["Compound"])


def screen(plates: int = 4, classes: int = 3, wells: int = 4, sites: int = 2) -> pd.DataFrame:
    rows = [
        {"Metadata_Source": "", "Metadata_Experiment": "E", "Metadata_Plate": f"P{p}",
         "Metadata_Well": f"W{c}-{w}", "Metadata_Site": str(s), "Metadata_Split": "",
         "Metadata_Compound": f"c{c}", "Metadata_Donor": f"d{p % 2}"}
        for p in range(plates) for c in range(classes) for w in range(wells) for s in range(sites)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def parts_of(table: pd.DataFrame, **settings) -> tuple[pd.DataFrame, str]:
    targets = read_targets(table, ["Compound"])
    parts, name = split_wells(table, targets, FineTuneConfig(**settings))
    return table.assign(part=parts), name


@pytest.mark.parametrize("seed", range(3))
def test_no_well_is_in_two_parts_and_every_class_is_trained_on(seed):
    table, name = parts_of(screen(), holdout="well", seed=seed)
    assert name == "well"
    wells = table.groupby(["Metadata_Plate", "Metadata_Well"])["part"].nunique()
    assert (wells == 1).all()
    for part in ("train", "validation", "test"):
        assert set(table.loc[table.part == part, "Metadata_Compound"]) == {"c0", "c1", "c2"}
    shares = table.groupby("Metadata_Compound")["part"].value_counts(normalize=True)
    assert 0.15 < shares.xs("test", level="part").mean() < 0.25


def test_plates_are_held_out_whole_and_by_default():
    table, name = parts_of(screen())
    assert name == "plate"
    test = set(table.loc[table.part == "test", "Metadata_Plate"])
    rest = set(table.loc[table.part != "test", "Metadata_Plate"])
    assert test
    assert not test & rest
    one_plate_each = screen()
    one_plate_each["Metadata_Compound"] = one_plate_each["Metadata_Plate"]
    assert parts_of(one_plate_each)[1] == "well"
    assert parts_of(screen(), holdout="Donor")[0].groupby("Metadata_Donor")["part"].nunique().min()


def test_the_indexs_own_split_and_what_cannot_be_held_out():
    table = screen(plates=2)
    table.loc[table.Metadata_Plate == "P1", "Metadata_Split"] = "validation"
    split, _ = parts_of(table, holdout="split")
    assert set(split.loc[split.part == "test", "Metadata_Plate"]) == {"P1"}
    with pytest.raises(InputError, match="of one plate only"):
        parts_of(screen(plates=1), holdout="plate")
    with pytest.raises(InputError, match="did you mean 'plate'"):
        parts_of(screen(), holdout="plates")
    with pytest.raises(InputError, match="too few labelled wells"):
        parts_of(screen(plates=1, wells=1))

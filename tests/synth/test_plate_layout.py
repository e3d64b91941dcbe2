import pytest

from mae_jax.synth import ScreenConfig, design
from mae_jax.synth.plate_layout import row_and_column, well_name


def test_the_default_screen_is_small_and_full() -> None:
    wells = design(ScreenConfig())
    assert len(wells) == 744
    assert wells["Metadata_Plate"].nunique() == 12
    assert wells.groupby("Metadata_Plate")["Metadata_Experiment"].nunique().eq(1).all()
    assert not wells.duplicated(["Metadata_Plate", "Metadata_Well"]).any()
    controls = wells[wells["Metadata_ControlType"] == "negcon"]
    assert set(controls["Metadata_Gene"]) == {"non-targeting"}
    assert controls.groupby("Metadata_Plate").size().eq(14).all()
    treated = wells[wells["Metadata_ControlType"] == ""]
    assert treated.groupby("Metadata_Gene").size().eq(2 * 3 * 2).all()
    assert (treated["Metadata_Gene"] != "non-targeting").all()
    assert wells.map(lambda value: isinstance(value, str)).all(axis=None)


@pytest.mark.parametrize(("experiments", "per_gene"), [(1, 2), (3, 1), (4, 2), (5, 3), (2, 2)])
def test_genes_stand_in_as_many_experiments_as_asked(experiments: int, per_gene: int) -> None:
    config = ScreenConfig(experiments=experiments, experiments_per_gene=per_gene, plates=2)
    wells = design(config)
    treated = wells[wells["Metadata_ControlType"] == ""]
    expected = min(per_gene, experiments)
    assert treated.groupby("Metadata_Gene")["Metadata_Experiment"].nunique().eq(expected).all()
    # On every plate of them, as often as asked.
    per_plate = treated.groupby(["Metadata_Gene", "Metadata_Plate"]).size()
    assert per_plate.eq(config.wells_per_gene).all()
    assert len(per_plate) == 48 * expected * 2
    genes = treated.groupby("Metadata_Experiment")["Metadata_Gene"].nunique()
    assert genes.max() - genes.min() <= 1
    assert wells.groupby("Metadata_Plate").size().max() == config.wells_per_plate


def test_each_plate_has_its_own_layout() -> None:
    wells = design(ScreenConfig(experiments=1, experiments_per_gene=1))
    layouts = [
        tuple(zip(plate["Metadata_Well"], plate["Metadata_Gene"], strict=True))
        for _, plate in wells.groupby("Metadata_Plate")
    ]
    assert len(set(layouts)) == 3


def test_well_names_can_be_read_back() -> None:
    assert [well_name(0, 0), well_name(7, 11), well_name(31, 47)] == ["A01", "H12", "AF48"]
    places = [(row, column) for row in range(32) for column in range(48)]
    assert [row_and_column(well_name(*place)) for place in places] == places

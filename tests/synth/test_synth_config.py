import dataclasses

import pytest

from mae_jax.config import from_dict, to_dict
from mae_jax.errors import InputError
from mae_jax.synth import RXRX_CHANNELS, ScreenConfig, complex_sizes_for


def test_a_configuration_survives_json() -> None:
    config = ScreenConfig(seed=3, channels=RXRX_CHANNELS)
    assert from_dict(ScreenConfig, to_dict(config)) == config


def test_an_unknown_key_names_its_neighbor() -> None:
    with pytest.raises(InputError, match="phenotype_strength"):
        from_dict(ScreenConfig, {"phenotype_strenght": 2.0})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plates": 0}, "plates must be at least 1"),
        ({"seed": -1}, "seed"),
        ({"image_size": 8}, "image_size"),
        ({"confluence": 0.0}, "confluence"),
        ({"batch_strength": -1.0}, "batch_strength"),
        ({"genes": 10}, "complex_sizes need 44 genes"),
        ({"complex_sizes": (1,)}, "at least 2"),
        ({"channels": ()}, "channels must name at least one"),
        ({"channels": ("DNA", "Mitoo")}, "did you mean 'Mito'"),
        ({"channels": ("DNA", "DNA")}, "must differ"),
        ({"controls": 2000}, "1536"),
    ],
)
def test_bad_values_are_refused(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(ScreenConfig(), **change)


def test_a_plate_takes_the_smallest_format_that_holds_it() -> None:
    assert ScreenConfig().plate_format == (8, 12)
    assert ScreenConfig(controls=48).plate_format == (8, 12)
    assert ScreenConfig(controls=49).plate_format == (16, 24)
    assert ScreenConfig(controls=400).plate_format == (32, 48)


def test_the_default_complexes_are_those_for_48_genes() -> None:
    assert complex_sizes_for(48) == ScreenConfig().complex_sizes


@pytest.mark.parametrize("genes", range(2, 200))
def test_complexes_for_any_number_of_genes_fit_and_can_all_be_recalled(genes: int) -> None:
    sizes = complex_sizes_for(genes)
    ScreenConfig(genes=genes, complex_sizes=sizes)
    pairs = sum(size * (size - 1) // 2 for size in sizes)
    assert pairs >= 1
    assert pairs <= max(1, 0.05 * genes * (genes - 1) / 2)


def test_complexes_of_a_chosen_size() -> None:
    assert complex_sizes_for(72, 4) == (4,) * 16
    assert complex_sizes_for(48, 2) == (2,) * 22
    assert complex_sizes_for(30, 4) == (4,) * 3  # more would be over 5 % of all pairs
    with pytest.raises(InputError, match="at least 2 genes"):
        complex_sizes_for(48, 1)
    with pytest.raises(InputError, match="10 genes are too few for complexes of 4"):
        complex_sizes_for(10, 4)

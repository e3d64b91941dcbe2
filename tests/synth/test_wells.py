import dataclasses

import numpy as np
import pytest
import scipy.ndimage

from mae_jax.errors import InputError
from mae_jax.synth import JUMP_CHANNELS, PARAMETERS, RXRX_CHANNELS, ScreenConfig, design, draw_well
from mae_jax.synth.cells import STRUCTURES, draw_structure, shape_cell

SMALL = ScreenConfig(
    experiments=2, plates=1, genes=6, complex_sizes=(3,), controls=3, sites=2, image_size=96
)


def _well(config: ScreenConfig, row: int = 0) -> tuple[str, str, str]:
    keys = ["Metadata_Experiment", "Metadata_Plate", "Metadata_Well"]
    return tuple(design(config)[keys].iloc[row])


def test_a_well_is_the_same_each_time_and_unlike_the_next() -> None:
    first = draw_well(SMALL, *_well(SMALL), 1)
    assert first.shape == (5, 96, 96)
    assert first.dtype == np.uint16
    np.testing.assert_array_equal(first, draw_well(SMALL, *_well(SMALL), 1))
    others = [
        draw_well(SMALL, *_well(SMALL), 2),
        draw_well(SMALL, *_well(SMALL, 1), 1),
        draw_well(
            dataclasses.replace(SMALL, seed=1), *_well(dataclasses.replace(SMALL, seed=1)), 1
        ),
    ]
    assert all((other != first).mean() > 0.5 for other in others)


def test_every_channel_has_light_and_little_of_it_is_lost() -> None:
    for channels in (JUMP_CHANNELS, RXRX_CHANNELS):
        config = dataclasses.replace(SMALL, channels=channels)
        for row in range(0, len(design(config)), 5):
            image = draw_well(config, *_well(config, row), 1)
            assert image.shape[0] == len(channels)
            spread = np.quantile(image, 0.99, axis=(1, 2)) - np.quantile(image, 0.01, axis=(1, 2))
            assert (spread > 500).all()
            assert (image == 65535).mean() < 0.002
            assert (image == 0).mean() < 0.002


def test_a_channel_does_not_depend_on_the_others_but_for_bleed_through() -> None:
    config = dataclasses.replace(SMALL, batch_strength=0.0)
    alone = dataclasses.replace(config, channels=("Mito", "DNA"))
    whole, part = (draw_well(c, *_well(c), 1) for c in (config, alone))
    np.testing.assert_array_equal(part[0], whole[JUMP_CHANNELS.index("Mito")])
    np.testing.assert_array_equal(part[1], whole[JUMP_CHANNELS.index("DNA")])


def test_nuclei_can_be_counted() -> None:
    config = dataclasses.replace(SMALL, image_size=192, confluence=0.5, batch_strength=0.0)
    counts = []
    for row in range(4):
        dna = draw_well(config, *_well(config, row), 1)[0].astype(float)
        _, count = scipy.ndimage.label(scipy.ndimage.gaussian_filter(dna, 1.5) > dna.mean() * 1.8)
        counts.append(count)
    assert 5 <= np.mean(counts) <= 25


def test_without_batch_effects_and_noise_plates_look_alike() -> None:
    quiet = dataclasses.replace(
        SMALL, batch_strength=0.0, noise_strength=0.0, phenotype_strength=0.0, image_size=192
    )
    loud = dataclasses.replace(quiet, batch_strength=1.0)
    spreads = []
    for config in (quiet, loud):
        half = config.wells_per_plate  # two wells of each plate
        rows = (0, 1, half, half + 1)
        means = [draw_well(config, *_well(config, row), 1).mean((1, 2)) for row in rows]
        spreads.append(np.log(means).std(axis=0).mean())
    assert spreads[0] < 0.15
    assert spreads[1] > 2 * spreads[0]


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_phenotype_moves_light_about_and_leaves_its_amounts_alone(structure: str) -> None:
    def cell(direction: float) -> np.ndarray:
        traits = np.full(len(PARAMETERS), direction)
        traits[PARAMETERS.index("nucleus_size")] = 0  # the one that does change an amount
        drawn = shape_cell(np.random.default_rng(0), (40.0, 40.0), traits, 1.0)
        middle = len(drawn.depth) / 2
        inside = np.hypot(*(np.indices(drawn.depth.shape) - middle)) < 20
        picture = draw_structure(structure, np.random.default_rng(1), drawn, inside)
        cut = slice(int(middle) - 24, int(middle) + 24)
        return picture[cut, cut]

    low, high = cell(-2.0), cell(2.0)
    lit = [np.sort(picture[picture > 0]) for picture in (low, high)]
    if structure != "dna":  # its pixels are the nucleus's, whose shape differs
        np.testing.assert_array_equal(lit[0], lit[1])
    levels = [np.quantile(values, (0.1, 0.5, 0.9, 0.99)) for values in lit]
    np.testing.assert_allclose(levels[0], levels[1], rtol=0.02)
    assert np.corrcoef(low.ravel(), high.ravel())[0, 1] < 0.9


def test_coarse_grain_is_coarser_than_fine_grain() -> None:
    slopes = []
    for grain in (-2.0, 2.0):
        traits = np.zeros(len(PARAMETERS))
        traits[PARAMETERS.index("er_grain")] = grain
        cell = shape_cell(np.random.default_rng(0), (40.0, 40.0), traits, 1.0)
        picture = draw_structure("er", np.random.default_rng(1), cell, cell.from_center < 1)
        slopes.append(np.abs(np.diff(picture, axis=0)).mean())
    assert slopes[0] > 1.3 * slopes[1]


def test_wells_that_are_not_there_are_refused() -> None:
    experiment, plate, well = _well(SMALL)
    with pytest.raises(InputError, match="no well Z99 on plate EXP-1-P1"):
        draw_well(SMALL, experiment, plate, "Z99", 1)
    with pytest.raises(InputError, match="site must be 1 to 2, not 3"):
        draw_well(SMALL, experiment, plate, well, 3)

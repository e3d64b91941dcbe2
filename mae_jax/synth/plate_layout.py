"""Plate layouts: the gene of every well."""

import functools

import pandas as pd

from mae_jax.synth.biology import CONTROL_NAME, gene_names
from mae_jax.synth.config import ScreenConfig
from mae_jax.synth.rng import generator


def experiment_names(config: ScreenConfig) -> tuple[str, ...]:
    """EXP-1, EXP-2, …"""
    return tuple(f"EXP-{i + 1}" for i in range(config.experiments))


def plate_names(config: ScreenConfig, experiment: str) -> tuple[str, ...]:
    """The experiment's plates, such as EXP-2-P1: no two experiments share a name."""
    return tuple(f"{experiment}-P{i + 1}" for i in range(config.plates))


def well_name(row: int, column: int) -> str:
    """The name of a well from its row and column, both counted from 0: A01, …, AF48."""
    letters = chr(65 + row) if row < 26 else f"A{chr(65 + row - 26)}"
    return f"{letters}{column + 1:02d}"


def row_and_column(well: str) -> tuple[int, int]:
    """The inverse of `well_name`."""
    letters = well.rstrip("0123456789")
    row = ord(letters) - 65 if len(letters) == 1 else 26 + ord(letters[1]) - 65
    return row, int(well[len(letters) :]) - 1


def genes_of_experiments(config: ScreenConfig) -> dict[str, tuple[str, ...]]:
    """The genes of each experiment; their numbers differ by one at most."""
    rng = generator(config.seed, "experiments of genes")
    in_each = min(config.experiments_per_gene, config.experiments)
    genes_in: list[list[str]] = [[] for _ in range(config.experiments)]
    for gene in rng.permutation(gene_names(config)).tolist():
        # Add it to the experiments with fewest genes; ties are broken at random.
        order = rng.permutation(config.experiments).tolist()
        for number in sorted(order, key=lambda i: len(genes_in[i]))[:in_each]:
            genes_in[number].append(gene)
    return {
        name: tuple(sorted(genes))
        for name, genes in zip(experiment_names(config), genes_in, strict=True)
    }


@functools.lru_cache(maxsize=8)
def _design(config: ScreenConfig) -> pd.DataFrame:
    rows, columns = config.plate_format
    genes_in = genes_of_experiments(config)
    wells = [well_name(row, column) for row in range(rows) for column in range(columns)]
    table = []
    for experiment in experiment_names(config):
        replicates = [gene for gene in genes_in[experiment] for _ in range(config.wells_per_gene)]
        contents = [(gene, gene, "") for gene in replicates]
        contents += [(CONTROL_NAME, CONTROL_NAME, "negcon")] * config.controls
        for plate in plate_names(config, experiment):
            # Randomized per plate, so that position and gene are independent.
            positions = generator(config.seed, "layout", plate).permutation(len(wells))
            used = zip(positions[: len(contents)].tolist(), contents, strict=True)
            for position, (perturbation, gene, control) in sorted(used):
                table.append(
                    {
                        "Metadata_Source": "synthetic",
                        "Metadata_Experiment": experiment,
                        "Metadata_Batch": experiment,
                        "Metadata_Plate": plate,
                        "Metadata_Well": wells[position],
                        "Metadata_Perturbation": perturbation,
                        "Metadata_Gene": gene,
                        "Metadata_ControlType": control,
                    }
                )
    return pd.DataFrame(table)


def design(config: ScreenConfig) -> pd.DataFrame:
    """All wells of the screen, one row each, plate by plate, row by row.

    String columns `Metadata_Source, Metadata_Experiment, Metadata_Batch, Metadata_Plate,
    Metadata_Well, Metadata_Perturbation, Metadata_Gene, Metadata_ControlType`. Negative controls
    are the perturbation and gene "non-targeting", of control type "negcon".
    """
    return _design(config).copy()


@functools.lru_cache(maxsize=8)
def contents_of_wells(config: ScreenConfig) -> dict[tuple[str, str, str], str]:
    """The gene in each well, by (experiment, plate, well)."""
    keys = ["Metadata_Experiment", "Metadata_Plate", "Metadata_Well"]
    table = _design(config)
    return dict(
        zip(table[keys].itertuples(index=False, name=None), table["Metadata_Gene"], strict=True)
    )

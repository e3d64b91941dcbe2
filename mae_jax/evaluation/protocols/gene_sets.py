"""Recall at 5 % false positives on gene sets (Table 5)."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import pandas as pd

from mae_jax.errors import InputError
from mae_jax.evaluation.corrections import DEFAULT
from mae_jax.evaluation.gene_sets import recall_at_false_positives
from mae_jax.evaluation.protocols.base import CORRECTION, MapSpec, Progress
from mae_jax.evaluation.protocols.option import Option
from mae_jax.evaluation.results import Result
from mae_jax.files import read_json

GeneSets = Mapping[str, Sequence[str]] | str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True)
class GeneSetsSpec(MapSpec):
    """Recall at 5 % false positives.

    Attributes:
      sets: name -> genes, or a JSON file of that, or a CSV file with columns set,gene.
    """

    name: ClassVar[str] = "genesets"
    sets: Annotated[GeneSets, Option('JSON {"name": [genes]} or CSV set,gene', metavar="FILE")]
    correction: Annotated[str, CORRECTION] = DEFAULT


def run_gene_sets(spec: GeneSetsSpec, progress: Progress) -> Result:
    """Table `genesets`: one row per set, database and embeddings."""
    sets, rows, databases = read_sets(spec.sets), [], spec.databases()
    arms = spec.arm_correction(progress)
    for name, profiles in spec.load(progress).items():
        progress(name)
        genes = spec.gene_map(profiles, spec.correction, arms)
        for database in databases:
            table = recall_at_false_positives(genes, database, sets, by=spec.by)
            rows.append(table.assign(embeddings=name, database=database.name))
    table = pd.concat(rows)
    return Result(
        tables={"genesets": table},
        settings=spec.settings(),
        summary=[table.to_string(index=False)],
        main="genesets.csv",
    )


def read_sets(sets: GeneSets) -> dict[str, list[str]]:
    """Gene sets by name.

    Raises:
      InputError: the file does not exist, or is neither such JSON nor such CSV.
    """
    if isinstance(sets, Mapping):
        return {str(name): list(genes) for name, genes in sets.items()}
    path = Path(sets)
    if not path.is_file():
        raise InputError(f"{path} does not exist; give gene sets as JSON or as CSV set,gene.")
    if path.suffix == ".json":
        values = read_json(path)
        if not isinstance(values, dict) or not all(isinstance(v, list) for v in values.values()):
            raise InputError(f'{path} must be JSON of the form {{"name": ["gene", …]}}.')
        return {str(name): [str(g) for g in genes] for name, genes in values.items()}
    try:
        table = pd.read_csv(path, dtype=str)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as problem:
        raise InputError(f"{path} is not a readable table ({problem}).") from None
    if not {"set", "gene"} <= set(table.columns):
        raise InputError(f"{path} needs the columns set and gene.")
    return {str(k): v["gene"].tolist() for k, v in table.groupby("set", sort=False)}

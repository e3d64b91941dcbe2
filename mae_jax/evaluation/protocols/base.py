"""What all evaluations share: where the wells come from and how they are corrected."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from mae_jax.errors import InputError
from mae_jax.evaluation.aggregation import aggregate
from mae_jax.evaluation.chromosome_arms import (
    correct_chromosome_arms,
    read_chromosome_arms,
    read_unexpressed,
)
from mae_jax.evaluation.columns import ReadOptions
from mae_jax.evaluation.corrections import DEFAULT, correct
from mae_jax.evaluation.holdout import (
    Holdout,
    correct_with_holdout,
    seen_controls,
    seen_treated,
)
from mae_jax.evaluation.profiles import ColumnSchema, Profiles
from mae_jax.evaluation.protocols.option import Option
from mae_jax.evaluation.relationship_databases import read_database
from mae_jax.evaluation.relationships import Relationships
from mae_jax.evaluation.results import Result

Source = Profiles | str | os.PathLike[str]
Progress = Callable[[str], None]
GeneMapCorrection = Callable[[Profiles], Profiles]
CORRECTION = Option(
    "correction or chain, such as 'mad|tvn:ridge=0.2'; see `mae-jax correct --help`",
    metavar="NAME",
)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Specification of one evaluation; `name` is the CLI's word for it."""

    name: ClassVar[str] = ""

    def settings(self) -> dict[str, object]:
        """The specification as plain values for `settings.json`."""
        fields = {f.name: plain(getattr(self, f.name)) for f in dataclasses.fields(self)}
        return {"evaluation": self.name, **fields}


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: an entry of `EVALUATIONS`, from which the command line is made.

    Attributes:
      spec: the type of its specification; `spec.name` is the evaluation's name.
      run: computes the result of a specification.
      title: one line for the overview, lower case and without a full stop.
      example: options of an example, after `mae-jax evaluate NAME`.
      needs_out: the command line asks for a folder; False where the summary says everything.
    """

    spec: type[Spec]
    # Any: each function takes its own type of specification.
    run: Callable[[Any, Progress], Result]
    title: str
    example: str
    needs_out: bool = True


@dataclass(frozen=True, kw_only=True)
class WellsSpec(Spec):
    """An evaluation of one or several embeddings of wells.

    Attributes:
      embeddings: name -> profiles, or the folder or file to read them from.
      schema: the metadata columns and which rows are negative controls.
      read: which columns are features, a second table of metadata, see `ReadOptions`.
      nan, duplicates: see `Profiles.checked`.
      fit_on, batch: see `corrections.fit`.
      seed: of everything drawn.
    """

    embeddings: Annotated[
        Mapping[str, Source],
        Option(
            "embeddings folders or files; a NAME for the tables",
            nargs="+",
            metavar="[NAME=]PATH,…",
            named=True,
        ),
    ]
    schema: ColumnSchema = field(default_factory=ColumnSchema)
    read: ReadOptions = field(default_factory=ReadOptions)
    nan: Annotated[
        str,
        Option(
            "what to do about values that are not finite: stop, drop the rows, drop the features",
            choices=("error", "rows", "features"),
        ),
    ] = "error"
    duplicates: Annotated[
        str,
        Option(
            "what to do about wells with several rows: stop, or keep the first",
            choices=("error", "first"),
        ),
    ] = "error"
    fit_on: Annotated[
        str,
        Option(
            "wells to fit the correction on; the controls alone are the same in all batches",
            choices=("controls", "all"),
        ),
    ] = "controls"
    batch: Annotated[
        str | None,
        Option(
            "group by this column (or plate, experiment) instead of the correction's own grouping; "
            "the default correction and TVN group by experiment",
            metavar="COLUMN",
        ),
    ] = None
    seed: Annotated[int, Option("random seed")] = 0

    def load(self, notes: Progress | None = None) -> dict[str, Profiles]:
        """All embeddings in memory, checked.

        Raises:
          InputError: no embeddings, or whatever `Profiles.read` and `checked` refuse.
        """
        if not self.embeddings:
            raise InputError(f"{self.name} needs at least one set of embeddings.")
        return {name: self.load_one(source, notes) for name, source in self.embeddings.items()}

    def load_one(self, source: Source, notes: Progress | None = None) -> Profiles:
        """One set of embeddings in memory, checked."""
        if isinstance(source, Profiles):
            profiles = source
        else:
            profiles = Profiles.read(source, options=self.read, notes=notes)
        return profiles.checked(nan=self.nan, duplicates=self.duplicates, schema=self.schema)


@dataclass(frozen=True, kw_only=True)
class ScoredWellsSpec(WellsSpec):
    """An evaluation of corrected wells against negative controls.

    Attributes:
      correction: see `corrections.fit`.
      holdout_controls: share of each plate's negative controls that the correction does not see
        and that the score uses alone; 0 is the paper's design, see `holdout`.
      holdout_treatments: share of the treatments that the correction does not see and that the
        score uses alone; 0: no treatment is held out, and all are scored.
      holdout_plates: share of the plates, likewise.
    """

    correction: Annotated[str, CORRECTION] = DEFAULT
    holdout_controls: Annotated[
        float,
        Option(
            "share of each plate's negative controls that the correction does not see and that "
            "the score uses alone",
            metavar="SHARE",
        ),
    ] = 0.5
    holdout_treatments: Annotated[
        float,
        Option(
            "share of the treatments that the correction does not see and that the score uses "
            "alone; 0: all are scored",
            metavar="SHARE",
        ),
    ] = 0.0
    holdout_plates: Annotated[
        float,
        Option(
            "share of the plates that the correction does not see, but for their own controls, and "
            "that the score uses alone; 0: all are scored",
            metavar="SHARE",
        ),
    ] = 0.0

    @property
    def holdout(self) -> Holdout:
        """What the correction does not see."""
        return Holdout(
            controls=self.holdout_controls,
            treatments=self.holdout_treatments,
            plates=self.holdout_plates,
            seed=self.seed,
        )

    def corrected(self, profiles: Profiles, notes: Progress) -> Profiles:
        """The wells to score: treated wells and the controls to score against.

        `notes` gets a warning if an earlier correction was fitted on controls of the score.
        """
        wells, _ = correct_with_holdout(
            profiles,
            self.correction,
            holdout=self.holdout,
            fit_on=self.fit_on,
            batch=self.batch,
            schema=self.schema,
        )
        seen = seen_controls(wells, self.schema)
        if seen:
            notes(
                f"warning: {seen} of the negative controls that the score uses were seen by the "
                "correction that made these profiles, which flatters it; correct them with "
                f"--holdout-controls {self.holdout_controls or 0.5:g} --seed {self.seed}."
            )
        seen = seen_treated(wells, self.schema) if self.holdout_treatments else 0
        if seen:
            notes(
                f"warning: {seen} of the held-out treatments' wells were seen by the correction "
                "that made these profiles; correct them with --holdout-treatments "
                f"{self.holdout_treatments:g} --seed {self.seed}."
            )
        return wells

    def settings(self) -> dict[str, object]:
        """Add which controls the scores used."""
        return {**super().settings(), "controls_of_the_score": self.holdout.describe()}


@dataclass(frozen=True, kw_only=True)
class MapSpec(WellsSpec):
    """An evaluation of a map: one vector per gene, scored against known relationships.

    Attributes:
      relationships: databases, or what `read_database` reads them from.
      by: the column to aggregate by.
      levels: columns to aggregate by first, see `aggregate`.
      chromosome_arms: table of genes and arms (`read_chromosome_arms`); None: no such correction.
      centromeres: table of centromeres, if `chromosome_arms` has coordinates only.
      unexpressed: table `gene,zFPKM` that selects the genes of the arm means.
    """

    relationships: Annotated[
        Sequence[Relationships | str | os.PathLike[str]],
        Option(
            "entity1,entity2 tables, or downloads: corum:F humap:F reactome:F signor:F "
            "string:LINKS+INFO",
            nargs="+",
            metavar="[KIND:]FILE,…",
        ),
    ]
    by: Annotated[str, Option("column to relate", metavar="COLUMN")] = "Metadata_Gene"
    levels: Annotated[
        Sequence[str],
        Option(
            "columns to aggregate by first, such as the guide",
            flag="--aggregate-via",
            old_flags=("--through",),
            nargs="+",
            metavar="COLUMN,…",
        ),
    ] = ()
    chromosome_arms: Annotated[
        str | os.PathLike[str] | None,
        Option("correct for chromosome arms by this table", old_flags=("--arms",), metavar="FILE"),
    ] = None
    centromeres: Annotated[
        str | os.PathLike[str] | None,
        Option(
            "chrom,start,end of the centromeres, if the table of arms has coordinates only",
            metavar="FILE",
        ),
    ] = None
    unexpressed: Annotated[
        str | os.PathLike[str] | None,
        Option("gene,zFPKM: selects the genes of the arm means", metavar="FILE"),
    ] = None

    def databases(self) -> list[Relationships]:
        """The known relationships, read."""
        return [
            r if isinstance(r, Relationships) else read_database(os.fspath(r))
            for r in self.relationships
        ]

    def arm_correction(self, notes: Progress) -> GeneMapCorrection | None:
        """The chromosome-arm correction of a map, if any; `notes` gets each note once."""
        if self.chromosome_arms is None:
            if self.centromeres is not None or self.unexpressed is not None:
                raise InputError(
                    "centromeres and unexpressed genes belong to the chromosome-arm correction; "
                    "give --chromosome-arms too."
                )
            return None
        arms = read_chromosome_arms(self.chromosome_arms, self.centromeres)
        unexpressed = None if self.unexpressed is None else read_unexpressed(self.unexpressed)
        noted: set[str] = set()

        def correct_map(genes: Profiles) -> Profiles:
            result = correct_chromosome_arms(genes, arms, unexpressed=unexpressed, by=self.by)
            if result.note not in noted:
                noted.add(result.note)
                notes(result.note)
            return result.genes

        return correct_map

    def gene_map(
        self, profiles: Profiles, correction: str, arms: GeneMapCorrection | None
    ) -> Profiles:
        """One corrected vector per gene."""
        wells = correct(
            profiles, correction, fit_on=self.fit_on, batch=self.batch, schema=self.schema
        )
        genes = aggregate(wells, self.by, levels=self.levels, controls=self.schema.origin_controls)
        return arms(genes) if arms else genes


def plain(value: object) -> object:
    """A field's value as JSON can hold it; tables are named by their size."""
    if isinstance(value, Profiles):
        return f"profiles in memory: {len(value)} x {value.width}"
    if isinstance(value, Relationships):
        return value.name
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, os.PathLike) else value


def fraction_text(fraction: float) -> str:
    """A retrieved fraction in words."""
    return "none could be tested" if fraction != fraction else f"{fraction:.3f}"


def embeddings_name(path: str) -> str:
    """The name of embeddings in the tables, where none is given: the file's, without suffixes."""
    return Path(path).name.split(".")[0]

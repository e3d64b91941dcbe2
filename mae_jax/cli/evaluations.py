"""What each `mae-jax evaluate` sub-command does: read, score, write tables, say where they are."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from mae_jax.cli.correct import column_schema
from mae_jax.config import from_dict
from mae_jax.errors import InputError
from mae_jax.evaluation import aggregate
from mae_jax.evaluation import cpjump1 as jump
from mae_jax.evaluation import recall as recall_of
from mae_jax.evaluation.chromosome_arms import (
    correct_chromosome_arms,
    read_chromosome_arms,
    read_unexpressed,
)
from mae_jax.evaluation.corrections import CORRECTIONS, correct
from mae_jax.evaluation.gene_sets import recall_at_false_positives
from mae_jax.evaluation.model_comparison import compare_recall, probe_blocks
from mae_jax.evaluation.profiles import Profiles
from mae_jax.evaluation.recall_tables import (
    RecallTables,
    best_of_each,
    random_profiles,
    recall_tables,
)
from mae_jax.evaluation.relationship_databases import read_database
from mae_jax.evaluation.relationships import Relationships
from mae_jax.evaluation.replicates import perturbation_strength, replicate_consistency
from mae_jax.evaluation.retrieval import perturbation_retrieval, sibling_retrieval
from mae_jax.files import read_json, replacing, write_json
from mae_jax.flops import (
    MAEShape,
    PublishedMAE,
    embedding_flops,
    mae_training_flops,
    paper_training_flops,
)


def recall(args: argparse.Namespace) -> None:
    """recall.csv, sweep.csv, cosines.parquet; compare.csv of two embeddings or more."""
    tables = _recall_tables(args, _embeddings(args), _databases(args))
    out = Path(args.out)
    _csv(out / "recall.csv", tables.table)
    _csv(out / "sweep.csv", tables.sweep)
    at_best = best_of_each(tables)
    if len(at_best) > 1:
        differences = compare_recall(at_best, resamples=10 * args.resamples, seed=args.seed)
        _csv(out / "compare.csv", differences)
    if tables.cosines is not None:
        with replacing(out / "cosines.parquet") as beside:
            tables.cosines.to_parquet(beside)
    best = {"embeddings": tables.best[0], "correction": tables.best[1]}
    _settings(args, best=best)
    shown = tables.table.pivot(
        index=["embeddings", "correction"], columns="database", values="recall"
    )
    print(shown.round(3).to_string())
    print(out / "recall.csv")


def retrieval(args: argparse.Namespace) -> None:
    """retrieval.csv: one row per perturbation and embeddings."""
    schema, rows = column_schema(args), []
    for name, profiles in _embeddings(args).items():
        found = perturbation_retrieval(
            _corrected(args, profiles),
            by=args.perturbation,
            schema=schema,
            rule=args.rule,
            null_size=args.null_size,
            seed=args.seed,
        )
        rows.append(found.groups.assign(embeddings=name))
        print(f"{name}: {_share(found.fraction)} of {len(found.groups)} retrieved {found.note}")
    _finish(args, "retrieval.csv", pd.concat(rows))


def siblings(args: argparse.Namespace) -> None:
    """siblings.csv: one row per label and embeddings."""
    schema, rows = column_schema(args), []
    for name, profiles in _embeddings(args).items():
        fixed = _corrected(args, profiles)
        options = {
            "by": args.perturbation,
            "schema": schema,
            "rule": args.rule,
            "null_size": args.null_size,
            "seed": args.seed,
        }
        first = perturbation_retrieval(fixed, **options)
        passed = first.groups.loc[first.groups["retrieved"].astype(bool), args.perturbation]
        found = sibling_retrieval(
            fixed, passed.tolist(), siblings=args.siblings, absolute=args.absolute, **options
        )
        rows.append(found.groups.assign(embeddings=name))
        print(f"{name}: {_share(found.fraction)} of {len(found.groups)} labels {found.note}")
    _finish(args, "siblings.csv", pd.concat(rows))


def cpjump1(args: argparse.Namespace) -> None:
    """conditions.csv (Tables 8 and 9) and summary.csv (Table 4)."""
    conditions, summaries = [], []
    for name, profiles in _embeddings(args).items():
        table = _jump(args, profiles, args.correction, args.rule)
        conditions.append(table.assign(embeddings=name))
        summaries.append(jump.summary(table).assign(embeddings=name))
    _csv(Path(args.out) / "conditions.csv", pd.concat(conditions))
    summary = pd.concat(summaries)
    print(summary.to_string(index=False))
    _finish(args, "summary.csv", summary)


def genesets(args: argparse.Namespace) -> None:
    """genesets.csv (Table 5)."""
    sets, rows = _sets(args.sets), []
    for name, profiles in _embeddings(args).items():
        genes = _gene_map(args, _corrected(args, profiles))
        for database in _databases(args):
            table = recall_at_false_positives(genes, database, sets, by=args.by)
            rows.append(table.assign(embeddings=name, database=database.name))
    result = pd.concat(rows)
    print(result.to_string(index=False))
    _finish(args, "genesets.csv", result)


def features(args: argparse.Namespace) -> None:
    """features.csv (one row per feature), categories.csv (Table 7), features.png (Fig. 6)."""
    from mae_jax.evaluation import plots as figures
    from mae_jax.evaluation.cellprofiler import predict_features

    train, test = ([Profiles.read(p) for p in paths] for paths in (args.train, args.test))
    found = predict_features(
        (train[0].checked(nan="rows"), train[1].checked(nan="features")),
        (test[0].checked(nan="rows"), test[1].checked(nan="features")),
        on=args.on,
        scale_per_experiment=args.scale_per_experiment,
        selection=args.selection,
        workers=args.workers,
        progress=_progress,
    )
    out = Path(args.out)
    _csv(out / "features.csv", found.table)
    categories = found.by_category()
    with replacing(out / "features.png") as beside:
        figures.features({Path(args.train[0]).name: found.table}).savefig(beside)
    print(categories.round(3).to_string(index=False))
    _finish(args, "categories.csv", categories)


def replicates(args: argparse.Namespace) -> None:
    """consistency.csv and strength.csv."""
    schema, consistency, strength = column_schema(args), [], []
    for name, profiles in _embeddings(args).items():
        fixed = _corrected(args, profiles)
        options = {
            "by": args.perturbation,
            "schema": schema,
            "permutations": args.permutations,
            "seed": args.seed,
        }
        consistency.append(replicate_consistency(fixed, **options).assign(embeddings=name))
        strength.append(perturbation_strength(fixed, **options).assign(embeddings=name))
        for what, table in (("consistent", consistency[-1]), ("strong", strength[-1])):
            print(f"{name}: {(table['q'] < 0.05).mean():.3f} of {len(table)} {what} (q < 0.05)")
    _csv(Path(args.out) / "consistency.csv", pd.concat(consistency))
    _finish(args, "strength.csv", pd.concat(strength))


def compare(args: argparse.Namespace) -> None:
    """compare.csv: every two embeddings on every database."""
    results, databases = {}, _databases(args)
    for name, profiles in _embeddings(args).items():
        genes = _gene_map(args, _corrected(args, profiles))
        results[name] = recall_of(genes, databases, by=args.by, seed=args.seed)
    table = compare_recall(results, resamples=10 * args.resamples, seed=args.seed)
    print(table.round(4).to_string(index=False))
    _finish(args, "compare.csv", table)


def blocks(args: argparse.Namespace) -> None:
    """blocks.csv (recall by block, in the order given) and against_last.csv."""
    maps = {n: _gene_map(args, _corrected(args, p)) for n, p in _embeddings(args).items()}
    databases = _databases(args)
    table, against = probe_blocks(
        maps, databases, by=args.by, resamples=args.resamples, seed=args.seed
    )
    print(table.round(3).to_string(index=False))
    _csv(Path(args.out) / "against_last.csv", against)
    _finish(args, "blocks.csv", table)


def flops(args: argparse.Namespace) -> None:
    """Prints both counts."""
    network = PublishedMAE(
        size=args.size,
        patch=args.patch,
        crop=args.crop,
        channels=args.channels,
        channel_agnostic=args.channel_agnostic,
        mask_ratio=args.mask_ratio,
    )
    shape = network.shape
    print(f"as the paper counts:   {paper_training_flops(shape.encoder, args.crops):.3e} FLOPs")
    print(f"true count (training): {mae_training_flops(shape, args.crops):.3e} FLOPs")
    print(f"embedding one crop:    {embedding_flops(shape.encoder):.3e} FLOPs")


def paper(args: argparse.Namespace) -> None:
    """table<N>.csv, figures as PNG, paper.html."""
    from mae_jax.evaluation import plots as figures
    from mae_jax.evaluation.cellprofiler import FeaturePrediction
    from mae_jax.evaluation.paper_tables import Paper, with_flops

    result = Paper()
    embeddings, databases = _embeddings(args), _databases(args)
    names = args.corrections
    args.corrections = (
        names if names == ["all"] else list(dict.fromkeys([*names, args.table3_correction]))
    )
    tables = _recall_tables(args, embeddings, databases, notes=result.notes)
    result.add_recall(tables.table, args.table3_correction)
    chosen = tables.sweep[tables.sweep["correction"] == args.table3_correction]
    result.figures["fig5_percentiles"] = figures.percentiles(chosen)
    if tables.cosines is not None:
        title = f"{tables.best[0]}, {tables.best[1]}"
        result.figures["cosines"] = figures.heatmap(tables.cosines, title)
    if args.shapes:
        shapes = {k: _shape(k, v) for k, v in read_json(args.shapes).items()}
        main = tables.table[tables.table["correction"] == args.table3_correction]
        counted = with_flops(main, shapes)
        if counted.empty:
            raise InputError(f"{args.shapes} names none of the embeddings {', '.join(embeddings)}.")
        _csv(Path(args.out) / "scaling.csv", counted)
        result.figures["fig5_scaling_papers_count"] = figures.scaling(counted, "paper_flops")
        result.figures["fig8_scaling_true_count"] = figures.scaling(counted, "true_flops")
    if args.sets:
        sets = _sets(args.sets)
        # Table 5 is StringDB's, where that is given.
        database = next((d for d in databases if "string" in d.name.lower()), databases[-1])
        args.correction = args.table3_correction
        for name, profiles in embeddings.items():
            genes = _gene_map(args, _corrected(args, profiles))
            table = recall_at_false_positives(genes, database, sets, by=args.by)
            result.add_gene_sets(name, table)
        result.notes.append(f"Table 5 was measured on {database.name}.")
    for given in args.cpjump1:
        if not args.design:
            raise InputError("--cpjump1 needs --design, the folder of CPJUMP1's metadata.")
        name, path = _named(given)
        wells = Profiles.read(path).checked(nan=args.nan, duplicates=args.duplicates)
        table = _jump(args, wells, args.table3_correction, "2023")
        result.add_cpjump1(name, table, jump.summary(table))
    measured = {}
    for given in args.features:
        name, path = _named(given)
        measured[name] = pd.read_csv(path)
        by_category = FeaturePrediction.summarise(measured[name])
        result.add_features(name, by_category)
    if measured:
        result.figures["fig6_features"] = figures.features(measured)
    for database in databases:
        result.notes.append(
            f"{database.name}: {len(database):,} pairs; {database.self_pairs:,} self-pairs and "
            f"{database.duplicates:,} repeats left out."
        )
    page = result.write(args.out)
    _csv(Path(args.out) / "recall.csv", tables.table)
    _csv(Path(args.out) / "sweep.csv", tables.sweep)
    _settings(args)
    print(page)


def _recall_tables(
    args: argparse.Namespace,
    embeddings: dict[str, Profiles],
    databases: Sequence[Relationships],
    notes: list[str] | None = None,
) -> RecallTables:
    if args.random:
        first = next(iter(embeddings.values()))
        embeddings = {**embeddings, "random": random_profiles(first, args.random, args.seed)}
    everything = args.corrections == ["all"]
    return recall_tables(
        embeddings,
        databases,
        list(CORRECTIONS) if everything else args.corrections,
        by=args.by,
        levels=args.levels,
        fit_on=args.fit_on,
        batch=args.batch,
        schema=column_schema(args),
        chromosome_arms=_arms(args, notes),
        resamples=args.resamples,
        seed=args.seed,
        progress=lambda message: print(message, flush=True),
    )


def _arms(
    args: argparse.Namespace, notes: list[str] | None = None
) -> Callable[[Profiles], Profiles] | None:
    if not args.chromosome_arms:
        return None
    arms = read_chromosome_arms(args.chromosome_arms)
    silent = read_unexpressed(args.unexpressed) if args.unexpressed else None
    said: set[str] = set()

    def apply(genes: Profiles) -> Profiles:
        found = correct_chromosome_arms(genes, arms, unexpressed=silent, by=args.by)
        if found.note not in said:
            said.add(found.note)
            print(found.note, flush=True)
            if notes is not None:
                notes.append(found.note)
        return found.genes

    return apply


def _gene_map(args: argparse.Namespace, corrected: Profiles) -> Profiles:
    genes = aggregate(corrected, args.by, levels=args.levels, controls=args.controls)
    arms = _arms(args)
    return arms(genes) if arms else genes


def _corrected(args: argparse.Namespace, profiles: Profiles) -> Profiles:
    schema = column_schema(args)
    return correct(profiles, args.correction, fit_on=args.fit_on, batch=args.batch, schema=schema)


def _jump(args: argparse.Namespace, profiles: Profiles, method: str, rule: str) -> pd.DataFrame:
    known = jump.annotate(profiles, args.design)
    batch = args.batch or "plate"

    def fixed(part: Profiles) -> Profiles:
        return correct(part, method, fit_on=args.fit_on, batch=batch, schema=jump.SCHEMA)

    table, _ = jump.benchmark(
        known, rule=rule, null_size=args.null_size, seed=args.seed, correct=fixed, progress=print
    )
    return table


def _databases(args: argparse.Namespace) -> list[Relationships]:
    return [read_database(given) for given in args.relationships]


def _named(given: str) -> tuple[str, str]:
    name, equals, path = given.partition("=")
    return (name, path) if equals else (Path(given).name.split(".")[0], given)


def _embeddings(args: argparse.Namespace) -> dict[str, Profiles]:
    """NAME=PATH or PATH (named by its last part), checked."""
    found: dict[str, Profiles] = {}
    for given in args.embeddings:
        name, path = _named(given)
        if name in found:
            raise InputError(f"Two embeddings are called '{name}'; name them with NAME=PATH.")
        found[name] = Profiles.read(path).checked(
            nan=args.nan, duplicates=args.duplicates, schema=column_schema(args)
        )
    return found


def _sets(path: str) -> dict[str, list[str]]:
    if path.endswith(".json"):
        return {str(k): list(v) for k, v in read_json(path).items()}
    if not Path(path).is_file():
        raise InputError(f"{path} does not exist; give gene sets as JSON or as CSV set,gene.")
    table = pd.read_csv(path, dtype=str)
    if not {"set", "gene"} <= set(table.columns):
        raise InputError(f"{path} needs the columns set and gene.")
    return {str(k): v["gene"].tolist() for k, v in table.groupby("set", sort=False)}


def _shape(name: str, values: dict[str, object]) -> tuple[MAEShape, float]:
    crops = values.pop("crops", None)
    if not isinstance(crops, int | float):
        raise InputError(f"The shape of {name} lacks 'crops', the crops seen in training.")
    return from_dict(PublishedMAE, values, where=name).shape, float(crops)


def _share(fraction: float) -> str:
    return "none could be tested" if fraction != fraction else f"{fraction:.3f}"


def _progress(done: int, of: int) -> None:
    if done % 10 == 0 or done == of:
        print(f"{done}/{of} features", flush=True)


def _csv(path: Path, table: pd.DataFrame) -> None:
    with replacing(path) as beside:
        table.to_csv(beside, index=False, float_format="%.6g")


def _settings(args: argparse.Namespace, **more: object) -> None:
    settings = {k: v for k, v in vars(args).items() if k != "what"}
    write_json(Path(args.out) / "settings.json", {"evaluation": args.what, **settings, **more})


def _finish(args: argparse.Namespace, name: str, table: pd.DataFrame) -> None:
    _csv(Path(args.out) / name, table)
    _settings(args)
    print(Path(args.out) / name)

"""Which correction helps? Every one of them, and a sweep, on real profiles of CPJUMP1.

    python benchmarks/corrections.py --profiles ../shared/data/cpjump1_profiles

CellProfiler profiles of CPJUMP1's compound plates (U2OS; 48 h and 24 h), 306 compounds and 64
wells of DMSO on each plate. In each of five splits a correction is fitted on half of each plate's
negative controls and half of the targets' compounds; it is scored on the other half of both:

- activity: do a compound's replicates find each other among the held-out controls of their plates?
- consistency: do the compounds of a target find each other among the other held-out compounds?

Both are mean normalized average precisions. The same activity against the controls of the fit, with
nothing held out, is the paper's design. Scores of each compound and target are kept in
`runs/benchmarks/corrections/scores`, one file per correction, so that the command goes on where it
was interrupted.
"""

import argparse
import hashlib
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
from output import ROOT, add_output_args
from tqdm import tqdm

from mae_jax.evaluation import CORRECTIONS, ColumnSchema, Profiles
from mae_jax.evaluation.average_precision import benjamini_hochberg
from mae_jax.evaluation.corrections import DEFAULT, correct
from mae_jax.evaluation.holdout import held_out_controls, held_out_treatments, interval
from mae_jax.evaluation.phenotypic import phenotypic_consistency
from mae_jax.evaluation.retrieval import perturbation_retrieval
from mae_jax.files import replacing

COMPOUND, TARGET = "Metadata_broad_sample", "Metadata_gene"
SCHEMA = ColumnSchema(
    experiment="Metadata_Time",
    perturbation=COMPOUND,
    gene=TARGET,
    controls="Metadata_control_type=negcon",
)
TIMES = {
    "48 h": ("BR00117010", "BR00117011", "BR00117012", "BR00117013"),
    "24 h": ("BR00117024", "BR00117025", "BR00117026"),
}
SETS = {"48 h": ("48 h",), "24 h": ("24 h",), "both": ("48 h", "24 h")}
SPLITS = 5
BOOTSTRAPS = 2000


def methods() -> list[str]:
    """Every correction, chains of them, and a sweep over components and ridge."""
    chains = [
        "tvn:batch=plate",
        "tvn-centered:batch=plate",
        "tvn:batch=all",
        "center:fit=all",
        "center-scale:fit=all",
        "combat:fit=all",
        "mad|int",
        "mad|select",
        "mad|select:correlation=0.7",
        "mad|int|select|tvn:batch=plate",
        "mad|sphering",
        "center-scale|sphering",
        "pca:components=64|harmony",
        "pca-standardize-experiment:components=32",
        "pca-standardize-experiment:components=64",
        "pca:components=32|center-scale",
        "pca:components=64|center-scale",
        "pca:components=100|center-scale",
        "pca:fit=all,components=64|center-scale",
        "pca:fit=all,components=128|center-scale",
        "center-scale:batch=all,fit=all|pca:components=64,fit=all|tvn:batch=plate",
        "center-scale:batch=all,fit=all|pca:components=128,fit=all|tvn:batch=plate",
    ]
    sweep = [f"sphering:epsilon={e}" for e in (3, 10, 30, 100)]
    sweep += [f"center-scale|sphering:epsilon={e}" for e in (10, 30, 100)]
    for components in (16, 32, 64, 0):
        for ridge in (0.1, 0.5, 2):
            options = f"components={components},ridge={ridge},batch=plate"
            sweep += [f"tvn:{options}", f"tvn:{options},scale=yes,recolor=yes"]
    names = list(CORRECTIONS)
    return list(dict.fromkeys([*names, *chains, *sweep]))


def read_profiles(folder: Path) -> Profiles:
    """The seven plates, without brightfield features and features that are not finite."""
    parts = []
    for time, plates in TIMES.items():
        for plate in plates:
            (path,) = folder.glob(f"{plate}*.csv.gz")
            table = Profiles.read(path)
            parts.append(
                Profiles(table.metadata.assign(Metadata_Time=time), table.features, table.names)
            )
    names = set(parts[0].names).intersection(*(set(p.names) for p in parts[1:]))
    names = {n for n in names if "ZBF" not in n and "Brightfield" not in n}
    parts = [part.with_features(names) for part in parts]
    features = np.concatenate([part.features for part in parts])
    frame = pd.concat([part.metadata for part in parts], ignore_index=True)
    return Profiles(frame, features, parts[0].names).checked(nan="features", schema=SCHEMA)


def score_all(profiles: Profiles, method: str, splits: int) -> Iterator[pd.DataFrame]:
    """Scores of each compound and target: columns set, split, half, score, unit, target, value.

    The split −1 is the paper's design: nothing is held out.
    """
    for name, times in SETS.items():
        wells = profiles.take(profiles.column("Metadata_Time").isin(times).to_numpy(dtype=bool))
        corrected = correct(wells, method, schema=SCHEMA)
        yield _activity(corrected, -1).assign(set=name, half="all")
        for seed in range(splits):
            controls = held_out_controls(wells, 0.5, schema=SCHEMA, seed=seed)
            # By target, so that the compounds of one are on the same side.
            test = held_out_treatments(wells, 0.5, by=TARGET, schema=SCHEMA, seed=seed)
            corrected = correct(wells, method, schema=SCHEMA, fit_rows=~(controls | test))
            own = wells.controls(SCHEMA.controls)
            for half, treated in (("test", test), ("selection", ~test & ~own)):
                part = corrected.take(controls | treated)
                yield _activity(part, seed).assign(set=name, half=half)
                yield _consistency(part, seed).assign(set=name, half=half)


def _activity(wells: Profiles, seed: int) -> pd.DataFrame:
    found = perturbation_retrieval(wells, by=COMPOUND, schema=SCHEMA, seed=max(seed, 0)).groups
    targets = wells.metadata.drop_duplicates(COMPOUND).set_index(COMPOUND)[TARGET]
    active = benjamini_hochberg(found["p"].to_numpy(dtype=float)) < 0.05
    rows = pd.DataFrame(
        {
            "split": seed,
            "unit": found[COMPOUND],
            "target": targets.loc[found[COMPOUND]].to_numpy(),
            "activity": found["nap"].to_numpy(dtype=float),
            "active": active.astype(float),
        }
    )
    return rows.melt(["split", "unit", "target"], var_name="score")


def _consistency(wells: Profiles, seed: int) -> pd.DataFrame:
    found = phenotypic_consistency(
        wells, by=COMPOUND, targets=TARGET, absolute=True, min_perturbations=2, schema=SCHEMA,
        null_size=200,
    ).groups  # fmt: skip
    return pd.DataFrame(
        {
            "split": seed,
            "unit": found["label"],
            "target": found["label"],
            "score": "consistency",
            "value": found["nap"].astype(float),
        }
    )


# ---- the table


def summarize(scores: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per set and correction: means, intervals, differences to no correction."""
    rows = []
    for name in SETS:
        none, tvn = _test(scores["none"], name), _test(scores["tvn"], name)
        for method, table in scores.items():
            own = _test(table, name)
            row: dict[str, object] = {"set": name, "correction": method}
            for score in ("activity", "active", "consistency"):
                mine, base = own[own["score"] == score], none[none["score"] == score]
                means = mine.groupby("split")["value"].mean()
                row[score], row[f"{score}_low"], row[f"{score}_high"] = interval(means.to_list())
                row |= _difference(f"{score}_change", mine, base)
                if score == "activity":
                    row |= _difference("activity_over_tvn", mine, tvn[tvn["score"] == score])
            paper = table[(table["set"] == name) & (table["half"] == "all")]
            for score in ("activity", "active"):
                row[f"paper_{score}"] = paper.loc[paper["score"] == score, "value"].mean()
            rows.append(row)
    return pd.DataFrame(rows)


def _test(table: pd.DataFrame, name: str) -> pd.DataFrame:
    return table[(table["set"] == name) & (table["half"] == "test")]


def _difference(column: str, mine: pd.DataFrame, base: pd.DataFrame) -> dict[str, object]:
    """Mean paired difference over splits and units, with a bootstrap interval over targets."""
    joined = mine.merge(base, on=["split", "unit", "target"], suffixes=("", "_none"))
    change = (joined["value"] - joined["value_none"]).groupby(joined["target"])
    sums, counts = change.sum().to_numpy(), change.count().to_numpy()
    draws = np.random.default_rng(0).integers(0, len(sums), (BOOTSTRAPS, len(sums)))
    means = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {
        column: sums.sum() / counts.sum(),
        f"{column}_low": low,
        f"{column}_high": high,
    }


def chosen(scores: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """What choosing by activity on the other half of the targets gives on the test half."""
    rows = []
    for name in SETS:
        means = {
            method: table[table["set"] == name].groupby(["half", "score", "split"])["value"].mean()
            for method, table in scores.items()
        }
        for split in sorted(scores["none"]["split"].unique()):
            if split < 0:
                continue
            best = max(means, key=lambda m: means[m]["selection", "activity", split])
            row = {"set": name, "split": split, "correction": best}
            for method, label in ((best, "chosen"), ("none", "none")):
                for score in ("activity", "consistency"):
                    row[f"{score}_{label}"] = means[method]["test", score, split]
            rows.append(row)
    return pd.DataFrame(rows)


def picture(table: pd.DataFrame, path: Path) -> None:
    """Differences to no correction with their intervals: activity and consistency, three sets."""
    from matplotlib.figure import Figure

    order = (
        table.groupby("correction")["activity_change"].mean().sort_values().index.drop("none")
    ).tolist()
    figure = Figure(figsize=(11, 0.19 * len(order) + 1.6), layout="constrained")
    colors = {"48 h": "#1f5a99", "24 h": "#c8622a", "both": "#4f8a3a"}
    axes = figure.subplots(1, 3, sharey=True)
    panels = (
        ("activity", "activity, change of mean NAP"),
        ("consistency", "consistency, change of mean NAP"),
    )
    for ax, (score, title) in zip(axes[:2], panels, strict=True):
        for i, (name, color) in enumerate(colors.items()):
            rows = table[table["set"] == name].set_index("correction").loc[order]
            x, y = rows[f"{score}_change"], np.arange(len(order)) + 0.22 * (1 - i)
            low, high = x - rows[f"{score}_change_low"], rows[f"{score}_change_high"] - x
            ax.errorbar(x, y, xerr=[low, high], fmt="o", ms=2.5, lw=0.8, color=color, label=name)
        ax.axvline(0, color="black", lw=0.8)
        ax.set_title(title, fontsize=9)
    for name, color in colors.items():
        rows = table[table["set"] == name].set_index("correction").loc[order]
        none = float(
            table[(table["set"] == name) & (table["correction"] == "none")]["paper_activity"].iloc[
                0
            ]
        )
        axes[2].plot(rows["paper_activity"] - none, np.arange(len(order)), "o", ms=2.5, color=color)
    axes[2].axvline(0, color="black", lw=0.8)
    axes[2].set_title("activity against the controls of the fit", fontsize=9)
    names = [f"{m} (default)" if m == DEFAULT else m for m in order]
    axes[0].set_yticks(np.arange(len(order)), names, fontsize=6)
    axes[0].set_ylim(-0.8, len(order) - 0.2)
    axes[0].legend(fontsize=8, loc="upper left")
    for ax in axes:
        ax.tick_params(axis="x", labelsize=8)
        ax.grid(axis="y", lw=0.2)
    with replacing(path) as tmp_path:
        figure.savefig(tmp_path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profiles", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these corrections, none and tvn")
    parser.add_argument("--splits", type=int, default=SPLITS)
    scores_folder = ROOT / "runs" / "benchmarks" / "corrections" / "scores"
    parser.add_argument(
        "--scores",
        type=Path,
        default=scores_folder,
        metavar="FOLDER",
        help="where scores of finished corrections are kept (runs/benchmarks/corrections/scores)",
    )
    add_output_args(parser, "corrections")
    args = parser.parse_args()
    profiles = read_profiles(args.profiles)
    scores = {}
    for method in tqdm(list(dict.fromkeys(["none", "tvn", *(args.only or methods())]))):
        name = hashlib.sha256(f"{method} {args.splits}".encode()).hexdigest()[:16]
        path = args.scores / f"{name}.parquet"
        if not path.exists():
            table = pd.concat(score_all(profiles, method, args.splits), ignore_index=True)
            with replacing(path) as tmp_path:
                table.to_parquet(tmp_path)
        scores[method] = pd.read_parquet(path)
    table = summarize(scores)
    with replacing(args.out / "corrections.csv") as tmp_path:
        table.to_csv(tmp_path, index=False, float_format="%.4f")
    with replacing(args.out / "chosen.csv") as tmp_path:
        chosen(scores).to_csv(tmp_path, index=False, float_format="%.4f")
    picture(table, args.out / "corrections.png")
    packages = ", ".join(f"{n} {metadata.version(n)}" for n in ("numpy", "scipy", "scikit-learn"))
    print(
        f"{datetime.now(UTC):%Y-%m-%d}: mae_jax {metadata.version('mae_jax')}, {packages}, Python "
        f"{platform.python_version()}; {len(profiles):,} wells, {profiles.width} features, "
        f"{args.splits} splits"
    )
    columns = ["set", "correction", "activity", "activity_change", "consistency_change"]
    print(table[columns].to_string(index=False, float_format="%.3f"))


if __name__ == "__main__":
    main()

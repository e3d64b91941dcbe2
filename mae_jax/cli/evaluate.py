"""`mae-jax evaluate`: scores embeddings as the paper does, and beyond."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from mae_jax.cli.removed_options import removed_option
from mae_jax.errors import InputError

if TYPE_CHECKING:
    from mae_jax.evaluation.protocols.base import Spec

HELP = "Score embeddings as the paper does: recall of known relationships and more."
EXAMPLE = """\
  mae-jax evaluate recall --embeddings runs/demo/embeddings/trained --corrections all \\
      --relationships runs/demo/screen/relationships.csv --out runs/demo/evaluation
  mae-jax evaluate paper --embeddings MAE=mae_vitl.parquet WSL=wsl.parquet --out paper \\
      --relationships corum:allComplexes.txt string:links.txt.gz,info.txt.gz
  mae-jax evaluate recall --help"""

# Evaluation -> its line in the overview.
EVALUATIONS = {
    "recall": "recall of known relationships (Tables 2, 3 and 6, Fig. 5)",
    "retrieval": "perturbation retrieval: replicates among the controls of their plate",
    "siblings": "sibling retrieval among the perturbations that were retrieved",
    "cpjump1": "both retrievals on CPJUMP1's own plates (Tables 4, 8 and 9)",
    "genesets": "recall at 5 % false positives on gene sets (Table 5)",
    "features": "prediction of CellProfiler features (Table 7, Fig. 6 and 9)",
    "replicates": "replicate consistency and perturbation strength, with p-values",
    "compare": "which model recalls more, with intervals and p-values",
    "blocks": "which block of an encoder makes the best map",
    "flops": "training compute, as the paper counts it and truly",
    "paper": "the paper's tables and figures, beside the published numbers",
}

# An example of each, after `mae-jax evaluate NAME`.
EXAMPLES = {
    "recall": "--embeddings MAE=emb/mae WSL=emb/wsl --corrections none tvn \\\n"
    "      --relationships corum:allComplexes.txt reactome.csv --out evaluation",
    "retrieval": "--embeddings emb/mae --correction tvn --batch plate --out retrieval",
    "siblings": "--embeddings emb/mae --siblings Metadata_Gene --out siblings",
    "cpjump1": "--embeddings emb/mae --design cpjump1_design --out cpjump1",
    "genesets": "--embeddings emb/mae --relationships string:links.txt.gz,info.txt.gz \\\n"
    "      --sets sets.json --out genesets",
    "features": "--train emb/exp1 exp1_features.csv.gz --test emb/exp2 exp2_features.csv.gz \\\n"
    "      --out features",
    "replicates": "--embeddings emb/mae --out replicates",
    "compare": "--embeddings MAE=emb/mae WSL=emb/wsl --relationships corum.csv --out compare",
    "blocks": "--embeddings 4=emb/block4 8=emb/block8 12=emb/block12 \\\n"
    "      --relationships corum.csv --out blocks",
    "flops": "--size L --patch 8 --crops 3.5e9",
    "paper": "--embeddings MAE=emb/mae WSL=emb/wsl --relationships corum.csv --out paper",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare one sub-command for each evaluation."""
    commands = parser.add_subparsers(dest="evaluation", required=True, metavar="EVALUATION")
    for name, title in EVALUATIONS.items():
        command = commands.add_parser(
            name,
            help=title.replace("%", "%%"),
            description=title[0].upper() + title[1:] + ".",
            epilog=f"example:\n  mae-jax evaluate {name} {EXAMPLES[name]}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        ARGUMENTS[name](command)


def run(args: argparse.Namespace) -> None:
    """Run the chosen evaluation, save its files and print its summary."""
    from mae_jax import evaluation

    result = evaluation.run(specification(args), lambda message: print(message, flush=True))
    out = getattr(args, "out", None)
    path = result.save(out) if out else None
    for line in result.summary:
        print(line)
    if path is not None:
        print(path)


def specification(args: argparse.Namespace) -> "Spec":
    """The specification that the options describe."""
    from mae_jax.cli.correct import column_schema, read_options
    from mae_jax.evaluation.protocols import RUNNERS
    from mae_jax.flops import PublishedMAE

    spec_type = next(t for t in RUNNERS if t.name == args.evaluation)
    values = dict(vars(args))
    for option in ("embeddings", "cpjump1", "features"):
        if option in values:
            values[option] = _by_name(values[option], option)
    if "controls" in values:
        values["schema"], values["read"] = column_schema(args), read_options(args)
    if args.evaluation == "flops":
        shape = {f.name: values[f.name] for f in fields(PublishedMAE) if f.name in values}
        values["network"] = PublishedMAE(**shape)
    if values.get("paper_protocol"):
        values["holdout_controls"] = 0.0
    names = [f.name for f in fields(spec_type) if f.name in values]
    return spec_type(**{name: values[name] for name in names})


def _by_name(options: Sequence[str], what: str) -> dict[str, str]:
    """NAME=PATH or PATH, which is called by its file name."""
    from mae_jax.evaluation.protocols.base import embeddings_name

    paths: dict[str, str] = {}
    for option in options:
        name, equals, path = option.partition("=")
        if not equals:
            name, path = embeddings_name(option), option
        if name in paths:
            raise InputError(f"two {what} are called '{name}'; name them with NAME=PATH.")
        paths[name] = path
    return paths


def _embeddings(parser: argparse.ArgumentParser) -> None:
    from mae_jax.cli.correct import add_column_options, add_correction_options

    parser.add_argument(
        "--embeddings",
        nargs="+",
        required=True,
        metavar="[NAME=]PATH",
        help="embeddings folders or files; a NAME for the tables",
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder of the tables")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (0)")
    add_correction_options(parser)
    add_column_options(parser)


def _map(parser: argparse.ArgumentParser) -> None:
    _embeddings(parser)
    parser.add_argument(
        "--relationships",
        nargs="+",
        required=True,
        metavar="[KIND:]FILE",
        help="entity1,entity2 tables, or downloads: corum:F humap:F reactome:F signor:F "
        "string:LINKS,INFO",
    )
    parser.add_argument(
        "--by", default="Metadata_Gene", metavar="COLUMN", help="what to relate (Metadata_Gene)"
    )
    parser.add_argument(
        "--aggregate-via",
        dest="levels",
        nargs="*",
        default=[],
        metavar="COLUMN",
        help="aggregate by these first, such as the guide",
    )
    removed_option(parser, "--through", "--aggregate-via")
    parser.add_argument(
        "--chromosome-arms", metavar="FILE", help="correct for chromosome arms by this table"
    )
    removed_option(parser, "--arms", "--chromosome-arms")
    parser.add_argument(
        "--centromeres",
        metavar="FILE",
        help="chrom,start,end of the centromeres, if the table of arms has coordinates only",
    )
    parser.add_argument(
        "--unexpressed", metavar="FILE", help="gene,zFPKM: selects the genes of the arm means"
    )
    removed_option(
        parser, "--resamples", reason="is gone: intervals are computed without resampling"
    )


def _corrections(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--corrections", nargs="+", default=["tvn"], help="names, or all (default: tvn)"
    )
    parser.add_argument("--random", type=int, metavar="WIDTH", help="add random embeddings")


def _correction(parser: argparse.ArgumentParser, default: str = "tvn") -> None:
    parser.add_argument("--correction", default=default, help=f"default: {default}")


def _holdout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--holdout-controls",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="share of each plate's negative controls that the correction does not see and that "
        "the score uses alone (0.5)",
    )
    parser.add_argument(
        "--paper-protocol",
        action="store_true",
        help="score against the very controls of the fit, as the paper does; flatters corrections",
    )


def _rule(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--rule",
        choices=("copairs", "2023"),
        default=default,
        help=f"how a perturbation is called retrieved (default: {default})",
    )
    parser.add_argument("--null-size", type=int, default=10_000, help="random rankings (10,000)")


def _recall(parser: argparse.ArgumentParser) -> None:
    _map(parser)
    _corrections(parser)


def _retrieval(parser: argparse.ArgumentParser) -> None:
    _embeddings(parser)
    _correction(parser)
    _holdout(parser)
    _rule(parser, "copairs")
    parser.add_argument(
        "--holdout-splits",
        type=int,
        default=1,
        metavar="N",
        help="score N random splits of the controls, with mean and standard deviation (1)",
    )


def _siblings(parser: argparse.ArgumentParser) -> None:
    _embeddings(parser)
    _correction(parser)
    _holdout(parser)
    _rule(parser, "copairs")
    parser.add_argument(
        "--siblings",
        default="Metadata_Gene",
        metavar="COLUMN",
        help="labels, separated by | (Metadata_Gene)",
    )
    parser.add_argument("--absolute", action="store_true", help="rank by |cosine| (compounds)")


def _cpjump1(parser: argparse.ArgumentParser) -> None:
    _embeddings(parser)
    _correction(parser)
    _holdout(parser)
    _rule(parser, "2023")
    parser.add_argument("--design", required=True, metavar="FOLDER", help="CPJUMP1's metadata")


def _genesets(parser: argparse.ArgumentParser) -> None:
    _map(parser)
    _correction(parser)
    parser.add_argument(
        "--sets", required=True, metavar="FILE", help='JSON {"name": [genes]} or CSV set,gene'
    )


def _features(parser: argparse.ArgumentParser) -> None:
    pair = ("EMBEDDINGS", "FEATURES")
    parser.add_argument("--train", nargs=2, required=True, metavar=pair, help="one experiment")
    parser.add_argument("--test", nargs=2, required=True, metavar=pair, help="another")
    parser.add_argument(
        "--on",
        nargs="+",
        default=["Metadata_Plate", "Metadata_Well"],
        metavar="COLUMN",
        help="what tells a well in both tables (Metadata_Plate Metadata_Well)",
    )
    parser.add_argument(
        "--scale-per-experiment",
        action="store_true",
        help="centre and scale the embeddings of each experiment separately",
    )
    removed_option(parser, "--each", "--scale-per-experiment")
    parser.add_argument(
        "--selection",
        choices=("converged", "scikit-learn"),
        default="converged",
        help="choose penalties by the exact solutions, or as scikit-learn's descent leaves them "
        "(over ten times slower)",
    )
    parser.add_argument("--workers", type=int, default=2, help="threads (2)")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder of the tables")


def _replicates(parser: argparse.ArgumentParser) -> None:
    _embeddings(parser)
    _correction(parser)
    _holdout(parser)
    parser.add_argument("--permutations", type=int, default=1000, help="of labels, for p (1000)")


def _compare(parser: argparse.ArgumentParser) -> None:
    _map(parser)
    _correction(parser)


def _flops(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=("S", "B", "L"), required=True, help="of the ViT")
    parser.add_argument("--patch", type=int, default=16, help="side in pixels (16)")
    parser.add_argument("--crop", type=int, default=256, help="side in pixels (256)")
    parser.add_argument("--channels", type=int, default=6, help="stains (6)")
    parser.add_argument("--channel-agnostic", action="store_true", help="tokens of one channel")
    parser.add_argument("--mask-ratio", type=float, default=0.75, help="hidden share (0.75)")
    parser.add_argument("--crops", type=float, required=True, help="crops seen, such as 3.5e9")


def _paper(parser: argparse.ArgumentParser) -> None:
    _map(parser)
    _corrections(parser)
    parser.add_argument(
        "--table3-correction", default="tvn", help="the correction of Table 3 (default: tvn)"
    )
    removed_option(parser, "--main", "--table3-correction")
    parser.add_argument("--sets", metavar="FILE", help="gene sets, for Table 5")
    parser.add_argument("--design", metavar="FOLDER", help="CPJUMP1's metadata, for Tables 4, 8, 9")
    parser.add_argument(
        "--cpjump1",
        nargs="*",
        default=[],
        metavar="[NAME=]PATH",
        help="embeddings of CPJUMP1's plates, for Tables 4, 8, 9",
    )
    parser.add_argument("--null-size", type=int, default=10_000, help="random rankings (10,000)")
    parser.add_argument(
        "--features", nargs="*", default=[], metavar="NAME=CSV", help="`features` tables: Table 7"
    )
    parser.add_argument(
        "--shapes",
        metavar="JSON",
        help='{"NAME": {"size": "L", "patch": 8, "crops": 3.5e9}}: the scaling plots',
    )


ARGUMENTS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "recall": _recall,
    "retrieval": _retrieval,
    "siblings": _siblings,
    "cpjump1": _cpjump1,
    "genesets": _genesets,
    "features": _features,
    "replicates": _replicates,
    "compare": _compare,
    "blocks": _compare,
    "flops": _flops,
    "paper": _paper,
}

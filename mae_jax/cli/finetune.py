"""`mae-jax finetune`: an encoder fine-tuned to predict labels of wells."""

import argparse
import sys
from typing import Any

from mae_jax.cli.option_types import add_screen, comma_list, screen
from mae_jax.cli.outputs import add_dry_run, add_overwrite

HELP = (
    "Fine-tune an encoder to predict labels: classes, several labels at once, or numbers. Wells or "
    "plates are held out for the test. Started again, the same command resumes."
)
EXAMPLE = """\
  mae-jax finetune --encoder runs/mine/model --index index.parquet \\
      --labels Metadata_Compound --method lora --out runs/compounds
  mae-jax finetune --encoder openphenom folder_with_a_folder_per_class --out runs/classes
  mae-jax finetune --encoder intensity --index index.parquet --labels Metadata_Dose \\
      --task regression --holdout plate --out runs/dose
  mae-jax embed --encoder runs/compounds/model --index index.parquet --out embeddings/compounds
--out gets scores.json, predictions.csv, confusion.csv and .png, history.csv and curves.png, and the
saved model."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    from mae_jax.finetune.config import METHODS, RATES, WEIGHT_DECAY, FineTuneConfig

    default = FineTuneConfig()
    add = parser.add_argument
    add_screen(
        parser, "the screen's index, LoadData CSV or folder of images, such as a folder per class"
    )
    add("--encoder", required=True, metavar="PATH_OR_NAME", help="a saved model, a training's work "
        "folder, a released model's name, or a baseline")  # fmt: skip
    add("--labels", type=comma_list, action="extend", metavar="COLUMN,…", help="the metadata "
        "column of the labels; several labels of a well are separated by |, or stand in several "
        "columns (default: Metadata_Class, the folder's name, where the index has it)")  # fmt: skip
    add("--out", required=True, help="folder of the result")
    methods = "; ".join(f"{name}: {text}" for name, text in METHODS.items())
    add("--method", default=default.method, choices=list(METHODS), metavar="NAME",
        help=f"{methods} (default: {default.method})")  # fmt: skip
    add("--task", default=default.task, choices=("auto", "classes", "multilabel", "regression"),
        help="what the labels are (default: auto, which looks at them)")  # fmt: skip
    add("--holdout", default=default.holdout, metavar="GROUP", help="what is held out as a whole: "
        "well, plate, experiment, a metadata column, or split for the index's validation split "
        "(default: auto, which is plate if every class is on two of them, else well)")  # fmt: skip
    add("--test-fraction", type=float, default=default.test_fraction, metavar="SHARE",
        help=f"share that is held out ({default.test_fraction})")  # fmt: skip
    add("--validation-fraction", type=float, default=default.validation_fraction, metavar="SHARE",
        help="share of the other wells by whose score training is stopped early "
        f"({default.validation_fraction})")  # fmt: skip
    add("--no-balance", action="store_true", help="draw sites as often as there are, not classes "
        "equally often")  # fmt: skip
    add("--steps", type=int, default=default.steps, help=f"the most steps ({default.steps})")
    add("--batch-size", type=int, default=default.batch, metavar="N",
        help=f"crops per step ({default.batch})")  # fmt: skip
    add("--every", type=int, default=default.every, metavar="N",
        help=f"steps between two looks at the validation wells ({default.every})")  # fmt: skip
    add("--patience", type=int, default=default.patience, metavar="N", help="looks without a "
        f"better score after which training stops; 0 never ({default.patience})")  # fmt: skip
    rates = ", ".join(f"{name} {rate:g}" for name, rate in RATES.items())
    add(
        "--lr",
        type=float,
        help=f"highest learning rate (default by method: {rates}; linear has none)",
    )
    add("--weight-decay", type=float, metavar="X", help="of the method (default: what is best on "
        f"the validation wells for linear, else {WEIGHT_DECAY})")  # fmt: skip
    add("--layer-decay", type=float, default=default.layer_decay, metavar="X",
        help="of full: factor of the learning rate from each block to the one before it "
        f"({default.layer_decay})")  # fmt: skip
    add("--rank", type=int, default=default.rank, help=f"of lora's updates ({default.rank})")
    add("--channels", type=comma_list, action="extend", metavar="NAME,…",
        help="channels to read (default: all that the encoder takes)")  # fmt: skip
    add("--crop", type=int, help="crop side in pixels (default: that of the encoder's training)")
    add("--pooling", default=default.pooling, choices=("auto", "class", "mean", "channel"),
        help="of the embeddings (default: one mean per channel, where there is that)")  # fmt: skip
    add("--seed", type=int, default=default.seed, help=f"of split and training ({default.seed})")
    add_dry_run(parser)
    add_overwrite(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Load encoder and index, fine-tune, and print the scores and the folder."""
    from mae_jax.config import from_dict
    from mae_jax.data.readers.open_screen import open_screen
    from mae_jax.encoders import load_encoder
    from mae_jax.errors import InputError
    from mae_jax.finetune import FineTuner
    from mae_jax.finetune.config import FineTuneConfig
    from mae_jax.finetune.results import Workdir

    settings = {
        "method": args.method, "task": args.task, "holdout": args.holdout,
        "test_fraction": args.test_fraction, "validation_fraction": args.validation_fraction,
        "balance": not args.no_balance, "steps": args.steps, "batch": args.batch_size,
        "every": args.every, "patience": args.patience, "lr": args.lr,
        "weight_decay": args.weight_decay, "layer_decay": args.layer_decay, "rank": args.rank,
        "channels": args.channels or (), "crop": args.crop, "pooling": args.pooling,
        "seed": args.seed,
    }  # fmt: skip
    config = from_dict(FineTuneConfig, settings, "finetune")
    index = open_screen(screen(args))
    labels = args.labels
    if not labels:
        if "Metadata_Class" not in index.table.columns:
            columns = [c for c in index.table.columns if c.startswith("Metadata_")]
            raise InputError(f"name the column of the labels with --labels: {', '.join(columns)}.")
        labels = ["Metadata_Class"]
    tuner = FineTuner(load_encoder(args.encoder), config)
    if args.dry_run:
        plan = tuner.plan(index, labels)
        print(f"{tuner.encoder}")
        print(f"{plan['kind']} ({len(plan['names'])}): {', '.join(plan['names'][:20])}")
        wells = ", ".join(f"{count} {part}" for part, count in plan["wells"].items())
        print(f"wells: {wells} (held out by {plan['held_out_by']}); nothing was written")
        return {"out": args.out, "dry_run": True, **plan}
    if args.overwrite:
        Workdir(args.out).delete()
    result = tuner.fit(index, labels, out=args.out, show=not args.quiet and sys.stderr.isatty())
    print(result)
    print(args.out)
    return {"out": args.out, "scores": result.scores, "wells": result.counts,
            "held_out_by": result.held_out_by}  # fmt: skip

"""`mae-jax convert`: PyTorch weights or a run's checkpoint to a saved model, and back."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae_jax.cli.option_types import comma_list
from mae_jax.cli.outputs import add_dry_run, add_overwrite, check_output

if TYPE_CHECKING:
    from mae_jax.networks.saved_model import PretrainedModel

HELP = "Convert PyTorch weights or a run's checkpoint to a saved model, or export to PyTorch."
EXAMPLE = """\
  mae-jax convert model.safetensors models/openphenom --channels DNA,ER,AGP,RNA,Mito,BF
      (a released checkpoint: torch zip or safetensors; nothing in it is executed)
  mae-jax convert vit_base_patch16.pth models/vit_b16 --channels DNA,ER,RNA,AGP,Mito
      (an ImageNet ViT of timm, its patch kernel adapted to five stains)
  mae-jax convert runs/demo/train@12000 models/step_12000
      (a checkpoint of a run: a step, best or latest)
  mae-jax convert runs/demo/train exported/model.safetensors --format torch
      (a saved model as a PyTorch state dict, with config.json and encoder.py beside it)
  mae-jax convert runs/demo/train encoder.stablehlo --format stablehlo --scale 65535
      (raw pixels to embeddings as one function)
  mae-jax convert runs/demo/train models/half --blocks 6
      (the encoder of the first six blocks)
  mae-jax convert runs/demo/train --push OWNER/NAME --results evaluation
      (to the Hugging Face hub, with a model card)"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("source", help="file, folder, RUN@STEP or hub id to read")
    parser.add_argument(
        "target",
        nargs="?",
        help="folder of the saved model, or with --format torch and stablehlo a file (with --push "
        "it may be left out)",
    )
    parser.add_argument(
        "--format",
        choices=("model", "torch", "stablehlo"),
        help="what to write: a saved model (the default); a PyTorch state dict, with config.json "
        "and for vision transformers encoder.py, which runs it, for torch.onnx and others; or raw "
        "pixels to embeddings as one function of StableHLO for CPUs, GPUs and TPUs (jax.export)",
    )
    parser.add_argument(
        "--blocks",
        type=int,
        metavar="N",
        help="keep the first N blocks of the encoder alone: it embeds as --block N-1 of the whole",
    )
    parser.add_argument(
        "--pooling",
        choices=("class", "mean", "channel", "attention"),
        help="of a StableHLO function (default: mean; channel where channels come one by one)",
    )
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="of a StableHLO function (default: any)"
    )
    parser.add_argument(
        "--push",
        metavar="OWNER/NAME",
        help="upload the saved model to the Hugging Face hub, with a card of its configuration, "
        "recipe and results; HF_TOKEN is the token",
    )
    parser.add_argument(
        "--results",
        type=comma_list,
        action="extend",
        metavar="FOLDER,…",
        help="folders of `mae-jax evaluate` or `benchmark` whose tables the card shows",
    )
    parser.add_argument("--private", action="store_true", help="push to a private model")
    parser.add_argument(
        "--channels",
        type=comma_list,
        action="extend",
        metavar="NAME,…",
        help="names of the channels in the model's order (RGB models are adapted to that many)",
    )
    parser.add_argument(
        "--recipe",
        metavar="MODEL/RECIPE",
        help="the source is the file of a published encoder (`mae-jax models`), to be saved with "
        "the preprocessing of this recipe, such as morphem/own",
    )
    parser.add_argument(
        "--bias-layout",
        metavar="legacy|fixed",
        help="where the MLP bias of a masked autoencoder was added in training: legacy for "
        "timm <= 1.0.24 and all released weights (default: as exported files state, else legacy)",
    )
    parser.add_argument("--heads", type=int, help="attention heads of the encoder, if not shown")
    parser.add_argument(
        "--decoder-heads", type=int, help="attention heads of the decoder, if not shown"
    )
    parser.add_argument(
        "--norm-eps", type=float, help="epsilon of the encoder's LayerNorms (default: 1e-6)"
    )
    parser.add_argument(
        "--decoder-norm-eps",
        type=float,
        help="epsilon of the decoder's LayerNorms (default: 1e-5 channel-agnostic, 1e-6 joint)",
    )
    parser.add_argument(
        "--scale",
        type=float,
        help="divisor of raw pixels (default: 255 for PyTorch weights, which were trained on "
        "8-bit images; else the model's own)",
    )
    parser.add_argument(
        "--eps",
        type=float,
        help="added to the variance of the scaled pixels (default: the model's, or 1e-5)",
    )
    parser.add_argument("--revision", help="branch, tag or commit on the hub")
    add_dry_run(parser)
    add_overwrite(parser)
    parser.add_argument("--export", action="store_true", help="the same as --format torch")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Convert, and report what was written."""
    import dataclasses

    from mae_jax.encoders.exported import export_stablehlo, export_torch
    from mae_jax.encoders.loading import read_model
    from mae_jax.networks.registry import of_config
    from mae_jax.networks.saved_model import PretrainedModel, save_model
    from mae_jax.networks.trimming import trim_blocks
    from mae_jax.weights.import_options import ImportOptions

    kind = _format(args)
    if args.target is not None:
        output = Path(args.target) / "config.json" if kind == "model" else args.target
        check_output(output, args.overwrite)
    channels = tuple(args.channels) if args.channels else None
    options = {
        "bias_layout": args.bias_layout,
        "heads": args.heads,
        "decoder_heads": args.decoder_heads,
        "norm_eps": args.norm_eps,
        "decoder_norm_eps": args.decoder_norm_eps,
    }
    model = read_model(
        args.source, recipe=args.recipe, revision=args.revision, channels=channels, **options
    )
    config, params, preprocessing = model
    ImportOptions.check_named(preprocessing.channels, args.source)
    if args.blocks is not None:
        config, params = trim_blocks(config, params, args.blocks)
    if args.scale is not None:
        preprocessing = dataclasses.replace(preprocessing, scale=args.scale)
    if args.eps is not None:
        preprocessing = dataclasses.replace(preprocessing, eps=args.eps)
    model = PretrainedModel(config, params, preprocessing)
    network = of_config(config).name
    result = {"out": args.target, "network": network, "parameters": model.num_params,
              "channels": preprocessing.channels}  # fmt: skip
    if args.dry_run:
        print(f"{args.source}: {network}, {model.num_params:,} parameters; nothing was written")
        return {**result, "dry_run": True}
    if kind == "torch":
        count = export_torch(args.target, model)
        print(f"{args.target}: {count} tensors of a {network}")
        return result
    if kind == "stablehlo":
        record = export_stablehlo(
            args.target,
            model,
            pooling=args.pooling,
            channels=len(channels) if channels else None,
            batch_size=args.batch_size,
        )
        print(f"{args.target}: {record['features']} features of pixels {record['pixels']}")
        return {**result, **record}
    if args.push is not None:
        return {**result, "commit": _push(args, model)}
    save_model(args.target, params, config, preprocessing)
    names = ", ".join(preprocessing.channels)
    print(
        f"{args.target}: {network}, {model.num_params:,} parameters, "
        f"channels {names or 'any'}, scale {preprocessing.scale or 'of the pixel type'}"
    )
    return result


def _format(args: argparse.Namespace) -> str:
    """The format to write; refuses options that do not go together."""
    from mae_jax.errors import InputError

    if args.export and args.format not in (None, "torch"):
        raise InputError(f"--export is --format torch, not {args.format}; leave --export out.")
    kind: str = args.format or ("torch" if args.export else "model")
    if args.target is None and args.push is None:
        raise InputError(
            "no target is given; name a folder or file to write, or --push OWNER/NAME."
        )
    if args.push is not None and kind != "model":
        raise InputError(f"--push uploads a saved model, not --format {kind}; leave one out.")
    for option, value, wanted in (("--pooling", args.pooling, kind == "stablehlo"),
                                  ("--batch-size", args.batch_size, kind == "stablehlo"),
                                  ("--results", args.results, args.push is not None)):  # fmt: skip
        if value is not None and not wanted:
            needed = "--push" if option == "--results" else "--format stablehlo"
            raise InputError(f"{option} needs {needed}; leave it out.")
    return kind


def _push(args: argparse.Namespace, model: "PretrainedModel") -> str:
    """Save the model and its card, and upload both; returns the commit's address."""
    import tempfile

    from mae_jax.encoders.hub import push_folder
    from mae_jax.encoders.loading import find_recipe
    from mae_jax.encoders.model_card import model_card
    from mae_jax.files import write_text
    from mae_jax.networks.saved_model import save_model

    known, recipe = find_recipe(args.source, args.recipe)
    card = model_card(args.push, model, known=known, recipe=recipe, results=args.results or ())
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(args.target or Path(tmp) / "model")
        save_model(folder, model.params, model.config, model.preprocessing)
        write_text(folder / "README.md", card)
        commit = push_folder(
            folder, args.push, message="Model and card by mae_jax", private=args.private
        )
    print(f"{args.push}: {model.num_params:,} parameters, {commit}")
    return commit

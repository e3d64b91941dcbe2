"""`mae-jax convert`: PyTorch weights or a run's checkpoint to a saved model, and back."""

import argparse
from pathlib import Path
from typing import Any

from mae_jax.cli.option_types import comma_list
from mae_jax.cli.outputs import add_dry_run, add_overwrite, check_output

HELP = "Convert PyTorch weights or a run's checkpoint to a saved model, or export to PyTorch."
EXAMPLE = """\
  mae-jax convert model.safetensors models/openphenom --channels DNA,ER,AGP,RNA,Mito,BF
      (a released checkpoint: torch zip or safetensors; nothing in it is executed)
  mae-jax convert vit_base_patch16.pth models/vit_b16 --channels DNA,ER,RNA,AGP,Mito
      (an ImageNet ViT of timm, its patch kernel adapted to five stains)
  mae-jax convert runs/demo/train@12000 models/step_12000
      (a checkpoint of a run: a step, best or latest)
  mae-jax convert runs/demo/train exported/model.safetensors --export
      (a saved model as a PyTorch state dict, with a config.json beside it)"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("source", help="file, folder, RUN@STEP or hub id to read")
    parser.add_argument("target", help="folder of the saved model, or with --export a file")
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
    parser.add_argument(
        "--export", action="store_true", help="write a PyTorch state dict instead of a model"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Convert, and report what was written."""
    import dataclasses

    from mae_jax.encoders.loading import read_model
    from mae_jax.networks.registry import of_config
    from mae_jax.networks.saved_model import save_model
    from mae_jax.networks.torch_import import export_model
    from mae_jax.weights.import_options import ImportOptions

    check_output(args.target if args.export else Path(args.target) / "config.json", args.overwrite)
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
    result = {"out": args.target, "network": of_config(config).name,
              "parameters": model.num_params, "channels": preprocessing.channels}  # fmt: skip
    if args.scale is not None:
        preprocessing = dataclasses.replace(preprocessing, scale=args.scale)
    if args.eps is not None:
        preprocessing = dataclasses.replace(preprocessing, eps=args.eps)
    if args.dry_run:
        print(f"{args.source}: {result['network']}, {model.num_params:,} parameters; nothing was "
              "written")  # fmt: skip
        return {**result, "dry_run": True}
    if args.export:
        count = export_model(args.target, params, config, preprocessing)
        print(f"{args.target}: {count} tensors of a {of_config(config).name}")
        return result
    save_model(args.target, params, config, preprocessing)
    names = ", ".join(preprocessing.channels)
    print(
        f"{args.target}: {of_config(config).name}, {model.num_params:,} parameters, "
        f"channels {names}, scale {preprocessing.scale or 'of the pixel type'}"
    )
    return result

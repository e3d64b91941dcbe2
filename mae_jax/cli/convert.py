"""`mae-jax convert`: weights of other implementations to a saved model, and back."""

import argparse

HELP = "Read the weights of other implementations into a saved model, or write them back."
EXAMPLE = """\
  mae-jax convert model.safetensors models/openphenom --channels DNA,ER,AGP,RNA,Mito,BF
      (a released checkpoint: torch zip or safetensors; nothing in it is executed)
  mae-jax convert vit_base_patch16.pth models/vit_b16 --channels DNA,ER,RNA,AGP,Mito
      (an ImageNet ViT of timm, its patch kernel adapted to five stains)
  mae-jax convert runs/demo/train exported.safetensors --export
      (a saved model as a PyTorch state dict)"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("source", help="file, folder or hub id to read")
    parser.add_argument("target", help="folder of the saved model, or with --export a file")
    parser.add_argument(
        "--channels",
        help="names of the channels in the model's order, separated by commas "
        "(RGB models are adapted to so many)",
    )
    parser.add_argument(
        "--bias-layout",
        choices=["legacy", "fixed"],
        default="legacy",
        help="where the MLP bias of a masked autoencoder was added in training: legacy for "
        "timm <= 1.0.24 and all released weights (default: legacy)",
    )
    parser.add_argument(
        "--scale",
        type=float,
        help="divisor of raw pixels, such as 255 (default: the pixel type's maximum)",
    )
    parser.add_argument("--revision", help="branch, tag or commit on the hub")
    parser.add_argument(
        "--export", action="store_true", help="write a PyTorch state dict instead of a model"
    )


def run(args: argparse.Namespace) -> None:
    """Converts, and says what was written."""
    import dataclasses

    import numpy as np

    from mae_jax.encoders.pretrained import from_pretrained
    from mae_jax.networks.registry import kind_of
    from mae_jax.networks.saved_model import save_model
    from mae_jax.networks.torch_import import export_state_dict
    from mae_jax.weights.pytree_paths import flatten
    from mae_jax.weights.state_dict import write_state_dict

    channels = tuple(args.channels.split(",")) if args.channels else None
    config, params, preprocessing = from_pretrained(
        args.source, revision=args.revision, channels=channels, bias_layout=args.bias_layout
    )
    count = sum(int(np.prod(value.shape)) for value in flatten(params).values())
    if args.export:
        tensors = export_state_dict(params, config)
        write_state_dict(args.target, tensors)
        print(f"{args.target}: {len(tensors)} tensors of a {kind_of(config)}")
        return
    if args.scale is not None:
        preprocessing = dataclasses.replace(preprocessing, scale=args.scale)
    save_model(args.target, params, config, preprocessing)
    named = ", ".join(preprocessing.channels)
    print(f"{args.target}: {kind_of(config)}, {count:,} parameters, channels {named}")

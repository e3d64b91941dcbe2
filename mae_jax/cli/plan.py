"""`mae-jax plan`: memory, FLOPs and time of a training, or of an embedding, before it runs."""

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from mae_jax.cli.option_types import add_screen, comma_list, screen
from mae_jax.errors import InputError

if TYPE_CHECKING:
    from mae_jax.distributed.hardware import Slice
    from mae_jax.train.config import TrainConfig

HELP = (
    "Estimate the memory, step time and run time of a training on a TPU slice or a GPU cluster, "
    "before it runs. For TPUs the real step is compiled, which needs no TPU; for GPUs the figures "
    "come from a formula. With --encoder and --index: crops, hours and money of embedding a screen."
)
EXAMPLE = (
    "  mae-jax plan --config configs/paper.py:mae/vit_l8+/rpi_93m --on v5p-256 --top 20\n"
    "  mae-jax plan --config configs/demo.py --on h100-8 --config.data.batch=512\n"
    "  mae-jax plan --encoder runs/mine/model --index index.parquet --on t4-1 --price 0.35"
)
TAKES_OVERRIDES = True


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--config",
        metavar="FILE[:ARGUMENT]",
        help="of a training: a config file or the name of a shipped one; --config.KEY=VALUE "
        "changes a key",
    )
    embedding = parser.add_argument_group("embedding a screen")
    add = embedding.add_argument
    add("--encoder", metavar="PATH_OR_NAME", help="plan an embedding with this encoder")
    add_screen(embedding, "of an embedding: the screen's index, LoadData CSV or folder of images")
    add("--recipe", metavar="NAME", help="as of mae-jax embed; so are the next three")
    add("--pooling", choices=("class", "mean", "channel", "attention"), help="of the tokens")
    add("--channels", type=comma_list, action="extend", metavar="NAME,…", help="channels to read")
    add("--crop", type=int, help="crop side in pixels")
    add("--price", type=float, metavar="AMOUNT", help="of one device for an hour")
    parser.add_argument("--on", required=True, metavar="SLICE", help="v4-N, v5e-N, v5p-N, v6e-N, "
                        "tpu7x-N (v4, v5p and tpu7x count two cores per chip), a100-N, h100-N, "
                        "h200-N, b200-N, gb200-N, l4-N, l40s-N, a10-N, t4-N, rtx3090-N, "
                        "rtx4090-N, rtx5090-N, rtx6000ada-N")  # fmt: skip
    parser.add_argument(
        "--mfu",
        type=float,
        metavar="SHARE",
        help="the share of the peak FLOP/s that a similar run was measured to reach (such as "
        "0.4): also print the times at it",
    )
    parser.add_argument(
        "--top",
        type=int,
        default=0,
        metavar="N",
        help="also list the N operations with the most memory traffic, by layer and pass (TPUs)",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Estimate the run, and print the estimate."""
    import jax
    from jax.sharding import AbstractMesh

    # Compiling for other machines needs no device, and must not take one.
    jax.config.update("jax_platforms", "cpu")
    if args.encoder is not None:
        return _plan_embedding(args)
    if args.config is None:
        raise InputError("nothing to plan: give --config for a training, or --encoder and --index.")

    from mae_jax.cli.config_file import load_config
    from mae_jax.config import from_dict
    from mae_jax.distributed.mesh import AXES, mesh_shape
    from mae_jax.planning import DoesNotFit, estimate_run, parse_slice
    from mae_jax.planning.format import format_estimate, format_operations, to_json
    from mae_jax.train.accumulation import fit_accumulation
    from mae_jax.train.config import TrainConfig
    from mae_jax.train.index_channels import resolve_channels

    config = from_dict(TrainConfig, load_config(args.config, args.overrides).to_dict())
    slice_ = parse_slice(args.on)
    config = resolve_channels(config)
    if not config.optimizer.grad_accum_steps:
        mesh = AbstractMesh(mesh_shape(config.mesh, slice_.devices), AXES)
        config = fit_accumulation(config, mesh, slice_.usable_memory)
    try:
        estimate = estimate_run(config, slice_)
    except DoesNotFit as error:
        required = f"{error.required_bytes / 2**30:.1f} GiB" if error.required_bytes else "more"
        advice = _advice(config, slice_)
        print(
            f"fits         no: the step's temporaries alone take {required} of the "
            f"{slice_.accelerator.memory / 2**30:.0f} GiB of a {slice_.accelerator.name} device.\n"
            f"             {advice}"
        )
        return {"slice": slice_.name, "fits": False, "wanted_bytes": error.required_bytes}
    print(format_estimate(estimate, args.mfu))
    if not estimate.fits:
        print(f"             {_advice(config, slice_)}")
    if args.top:
        print(f"\n{format_operations(estimate, args.top)}")
    return to_json(estimate)


def _advice(config: "TrainConfig", slice_: "Slice") -> str:
    """What to do about a step that does not fit: the number of micro-batches that fits, if any."""
    from jax.sharding import AbstractMesh

    from mae_jax.distributed.mesh import AXES, mesh_shape
    from mae_jax.train.accumulation import fit_accumulation

    steps = config.optimizer.grad_accum_steps
    unset = dataclasses.replace(config.optimizer, grad_accum_steps=0)
    mesh = AbstractMesh(mesh_shape(config.mesh, slice_.devices), AXES)
    try:
        fitted = fit_accumulation(
            dataclasses.replace(config, optimizer=unset), mesh, slice_.usable_memory
        ).optimizer.grad_accum_steps
    except InputError:
        return "No number of micro-batches fits: raise mesh.fsdp, or take devices with more memory."
    if fitted <= steps:  # the formula says that it fits; what is known better says it does not
        return "Raise optimizer.grad_accum_steps or mesh.fsdp, or set remat."
    crops = config.data.batch // fitted
    return (
        f"--config.optimizer.grad_accum_steps={fitted} fits (micro-batches of {crops} crops, by "
        "formula); or raise mesh.fsdp, or set remat."
    )


def _plan_embedding(args: argparse.Namespace) -> dict[str, Any]:
    from mae_jax.data.readers.open_screen import open_screen
    from mae_jax.encoders import load_encoder
    from mae_jax.planning import parse_slice
    from mae_jax.planning.embedding_estimate import (
        embedding_to_json,
        estimate_embedding,
        format_embedding,
    )

    if args.config is not None or args.overrides:
        what = "--config" if args.config is not None else args.overrides[0]
        raise InputError(f"{what} does not belong to the plan of an embedding; leave it out.")
    slice_ = parse_slice(args.on)
    estimate = estimate_embedding(
        load_encoder(args.encoder, recipe=args.recipe),
        open_screen(screen(args)),
        slice_,
        pooling=args.pooling,
        channels=args.channels,
        crop=args.crop,
        mfu=args.mfu,
        price=args.price,
    )
    print(format_embedding(estimate))
    return embedding_to_json(estimate)

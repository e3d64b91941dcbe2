"""`mae-jax plan`: memory, FLOPs and time of a training before it runs."""

import argparse
from typing import Any

HELP = (
    "Estimate the memory, step time and run time of a training on a TPU slice or a GPU cluster, "
    "before it runs. For TPUs the real step is compiled, which needs no TPU; for GPUs the figures "
    "come from a formula."
)
EXAMPLE = (
    "  mae-jax plan --config configs/paper.py:mae/vit_l8+/rpi_93m --on v5p-256 --top 20\n"
    "  mae-jax plan --config configs/demo.py --on h100-8 --config.data.batch=512"
)
TAKES_OVERRIDES = True


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--config", required=True, help="a file of configs/; --config.KEY=VALUE "
                        "changes a key")  # fmt: skip
    parser.add_argument("--on", required=True, metavar="SLICE", help="v4-N, v5e-N, v5p-N, v6e-N, "
                        "tpu7x-N (v4, v5p and tpu7x count two cores per chip), a100-N, h100-N, "
                        "h200-N, b200-N, gb200-N")  # fmt: skip
    parser.add_argument("--mfu", type=float, help="also print the times at this model FLOP "
                        "utilization, measured on a similar run (such as 0.4)")  # fmt: skip
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
        print(
            f"fits         no: the step's temporaries alone take {required} of the "
            f"{slice_.accelerator.memory / 2**30:.0f} GiB of a {slice_.accelerator.name} device.\n"
            "             Raise optimizer.grad_accum_steps or mesh.fsdp, or set remat."
        )
        return {"slice": slice_.name, "fits": False, "wanted_bytes": error.required_bytes}
    print(format_estimate(estimate, args.mfu))
    if args.top:
        print(f"\n{format_operations(estimate, args.top)}")
    return to_json(estimate)

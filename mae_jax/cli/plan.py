"""`mae-jax plan`."""

import argparse

HELP = (
    "Say before a run what it needs on a slice of TPUs or a cluster of GPUs: does it fit, how long "
    "does a step take at least, how many days the run. The real step is compiled for the TPUs, "
    "which need not be there; GPUs go by formula."
)
EXAMPLE = (
    "  mae-jax plan --config configs/paper.py:mae/vit_l8+/rpi_93m --on v5p-256\n"
    "  mae-jax plan --config configs/demo.py --on h100-8 --config.data.batch=512"
)
TAKES_OVERRIDES = True


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="a file of configs/; --config.KEY=VALUE "
                        "changes a key")  # fmt: skip
    parser.add_argument("--on", required=True, metavar="SLICE", help="v4-N, v5e-N, v5p-N, v6e-N "
                        "(v4 and v5p count two cores a chip), a100-N, h100-N, h200-N")  # fmt: skip
    parser.add_argument("--mfu", type=float, help="also the time at this utilisation, as measured "
                        "on a like run (0.4, say)")  # fmt: skip
    parser.add_argument("--json", metavar="FILE", help="write the numbers there too")


def run(args: argparse.Namespace) -> None:
    import jax

    # Compiling for others needs no device of one's own, and must not take one.
    jax.config.update("jax_platforms", "cpu")

    from mae_jax.cli.config_file import load_config
    from mae_jax.config import from_dict
    from mae_jax.files import write_json
    from mae_jax.planning import (
        DoesNotFit,
        estimate,
        needs,
        needs_by_formula,
        slice_of,
        tpu_devices,
    )
    from mae_jax.planning.format import description, numbers
    from mae_jax.train.config import TrainConfig

    config = from_dict(TrainConfig, load_config(args.config, args.overrides).to_dict())
    slice_ = slice_of(args.on)
    try:
        if slice_.chip.is_tpu:
            found = estimate(needs(config, tpu_devices(slice_)), slice_)
        else:
            found = estimate(needs_by_formula(config, slice_), slice_)
    except DoesNotFit as problem:
        wanted = f"{problem.needed / 2**30:.1f} GiB" if problem.needed else "more"
        print(
            f"fits         no: the step's temporaries alone want {wanted} of the "
            f"{slice_.chip.memory / 2**30:.0f} GiB of a {slice_.chip.name}.\n"
            "             Raise optimizer.grad_accum_steps or mesh.fsdp, or set remat."
        )
        if args.json:
            said = {"slice": slice_.name, "fits": False, "wanted_bytes": problem.needed}
            write_json(args.json, said)
        return
    print(description(found, args.mfu))
    if args.json:
        write_json(args.json, numbers(found))

"""`mae-jax plan`."""

import argparse

HELP = (
    "Say what a run needs before it runs: compiles the real step for as many devices as asked, "
    "without data, and counts its FLOPs."
)
EXAMPLE = (
    "  mae-jax plan --config configs/demo.py --devices 8 --memory 80 --peak 989 --utilisation 0.4"
)
TAKES_OVERRIDES = True


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="a file of configs/; --config.KEY=VALUE "
                        "changes a key")  # fmt: skip
    parser.add_argument("--devices", type=int, default=1, help="simulated CPU devices (1)")
    parser.add_argument("--memory", type=float, help="GiB of one device: does it fit?")
    parser.add_argument("--peak", type=float, help="TFLOP/s of one device, for the time")
    parser.add_argument("--utilisation", type=float, default=0.4, help="share of the peak (0.4)")


def run(args: argparse.Namespace) -> None:
    import jax

    from mae_jax.cli.config_file import load_config
    from mae_jax.config import from_dict
    from mae_jax.train.config import TrainConfig

    config = from_dict(TrainConfig, load_config(args.config, args.overrides).to_dict())
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", args.devices)

    from mae_jax.plan import needs

    need = needs(config)
    gib = 2**30
    print(f"parameters        {need.parameters / 1e6:.2f} million")
    print(f"step              {config.data.batch} crops, {need.step_flops / 1e12:.3f} TFLOP")
    print(f"run               {need.crops / 1e6:.2f} million crops, "
          f"{need.step_flops * config.steps:.2e} FLOP")  # fmt: skip
    print(f"each of {need.devices} devices  {need.state_bytes / gib:.2f} GiB of state and batch, "
          f"{need.working_bytes / gib:.2f} GiB of temporaries (compiled for the CPU)")  # fmt: skip
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(need.collectives.items()))
    print(f"collectives       {kinds or 'none'} (loops count once)")
    if args.memory is not None:
        answer = "yes" if need.fits(args.memory * gib) else "no"
        print(f"fits {args.memory:g} GiB      {answer}")
    if args.peak is not None:
        hours = need.device_hours(args.peak * 1e12, args.utilisation)
        print(f"time              {hours:,.1f} device-hours, {hours / need.devices / 24:,.2f} days "
              f"at {100 * args.utilisation:g} % of {args.peak:g} TFLOP/s")  # fmt: skip

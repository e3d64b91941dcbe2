"""`mae-jax train`."""

import argparse
import sys
from pathlib import Path

HELP = "Train a network as a config says. The same command goes on where the last one stopped."
EXAMPLE = (
    "  mae-jax train --config configs/demo.py --config.data.index=index.parquet \\\n"
    "      --config.optimizer.lr=1e-4 --workdir runs/mine"
)
TAKES_OVERRIDES = True


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="a file of configs/; any key of it can be "
                        "changed with --config.KEY=VALUE")  # fmt: skip
    parser.add_argument("--workdir", required=True, help="where the run stands; made if missing")
    parser.add_argument("--distributed", action="store_true", help="train with the other processes "
                        "of this job (TPU slice, srun, Kubernetes)")  # fmt: skip
    parser.add_argument("--preempted-exit-code", type=int, default=0, metavar="N", help="the exit "
                        "status where a signal ends the run before its last step (0)")  # fmt: skip
    parser.add_argument("--print-config", action="store_true", help="show the config and stop")


def run(args: argparse.Namespace) -> None:
    from mae_jax.cli.config_file import load_config
    from mae_jax.config import from_dict
    from mae_jax.train.config import TrainConfig

    values = load_config(args.config, args.overrides)
    config = from_dict(TrainConfig, values.to_dict())
    if args.print_config:
        print(values)
        return
    from mae_jax.distributed import initialize
    from mae_jax.train import train

    initialize.initialize(args.distributed)
    initialize.enable_compilation_cache(Path(args.workdir) / "compiled")
    with initialize.explain_host_failure():
        model = train(config, args.workdir)
    if model is None:  # all is saved; a launcher may need to know that more is to be done
        sys.exit(args.preempted_exit_code)
    print(model)

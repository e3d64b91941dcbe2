"""`mae-jax train`."""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae_jax.cli.outputs import add_dry_run
from mae_jax.cli.removed_options import removed_option
from mae_jax.errors import InputError

if TYPE_CHECKING:
    from mae_jax.train import Trainer

HELP = "Train a network as a config says. Started again, the same command resumes."
EXAMPLE = (
    "  mae-jax train --config configs/demo.py --config.data.index=index.parquet \\\n"
    "      --config.optimizer.lr=1e-4 --workdir runs/mine\n"
    "  mae-jax train --config paper:mae/vit_l8+/rpi_93m --config.data.index=index.parquet \\\n"
    "      --workdir runs/mae_l8\n"
    "  mae-jax train --config small --config.data.index=index.parquet --workdir runs/small\n"
    "  mae-jax train --from openphenom --config.data.index=index.parquet --workdir runs/more\n"
    "  mae-jax train --help-config"
)
TAKES_OVERRIDES = True


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--config", metavar="FILE[:ARGUMENT]", help="a config file, or the name "
                        "of a shipped one (demo, small, base, paper:ROW); any key of it can be "
                        "changed with --config.KEY=VALUE")  # fmt: skip
    parser.add_argument("--from", dest="init_from", metavar="PATH_OR_NAME", help="start from the "
                        "weights and the architecture of this model (config.init_from); --config "
                        "is then small, if not given")  # fmt: skip
    parser.add_argument("--workdir", metavar="FOLDER", help="folder of the run; made if missing")
    parser.add_argument("--distributed", action="store_true", help="train with the other processes "
                        "of this job (TPU slice, srun, Kubernetes)")  # fmt: skip
    parser.add_argument("--preempted-exit-code", type=int, default=0, metavar="N", help="exit "
                        "status when SIGTERM ends the run before its last step (0); Ctrl-C always "
                        "exits with 130")  # fmt: skip
    parser.add_argument("--print-config", action="store_true", help="print the config and stop")
    parser.add_argument("--help-config", action="store_true", help="print all config keys with "
                        "type, default, range and meaning, and stop")  # fmt: skip
    add_dry_run(parser)
    removed_option(parser, "--stopped-status", "--preempted-exit-code")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Load the config, train, and print the folder of the saved model."""
    from mae_jax.cli.config_file import load_config
    from mae_jax.config import from_dict, to_dict
    from mae_jax.config_reference import as_text, describe
    from mae_jax.train.config import TrainConfig

    if args.help_config:
        print(as_text(describe(TrainConfig)))
        return {}
    if args.init_from is not None:
        args.config = args.config or "small"
        args.overrides = [*args.overrides, f"--config.init_from={args.init_from}"]
    if args.config is None:
        raise InputError("--config is missing; give a config file, such as --config demo.")
    config = from_dict(TrainConfig, load_config(args.config, args.overrides).to_dict())
    if args.print_config:
        print("\n".join(yaml_lines(to_dict(config))))
        return {"config": to_dict(config)}
    if args.workdir is None:
        raise InputError("--workdir is missing; give the folder of the run.")
    if not config.data.index and not config.data.datasets:
        raise InputError(
            "data.index is empty; give the screen's index, --config.data.index=FILE "
            "(`mae-jax index` writes one)."
        )
    from mae_jax.cli.config_file import load_hooks
    from mae_jax.distributed import initialize
    from mae_jax.train import Trainer

    initialize.initialize(args.distributed)
    initialize.enable_compilation_cache(Path(args.workdir) / "compiled")
    with initialize.explain_host_failure():
        callbacks, evaluators = load_hooks(args.config)
        trainer = Trainer(
            config,
            callbacks=callbacks,
            evaluators=evaluators,
            workdir=args.workdir,
            progress=not args.quiet,
        )
        if args.dry_run:
            return _describe(trainer)
        model = trainer.fit()
    if model is None:  # all is saved; a launcher may need to know that more is to be done
        sys.exit(args.preempted_exit_code)
    print(model)
    return {"workdir": args.workdir, "model": model}


def _describe(trainer: "Trainer") -> dict[str, Any]:
    """Say what the run would do: the network, the steps, and the devices."""
    import jax

    from mae_jax.networks.registry import of_config, param_shapes

    config, model = trainer.config, trainer.fns.task.model
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(param_shapes(model)))
    name = of_config(model).name
    devices = f"{trainer.mesh.devices.size} x {jax.devices()[0].device_kind}"
    print(
        f"{name} of {parameters:,} parameters; {config.steps:,} steps of {config.data.batch} crops"
    )
    print(f"on {devices}, in {trainer.workdir}; nothing was written")
    return {
        "dry_run": True,
        "workdir": trainer.workdir,
        "network": name,
        "parameters": parameters,
        "steps": config.steps,
        "batch": config.data.batch,
        "devices": devices,
    }


def yaml_lines(table: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Nested tables as YAML; other values as JSON, which YAML includes."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield f"{indent}{key}:"
            yield from yaml_lines(value, indent + "  ")
        else:
            text = json.dumps(value)
            if isinstance(value, float) and "e" in text and "." not in text:
                text = text.replace("e", ".0e")  # YAML takes 1e-05 for text
            yield f"{indent}{key}: {text}"

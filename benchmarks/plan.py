"""Estimates of the largest runs on pods: the table of `benchmarks/results/plan`.

    python benchmarks/plan.py [CASE ...]

Each case compiles the real step for an absent slice (3 to 6 minutes of one core), in its own
process; cases that have a result in the output folder are not repeated.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from output import add_output_args

from mae_jax.files import read_json, write_json, write_text
from mae_jax.networks.mae import mae_config
from mae_jax.train.config import DataConfig, MeshConfig, OptimizerConfig, TrainConfig

BATCH = 16_384
CROPS = 3.5e9  # of the paper's largest network (A.3)
CHANNELS = ("DNA", "ER", "RNA", "AGP", "Mito", "Actin")


@dataclass(frozen=True)
class Case:
    """A network on a slice."""

    title: str
    network: str
    slice: str
    channel_agnostic: bool = False
    grad_accum_steps: int = 1
    fsdp: int = 1
    remat: str = "none"

    def config(self) -> TrainConfig:
        model = mae_config(
            self.network,
            channel_agnostic=self.channel_agnostic,
            channels=CHANNELS,
            dtype="bfloat16",
            scan=True,
            remat=self.remat,
        )
        return TrainConfig(
            model=replace(model, fourier_weight=0.01),
            data=DataConfig(batch=BATCH),
            optimizer=OptimizerConfig("lion", lr=3e-5, grad_accum_steps=self.grad_accum_steps),
            mesh=MeshConfig(fsdp=self.fsdp),
            steps=round(CROPS / BATCH),
        )


CASES = {
    "l8-v5e-whole": Case("MAE ViT-L/8+, the batch at once", "vit_l8", "v5e-256"),
    "l8-v5e": Case("MAE ViT-L/8+", "vit_l8", "v5e-256", grad_accum_steps=32),
    "l8-v5p": Case("MAE ViT-L/8+", "vit_l8", "v5p-256", grad_accum_steps=4),
    "ca-l16-v5p": Case("CA-MAE ViT-L/16+", "vit_l16", "v5p-256", True, grad_accum_steps=8),
    "ca-l8-v5p": Case("CA-MAE ViT-L/8+", "vit_l8", "v5p-256", True, grad_accum_steps=32),
    "g8-v5p": Case("MAE ViT-G/8+, FSDP", "vit_gg8", "v5p-256", grad_accum_steps=8, fsdp=128),
    "l8-h100": Case("MAE ViT-L/8+", "vit_l8", "h100-256", grad_accum_steps=2),
    "ca-l16-h100": Case("CA-MAE ViT-L/16+", "vit_l16", "h100-256", True, grad_accum_steps=2),
    "ca-l8-h200": Case("CA-MAE ViT-L/8+", "vit_l8", "h200-256", True, grad_accum_steps=4),
    "g8-h200": Case("MAE ViT-G/8+, FSDP", "vit_gg8", "h200-256", grad_accum_steps=2, fsdp=256),
}


def plan_case(name: str, folder: Path) -> None:
    """Plans a case and writes its numbers to `folder`."""
    from mae_jax.planning import DoesNotFit, estimate_run, parse_slice
    from mae_jax.planning.format import format_estimate, to_json

    case = CASES[name]
    start = time.monotonic()
    result: dict[str, object]
    try:
        estimate = estimate_run(case.config(), parse_slice(case.slice))
        print(format_estimate(estimate))
        result = dict(to_json(estimate))
    except DoesNotFit as error:
        result = {"slice": case.slice, "fits": False, "wanted_bytes": error.required_bytes}
    result["seconds"] = time.monotonic() - start
    write_json(folder / f"{name}.json", result)


def table(folder: Path) -> str:
    """All results in `folder`, as a Markdown table."""
    rows = [
        "| run | slice | micro-batches | fits | GiB per device | bound by | step, s | MFU | days |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, case in CASES.items():
        path = folder / f"{name}.json"
        if not path.exists():
            continue
        plan = read_json(path)
        if "usable_bytes" not in plan:
            wanted = f"{plan['wanted_bytes'] / 2**30:.0f} needed" if plan["wanted_bytes"] else "?"
            rows.append(f"| {case.title} | {case.slice} | {case.grad_accum_steps} | no | {wanted} "
                        "| | | | |")  # fmt: skip
            continue
        times = {name: plan[f"{name}_seconds"] for name in ("compute", "memory", "network")}
        used = (plan["state_bytes"] + plan["working_bytes"]) / 2**30
        formula = " (formula)" if plan["source"] == "formula" else ""
        rows.append(
            f"| {case.title}{formula} | {case.slice} | {case.grad_accum_steps} "
            f"| {'yes' if plan['fits'] else 'no'} | {used:.1f} of "
            f"{plan['usable_bytes'] / 2**30:.1f} | {max(times, key=lambda k: times[k])} "
            f"| {plan['fastest_step_seconds']:.2f} to {plan['slowest_step_seconds']:.2f} "
            f"| {100 * plan['slowest_mfu']:.0f} to {100 * plan['fastest_mfu']:.0f} % "
            f"| {plan['fastest_days']:.1f} to {plan['slowest_days']:.1f} |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; all by default")
    add_output_args(parser, "plan")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        plan_case(args.worker, args.out)
        return
    for name in args.cases or CASES:
        if (args.out / f"{name}.json").exists():
            continue
        print(f"\n{name}", flush=True)
        command = [
            sys.executable,
            "-W",
            "ignore",
            __file__,
            "--worker",
            name,
            "--out",
            str(args.out),
        ]
        subprocess.run(command, check=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    versions = ", ".join(f"{name} {version(name)}" for name in ("jax", "libtpu", "flax"))
    text = (
        f"# Plans of the largest runs\n\n{table(args.out)}\n\n"
        f"Batch {BATCH:,}, {CROPS:.1e} crops, bfloat16, layers in a loop, nothing recomputed. The "
        "lower step time overlaps compute, memory and network entirely, the upper one not at all; "
        "both assume that every kernel runs at its peak, so a real step takes longer. Slices of "
        "v5p count two cores per chip: v5p-256 is 128 chips.\n\n"
        f"`python benchmarks/plan.py` on {time.strftime('%Y-%m-%d')}: {versions}, Python "
        f"{platform.python_version()}, {os.cpu_count()} cores.\n"
    )
    write_text(args.out / "README.md", text)
    print(f"\nwrote {args.out / 'README.md'}")


if __name__ == "__main__":
    main()

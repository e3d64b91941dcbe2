"""What the largest runs need on pods: the table of `benchmarks/results/plan`.

python benchmarks/plan.py [CASE ...]

Each case compiles the real step for a slice that is not there (3 to 6 minutes of one core), in a
process of its own; cases that have a result are not run again.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from mae_jax.files import read_json, write_json, write_text
from mae_jax.networks.mae import mae_config
from mae_jax.train.config import DataConfig, MeshConfig, OptimizerConfig, TrainConfig

RESULTS = Path(__file__).parent / "results" / "plan"
BATCH = 16_384
CROPS = 3.5e9  # what the paper's largest network saw (A.3)
CHANNELS = ("DNA", "ER", "RNA", "AGP", "Mito", "Actin")


@dataclass(frozen=True)
class Case:
    """A network on a slice, as it would be launched."""

    says: str
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


def plan_case(name: str) -> None:
    """Plans a case and writes its numbers; runs in a process of its own."""
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
    write_json(RESULTS / f"{name}.json", result)


def table() -> str:
    """All results so far, as a Markdown table."""
    rows = [
        "| run | slice | micro-batches | fits | GiB a device | bound by | step, s | MFU | days |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, case in CASES.items():
        path = RESULTS / f"{name}.json"
        if not path.exists():
            continue
        found = read_json(path)
        if "usable_bytes" not in found:
            wanted = f"{found['wanted_bytes'] / 2**30:.0f} wanted" if found["wanted_bytes"] else "?"
            rows.append(f"| {case.says} | {case.slice} | {case.grad_accum_steps} | no | {wanted} "
                        "| | | | |")  # fmt: skip
            continue
        times = {kind: found[f"{kind}_seconds"] for kind in ("compute", "memory", "network")}
        held = (found["state_bytes"] + found["working_bytes"]) / 2**30
        formula = " (formula)" if found["source"] == "formula" else ""
        rows.append(
            f"| {case.says}{formula} | {case.slice} | {case.grad_accum_steps} "
            f"| {'yes' if found['fits'] else 'no'} | {held:.1f} of "
            f"{found['usable_bytes'] / 2**30:.1f} | {max(times, key=lambda k: times[k])} "
            f"| {found['fastest_step_seconds']:.2f} to {found['slowest_step_seconds']:.2f} "
            f"| {100 * found['slowest_mfu']:.0f} to {100 * found['fastest_mfu']:.0f} % "
            f"| {found['fastest_days']:.1f} to {found['slowest_days']:.1f} |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; all by default")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        plan_case(args.worker)
        return
    for name in args.cases or CASES:
        if (RESULTS / f"{name}.json").exists():
            continue
        print(f"\n{name}", flush=True)
        command = [sys.executable, "-W", "ignore", __file__, "--worker", name]
        subprocess.run(command, check=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    versions = ", ".join(f"{name} {version(name)}" for name in ("jax", "libtpu", "flax"))
    text = (
        f"# Plans of the largest runs\n\n{table()}\n\n"
        f"Batch {BATCH:,}, {CROPS:.1e} crops, bfloat16, layers in a loop, nothing recomputed. The "
        "lower step time overlaps computing, memory and network entirely, the upper one not at "
        "all; both take every kernel to run at its peak, so a real step takes longer. Slices of "
        "v5p count two cores a chip: v5p-256 is 128 chips.\n\n"
        f"`python benchmarks/plan.py` on {time.strftime('%Y-%m-%d')}: {versions}, Python "
        f"{platform.python_version()}, {os.cpu_count()} cores.\n"
    )
    write_text(RESULTS / "README.md", text)
    print(f"\n{json.dumps(str(RESULTS / 'README.md'))}")


if __name__ == "__main__":
    main()

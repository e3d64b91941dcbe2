"""`--dry-run` prints all commands: the same, character for character, as the goldens.

`python -m pytest tests/launch --update-goldens` rewrites them; read the difference.
"""

import subprocess
from pathlib import Path

import pytest

from launch.__main__ import TARGETS

GOLDENS = Path(__file__).parent / "goldens"
TRAIN = "-- train --config configs/demo.py --config.data.index=/share/index.parquet"
EMBED = "-- embed --encoder /share/runs/vitl8/model --index /share/index.parquet --batch-size 256"
TPU = "--image us-docker.pkg.dev/lab/mae-jax/tpu"
GPU = "--image us-docker.pkg.dev/lab/mae-jax/cuda12"
ON_NFS = "--nfs 10.0.0.2:/vol:/share --runs /share/runs"
ON_CLAIM = "--volume share:/share --runs /share/runs"
ON_DISK = "--runs /share/runs"
H100 = "--node cloud.google.com/gke-accelerator=nvidia-h100-80gb"

CASES = {
    "tpu-vm-train": f"tpu-vm submit vitl8 --zone us-east5-a --tpu v6e-256 {TPU} "
    f"{ON_NFS} --env MAE_JAX_CACHE=/tmp/cache {TRAIN}",
    "tpu-queued-resource-train": f"tpu-queued-resource submit vitl8 --zone us-east5-a "
    f"--project lab --tpu v5p-256 --spot --gcloud=--network=fast --watch {TPU} {ON_NFS} {TRAIN}",
    "gke-tpu-train": f"gke-tpu submit vitl8 --namespace cells --tpu v5e-256 "
    f"--slices 2 --spot {TPU} {ON_CLAIM} {TRAIN}",
    "gke-tpu-embed": f"gke-tpu submit screen --tpu v5e-4 --num-tasks 64 --max-parallel 16 "
    f"{TPU} --runs gs://lab/embeddings --env MAE_JAX_TIMEOUT=30 {EMBED}",
    "gke-gpu-train": f"gke-gpu submit vitl8 --nodes 4 --gpus 8 {H100} --cpus 100 --memory 800Gi "
    f"--max-restarts 20 {GPU} {ON_CLAIM} {TRAIN}",
    "kubernetes-train": f"kubernetes submit vitl8 --context lab --nodes 2 --gpus 8 {GPU} "
    f"{ON_CLAIM} {TRAIN}",
    "kubernetes-embed": f"kubernetes submit screen --gpus 1 --num-tasks 100 "
    f"--env-from-secret s3-keys {GPU} {ON_CLAIM} {EMBED}",
    "kubernetes-kueue-embed": f"kubernetes submit screen --gpus 1 --num-tasks 8 --queue night "
    f"--priority-class low {GPU} {ON_CLAIM} {EMBED}",
    "gke-tpu-flex-start-train": f"gke-tpu submit vitl8 --tpu tpu7x-16 --flex-start "
    f"--queue multislice {TPU} {ON_CLAIM} {TRAIN}",
    "tpu-instance-train": f"tpu-instance submit vits --zone us-central1-c --tpu tpu7x-8 "
    f"--flex-start 12 {TPU} {ON_NFS} {TRAIN}",
    "aws-batch-embed": f"aws-batch submit screen --queue gpus --region us-east-1 --num-tasks 64 "
    f"--gpus 1 --env MAE_JAX_TIMEOUT=30 --image lab/mae-jax:cuda12 --runs s3://lab/embeddings "
    f"{EMBED}",
    "slurm-train": f"slurm submit vitl8 --nodes 4 --gpus 8 --time 24:00:00 --partition gpu "
    f"--account cells --sbatch=--mem=0 --venv /home/ada/mae_jax/.venv {ON_DISK} "
    f"--env NCCL_DEBUG=WARN {TRAIN}",
    "slurm-pyxis-train": f"slurm submit vitl8 --nodes 2 --gpus 4 --time 4:00:00 --image "
    f"docker://lab/mae-jax:cuda12 --container pyxis --bind /data {ON_DISK} {TRAIN}",
    "slurm-apptainer-train": f"slurm submit vitl8 --gpus 4 --time 4:00:00 --image /share/mae.sif "
    f"--container apptainer --bind /data:/data:ro {ON_DISK} {TRAIN}",
    "slurm-embed": f"slurm submit screen --gpus 1 --num-tasks 64 --max-parallel 16 --time 2:00:00 "
    f"--venv /home/ada/mae_jax/.venv {ON_DISK} {EMBED}",
}  # fmt: skip
LOCATIONS = {
    "tpu-vm": "--zone us-east5-a",
    "tpu-queued-resource": "--zone us-east5-a --project lab",
    "gke-tpu": "--namespace cells",
    "gke-gpu": "",
    "kubernetes": "--context lab",
    "slurm": "",
    "tpu-instance": "--zone us-central1-c",
    "aws-batch": "--queue gpus --region us-east-1",
}


@pytest.mark.parametrize("case", CASES)
def test_submit_prints_all_that_would_be_run(case, dry_run, request):
    compare(f"{case}.sh", dry_run(CASES[case]), request)


@pytest.mark.parametrize("target", LOCATIONS)
def test_the_other_verbs_need_the_name_alone(target, dry_run, request):
    printed = [
        f"# {line}\n{dry_run(f'{target} {line}')}"
        for line in (f"{verb} vitl8 {LOCATIONS[target]}".strip()
                     for verb in ("status", "logs", "logs --process 3", "stop")
                     if (target, verb) != ("tpu-instance", "logs --process 3"))
    ]  # fmt: skip
    compare(f"{target}.verbs.sh", "".join(printed), request)


def test_what_is_printed_is_a_script_for_bash():
    for golden in GOLDENS.iterdir():
        subprocess.run(["bash", "-n", str(golden)], check=True)


def test_no_golden_is_left_of_a_case_that_is_gone():
    expected = {f"{case}.sh" for case in CASES} | {f"{target}.verbs.sh" for target in LOCATIONS}
    assert {golden.name for golden in GOLDENS.iterdir()} == expected


def test_the_examples_that_users_copy_are_right(dry_run):
    readme = (Path(__file__).parent.parent.parent / "launch" / "README.md").read_text()
    helps = "\n".join(target.example for target in TARGETS.values())
    text = f"{readme}\n{helps}".replace("\\\n", " ").replace("$IMAGES", "lab")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    examples = [line.removeprefix("mae-jax launch ") for line in lines
                if line.startswith("mae-jax launch ") and " submit " in line]  # fmt: skip
    assert len(examples) == 8 + len(TARGETS) + 1
    for example in examples:
        assert dry_run(example)


def compare(name: str, text: str, request: pytest.FixtureRequest) -> None:
    golden = GOLDENS / name
    if request.config.getoption("--update-goldens", default=False):
        golden.write_text(text)
    assert text == golden.read_text()

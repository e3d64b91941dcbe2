"""The Dockerfile, as far as it can be checked without a container runtime."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "launch" / "Dockerfile").read_text()


def copied_paths() -> list[str]:
    """Paths that the first stage copies from the repository."""
    stage = DOCKERFILE.split("\nFROM ")[1]
    lines = re.findall(r"^COPY (?!--from)(.+)$", stage, re.MULTILINE)
    return [path for line in lines for path in line.split()[:-1]]


def test_the_copied_files_are_enough_to_install(tmp_path: Path) -> None:
    ignored = (ROOT / "launch" / "Dockerfile.dockerignore").read_text().splitlines()
    for path in copied_paths():
        assert f"!{path}" in ignored
        if (ROOT / path).is_dir():
            shutil.copytree(ROOT / path, tmp_path / path)
        else:
            shutil.copy(ROOT / path, tmp_path / path)
    command = [sys.executable, "setup.py", "--quiet", "build", "--build-lib", "built"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for module in ("cli/main.py", "launch/__main__.py", "launch/templates/pod.yaml"):
        assert (tmp_path / "built" / "mae_jax" / module).exists()
    assert list((tmp_path / "built" / "mae_jax" / "configs").glob("*.py"))


def test_the_image_is_not_root_and_its_extras_exist() -> None:
    last_stage = DOCKERFILE.rpartition("\nFROM ")[2]
    user = re.search(r"^USER (\d+):(\d+)$", last_stage, re.MULTILINE)
    assert user is not None
    assert int(user[1]) > 0
    assert f"--uid {user[1]}" in last_stage
    pyproject = (ROOT / "pyproject.toml").read_text()
    extras = re.search(r'"\.\[([\w,]+)\]"', DOCKERFILE)
    assert extras is not None
    for extra in extras[1].split(","):
        assert re.search(rf"^{extra} = \[", pyproject, re.MULTILINE)

"""What the machine has, the versions of the stack, and completion."""

import json
import shutil
import subprocess

import pytest

from mae_jax._version import __version__
from mae_jax.cli import doctor, missing_packages
from mae_jax.cli.completion import completion_script
from mae_jax.cli.main import COMMANDS, main


def test_the_doctor_as_a_document(capsys):
    assert main(["doctor", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["jax"]["platform"] == "cpu"
    assert document["jax"]["attention"]["float32"] == "xla"
    assert document["machine"]["memory_bytes"] > 2**30
    assert set(document["commands"]) == set(COMMANDS)
    assert document["versions"]["numpy"]


def test_a_command_that_lacks_a_package_says_what_to_install(capsys, monkeypatch):
    installed = missing_packages._is_installed
    monkeypatch.setattr(
        missing_packages, "_is_installed", lambda name: name != "optax" and installed(name)
    )
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out.splitlines()
    line = {line.split()[0]: line for line in shown if line.startswith("  ")}
    assert line["train"].endswith("pip install 'mae_jax[train]' (lacks optax)")
    assert line["evaluate"].endswith("ready")


def test_a_gpu_that_jax_does_not_use_is_said(monkeypatch):
    monkeypatch.setattr(doctor.glob, "glob", lambda name: ["x"] if "nvidia" in name else [])
    cpu = {"installed": True, "platform": "cpu", "devices": []}
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert "jax[cuda12]" in doctor.advice(cpu)[0]
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert "JAX_PLATFORMS=cpu keeps JAX from it" in doctor.advice(cpu)[0]
    assert doctor.advice({**cpu, "platform": "gpu"}) == []


def test_the_versions_of_the_stack(capsys):
    assert main(["--version"]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == f"mae-jax {__version__}"
    assert {line.split()[0] for line in rest} >= {"python", "jax", "flax", "numpy", "pandas"}


@pytest.fixture(scope="module")
def script() -> str:
    return completion_script("bash")


@pytest.mark.parametrize(
    ("words", "expected"),
    [("mae-jax rec", {"reconstruct"}), ("mae-jax embed --pool", {"--pooling"}),
     ("mae-jax embed --pooling c", {"class", "channel"}),
     ("mae-jax evaluate rec", {"recall"}), ("mae-jax embed --index scr", {"screen.csv"})],
)  # fmt: skip
def test_bash_completes(words, expected, script, tmp_path):
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    (tmp_path / "screen.csv").touch()
    names = words.split()
    ask = (
        f"COMP_WORDS=({' '.join(names)}); COMP_CWORD={len(names) - 1}; COMP_LINE='{words}'\n"
        "$(complete -p mae-jax | sed 's/.*-F \\([^ ]*\\).*/\\1/') mae-jax\n"
        "printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    ran = subprocess.run(
        ["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, cwd=tmp_path
    )
    assert {line.strip() for line in ran.stdout.split()} == expected, ran.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_their_own_script(shell, capsys):
    assert main(["completion", shell]) == 0
    shown = capsys.readouterr().out
    assert "reconstruct" in shown
    assert "wells-per-shard" in shown
    assert "--part-wells" not in shown  # the option of an earlier version

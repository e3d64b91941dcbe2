"""The Nextflow module: its names agree, and its commands are commands of mae-jax."""

import re
from pathlib import Path

import yaml

from mae_jax.cli.main import command_parser

MODULE = Path(__file__).parent.parent.parent / "launch" / "nextflow" / "embed"
MAIN = (MODULE / "main.nf").read_text()
META = yaml.safe_load((MODULE / "meta.yml").read_text())


def test_outputs_are_those_that_the_description_names():
    emitted = re.findall(r"emit: (\w+)", MAIN)
    assert emitted == list(META["output"])
    topics = re.findall(r"topic: (\w+)", MAIN)
    assert topics == list(META["topics"])


def test_inputs_are_those_that_the_description_names():
    block = MAIN.split("input:")[1].split("output:")[0]
    parts = [
        part for entry in META["input"] for part in (entry if type(entry) is list else [entry])
    ]
    described = [name for part in parts for name in part]
    names = [a or b for a, b in re.findall(r"(?:val|path)\((\w+)|path (\w+)$", block, re.M)]
    assert names == described


def test_commands_and_options_exist():
    script = MAIN.split("script:")[1].split("stub:")[0].replace("\\\\\n", " ")
    lines = [line.strip() for line in script.splitlines() if line.strip().startswith("mae-jax ")]
    assert [line.split()[1] for line in lines] == ["embed", "correct"]
    for line in lines:
        words = re.sub(r"\$\{args\}", "", line)
        words = re.sub(r"\$\{task.cpus\}", "2", words)
        command_parser(line.split()[1]).parse_args(words.split()[2:])


def test_the_stub_creates_every_output():
    stub = MAIN.split("stub:")[1]
    assert "mkdir -p ${prefix}\n" in stub
    assert "${prefix}.parquet" in stub

"""The job definition of AWS Batch, checked against the service's own description."""

import json
import shlex

import pytest

from launch.__main__ import main
from tests.launch.test_dry_run import CASES


def documents(text: str) -> tuple[dict, list[str]]:
    """The job definition, and the words of `submit-job`."""
    definition, submit = text.split("<<'END_OF_DOCUMENT'\n")[1].split("\nEND_OF_DOCUMENT\n")
    return json.loads(definition), shlex.split(submit.replace("\\\n", " "))


def test_the_service_accepts_the_definition(dry_run):
    loaders = pytest.importorskip("botocore.session", reason="botocore is not installed")
    from botocore.validate import ParamValidator

    session = loaders.get_session()
    shape = session.get_service_model("batch").operation_model("RegisterJobDefinition").input_shape
    definition, submit = documents(dry_run(CASES["aws-batch-embed"]))
    report = ParamValidator().validate(definition, shape)
    assert not report.has_errors(), report.generate_report()
    model = session.get_service_model("batch").operation_model("SubmitJob").input_shape
    options = {w.split("=")[0].removeprefix("--") for w in submit if w.startswith("--")}
    known = {_dashed(name) for name in model.members}
    assert options - {"region"} <= known


def _dashed(name: str) -> str:
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in name)


def test_wrong_input_is_not_repeated(dry_run):
    definition, submit = documents(dry_run(CASES["aws-batch-embed"]))
    rules = definition["retryStrategy"]["evaluateOnExit"]
    assert [(r.get("onExitCode"), r["action"]) for r in rules] == [
        ("2", "EXIT"), ("130", "EXIT"), (None, "RETRY"),
    ]  # fmt: skip
    assert "--array-properties=size=64" in submit


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--num-tasks 4 --runs /share -- embed --encoder e", "is a folder of one machine"),
        ("--num-tasks 20000 --runs s3://b -- embed --encoder e", "at most 10,000 tasks"),
        ("--num-tasks 4 --max-parallel 2 --runs s3://b -- embed --encoder e", "no --max-parallel"),
        ("--runs /share -- train --config c", "runs embed alone"),
    ],
)
def test_what_batch_cannot_do(words, says, capsys):
    line = f"aws-batch submit screen --queue q --image i --dry-run {words}"
    assert main(line.split()) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--tpu v5e-8", "v5e-8 is no single machine of Compute Engine (those are v6e-1"),
        ("--tpu v6e-16", "is no single machine"),
        ("--tpu v6e-8 --spot --flex-start 3", "give one"),
        ("--tpu v6e-8 --flex-start 200", "takes 1 to 168 hours"),
    ],
)
def test_what_compute_engine_cannot_do(words, says, capsys):
    line = f"tpu-instance submit r --image i --nfs s:/e:/share --runs /share/r {words} --dry-run"
    assert main([*line.split(), "--", "train", "--config", "c"]) == 2
    assert says in capsys.readouterr().err

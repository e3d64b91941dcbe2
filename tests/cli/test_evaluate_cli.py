"""`mae-jax correct` and `mae-jax evaluate` as a user types them."""

import argparse
import dataclasses
import json
import shlex
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import pandas as pd
import pytest

from mae_jax.cli import evaluate
from mae_jax.cli.main import main
from mae_jax.evaluation import (
    CORRECTIONS,
    TABLE2,
    ColumnSchema,
    Profiles,
    RecallSpec,
    RetrievalSpec,
    correct,
    run,
)
from mae_jax.evaluation.protocols import EVALUATIONS, Evaluation, Option
from mae_jax.evaluation.protocols.base import Progress, Spec
from mae_jax.evaluation.results import Result


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Embeddings of a small screen in two parts, and the relationships of its gene pairs."""
    rng = np.random.default_rng(0)
    rows, features = [], []
    effect = rng.standard_normal((12, 6)).repeat(2, axis=0)
    for experiment in ("E0", "E1"):
        offset = 3 * rng.standard_normal(6)
        for w in range(40):
            gene = f"G{w - 16:02d}" if w >= 16 else ""
            rows.append(
                {
                    "Metadata_Experiment": experiment,
                    "Metadata_Plate": "P1",
                    "Metadata_Well": f"{chr(65 + w // 24)}{w % 24 + 1:02d}",
                    "Metadata_Gene": gene,
                    "Metadata_ControlType": "" if gene else "negcon",
                }
            )
            x = 0.3 * rng.standard_normal(6) + offset
            features.append(x + (effect[w - 16] if gene else 0))
    profiles = Profiles(
        pd.DataFrame(rows),
        np.array(features, np.float32),
        tuple(f"Image_MAE_{i:04d}" for i in range(6)),
    )
    for part in (0, 1):
        profiles.take(np.arange(40) + 40 * part).write(tmp_path / f"mae/{part}.parquet")
    pairs = pd.DataFrame([(f"G{i:02d}", f"G{i + 1:02d}") for i in range(0, 24, 2)])
    pairs.columns = pd.Index(["entity1", "entity2"])
    pairs.to_csv(tmp_path / "complexes.csv", index=False)
    return tmp_path


def test_correct(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "tvn.parquet"
    command = ["correct", "--embeddings", str(folder / "mae"), "--method", "tvn"]
    assert main([*command, "--out", str(out), "--save-fit", str(folder / "fit.npz")]) == 0
    want = correct(Profiles.read(folder / "mae"), "tvn")
    np.testing.assert_array_equal(Profiles.read(out).features, want.features)
    again = folder / "again.parquet"
    fitted = ["--fitted", str(folder / "fit.npz")]
    assert main(["correct", "--embeddings", str(folder / "mae"), *fitted, "--out", str(again)]) == 0
    np.testing.assert_array_equal(Profiles.read(again).features, want.features)
    assert capsys.readouterr().out.strip().endswith("again.parquet")


def test_recall_writes_its_tables(folder: Path) -> None:
    out = folder / "evaluation"
    command = ["evaluate", "recall", "--embeddings", f"MAE={folder / 'mae'}", "--random", "16"]
    command += ["--relationships", str(folder / "complexes.csv"), "--corrections", "all"]
    assert main([*command, "--no-page", "--out", str(out)]) == 0
    table = pd.read_csv(out / "recall.csv")
    assert len(table) == 2 * len(TABLE2)
    assert set(table["label"]) == {CORRECTIONS[name].label for name in TABLE2}
    assert (table["pairs_used"] == 12).all()
    assert (table["low"] <= table["recall"]).all()
    by = table.set_index(["embeddings", "correction"])["recall"]
    assert by["MAE", "center-plate"] > 0.8  # the twins are found once the offset is gone
    settings = json.loads((out / "settings.json").read_text())
    assert settings["fit_on"] == "controls"
    assert settings["best"]["embeddings"] == "MAE"
    cosines = pd.read_parquet(out / "cosines.parquet")
    assert cosines.shape == (24, 24)
    np.testing.assert_allclose(np.diag(cosines), 1, atol=1e-5)
    compared = pd.read_csv(out / "compare.csv").iloc[0]  # each under its best correction
    assert (compared["a"], compared["b"]) == ("MAE", "random")
    assert compared["recall_a"] == by["MAE"].max()
    assert compared["recall_b"] == by["random"].max()
    sweep = pd.read_csv(out / "sweep.csv")
    assert {"embeddings", "correction", "database", "percentile", "recall"} == set(sweep.columns)


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--corrections", "tnv"], "no correction 'tnv'"),
        (["--controls", "Metadata_ControlType=none"], "no row is a negative control"),
        (["--by", "Metadata_Genes"], "did you mean 'Metadata_Gene'"),
        (["--relationships", "absent.csv"], "absent.csv does not exist"),
        (["--embeddings", "absent"], "absent does not exist"),
    ],
)
def test_wrong_input_is_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], extra: list[str], says: str
) -> None:
    given = {
        "--embeddings": str(folder / "mae"),
        "--relationships": str(folder / "complexes.csv"),
        "--out": str(folder / "out"),
    }
    given[extra[0]] = extra[1]
    words = [word for pair in given.items() for word in pair]
    assert main(["evaluate", "recall", *words]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (folder / "out").exists()


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    evaluate.arguments(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize("name", EVALUATIONS)
def test_every_example_makes_the_specification_of_its_evaluation(name: str) -> None:
    words = shlex.split(EVALUATIONS[name].example.replace("\\\n", " "))
    spec = evaluate.specification(_parse([name, *words]))
    assert spec.name == name
    assert type(spec) is EVALUATIONS[name].spec
    given = [word.removeprefix("--").replace("-", "_") for word in words if word[:2] == "--"]
    known = {f.name for f in dataclasses.fields(spec)}
    assert known >= set(given) - {"out", "size", "patch", "controls"}


@pytest.mark.parametrize("name", EVALUATIONS)
def test_defaults_are_those_of_the_specification(name: str) -> None:
    """Options that are not given leave every field as the specification has it."""
    spec = evaluate.specification(
        _parse([name, *shlex.split(EVALUATIONS[name].example.replace("\\\n", " "))])
    )
    given = EVALUATIONS[name].example.replace("-", "_")
    for field in dataclasses.fields(spec):
        if field.default is not dataclasses.MISSING and f"__{field.name} " not in given:
            assert getattr(spec, field.name) == field.default, field.name


def test_a_field_without_an_option_is_named() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class DrawsSpec(Spec):
        number: int = 3

    with pytest.raises(TypeError, match=r"DrawsSpec.number has no option; annotate it"):
        evaluate.add_spec_options(argparse.ArgumentParser(), DrawsSpec)


def test_one_entry_adds_an_evaluation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class DrawsSpec(Spec):
        name: ClassVar[str] = "draws"
        number: Annotated[int, Option("how many to draw", old_flags=("--n",))] = 3

    def run_draws(spec: DrawsSpec, progress: Progress) -> Result:
        return Result(settings=spec.settings(), summary=[f"{spec.number} draws"])

    entry = Evaluation(DrawsSpec, run_draws, "random draws", "--number 5", needs_out=False)
    monkeypatch.setitem(EVALUATIONS, "draws", entry)
    assert main(["evaluate", "draws", "--number", "7"]) == 0
    assert capsys.readouterr().out == "7 draws\n"
    with pytest.raises(SystemExit, match="0"):
        _parse(["draws", "--help"])
    assert "how many to draw (default: 3)" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        _parse(["draws", "--n", "4"])
    assert "--n is now called --number" in capsys.readouterr().err


@pytest.mark.parametrize("name", EVALUATIONS)
def test_help_is_plain(capsys: pytest.CaptureFixture[str], name: str) -> None:
    with pytest.raises(SystemExit, match="0"):
        _parse([name, "--help"])
    text = capsys.readouterr().out
    assert f"mae-jax evaluate {name} {EVALUATIONS[name].example.split()[0]}" in text
    assert "%%" not in text


def test_files_are_those_of_the_specification(folder: Path) -> None:
    """The command line adds a page to `run(spec).save(folder)`, and nothing else."""
    spec = RecallSpec(
        embeddings={"MAE": str(folder / "mae")},
        relationships=[str(folder / "complexes.csv")],
        corrections=["none", "tvn"],
        random=16,
    )
    run(spec).save(folder / "python")
    command = ["evaluate", "recall", "--embeddings", f"MAE={folder / 'mae'}", "--random", "16"]
    command += ["--relationships", str(folder / "complexes.csv"), "--corrections", "none,tvn"]
    assert main([*command, "--out", str(folder / "cli")]) == 0
    names = sorted(p.name for p in (folder / "python").iterdir())
    made = sorted(p.name for p in (folder / "cli").iterdir())
    assert made == sorted([*names, "index.html"])
    assert {"recall.csv", "sweep.csv", "compare.csv", "settings.json"} < set(names)
    for name in names:
        assert (folder / "cli" / name).read_bytes() == (folder / "python" / name).read_bytes(), name


def test_specifications_take_profiles_in_memory(folder: Path) -> None:
    wells = Profiles.read(folder / "mae")
    options = {"schema": ColumnSchema(perturbation="Metadata_Gene"), "null_size": 500}
    by_path = run(RetrievalSpec(embeddings={"a": folder / "mae"}, **options))
    in_memory = run(RetrievalSpec(embeddings={"a": wells}, **options))
    pd.testing.assert_frame_equal(by_path.tables["retrieval"], in_memory.tables["retrieval"])
    json.dumps(in_memory.settings)


def test_evaluation_does_not_need_models() -> None:
    """The evaluation serves people with other models: it imports none of ours, nor JAX."""
    import subprocess
    import sys

    code = (
        "import sys, mae_jax.evaluation, mae_jax.evaluation.protocols; "
        "bad = [m for m in sys.modules if m.split('.')[0] in ('jax', 'flax', 'torch') or "
        "m.startswith(('mae_jax.networks', 'mae_jax.train', 'mae_jax.inference', "
        "'mae_jax.data'))]; "
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("what", "extra", "files"),
    [
        ("retrieval", ["--perturbation", "Metadata_Gene"], ["retrieval.csv"]),
        ("siblings", ["--perturbation", "Metadata_Gene"], ["siblings.csv"]),
        ("replicates", ["--perturbation", "Metadata_Gene", "--permutations", "50"],
         ["consistency.csv", "strength.csv"]),
        ("activity", ["--perturbation", "Metadata_Gene", "--no-page"], ["perturbations.csv"]),
        ("neighbors", ["--perturbation", "Metadata_Gene", "--permutations", "9", "--no-page"],
         ["accuracy.csv", "perturbations.csv"]),
        ("batch-effects", ["--perturbation", "Metadata_Gene", "--permutations", "2", "--no-page"],
         ["mixing.csv"]),
    ],
)  # fmt: skip
def test_parts_on_wells(folder: Path, what: str, extra: list[str], files: list[str]) -> None:
    out = folder / "out"
    command = ["evaluate", what, "--embeddings", str(folder / "mae"), *extra]
    assert main([*command, "--correction", "tvn-centered", "--out", str(out)]) == 0
    for name in files:
        assert (pd.read_csv(out / name)["embeddings"] == "mae").all()
    settings = json.loads((out / "settings.json").read_text())
    assert settings["evaluation"] == what
    assert settings["correction"] == "tvn-centered"


def test_compounds_and_genes_as_rxrx3_core_has_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table of features by `well_id`, as OpenPhenom's, and the metadata in another order."""
    rng = np.random.default_rng(0)
    rows, features = [], []
    for i in range(30):
        effect = rng.standard_normal(8)
        for guide in (1, 2):
            rows.append((f"G{i:02d}_guide_{guide}", "CRISPR", ""))
            features.append(effect + 0.2 * rng.standard_normal(8))
        rows.append((f"cpd{i}", "COMPOUND", "2.5"))
        features.append(effect + 0.2 * rng.standard_normal(8))
    rows += [("EMPTY_control", "CRISPR", "")] * 20
    features += list(rng.standard_normal((20, 8)))
    metadata = pd.DataFrame(rows, columns=["treatment", "perturbation_type", "concentration"])
    metadata.insert(0, "well_id", [f"compound-001_1_A{i:02d}" for i in range(len(rows))])
    metadata = metadata.assign(experiment_name="compound-001", plate=1, address=metadata.index)
    table = pd.DataFrame(np.array(features, np.float32)).add_prefix("feature_")
    table.insert(0, "well_id", metadata["well_id"])
    table.to_parquet(tmp_path / "openphenom.parquet")
    metadata.sample(frac=1, random_state=0).to_csv(tmp_path / "metadata.csv", index=False)
    truth = pd.DataFrame({"treatment": [f"cpd{i}" for i in range(30)], "nM_value": 4.0})
    truth.assign(gene_symbol=[f"G{i:02d}" for i in range(30)]).to_csv(
        tmp_path / "truth.csv", index=False
    )
    command = ["evaluate", "compound-gene", "--embeddings", str(tmp_path / "openphenom.parquet")]
    command += ["--metadata", str(tmp_path / "metadata.csv"), "--key", "well_id", "--no-page"]
    command += ["--interactions", str(tmp_path / "truth.csv"), "--draws", "5"]
    command += ["--controls", "Metadata_treatment=EMPTY_control", "--plate", "Metadata_plate"]
    command += ["--experiment", "Metadata_experiment_name", "--well", "Metadata_address"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert "openphenom: mean AP " in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "out/perturbations.csv")
    assert len(table) == 30
    assert table["score"].mean() > 0.7


@pytest.mark.parametrize("what", ["compare", "blocks", "genesets"])
def test_parts_on_maps(folder: Path, what: str) -> None:
    out = folder / "out"
    (folder / "sets.json").write_text(json.dumps({"all": [f"G{i:02d}" for i in range(24)]}))
    command = ["evaluate", what, "--embeddings", f"A={folder / 'mae'},B={folder / 'mae'}"]
    command += ["--relationships", str(folder / "complexes.csv"), "--out", str(out)]
    command += ["--sets", str(folder / "sets.json")] if what == "genesets" else []
    assert main(command) == 0
    table = pd.read_csv(out / f"{what}.csv")
    assert len(table) == {"compare": 1, "blocks": 2, "genesets": 2}[what]
    if what == "compare":
        assert table["difference"].tolist() == [0]  # the same embeddings twice


def test_features_and_flops(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = Profiles.read(folder / "mae")
    names = ("Cells_AreaShape_Area", "Nuclei_Texture_Var")
    mixed = whole.features @ np.random.default_rng(0).standard_normal((6, 2)).astype(np.float32)
    for experiment in ("E0", "E1"):
        mine = (whole.metadata["Metadata_Experiment"] == experiment).to_numpy()
        whole.take(mine).write(folder / f"{experiment}.parquet")
        Profiles(whole.metadata, mixed, names).take(mine).write(folder / f"{experiment}_cp.parquet")
    pairs = {
        e: [str(folder / f"{e}.parquet"), str(folder / f"{e}_cp.parquet")] for e in ("E0", "E1")
    }
    command = ["evaluate", "features", "--train", ",".join(pairs["E0"])]
    command += ["--test", ",".join(pairs["E1"])]
    assert main([*command, "--out", str(folder / "out")]) == 0
    table = pd.read_csv(folder / "out" / "features.csv")
    assert table["category"].tolist() == ["AreaShape", "Texture"]
    assert (folder / "out" / "features.png").read_bytes()[:4] == b"\x89PNG"
    assert main(["evaluate", "flops", "--size", "L", "--patch", "8", "--crops", "3.5e9"]) == 0
    assert "5.8" in capsys.readouterr().out  # 61.6e9 · 1.69 · 16 · 3.5e9 = 5.83e21


def test_paper_mode(folder: Path) -> None:
    (folder / "shapes.json").write_text(json.dumps({"MAE": {"size": "S", "crops": 1e6}}))
    (folder / "arms.csv").write_text(
        "gene,chromosome_arm\n" + "".join(f"G{i:02d},chr1p\n" for i in range(24))
    )
    out = folder / "paper"
    command = ["evaluate", "paper", "--no-page"]
    command += ["--embeddings", f"MAE={folder / 'mae'}", "--random", "32"]
    command += ["--relationships", str(folder / "complexes.csv"), "--corrections", "all"]
    command += [
        "--shapes",
        str(folder / "shapes.json"),
        "--chromosome-arms",
        str(folder / "arms.csv"),
    ]
    assert main([*command, "--out", str(out)]) == 0
    text = (out / "paper.html").read_text()
    assert "no expression table was given" in text
    assert "Table 2" in text
    assert {"table2.csv", "table3.csv", "scaling.csv", "settings.json"} <= {
        p.name for p in out.iterdir()
    }
    (folder / "shapes.json").write_text(json.dumps({"MAE": {"sise": "S", "crops": 1e6}}))
    assert main([*command, "--out", str(folder / "other")]) == 2
    assert not (folder / "other").exists()


def test_correct_streaming_gives_the_same(folder: Path) -> None:
    command = ["correct", "--embeddings", str(folder / "mae"), "--method", "standardize-plate"]
    assert main([*command, "--out", str(folder / "a.parquet")]) == 0
    assert main([*command, "--stream", "--out", str(folder / "b.parquet")]) == 0
    a, b = Profiles.read(folder / "a.parquet"), Profiles.read(folder / "b.parquet")
    np.testing.assert_allclose(a.features, b.features, atol=1e-5)


@pytest.mark.parametrize(
    ("evaluation", "old", "new"),
    [
        ("recall", "--through", "--aggregate-via"),
        ("recall", "--arms", "--chromosome-arms"),
        ("paper", "--main", "--table3-correction"),
        ("features", "--each", "--scale-per-experiment"),
    ],
)
def test_old_options_name_the_new_one(
    capsys: pytest.CaptureFixture[str], evaluation: str, old: str, new: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", evaluation, old, "value"])
    assert f"{old} is now called {new}" in capsys.readouterr().err


def test_screens_without_controls(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", "recall", "--embeddings", str(folder / "mae"), "--controls", "none"]
    command += ["--relationships", str(folder / "complexes.csv"), "--corrections", "center-plate"]
    command.append("--no-page")
    assert main([*command, "--out", str(folder / "out")]) == 2
    assert "fit on all wells with --fit-on all" in capsys.readouterr().err
    assert main([*command, "--fit-on", "all", "--out", str(folder / "out")]) == 0
    assert pd.read_csv(folder / "out" / "recall.csv")["recall"].iloc[0] > 0.5


def test_features_that_are_missing_in_one_experiment(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = Profiles.read(folder / "mae")
    names = ("Cells_AreaShape_Area", "Nuclei_Texture_Var", "Cells_Intensity_Mean")
    mixed = whole.features @ np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    command = ["evaluate", "features", "--out", str(folder / "out")]
    for experiment, option, missing in (("E0", "--train", 0), ("E1", "--test", 1)):
        rows = (whole.metadata["Metadata_Experiment"] == experiment).to_numpy()
        whole.take(rows).write(folder / f"{experiment}.parquet")
        targets = Profiles(whole.metadata, mixed, names).take(rows)
        targets.features[3, missing] = np.nan
        targets.write(folder / f"{experiment}_cp.parquet")
        command += [option, ",".join(str(folder / f"{experiment}{s}.parquet") for s in ("", "_cp"))]
    assert main(command) == 0
    table = pd.read_csv(folder / "out" / "features.csv")
    assert table["feature"].tolist() == ["Cells_Intensity_Mean"]
    assert "2 features that are not finite in both" in capsys.readouterr().out


def test_arms_from_coordinates(folder: Path) -> None:
    (folder / "genes.csv").write_text(
        "gene,chrom,start,end\n" + "".join(f"G{i:02d},chr1,{i},{i + 1}\n" for i in range(24))
    )
    (folder / "centromeres.csv").write_text("chrom,start,end\nchr1,100,120\n")
    command = ["evaluate", "recall", "--embeddings", str(folder / "mae")]
    command += ["--relationships", str(folder / "complexes.csv"), "--out", str(folder / "out")]
    command += ["--chromosome-arms", str(folder / "genes.csv")]
    assert main(command) == 2
    centromeres = ["--centromeres", str(folder / "centromeres.csv"), "--no-page"]
    assert main([*command, *centromeres]) == 0

"""From an index and an encoder to a model that others load, judged on held-out wells."""

import dataclasses
from collections import Counter
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.preprocessing import StandardScaler

from mae_jax.cli.main import main
from mae_jax.encoders import load_encoder
from mae_jax.errors import InputError
from mae_jax.finetune import FineTuned, FineTuner, labelled_crops
from mae_jax.finetune.linear_probe import fit_linear_probe, predict_linear
from mae_jax.finetune.methods import Method, one_layer
from mae_jax.finetune.objectives import loss
from mae_jax.finetune.training import train


@pytest.fixture(scope="module")
def linear(stripes, tiny_encoder, settings, tmp_path_factory):
    """The linear probe of the three classes, and its folder."""
    folder = tmp_path_factory.mktemp("linear")
    tuner = FineTuner(tiny_encoder, **settings)
    return tuner.fit(stripes, "Metadata_Compound", out=folder), folder, tuner


def test_a_linear_probe_tells_held_out_plates_apart(linear, stripes):
    result, folder, _ = linear
    assert result.held_out_by == "plate"
    assert result.scores["test"]["balanced_accuracy"] > 0.9
    test = result.predictions[result.predictions["Part"] == "test"]
    assert test["Metadata_Plate"].nunique() == 1
    assert (test["Predicted"] == test["Metadata_Compound"]).mean() > 0.9
    assert result.confusion.to_numpy().sum() == len(test) == result.counts["test"]
    for name in ("curves.png", "confusion.png", "confusion.csv", "history.csv", "split.csv"):
        assert (folder / name).stat().st_size > 50
    assert "balanced accuracy" in str(result)
    card = (folder / "model" / "README.md").read_text()
    assert "14 to train on, 4 for early stopping, 18 held out by plate" in card
    assert "| balanced accuracy |" in card


def test_what_is_saved_predicts_and_embeds_alike(linear, stripes, tiny_encoder):
    result, folder, _ = linear
    whole = FineTuned.load(folder).predict(stripes)
    assert len(whole) == 36
    merged = result.predictions.merge(whole, on=["Metadata_Plate", "Metadata_Well"])
    np.testing.assert_allclose(merged["Probability_x"], merged["Probability_y"], rtol=1e-4)
    encoder = load_encoder(folder / "model")  # as `mae-jax embed --encoder` does
    assert encoder.fingerprint == tiny_encoder.fingerprint


def test_a_finished_one_is_read_back_and_another_is_refused(linear, stripes, tiny_encoder):
    result, folder, tuner = linear
    again = tuner.fit(stripes, "Metadata_Compound", out=folder)
    assert again.scores == result.scores
    assert again.confusion.equals(result.confusion)
    other = FineTuner(tiny_encoder, dataclasses.replace(tuner.config, seed=1))
    with pytest.raises(InputError, match="another seed"):
        other.fit(stripes, "Metadata_Compound", out=folder)


@pytest.mark.slow
def test_several_labels_and_numbers(stripes, tiny_encoder, settings):
    marks = FineTuner(tiny_encoder, **settings).fit(stripes, "Marks")
    assert marks.model.config.names == ("DNA", "ER", "none")
    assert marks.scores["test"]["macro_average_precision"] > 0.9
    dose = FineTuner(tiny_encoder, **settings).fit(stripes, ["Metadata_Dose"])
    assert dose.model.config.kind == "regression"
    assert dose.scores["test"]["spearman"] > 0.4
    # In the units of the table, not in standard deviations.
    assert abs(dose.predictions["Predicted_Metadata_Dose"].mean() - 0.6) < 0.35


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full", "attentive"])
def test_methods_that_train_more(method, stripes, tiny_encoder, settings, tmp_path):
    # Crops are whole sites here; the attentive probe starts from nothing.
    few = {"steps": 40, "crop": 32} | ({"lr": 3e-2} if method == "attentive" else {})
    tuner = FineTuner(tiny_encoder, method=method, **settings | few)
    result = tuner.fit(stripes, "Compound", out=tmp_path)
    assert result.scores["test"]["balanced_accuracy"] > 0.6
    first, *_, last = result.history[result.history["stage"] == method]["train_loss"].dropna()
    assert last < first
    saved = load_encoder(tmp_path / "model")
    changed = not np.array_equal(
        saved.params["block_00"]["in_proj"], tiny_encoder.params["block_00"]["in_proj"]
    )
    assert changed == (method != "attentive")
    assert ("test_of_the_probe" in result.scores) == (method != "attentive")
    whole = FineTuned.load(tmp_path).predict(stripes)
    merged = result.predictions.merge(whole, on=["Metadata_Plate", "Metadata_Well"])
    np.testing.assert_allclose(merged["Probability_x"], merged["Probability_y"], atol=1e-4)


def three_classes(seed: int, rows: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(9).normal(size=(3, 6))
    codes = rng.integers(0, 3, rows)
    features = (centers[codes] + rng.normal(size=(rows, 6))) * [2, 1, 1, 1, 1, 0.5] + 3
    return features.astype(np.float32), codes


def test_the_probe_agrees_with_scikit_learn():
    """At each weight decay, its decisions are those of a regression with the same penalty."""
    features, codes = three_classes(0)
    normed = StandardScaler().fit_transform(features)
    for decay in (1.0, 1e-2):
        done = fit_linear_probe(
            features, np.eye(3)[codes], np.ones(len(codes)), lambda o, v: loss("classes", o, v),
            lambda head: (0.0, 0.0), decays=(decay,),
        )  # fmt: skip
        # scikit-learn sums losses where the probe takes their mean, and also halves the penalty.
        reference = LogisticRegression(C=1 / (decay * len(codes)), max_iter=1000)
        chances = reference.fit(normed, codes).predict_proba(normed)
        outputs = predict_linear(done.best["head"], features)
        np.testing.assert_allclose(jax.nn.softmax(outputs), chances, atol=0.01)
        folded = one_layer(done.best["head"])
        np.testing.assert_allclose(predict_linear(folded, features), outputs, atol=1e-3)


def test_the_weight_decay_is_that_of_the_best_validation_score():
    features, codes = three_classes(0)
    seen, seen_codes = three_classes(1)

    def validate(head):
        outputs = predict_linear(head, seen)
        each = loss("classes", jnp.asarray(outputs), jnp.eye(3)[seen_codes])
        return float(each.mean()), float((outputs.argmax(axis=1) == seen_codes).mean())

    done = fit_linear_probe(
        features, np.eye(3)[codes], np.ones(len(codes)), lambda o, v: loss("classes", o, v),
        validate,
    )  # fmt: skip
    scores = [row["validation_score"] for row in done.history]
    normed = StandardScaler().fit(features)
    reference = LogisticRegressionCV(
        Cs=10, l1_ratios=(0.0,), scoring="accuracy", max_iter=1000, use_legacy_attributes=False
    )
    reference.fit(normed.transform(features), codes)
    assert validate(done.best["head"])[1] == max(scores)
    assert max(scores) >= reference.score(normed.transform(seen), seen_codes) - 0.01


def test_an_interrupted_search_of_weight_decays_ends_as_one_that_was_not(tmp_path):
    features, codes = three_classes(0, rows=60)

    def run(state, stop_after=None):
        fits = iter(range(100))

        def validate(head):
            if next(fits) == stop_after:
                raise KeyboardInterrupt
            return float(jnp.abs(head["kernel"]).sum()), 0.5

        return fit_linear_probe(
            features, np.eye(3)[codes], np.ones(60), lambda o, v: loss("classes", o, v), validate,
            decays=(1.0, 0.1, 0.01), state=state,
        )  # fmt: skip

    whole = run(tmp_path / "whole.npz")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part.npz", stop_after=2)
    resumed = run(tmp_path / "part.npz")
    np.testing.assert_array_equal(resumed.best["head"]["kernel"], whole.best["head"]["kernel"])
    assert resumed.history == whole.history


def toy() -> tuple[Method, object]:
    method = Method({"w": jnp.zeros(3)}, {}, lambda p, f, x: x @ p["w"][:, None], lambda p, f: p)

    def batches(start):
        step = start
        while True:
            x = np.random.default_rng(step).normal(size=(8, 3)).astype(np.float32)
            yield x, x @ np.array([[1.0], [2.0], [-1.0]], np.float32)
            step += 1

    return method, batches


def test_an_interrupted_training_ends_as_one_that_was_not(tmp_path):
    method, batches = toy()

    def run(batches, state, **settings):
        settings = {"steps": 30, "every": 5, "patience": 0} | settings
        return train(
            method, optax.adam(0.1), lambda o, v: loss("regression", o, v), batches,
            lambda params: (float(jnp.abs(params["w"] - jnp.array([1.0, 2, -1])).sum()), 0.0),
            state=state, **settings,
        )  # fmt: skip

    def interrupted(start):
        yield from islice(batches(start), 12)
        raise KeyboardInterrupt

    whole = run(batches, tmp_path / "whole.npz")
    with pytest.raises(KeyboardInterrupt):
        run(interrupted, tmp_path / "part.npz")
    resumed = run(batches, tmp_path / "part.npz")
    np.testing.assert_array_equal(resumed.best["w"], whole.best["w"])
    assert [row["step"] for row in resumed.history] == [0, 5, 10, 15, 20, 25, 30]
    assert resumed.history[3:] == whole.history[3:]
    (tmp_path / "part.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"part\.npz cannot be resumed"):
        run(batches, tmp_path / "part.npz")


def test_training_stops_early_and_keeps_the_best():
    method, batches = toy()
    looks = iter([3.0, 1.0, 2.0, 2.0, 2.0, 0.0])
    done = train(
        method, optax.sgd(0.1), lambda o, v: loss("regression", o, v), batches,
        lambda params: (0.0, -next(looks)), steps=100, every=2, patience=3,
    )  # fmt: skip
    assert done.step == 8
    at_two = train(
        method, optax.sgd(0.1), lambda o, v: loss("regression", o, v), batches,
        lambda params: (0.0, 0.0), steps=2, every=2, patience=0,
    )  # fmt: skip
    np.testing.assert_array_equal(done.best["w"], at_two.params["w"])


def test_crops_of_labelled_sites(stripes):
    targets = np.arange(len(stripes), dtype=float)[:, None]
    rows = np.flatnonzero((stripes.table["Metadata_Compound"] != "noise").to_numpy())[:9]
    balance = ["one"] + ["others"] * (len(stripes) - 1)
    options = {"crop": 16, "batch": 32, "seed": 3, "rows": rows, "balance": balance}
    batches = labelled_crops(stripes, targets, **options)
    first, second = next(batches), next(batches)
    assert first[0].shape == (32, 2, 16, 16)
    assert set(first[1].ravel()) <= set(rows)
    counts = Counter([*first[1].ravel(), *second[1].ravel()])
    assert 20 < counts[0] < 44  # as often as all others together
    later = next(labelled_crops(stripes, targets, start_step=1, **options))
    np.testing.assert_array_equal(later[0], second[0])
    np.testing.assert_array_equal(later[1], second[1])


def test_a_folder_per_class(out, capsys):
    rng = np.random.default_rng(0)
    for kind, level in (("bright", 180), ("dim", 60)):
        (out("images") / kind).mkdir(parents=True)
        for number in range(8):
            pixels = rng.normal(level, 10, (24, 24, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(out("images") / kind / f"{number}.png")
    words = ["finetune", str(out("images")), "--encoder", "intensity", "--crop", "24"]
    words += ["--steps", "20", "--every", "10", "--lr", "0.01", "--out", str(out("run"))]
    assert main(words) == 0
    assert "test: balanced accuracy 1.000" in capsys.readouterr().out
    split = pd.read_csv(out("run") / "split.csv")
    assert split["Part"].value_counts()["train"] >= 8


def test_the_command(stripes, out, capsys):
    path = stripes.write(out("index.parquet"))
    words = ["finetune", "--encoder", "intensity", "--index", str(path), "--crop", "16"]
    words += ["--steps", "20", "--batch-size", "16"]
    labels = ["--labels", "Metadata_Compound"]
    assert main([*words, *labels, "--out", str(out("run"))]) == 0
    assert f"{out('run')}\n" in capsys.readouterr().out
    assert not (out("run") / "model").exists()  # a baseline has none
    loaded = FineTuned.load(out("run"))
    assert loaded.encoder.name == "intensity"
    assert main([*words, *labels, "--dry-run", "--out", str(out("no"))]) == 0
    assert "held out by plate" in capsys.readouterr().out
    assert not out("no").exists()
    assert main([*words, *labels, "--seed", "1", "--out", str(out("run")), "--overwrite"]) == 0
    for wrong, sentence in (
        ([], "name the column of the labels with --labels"),
        (["--labels", "Metadata_Compond"], "did you mean 'Metadata_Compound'"),
        ([*labels, "--method", "lora"], "has no parameters to train"),
        ([*labels, "--test-fraction", "2"], "test_fraction must be above 0 and below 1"),
        ([*labels, str(path)], "two screens are given"),
    ):
        assert main([*words, *wrong, "--out", str(out("other"))]) == 2
        assert sentence in capsys.readouterr().err

"""Losses and scores against scikit-learn and by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

from mae_jax.finetune.objectives import confusion, loss, probabilities, scores

RNG = np.random.default_rng(0)


def test_cross_entropies_are_those_of_scikit_learn():
    outputs = RNG.normal(size=(30, 4))
    codes = RNG.integers(0, 4, 30)
    each = loss("classes", jnp.asarray(outputs), jnp.asarray(np.eye(4)[codes]))
    expected = metrics.log_loss(codes, probabilities("classes", outputs), labels=range(4))
    assert float(each.mean()) == pytest.approx(expected, rel=1e-5)
    several = RNG.integers(0, 2, (30, 4)).astype(float)
    each = loss("multilabel", jnp.asarray(outputs), jnp.asarray(several))
    chances = probabilities("multilabel", outputs)
    expected = np.mean([metrics.log_loss(several[:, k], chances[:, k]) for k in range(4)])
    assert float(each.mean()) == pytest.approx(expected, rel=1e-5)


def test_unknown_values_do_not_count():
    outputs = jnp.asarray([[1.0, 3.0], [2.0, -1.0]])
    values = jnp.asarray([[0.0, np.nan], [2.5, 1.0]])
    np.testing.assert_allclose(loss("regression", outputs, values), [1.0, (0.25 + 4) / 2])
    first = loss("multilabel", outputs, jnp.asarray([[1.0, np.nan], [1.0, 0.0]]), 3.0)
    np.testing.assert_allclose(first[0], 3 * np.log1p(np.exp(-1.0)), rtol=1e-6)


def test_scores_of_classes_by_hand():
    truth, best = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 1, 0])
    found = scores("classes", ("a", "b", "c", "d"), np.eye(4)[truth], np.eye(4)[best])
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 0.8 + 0) / 3)
    assert (found["most_frequent_class"], found["chance"]) == (0.5, 0.25)
    table = confusion(("a", "b", "c", "d"), np.eye(4)[truth], np.eye(4)[best])
    assert table.loc["a"].tolist() == [2, 1, 0, 0]
    assert table.loc["c"].tolist() == [1, 0, 0, 0]
    assert int(table.to_numpy().sum()) == 6


def test_scores_of_labels_and_numbers():
    values = np.array([[1, 0, 0], [0, np.nan, 0], [1, 1, 0], [0, 1, 0.0]])
    predicted = np.array([[0.9, 0.2, 0.1], [0.4, 0.5, 0.3], [0.6, 0.7, 0.2], [0.7, 0.1, 0.4]])
    found = scores("multilabel", ("a", "b", "c"), values, predicted)  # c has one value only
    aucs = [0.75, 0.5]  # of a: 3 of 4 pairs in order; of b, without the unknown: 1 of 2
    assert found["macro_roc_auc"] == pytest.approx(np.mean(aucs))
    numbers = scores(
        "regression", ("dose",), np.array([[1.0], [2], [3]]), np.array([[1.0], [2], [5]])
    )
    assert numbers["r2"] == pytest.approx(1 - 4 / 2)
    assert numbers["mean_absolute_error"] == pytest.approx(2 / 3)
    assert numbers["spearman"] == pytest.approx(1)

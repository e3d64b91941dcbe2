"""Losses and scores of fine-tuning."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from jaxtyping import Array, Float
from scipy import stats
from sklearn import metrics

from mae_jax.finetune.targets import Kind


def loss(
    kind: Kind,
    outputs: Float[Array, "batch outputs"],
    values: Float[Array, "batch outputs"],
    positive_weight: Float[Array, " outputs"] | float = 1.0,
) -> Float[Array, " batch"]:
    """The loss of each row: cross-entropy, binary cross-entropies or squared errors.

    Entries of `values` that are NaN are not known and do not count.
    """
    known = jnp.isfinite(values)
    values = jnp.where(known, values, 0.0)
    if kind == "classes":
        return -(values * jax.nn.log_softmax(outputs)).sum(axis=-1)
    if kind == "multilabel":
        each = optax.sigmoid_binary_cross_entropy(outputs, values)
        each = each * jnp.where(values > 0, positive_weight, 1.0)
    else:
        each = jnp.square(outputs - values)
    return (each * known).sum(axis=-1) / jnp.maximum(known.sum(axis=-1), 1)


def probabilities(
    kind: Kind, outputs: Float[np.ndarray, "rows outputs"]
) -> Float[np.ndarray, "rows outputs"]:
    """Softmax of classes, sigmoid of several labels; numbers as they are."""
    if kind == "classes":
        shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        return shifted / shifted.sum(axis=1, keepdims=True)
    return 1 / (1 + np.exp(-outputs)) if kind == "multilabel" else outputs


def scores(
    kind: Kind,
    names: Sequence[str],
    values: Float[np.ndarray, "wells outputs"],
    predicted: Float[np.ndarray, "wells outputs"],
) -> dict[str, float]:
    """The scores of wells, by scikit-learn: values are as in `Targets`, predictions as in
    `probabilities`.

    Classes: accuracy, balanced accuracy (the mean recall of the classes there are), macro F1,
    accuracy among the first five, and the share of the most frequent class. Several labels: macro
    average precision and ROC AUC over the labels that have both values, micro F1 at 0.5. Numbers:
    R², mean absolute error, Pearson's and Spearman's correlation, averaged over columns.
    """
    result: dict[str, float] = {"wells": float(len(values))}
    if kind == "classes":
        truth, best = values.argmax(axis=1), predicted.argmax(axis=1)
        present = np.unique(truth)
        recalls = metrics.recall_score(truth, best, labels=present, average=None, zero_division=0.0)
        result |= {
            "accuracy": float(metrics.accuracy_score(truth, best)),
            "balanced_accuracy": float(np.mean(recalls)),
            "macro_f1": float(
                metrics.f1_score(truth, best, labels=present, average="macro", zero_division=0.0)
            ),
            "most_frequent_class": float(np.bincount(truth).max() / len(truth)),
            "chance": 1 / len(names),
        }
        if len(names) > 5:
            result["top5_accuracy"] = float(
                metrics.top_k_accuracy_score(truth, predicted, k=5, labels=np.arange(len(names)))
            )
        return result
    columns: dict[str, list[float]] = {}
    for number in range(len(names)):
        known = np.isfinite(values[:, number])
        truth, guess = values[known, number], predicted[known, number]
        for name, value in _of_column(kind, truth, guess).items():
            columns.setdefault(name, []).append(value)
    result |= {name: float(np.mean(each)) for name, each in columns.items()}
    if kind == "multilabel":
        known = np.isfinite(values)
        result["micro_f1"] = float(
            metrics.f1_score(values[known] > 0, predicted[known] > 0.5, zero_division=0.0)
        )
    return result


def main_score(kind: Kind) -> str:
    """The name of the score that curves and summaries show."""
    return {
        "classes": "balanced_accuracy", "multilabel": "macro_average_precision", "regression": "r2"
    }[kind]  # fmt: skip


def confusion(
    names: Sequence[str],
    values: Float[np.ndarray, "wells outputs"],
    predicted: Float[np.ndarray, "wells outputs"],
) -> pd.DataFrame:
    """Numbers of wells by class (rows) and predicted class (columns)."""
    counts = metrics.confusion_matrix(
        values.argmax(axis=1), predicted.argmax(axis=1), labels=np.arange(len(names))
    )
    table = pd.DataFrame(counts, index=list(names), columns=list(names))
    return table.rename_axis("class")


def _of_column(kind: Kind, truth: np.ndarray, guess: np.ndarray) -> dict[str, float]:
    if kind == "multilabel":
        if len(np.unique(truth)) < 2:
            return {}
        return {
            "macro_average_precision": float(metrics.average_precision_score(truth, guess)),
            "macro_roc_auc": float(metrics.roc_auc_score(truth, guess)),
        }
    if len(truth) < 2:
        return {}
    result = {
        "r2": float(metrics.r2_score(truth, guess)),
        "mean_absolute_error": float(metrics.mean_absolute_error(truth, guess)),
    }
    if np.ptp(truth) > 0 and np.ptp(guess) > 0:
        result["pearson"] = float(stats.pearsonr(truth, guess).statistic)
        result["spearman"] = float(stats.spearmanr(truth, guess).statistic)
    return result

"""The grammar of corrections: named steps with options, joined to chains.

    tvn                                          one step
    tvn:components=150,ridge=0.2                 with options
    mad|int|select|pca:components=128|tvn        a chain: each step takes what the one before gives

`CORRECTIONS` has every step by name. Those of the paper's Table 2 stand first; `TABLE2` names them.
The options of a step are the fields of its specification that `OPTIONS` lists. Most steps are an
affine map, for all wells or for each batch, and need one entry in `CORRECTIONS` and no code.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mae_jax import config
from mae_jax.config import nearest, setting
from mae_jax.errors import InputError

FitOn = Literal["", "controls", "all"]


@config.schema
class StepSpec:
    """What every step of a correction has.

    Attributes:
      label: its name in tables and messages; "": its name in `CORRECTIONS`.
      fit: "controls" or "all": the wells that it is fitted on; "": those of the whole chain.
      batch: "" (one map for all wells), "plate", "experiment" or a metadata column.
    """

    label: str = field(default="", compare=False)
    fit: FitOn = ""
    batch: str = ""


@config.schema
class AffineSpec(StepSpec):
    """An affine map in two parts: one for all wells, then one for each batch.

    Attributes:
      axes: "" (keep the features), "pca" (center, rotate) or "tvn" (z-score, rotate, z-score).
      components: keep this many principal axes, if that many have variance; 0: all of them.
      variance: keep the fewest axes that hold this share of the variance; 0: all of them.
      unit_variance: divide principal axes by their σ (ddof 1).
      clamp: at most this many axes for each control of the batch with the fewest, else as many
        axes as that batch has controls, less one (JUMP-lite: 2.5); 0: no such limit.
      shift: subtract each batch's mean.
      scale: divide by each batch's σ.
      whiten: multiply by (C_b + ridge I)^(−1/2), C_b the covariance of the batch's wells.
      ridge: added to the diagonal of covariances; EFAAR's is 0.5.
      recolor: multiply by (C + ridge I)^(1/2), C the covariance of all batches' wells.
    """

    axes: Literal["", "pca", "tvn"] = ""
    components: int = setting(0, ge=0)
    variance: float = setting(0.0, ge=0, le=1)
    unit_variance: bool = False
    clamp: float = setting(0.0, ge=0)
    shift: bool = False
    scale: bool = False
    whiten: bool = False
    ridge: float = setting(0.5, gt=0)
    recolor: bool = False


@config.schema
class MADSpec(StepSpec):
    """Robust z-scores: (x − median) / (factor · MAD + epsilon); a MAD of 0 counts as 1.

    With epsilon above 0 a MAD of 0 stays 0, as in pycytominer's `mad_robustize` (1e-18).
    """

    epsilon: float = setting(0.0, ge=0)
    factor: float = setting(1.4826, gt=0)


@config.schema
class SpheringSpec(StepSpec):
    """Whitening by the singular value decomposition of the wells (Kessy et al. 2018).

    Attributes:
      method: "pca" or "zca"; with "-cor" the features are standardized first.
      epsilon: added to the singular values, as in pycytominer.
    """

    method: Literal["pca", "zca", "pca-cor", "zca-cor"] = "zca-cor"
    epsilon: float = setting(1e-6, ge=0)


@config.schema
class CombatSpec(StepSpec):
    """ComBat, parametric empirical Bayes without covariates (Johnson et al. 2007)."""


@config.schema
class InverseNormalSpec(StepSpec):
    """Each feature's quantile among the wells of the fit, as a quantile of the normal distribution.

    It is scikit-learn's QuantileTransformer, as pycytominer's `inverse_normal`: values between
    two quantiles are interpolated, and those outside the range of the fit become ±5.2.

    Attributes:
      quantiles: how many quantiles are kept, at most as many as there are wells.
    """

    quantiles: int = setting(1000, ge=2)


@config.schema
class SelectSpec(StepSpec):
    """Feature selection with pycytominer's rules, in this order; None leaves a rule out.

    Attributes:
      na: drop features with a larger share of missing values.
      variance: drop features of at most this variance.
      frequency: drop if count of the second most common value / count of the most common is less.
      unique: drop if distinct values / wells is less.
      outliers: drop if the largest or smallest value is farther from 0.
      correlation: of two features that correlate more, drop the one whose |r| with all features
        sum up to more.
    """

    na: float | None = setting(0.05, ge=0, le=1)
    variance: float | None = setting(1e-6, ge=0)
    frequency: float | None = setting(0.05, ge=0, le=1)
    unique: float | None = setting(0.01, ge=0, le=1)
    outliers: float | None = setting(500.0, ge=0)
    correlation: float | None = setting(0.9, ge=0, le=1)


@config.schema
class HarmonySpec(StepSpec):
    """Harmony (Korsunsky et al. 2019), by harmonypy: moves each well by its cluster memberships.

    Attributes:
      clusters: number of clusters; 0: the smaller of wells/30 and 100.
      theta: strength of the penalty on clusters of few batches.
      iterations: at most.
    """

    clusters: int = setting(0, ge=0)
    theta: float = setting(2.0, ge=0)
    iterations: int = setting(10, ge=1)


# Name -> what it consists of, with the defaults of its options.
CORRECTIONS: dict[str, StepSpec] = {
    "none": AffineSpec(label="No transformation"),
    "pca": AffineSpec(label="PCA", axes="pca"),
    "center-plate": AffineSpec(label="Center by plate", batch="plate", shift=True),
    "center-experiment": AffineSpec(label="Center by experiment", batch="experiment", shift=True),
    "standardize-plate": AffineSpec(
        label="Standardize by plate", batch="plate", shift=True, scale=True
    ),
    "standardize-experiment": AffineSpec(
        label="Standardize by experiment", batch="experiment", shift=True, scale=True
    ),
    "pca-standardize-plate": AffineSpec(
        label="PCA+Standardize by plate", axes="pca", batch="plate", shift=True, scale=True
    ),
    "pca-standardize-experiment": AffineSpec(
        label="PCA+Standardize by experiment",
        axes="pca",
        batch="experiment",
        shift=True,
        scale=True,
    ),
    # By experiment: a plate seldom has enough controls for a covariance.
    "tvn": AffineSpec(label="TVN", axes="tvn", batch="experiment", whiten=True),
    "tvn-centered": AffineSpec(
        label="TVN, each batch's controls centered",
        axes="tvn",
        batch="experiment",
        shift=True,
        whiten=True,
    ),
    "center": AffineSpec(label="Center", batch="plate", shift=True),
    "center-scale": AffineSpec(label="Center and scale", batch="plate", shift=True, scale=True),
    "mad": MADSpec(label="Robust z-score (MAD)", batch="plate"),
    "sphering": SpheringSpec(label="Sphering"),
    "combat": CombatSpec(label="ComBat", batch="plate"),
    "int": InverseNormalSpec(label="Inverse normal", fit="all"),
    "select": SelectSpec(label="Feature selection", fit="all"),
    "harmony": HarmonySpec(label="Harmony", batch="plate"),
}
# What is done unless another correction is named; the paper's tables use "tvn". On CPJUMP1, scored
# against controls and treatments that neither had seen, it was better than TVN, and in synthetic
# screens no worse (benchmarks/results/corrections).
DEFAULT = "pca-standardize-experiment:components=64"
# The rows of Table 2: what `--corrections all` means.
TABLE2 = tuple(CORRECTIONS)[:9]

_AXES = {"components": "components", "variance": "variance"}
_TVN = {**_AXES, "ridge": "ridge", "center": "shift", "scale": "scale", "recolor": "recolor"}
# Name -> its options (besides `fit`) -> the field of its specification.
OPTIONS: dict[str, dict[str, str]] = {
    "pca": {**_AXES, "whiten": "unit_variance"},
    "pca-standardize-plate": _AXES,
    "pca-standardize-experiment": _AXES,
    "tvn": {**_TVN, "clamp": "clamp", "batch": "batch"},
    "tvn-centered": {**_TVN, "clamp": "clamp", "batch": "batch"},
    "center": {"batch": "batch"},
    "center-scale": {"batch": "batch"},
    "mad": {"epsilon": "epsilon", "factor": "factor", "batch": "batch"},
    "sphering": {"method": "method", "epsilon": "epsilon", "batch": "batch"},
    "combat": {"batch": "batch"},
    "int": {"quantiles": "quantiles"},
    "select": {
        rule: rule for rule in ("na", "variance", "frequency", "unique", "outliers", "correlation")
    },
    "harmony": {
        "clusters": "clusters", "theta": "theta", "iterations": "iterations", "batch": "batch",
    },
}  # fmt: skip
# Steps that move each well by all the others: nothing is fitted that could be applied later.
TRANSDUCTIVE = ("harmony",)


@dataclass(frozen=True)
class Step:
    """One step of a chain: its name in `CORRECTIONS`, and that entry with the options set."""

    name: str
    spec: StepSpec

    @property
    def transductive(self) -> bool:
        """Whether it moves each well by all the others."""
        return self.name in TRANSDUCTIVE

    @property
    def label(self) -> str:
        """Its name in messages."""
        return self.spec.label or self.name


def steps_of(method: str, batch: str | None = None) -> tuple[Step, ...]:
    """The steps of a correction: `mad|int|select|tvn:components=150,ridge=0.2`.

    Args:
      method: steps, joined by "|". Each is a name in `CORRECTIONS`, and after a colon options as
        key=value, joined by commas. Thresholds may be `none`; `batch=all` is one map for all wells.
      batch: the grouping of every step that groups and has no option `batch` of its own.

    Raises:
      InputError: an unknown step or option (the message names the nearest one), or a value of the
        wrong type or out of range.
    """
    return tuple(_step(text.strip(), method, batch) for text in method.split("|"))


def label(method: str) -> str:
    """A correction's name in tables: that of Table 2 where it has one, else as it is written.

    Raises:
      InputError: there is no such correction.
    """
    steps = steps_of(method)
    return steps[0].label if method in CORRECTIONS else method


def split_methods(text: str) -> list[str]:
    """Corrections that are joined by commas: `none,tvn:components=150,ridge=0.2` has two.

    A comma before `key=value` belongs to the options of the correction before it.
    """
    methods: list[str] = []
    for part in text.split(","):
        if methods and re.match(r"\s*[\w-]+\s*=", part):
            methods[-1] += "," + part.strip()
        else:
            methods.append(part.strip())
    return methods


def steps_text() -> str:
    """Every step with its options and their defaults, one per line."""
    lines = []
    for name, spec in CORRECTIONS.items():
        options = [f"{o}={_text(getattr(spec, f))}" for o, f in OPTIONS.get(name, {}).items()]
        if name != "none" and name not in TRANSDUCTIVE:
            options += [f"fit={spec.fit}"] if spec.fit else ["fit"]
        lines.append(f"{name}: {', '.join(options)}" if options else name)
    return "\n".join(lines)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "all" if value == "" else "none" if value is None else f"{value}"


def _step(text: str, method: str, batch: str | None) -> Step:
    name, colon, rest = (part.strip() for part in text.partition(":"))
    if not name:
        raise InputError(f"the correction '{method}' has an empty step; write steps as pca|tvn.")
    if name not in CORRECTIONS:
        raise InputError(f"there is no correction '{name}': {nearest(name, list(CORRECTIONS))}")
    spec, options = CORRECTIONS[name], dict(OPTIONS.get(name, {}))
    if name != "none" and name not in TRANSDUCTIVE:
        options["fit"] = "fit"
    where = f"correction '{name}'"
    values: dict[str, Any] = {}
    for part in rest.split(",") if colon else ():
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key:
            raise InputError(f"{where} takes options as key=value, not '{part.strip()}'.")
        if key not in options:
            known = f"{nearest(key, list(options))}" if options else "it has none."
            raise InputError(f"{where} has no option '{key}': {known}")
        if options[key] in values:
            raise InputError(f"{where} has the option '{key}' twice; give it once.")
        values[options[key]] = _value(type(spec), options[key], value, f"{where}, option '{key}',")
    if values.get("components") and values.get("variance"):
        raise InputError(f"{where} takes components or variance, not both.")
    if values.get("scale"):
        values["shift"] = True  # a z-score
    if batch and spec.batch and "batch" not in values:
        values["batch"] = batch
    return Step(name, _replaced(spec, values, options, where))


def _value(schema: type, name: str, text: str, where: str) -> Any:
    kinds = config.alternatives(config.type_hints(schema)[name])
    if type(None) in kinds and text == "none":
        return None
    if name == "batch":
        return "" if text == "all" else text
    if name == "fit" and text not in ("controls", "all"):
        raise InputError(f"{where} must be controls or all, not '{text}'.")
    for kind, words in ((bool, "yes or no"), (int, "a whole number"), (float, "a number")):
        if kind not in kinds:
            continue
        try:
            return {"yes": True, "no": False}[text] if kind is bool else kind(text)
        except (KeyError, ValueError):
            raise InputError(f"{where} must be {words}, not '{text}'.") from None
    return text


def _replaced(
    spec: StepSpec, values: Mapping[str, Any], options: Mapping[str, str], where: str
) -> StepSpec:
    for name, value in values.items():
        try:
            # By `from_dict`, which checks choices and ranges.
            config.from_dict(type(spec), {name: value}, where)
        except InputError as problem:
            option = next(o for o, f in options.items() if f == name)
            raise InputError(
                str(problem).replace(f"{where}.{name}", f"{where}: {option}")
            ) from None
    return replace(spec, **values)

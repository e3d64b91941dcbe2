"""`FineTuner`: labels of an index and an encoder to a fine-tuned one, judged on held-out wells.

    tuner = FineTuner(load_encoder("runs/mine/model"), method="lora")
    result = tuner.fit(Index.read("index.parquet"), labels="Metadata_Compound", out="runs/mine")
    print(result.scores["test"])
    predictions = result.model.predict(Index.read("another.parquet"))

`out` also holds what `mae-jax embed --encoder runs/mine/model` takes.
"""

import dataclasses
import os
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Float, PyTree

from mae_jax.data import Index
from mae_jax.data.index import WELL
from mae_jax.encoders import Encoder, load_encoder
from mae_jax.errors import InputError
from mae_jax.finetune import fine_tuned as tuned
from mae_jax.finetune import methods, objectives
from mae_jax.finetune.config import FineTuneConfig
from mae_jax.finetune.crops import labelled_crops
from mae_jax.finetune.linear_probe import WEIGHT_DECAYS, fit_linear_probe, predict_linear
from mae_jax.finetune.results import FineTuneResult, Workdir
from mae_jax.finetune.splits import split_wells
from mae_jax.finetune.targets import Targets, read_targets
from mae_jax.finetune.training import Progress, train

# The linear probe learns from groups of a site's tiles, since their scatter shows which features
# to trust: at most so many groups of a site, and rows altogether, so that a fit stays quick.
PROBE_CROPS, PROBE_ROWS = 16, 2**15


class _Features(NamedTuple):
    """Mean embeddings by row of the index, and those of training's groups of tiles with rows."""

    sites: Float[np.ndarray, "rows dim"]
    crops: Float[np.ndarray, "groups dim"]
    rows: np.ndarray


class FineTuner:
    """Fine-tunes an encoder to predict labels of wells.

    Args:
      encoder: an encoder, or whatever `load_encoder` reads.
      config: all settings; `settings` are single ones of them (`FineTuneConfig`).

    Raises:
      InputError: a setting that does not exist or is out of range.
    """

    def __init__(
        self,
        encoder: Encoder | str | os.PathLike[str],
        config: FineTuneConfig | None = None,
        **settings: Any,
    ) -> None:
        self.encoder = encoder if isinstance(encoder, Encoder) else load_encoder(encoder)
        try:
            self.config = dataclasses.replace(config or FineTuneConfig(), **settings)
        except TypeError as problem:
            raise InputError(f"{str(problem).split('.')[-1].split(') ')[-1]}.") from None

    def fit(
        self,
        index: Index,
        labels: str | Sequence[str] = "Metadata_Perturbation",
        *,
        out: str | os.PathLike[str] | None = None,
        show: bool = False,
    ) -> FineTuneResult:
        """Fine-tune on the labelled wells of an index.

        The score of the validation wells chooses the step whose parameters are kept, and the
        weight decay of the linear probe, from which "lora" and "full" start.

        Args:
          labels: the metadata column, or several, of the labels (`read_targets`).
          out: a folder to which the result is written, and from which an interrupted fine-tuning
            resumes. One that is finished there is read back.
          show: progress bars.

        Raises:
          InputError: the labels, the split or the images are wrong, or `out` holds another run.
        """
        return self._job(index, labels, Workdir(out), show).run()

    def plan(self, index: Index, labels: str | Sequence[str]) -> dict[str, Any]:
        """What `fit` would do, without reading an image: targets, wells of each part, channels.

        Raises:
          InputError: the labels or the split are wrong.
        """
        job = self._job(index, labels, Workdir(None), False)
        return {
            "kind": job.targets.kind,
            "names": list(job.targets.names),
            "held_out_by": job.held_out_by,
            "wells": {part: job.count_wells(rows) for part, rows in job.rows.items()},
            "channels": list(job.channels),
            "crop": job.crop,
        }

    def _job(
        self, index: Index, labels: str | Sequence[str], workdir: Workdir, show: bool
    ) -> "_Job":
        columns = [labels] if isinstance(labels, str) else list(labels)
        return _Job(self.encoder, self.config, index, columns, workdir, show)


class _Job:
    """One fine-tuning; its parts in order are the methods of `run`."""

    def __init__(
        self,
        encoder: Encoder,
        config: FineTuneConfig,
        index: Index,
        columns: Sequence[str],
        workdir: Workdir,
        show: bool,
    ) -> None:
        self.encoder, self.config, self.index = encoder, config, index
        self.workdir, self.show = workdir, show
        self.targets = read_targets(index.table, columns, config.task)
        self.parts, self.held_out_by = split_wells(index.table, self.targets, config)
        self.rows = {
            part: np.flatnonzero((self.parts == part).to_numpy())
            for part in ("train", "validation", "test")
        }
        self._leave_out_unseen()
        labelled = np.concatenate(list(self.rows.values()))
        self.channels = tuned.select_channels(encoder, index, labelled, config.channels)
        self.crop = config.crop or encoder.preprocessing.crop
        self.pooling: str = config.pooling
        if self.pooling == "auto":
            self.pooling = "channel" if "channel" in encoder.poolings else encoder.poolings[-1]
        encoder.check_pooling(self.pooling)
        encoder.check_crop(self.crop)
        if config.method != "linear":
            tuned.trainable(encoder)
        self.offset, self.factor = self._units()
        self.values = (self.targets.values - self.offset) / self.factor

    def run(self) -> FineTuneResult:
        config = self.config
        self.workdir.begin(config, self.targets, self.encoder.fingerprint, self.channels, self.crop)
        if self.workdir.finished:
            return FineTuneResult.load(self.workdir.folder)
        stages: dict[str, Progress] = {}
        if config.method == "attentive":
            method = self._attentive()
        else:
            features = self._features()
            stages["probe"] = self._probe(features)
            head = stages["probe"].best["head"]
            key = jax.random.key(config.seed)
            if config.method == "linear":
                return self._result(stages, head, self.encoder.params, features.sites)
            if config.method == "lora":
                method = methods.lora_method(self.encoder, head, self.pooling, config.rank, key)
            else:
                method = methods.full_method(self.encoder, head, self.pooling)
        name = config.method
        stages[name] = self._train(method)
        best = stages[name].best
        params = jax.device_get(method.encoder_params(best, method.frozen))
        return self._result(stages, best["head"], params, None)

    # ---- parts of `run`

    def _leave_out_unseen(self) -> None:
        """Takes wells out of validation and test whose class training does not have."""
        self.unseen = 0
        if self.targets.kind != "classes":
            return
        known = np.unique(self.targets.codes[self.rows["train"]])
        for part in ("validation", "test"):
            rows = self.rows[part]
            seen = np.isin(self.targets.codes[rows], known)
            self.unseen += int((~seen).sum())
            self.rows[part] = rows[seen]
            self.parts.iloc[rows[~seen]] = ""
            if not seen.any():
                raise InputError(
                    f"no held-out well has a class that is trained on; hold out other wells than "
                    f"by {self.held_out_by} (--holdout well)."
                )
        names = tuple(self.targets.names[code] for code in known)
        self.targets = Targets("classes", names, self.targets.values[:, known])

    def _units(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of numbers in training; 0 and 1 for classes."""
        count = len(self.targets.names)
        if self.targets.kind != "regression":
            return np.zeros(count), np.ones(count)
        values = self.targets.values[self.rows["train"]]
        known = np.isfinite(values)
        if not known.any(axis=0).all():
            empty = self.targets.names[int((~known.any(axis=0)).argmax())]
            raise InputError(f"no well to train on has a value of {empty}; leave that column out.")
        deviation = np.nanstd(values, axis=0)
        return np.nanmean(values, axis=0), np.where(deviation > 0, deviation, 1.0)

    def _features(self) -> "_Features":
        """Embeddings of the labelled sites, and of groups of their tiles. Kept on disk."""
        rows = np.sort(np.concatenate(list(self.rows.values())))
        saved = self.workdir.read_features()
        if saved is None:
            step = jax.jit(
                lambda params, pixels: self.encoder.forward(params, pixels, pooling=self.pooling)
            )
            params = jax.device_put(self.encoder.params)
            saved = tuned.means_of_tiles(
                lambda pixels: step(params, pixels), self.index, rows, self.channels, self.crop,
                batch=self.config.batch, show=self.show, title="embed sites",
                groups=int(np.clip(PROBE_ROWS // len(rows), 1, PROBE_CROPS)),
            )  # fmt: skip
            self.workdir.write_features(*saved)
        means, counts = saved
        sites = np.zeros((len(self.index), means.shape[2]), np.float32)
        sites[rows] = tuned.site_means(means, counts)
        site, group = np.nonzero((counts > 0) & np.isin(rows, self.rows["train"])[:, None])
        return _Features(sites, means[site, group], rows[site])

    def _attentive(self) -> methods.Method:
        pixels = jnp.zeros((1, len(self.channels), self.crop, self.crop), jnp.uint8)
        key = jax.random.key(self.config.seed)
        return methods.attentive_method(self.encoder, len(self.targets.names), pixels, key)

    def _probe(self, features: "_Features") -> Progress:
        """The linear probe, fitted on groups of tiles and judged on wells."""
        weights = np.ones(len(features.rows))
        if self.config.balance and self.targets.kind == "classes":
            codes = self.targets.codes[features.rows]
            weights = 1 / np.bincount(codes)[codes]
        decay = self.config.weight_decay if self.config.method == "linear" else None
        rows = self.rows["validation"]

        def validate(head: methods.Head) -> tuple[float, float]:
            return self._judge(rows, predict_linear(head, features.sites[rows]))

        return fit_linear_probe(
            features.crops, self.values[features.rows], weights, self._loss(), validate,
            decays=WEIGHT_DECAYS if decay is None else (decay,), iterations=self.config.steps,
            state=self.workdir.state("probe"), show=self.show,
        )  # fmt: skip

    def _loss(self) -> Callable[[jax.Array, jax.Array], jax.Array]:
        kind, weight = self.targets.kind, self._positive_weight()
        return lambda outputs, values: objectives.loss(kind, outputs, values, weight)

    def _train(self, method: methods.Method) -> Progress:
        config = self.config
        predict = jax.jit(method.outputs)

        def validate(params: PyTree) -> tuple[float, float]:
            rows = self.rows["validation"]
            outputs = tuned.mean_over_tiles(
                lambda pixels: predict(params, method.frozen, pixels), self.index, rows,
                self.channels, self.crop, batch=config.batch,
                limit=max(1, config.validation_crops // len(rows)),
            )  # fmt: skip
            return self._judge(rows, outputs)

        return train(
            method, methods.fine_tuning_optimizer(config.method, config, method.params),
            self._loss(), self._crop_batches, validate,
            steps=config.steps, every=config.every, patience=config.patience,
            state=self.workdir.state(config.method), title=config.method, show=self.show,
            devices=tuned.device_count(config.batch),
        )  # fmt: skip

    def _crop_batches(self, start: int) -> Generator[tuple[np.ndarray, np.ndarray], None, None]:
        names = self.targets.names
        balance = None
        if self.config.balance and self.targets.kind == "classes":
            balance = [names[code] for code in self.targets.codes]
        return labelled_crops(
            self.index, self.values, crop=self.crop, batch=self.config.batch,
            seed=self.config.seed, channels=self.channels, rows=self.rows["train"],
            balance=balance, start_step=start,
        )  # fmt: skip

    def _positive_weight(self) -> Any:
        """How much more the positives of each label weigh: their scarcity, at most tenfold."""
        if not (self.config.balance and self.targets.kind == "multilabel"):
            return 1.0
        share = np.nanmean(self.targets.values[self.rows["train"]], axis=0)
        return jnp.asarray(np.clip((1 - share) / np.maximum(share, 1e-6), 1, 10), jnp.float32)

    def _judge(self, rows: np.ndarray, outputs: np.ndarray) -> tuple[float, float]:
        """Loss and score of the wells of some sites."""
        outputs, values, _ = self._wells(rows, outputs)
        kind = self.targets.kind
        each = np.asarray(self._loss()(jnp.asarray(outputs), jnp.asarray(values)))
        weights = np.ones(len(each))
        if self.config.balance and kind == "classes":
            codes = values.argmax(axis=1)
            weights = 1 / np.bincount(codes)[codes]
        named = objectives.scores(
            kind, self.targets.names, self._in_units(values),
            self._in_units(objectives.probabilities(kind, outputs)),
        )  # fmt: skip
        score = named.get(objectives.main_score(kind), float("nan"))
        return float(np.average(each, weights=weights)), score

    def _wells(
        self, rows: np.ndarray, outputs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean outputs, values, and the first row of each well."""
        table = self.index.table.iloc[rows]
        wells = table.groupby(list(WELL), sort=False).ngroup().to_numpy()
        first = np.unique(wells, return_index=True)[1]
        return tuned.mean_by_group(outputs, wells), self.values[rows[first]], rows[first]

    def _in_units(self, values: np.ndarray) -> np.ndarray:
        return values * self.factor + self.offset

    def _result(
        self,
        stages: dict[str, Progress],
        head: methods.Head,
        params: PyTree,
        features: np.ndarray | None,
    ) -> FineTuneResult:
        """Predictions and scores of the validation and test wells, saved."""
        regression = self.targets.kind == "regression"
        head_config = tuned.HeadConfig(
            self.config.method, self.targets.kind, self.targets.names, self.channels,
            self.pooling, self.crop,
            encoder="" if self.encoder.params else self.encoder.name,
            offset=tuple(map(float, self.offset)) if regression else (),
            factor=tuple(map(float, self.factor)) if regression else (),
        )  # fmt: skip
        encoder = methods.tuned_encoder(self.encoder, params)
        model = tuned.FineTuned(encoder, jax.device_get(head), head_config)
        tables, scores = [], {}
        for part in ("validation", "test"):
            rows = self.rows[part]
            if features is not None:
                sites = predict_linear(model.head, features[rows])
            else:
                sites = model.outputs_of_sites(
                    self.index, rows, batch=self.config.batch, show=self.show
                )
            table = model.table(self.index, rows, sites)
            outputs, values, _ = self._wells(rows, sites)
            predicted = objectives.probabilities(self.targets.kind, outputs)
            values, predicted = self._in_units(values), self._in_units(predicted)
            scores[part] = objectives.scores(
                self.targets.kind, self.targets.names, values, predicted
            )
            tables.append(table.assign(Part=part))
            if part == "test" and self.targets.kind == "classes":
                confusion = objectives.confusion(self.targets.names, values, predicted)
            elif part == "test":
                confusion = None
        if "probe" in stages and self.config.method != "linear":
            scores["test_of_the_probe"] = self._probe_scores(stages["probe"].best["head"])
        history = pd.concat(
            [pd.DataFrame(stage.history).assign(stage=name) for name, stage in stages.items()],
            ignore_index=True,
        )
        result = FineTuneResult(
            model=model, scores=scores, predictions=pd.concat(tables, ignore_index=True),
            confusion=confusion, history=history,
            counts={part: self.count_wells(rows) for part, rows in self.rows.items()}
            | {"sites_of_unseen_classes": self.unseen},
            held_out_by=self.held_out_by,
        )  # fmt: skip
        if self.workdir.path is not None:
            result.save(self.workdir.folder, self.index.table.assign(Part=self.parts))
        return result

    def _probe_scores(self, head: methods.Head) -> dict[str, float]:
        rows = self.rows["test"]
        sites = predict_linear(head, self._features().sites[rows])
        outputs, values, _ = self._wells(rows, sites)
        predicted = objectives.probabilities(self.targets.kind, outputs)
        return objectives.scores(
            self.targets.kind, self.targets.names, self._in_units(values),
            self._in_units(predicted),
        )  # fmt: skip

    def count_wells(self, rows: np.ndarray) -> int:
        return len(self.index.table.iloc[rows].drop_duplicates(list(WELL)))

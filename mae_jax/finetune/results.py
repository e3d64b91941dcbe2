"""The result of a fine-tuning and the folder that it is written to."""

import dataclasses
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from mae_jax._version import __version__
from mae_jax.config import to_dict
from mae_jax.data.index import WELL
from mae_jax.errors import InputError
from mae_jax.files import read_json, replacing, writable, write_json, write_text
from mae_jax.finetune.config import FineTuneConfig
from mae_jax.finetune.fine_tuned import MODEL, FineTuned
from mae_jax.finetune.methods import encoder_config
from mae_jax.finetune.objectives import main_score
from mae_jax.finetune.targets import Targets
from mae_jax.networks.saved_model import MODEL_CARD, save_model
from mae_jax.viz.fine_tuning import confusion_matrix, learning_curves

SETTINGS, SCORES, HISTORY = "settings.json", "scores.json", "history.csv"
PREDICTIONS, CONFUSION = "predictions.csv", "confusion.csv"


@dataclasses.dataclass(frozen=True)
class FineTuneResult:
    """A fine-tuned encoder, and how well it predicts wells that it was not trained on.

    Attributes:
      model: the fine-tuned encoder with its head.
      scores: of the "validation" wells, which chose the step or the weight decay, and of the
        held-out "test" wells; of "lora" and "full" also of the linear probe that they started
        from, on the test wells.
      predictions: one row per validation and test well (`Part`), with its metadata.
      confusion: numbers of test wells by class and predicted class; None for other tasks.
      history: one row per look at the validation wells.
      counts: wells of each part.
      held_out_by: what was held out as a whole.
    """

    model: FineTuned
    scores: dict[str, dict[str, float]]
    predictions: pd.DataFrame
    confusion: pd.DataFrame | None
    history: pd.DataFrame
    counts: dict[str, int]
    held_out_by: str

    def __str__(self) -> str:
        counts, score = self.counts, main_score(self.model.config.kind)
        lines = [
            f"{self.model.config.kind} ({len(self.model.config.names)}), wells: "
            f"{counts['train']} train, {counts['validation']} validation, {counts['test']} test "
            f"(held out by {self.held_out_by})"
        ]
        if counts.get("sites_of_unseen_classes"):
            lines.append(
                f"left out: {counts['sites_of_unseen_classes']} held-out sites of classes that "
                "training does not have"
            )
        for name, label in (("test", "test"), ("test_of_the_probe", "linear probe, test")):
            if name in self.scores:
                values = self.scores[name]
                shown = [score, *(k for k in values if k not in (score, "wells"))]
                texts = [f"{k.replace('_', ' ')} {values[k]:.3f}" for k in shown if k in values]
                lines.append(f"{label}: {', '.join(texts)}")
        return "\n".join(lines)

    def save(self, folder: str | os.PathLike[str], table: pd.DataFrame) -> Path:
        """Write everything; the scores come last and mark the folder as finished.

        Args:
          table: of the index, with the part of each row.
        """
        folder, model = Path(folder), self.model
        with writable(folder):
            if model.encoder.params:
                save_model(
                    folder / MODEL,
                    model.encoder.params,
                    encoder_config(model.encoder),
                    model.encoder.preprocessing,
                    {MODEL_CARD: self._card()},
                )
            model.save(folder)
            wells = table[table["Part"] != ""].drop_duplicates(list(WELL))
            _write_csv(folder / "split.csv", wells[[*WELL, "Part"]])
            _write_csv(folder / HISTORY, self.history)
            _write_csv(folder / PREDICTIONS, self.predictions)
            figures = {"curves": learning_curves(self.history, main_score(model.config.kind))}
            if self.confusion is not None:
                write_text(folder / CONFUSION, self.confusion.to_csv())
                figures["confusion"] = confusion_matrix(self.confusion)
            for name, figure in figures.items():
                with replacing(folder / f"{name}.png") as tmp_path:
                    figure.savefig(tmp_path, format="png", dpi=130)
            write_json(
                folder / SCORES,
                {
                    "scores": self.scores,
                    "counts": self.counts,
                    "held_out_by": self.held_out_by,
                },
            )
        return folder

    def _card(self) -> str:
        """The model card of the fine-tuned encoder."""
        config, encoder = self.model.config, self.model.encoder
        rows = [("score", *self.scores)]
        for name in self.scores["test"]:
            values = [part.get(name) for part in self.scores.values()]
            shown = ["" if value is None else f"{value:.4g}" for value in values]
            rows.append((name.replace("_", " "), *shown))
        lines = [f"| {' | '.join(row)} |" for row in rows]
        names = ", ".join(config.names[:20]) + (" …" if len(config.names) > 20 else "")
        return "\n".join(
            [
                "---", "library_name: mae_jax", "license: unknown", "---", "",
                f"# {encoder.name}, fine-tuned ({config.method}) with mae_jax {__version__}",
                "",
                f"{encoder.num_params:,} parameters; channels {', '.join(config.channels)}; crops "
                f"of {config.crop} pixels; pooling {config.pooling}.",
                "",
                f"Predicts {config.kind}: {names}. Wells: {self.counts['train']} to train on, "
                f"{self.counts['validation']} for early stopping, {self.counts['test']} held out "
                f"by {self.held_out_by} for the test. The licence is that of the model that it "
                "started from, unless you state another.",
                "",
                lines[0], "|" + "---|" * len(rows[0]), *lines[1:],
                "",
                "```python",
                "import mae_jax",
                "from mae_jax.finetune import FineTuned",
                "",
                'encoder = mae_jax.load_encoder("path/of/this/folder")',
                'predictions = FineTuned.load("path/of/the/folder/above").predict(index)',
                "```",
                "",
            ]
        )  # fmt: skip

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "FineTuneResult":
        """Read what `save` wrote.

        Raises:
          InputError: the folder holds no finished fine-tuning, or a file is damaged.
        """
        folder = Path(folder)
        record = read_json(folder / SCORES)
        try:
            confusion = None
            if (folder / CONFUSION).exists():
                confusion = pd.read_csv(folder / CONFUSION, index_col=0, dtype={"class": str})
            return cls(
                model=FineTuned.load(folder),
                scores=record["scores"],
                predictions=pd.read_csv(folder / PREDICTIONS, keep_default_na=False),
                confusion=confusion,
                history=pd.read_csv(folder / HISTORY),
                counts=record["counts"],
                held_out_by=record["held_out_by"],
            )
        except (KeyError, TypeError, ValueError, OSError) as problem:
            raise InputError(
                f"{folder} holds a damaged fine-tuning ({problem}); remove its {SCORES} to finish "
                "it again."
            ) from None


class Workdir:
    """The folder of a fine-tuning; without a path nothing is kept.

    Attributes:
      path: the folder, or None.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = None if path is None else Path(path)

    @property
    def folder(self) -> Path:
        """The folder, where there is one."""
        if self.path is None:
            raise ValueError("no folder was given")
        return self.path

    @property
    def finished(self) -> bool:
        """Whether the folder holds a finished fine-tuning."""
        return self.path is not None and (self.path / SCORES).exists()

    def delete(self) -> None:
        """Remove a fine-tuning, so that it starts anew; nothing if there is none.

        Raises:
          InputError: the folder holds something else.
        """
        if self.path is None or not self.path.exists() or not any(self.path.iterdir()):
            return
        if not (self.path / SETTINGS).exists():
            raise InputError(
                f"{self.path} holds no fine-tuning, so that it is not overwritten; choose another "
                "folder."
            )
        shutil.rmtree(self.path)

    def begin(
        self,
        config: FineTuneConfig,
        targets: Targets,
        fingerprint: str,
        channels: tuple[str, ...],
        crop: int,
    ) -> None:
        """Write the settings, or check that the folder holds the same fine-tuning.

        Raises:
          InputError: it holds another one, or cannot be written.
        """
        if self.path is None:
            return
        record = {
            **to_dict(config),
            "kind": targets.kind,
            "names": list(targets.names),
            "rows": len(targets.values),
            "encoder": fingerprint,
            "channels": list(channels),
            "crop": crop,
        }
        path = self.path / SETTINGS
        if path.exists():
            saved = read_json(path)
            saved = saved if isinstance(saved, dict) else {}
            differing = [key for key, value in record.items() if saved.get(key) != value]
            if differing:
                raise InputError(
                    f"{self.path} holds a fine-tuning with another {differing[0]}; give another "
                    "--out, or the same settings to resume."
                )
        else:
            with writable(self.path):
                write_json(path, record)

    def state(self, stage: str) -> Path | None:
        """Where the state of a stage is saved."""
        return None if self.path is None else self.path / "state" / f"{stage}.npz"

    def read_features(self) -> tuple[np.ndarray, np.ndarray] | None:
        """What `write_features` wrote, if it is there."""
        path = None if self.path is None else self.path / "state" / "features.npz"
        if path is None or not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                return file["means"], file["counts"]
        except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile):
            return None  # damaged: they are computed again

    def write_features(
        self,
        means: Float[np.ndarray, "sites groups dim"],
        counts: Float[np.ndarray, "sites groups"],
    ) -> None:
        """Keep the embeddings of the labelled sites (`means_of_tiles`), in order of their rows."""
        if self.path is not None:
            with replacing(self.path / "state" / "features.npz") as tmp_path:
                np.savez(tmp_path, means=means, counts=counts)


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    write_text(path, table.to_csv(index=False))

"""A fine-tuned encoder with its head: predictions for the wells of any index, and its files."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Float, PyTree
from tqdm import tqdm

from mae_jax.data import Index
from mae_jax.data.index import WELL
from mae_jax.encoders import Encoder, load_encoder
from mae_jax.errors import InputError
from mae_jax.files import read_json, replacing, write_json
from mae_jax.finetune.crops import Rows, site_tiles
from mae_jax.finetune.methods import Head, one_layer, predict_outputs
from mae_jax.finetune.objectives import probabilities
from mae_jax.finetune.targets import Kind
from mae_jax.weights.pytree_paths import flatten, unflatten
from mae_jax.weights.safetensors_file import read_safetensors, write_safetensors

HEAD, WEIGHTS, MODEL = "head.json", "head.safetensors", "model"


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """What is needed beside the weights to predict.

    Attributes:
      method: of the fine-tuning.
      kind: of the targets.
      names: classes, labels or columns: one per output.
      channels: to read, in the order in which the encoder takes them.
      pooling, crop: of the embeddings.
      encoder: a baseline's name, or "" where the encoder is the saved model.
      offset, factor: by which predicted numbers are put back in their units; () for classes.
    """

    method: str
    kind: Kind
    names: tuple[str, ...]
    channels: tuple[str, ...]
    pooling: str
    crop: int
    encoder: str = ""
    offset: tuple[float, ...] = ()
    factor: tuple[float, ...] = ()


class FineTuned:
    """A fine-tuned encoder with its head.

    Attributes:
      encoder: the encoder, with the parameters of the fine-tuning.
      head: parameters of the head.
      config: how the two predict.
    """

    def __init__(self, encoder: Encoder, head: Head, config: HeadConfig) -> None:
        self.encoder, self.head, self.config = encoder, one_layer(head), config

    def __repr__(self) -> str:
        config = self.config
        outputs = f"{len(config.names)} outputs"
        return f"FineTuned({self.encoder!r}, {config.method}, {config.kind}, {outputs})"

    def predict(self, index: Index, *, batch: int = 64, show: bool = False) -> pd.DataFrame:
        """Predict the labels of all wells of an index, from the crops that tile their sites.

        Returns:
          One row per well: its metadata; "Predicted" and "Probability" of classes; the probability
          of each class or label, or each predicted number, in a column of its name.

        Raises:
          InputError: the index lacks a channel, or a site cannot be read.
        """
        rows = np.arange(len(index))
        sites = self.outputs_of_sites(index, rows, batch=batch, show=show)
        return self.table(index, rows, sites)

    def outputs_of_sites(
        self, index: Index, rows: Rows, *, batch: int = 64, show: bool = False
    ) -> Float[np.ndarray, "sites outputs"]:
        """The mean output over the crops that tile each site."""
        config = self.config
        outputs = predict_outputs(self.encoder, config.method, config.pooling, len(config.names))
        step = jax.jit(outputs)
        return mean_over_tiles(
            lambda pixels: step(self.head, self.encoder.params, pixels),
            index, rows, select_channels(self.encoder, index, rows, config.channels), config.crop,
            batch=batch, show=show,
        )  # fmt: skip

    def table(
        self, index: Index, rows: Rows, outputs: Float[np.ndarray, "sites outputs"]
    ) -> pd.DataFrame:
        """The predictions of wells from the outputs of their sites, in the order of the index."""
        config = self.config
        table = index.table.iloc[list(rows)]
        table = table.drop(columns=["Metadata_Site", "Channels", "Images", "Illumination", "Zarr"],
                           errors="ignore")  # fmt: skip
        wells = table.groupby(list(WELL), sort=False).ngroup().to_numpy()
        mean = mean_by_group(outputs, wells)
        result = table.drop_duplicates(list(WELL)).reset_index(drop=True)
        values = probabilities(config.kind, mean)
        if config.kind == "regression":
            values = values * np.asarray(config.factor) + np.asarray(config.offset)
        predicted = pd.DataFrame(values, columns=[f"Predicted_{n}" for n in config.names])
        if config.kind == "classes":
            best = values.argmax(axis=1)
            result["Predicted"] = [config.names[number] for number in best]
            result["Probability"] = values.max(axis=1)
        return pd.concat([result, predicted], axis=1)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the head; the encoder is beside it as `model`, or is a baseline."""
        folder = Path(folder)
        with replacing(folder / WEIGHTS) as tmp_path:
            write_safetensors(tmp_path, flatten(jax.device_get(self.head)))
        write_json(folder / HEAD, dataclasses.asdict(self.config))
        return folder

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "FineTuned":
        """Read what a fine-tuning has saved.

        Raises:
          InputError: the folder holds none, or a file is damaged.
        """
        folder = Path(folder)
        record = read_json(folder / HEAD)
        try:
            values: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in record.items()
            }
            config = HeadConfig(**values)
        except (AttributeError, TypeError):
            raise InputError(
                f"{folder / HEAD} describes no head; fine-tune again into another folder."
            ) from None
        encoder = load_encoder(config.encoder or folder / MODEL)
        flat = {name: jnp.asarray(value) for name, value in read_safetensors(
            folder / WEIGHTS).items()}  # fmt: skip
        return cls(encoder, unflatten(flat), config)


def select_channels(
    encoder: Encoder, index: Index, rows: Rows, names: Sequence[str] = ()
) -> tuple[str, ...]:
    """The channels to read: those that the encoder takes of `names`, or of what all sites have.

    Raises:
      InputError: a site lacks a channel that is named, or that the encoder needs.
    """
    shared = [
        name
        for name in index.channels
        if all(name in names for names in {index.sites[row][0] for row in rows})
    ]
    for name in names:
        if name not in shared:
            raise InputError(
                f"not all sites have the channel '{name}', but {', '.join(shared) or 'none'}: name "
                "channels that they have, or rename them in the index."
            )
    if names:
        return encoder.select_channels(names)
    if not shared:
        raise InputError("the labelled sites have no channel in common; fine-tune on one of them.")
    return encoder.select_channels(shared)


def mean_over_tiles(
    function: Any,
    index: Index,
    rows: Rows,
    channels: Sequence[str],
    crop: int,
    *,
    batch: int,
    limit: int | None = None,
    show: bool = False,
    title: str = "sites",
) -> Float[np.ndarray, "sites outputs"]:
    """The mean of `function` over the crops that tile each site (see `means_of_tiles`)."""
    means, counts = means_of_tiles(function, index, rows, channels, crop, batch=batch, limit=limit,
                                   show=show, title=title)  # fmt: skip
    return site_means(means, counts)


def site_means(
    means: Float[np.ndarray, "sites groups outputs"], counts: Float[np.ndarray, "sites groups"]
) -> Float[np.ndarray, "sites outputs"]:
    """The mean over all tiles of each site from those of its groups and their numbers of tiles."""
    return np.einsum("sgo,sg->so", means, counts / counts.sum(axis=1, keepdims=True))


def means_of_tiles(
    function: Any,
    index: Index,
    rows: Rows,
    channels: Sequence[str],
    crop: int,
    *,
    batch: int,
    groups: int = 1,
    limit: int | None = None,
    show: bool = False,
    title: str = "sites",
) -> tuple[Float[np.ndarray, "sites groups outputs"], Float[np.ndarray, "sites groups"]]:
    """Means of `function` over groups of the tiles of each site; crops of sites share batches.

    Args:
      function: raw crops (batch, channel, height, width) -> (batch, outputs).
      groups: of each site; tile t is in group t modulo `groups`.
      limit: the most tiles of a site; None for all.

    Returns:
      The means, 0 of groups without a tile, and the numbers of tiles.
    """
    totals: np.ndarray | None = None
    counts = np.zeros((len(rows), groups))
    seen = np.zeros(len(rows), int)  # tiles of each site
    with tqdm(total=len(rows), desc=title, unit="site", disable=not show) as bar:
        tiles = site_tiles(index, rows, channels, crop, limit)
        for pixels, sites in _chunks(tiles, batch):
            count = len(pixels)
            if count < batch:  # one shape, one compiled program
                pixels = np.concatenate([pixels, np.repeat(pixels[-1:], batch - count, axis=0)])
            outputs = np.asarray(function(jnp.asarray(pixels)), np.float64)[:count]
            if totals is None:
                totals = np.zeros((len(rows), groups, outputs.shape[1]), np.float32)
            first = np.searchsorted(sites, sites)  # sites come in order
            group = (seen[sites] + np.arange(count) - first) % groups
            np.add.at(totals, (sites, group), outputs)
            np.add.at(counts, (sites, group), 1)
            np.add.at(seen, sites, 1)
            bar.update(int(sites[-1]) + 1 - bar.n)
    if totals is None:
        return np.zeros((0, groups, 0)), counts
    return totals / np.maximum(counts, 1)[:, :, None], counts


def mean_by_group(
    values: Float[np.ndarray, "rows outputs"], groups: np.ndarray
) -> Float[np.ndarray, "groups outputs"]:
    """The mean of the rows of each group, numbered from 0."""
    totals = np.zeros((int(groups.max()) + 1, values.shape[1]))
    np.add.at(totals, groups, values)
    return totals / np.bincount(groups)[:, None]


def _chunks(tiles: Iterator[np.ndarray], batch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Whole batches of crops with the number of the site of each; the last may be smaller."""
    waiting: list[np.ndarray] = []
    sites: list[np.ndarray] = []
    for number, of_site in enumerate(tiles):
        waiting.append(of_site)
        sites.append(np.full(len(of_site), number))
        while sum(map(len, sites)) >= batch:
            pixels, numbers = np.concatenate(waiting), np.concatenate(sites)
            yield pixels[:batch], numbers[:batch]
            waiting, sites = [pixels[batch:]], [numbers[batch:]]
    if sum(map(len, sites)):
        yield np.concatenate(waiting), np.concatenate(sites)


def device_count(batch: int) -> int:
    """Local devices that share a batch: as many as divide it; processors count as one."""
    if jax.default_backend() == "cpu":
        return 1
    return max(n for n in range(1, jax.local_device_count() + 1) if batch % n == 0)


def trainable(encoder: Encoder) -> PyTree:
    """The encoder's parameters.

    Raises:
      InputError: it has none.
    """
    if not encoder.params:
        raise InputError(
            f"the encoder '{encoder.name}' has no parameters to train; give --method linear."
        )
    return encoder.params

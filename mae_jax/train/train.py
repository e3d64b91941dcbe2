"""The training loop: folder → mesh → data → state → step → loop.

The same run name (work folder) goes on where it stopped: everything random follows from the seed
and the step's number, so an interrupted run ends with the parameters of one that never stopped.
"""

import logging
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from mae_jax import config as configs
from mae_jax.data import CropBatches, Index, crop_batches, validation_crops
from mae_jax.errors import InputError
from mae_jax.files import read_json, write_json
from mae_jax.reconstruct.pictures import triplet_sheet
from mae_jax.train import mesh as meshes
from mae_jax.train.checkpoints import Checkpoints
from mae_jax.train.config import TrainConfig
from mae_jax.train.optimizer import optimizer, schedule
from mae_jax.train.records import Records
from mae_jax.train.step import initial_state, loss_of_crops, reconstruct_crops, train_step
from mae_jax.weights import Preprocessing, save_model

log = logging.getLogger(__name__)


def train(config: TrainConfig, workdir: str | Path) -> Path:
    """Trains as `config` says and returns the folder of the saved model.

    A work folder that holds a part of the same run is resumed; a finished one is left as it is.
    SIGTERM and SIGINT save the state and return after the step in hand.

    Raises:
      InputError: the index or the config is wrong, or the folder holds another run.
    """
    workdir = Path(workdir)

    # ---- folder: one run, one resolved config
    index = Index.read(config.data.index)
    check_channels(config, index)
    claim(workdir, config)
    model = workdir / "model"
    if model.exists():  # written last: the run is finished
        return model
    first = jax.process_index() == 0

    # ---- mesh, optimiser, state: shapes first, so that nothing is ever whole on one device
    mesh = meshes.make_mesh(config.mesh)
    transform = optimizer(config.optimizer, config.steps)
    rate = schedule(config.optimizer, config.steps)
    init_key, step_key, validation_key = jax.random.split(jax.random.key(config.seed), 3)
    init = partial(initial_state, config, transform)
    shapes = jax.eval_shape(init, init_key)
    sharding = meshes.state_sharding(shapes, mesh, config.mesh)
    checkpoints = Checkpoints(workdir, config.checkpoint)
    if checkpoints.latest is None:
        state = jax.jit(init, out_shardings=sharding)(init_key)
        if config.keep_untrained and first:
            save_model(workdir / "untrained", state.params, config.model, preprocessing(config))
    else:
        state = checkpoints.restore(meshes.placed(shapes, sharding))
    start = int(state.step)

    # ---- step
    batch_place, everywhere = meshes.batch_sharding(mesh), meshes.replicated(mesh)
    step_function = jax.jit(
        train_step(config, transform, step_key),
        in_shardings=(sharding, batch_place),
        out_shardings=(sharding, everywhere),
        donate_argnums=0,
    )
    evaluate = jax.jit(
        partial(loss_of_crops, config=config.model, train=False),
        in_shardings=(sharding.params, batch_place, everywhere),
        out_shardings=everywhere,
    )
    draw = jax.jit(
        partial(reconstruct_crops, config=config.model, count=config.log.panel_crops),
        in_shardings=(sharding.params, batch_place, everywhere),
        out_shardings=everywhere,
    )
    names = config.model.encoder.channels

    # ---- data
    batches = training_batches(config, index, start)
    held_out = validation_batches(config, index, mesh)

    # ---- loop: the numbers of a step are read after the next one has been dispatched
    records = Records(workdir, start) if first else None
    bar = progress_bar(config.steps, start, visible=first)
    meter = Meter(config.data.batch)
    pending: tuple[int, Any] | None = None
    step = start
    stop = StopSignal()
    try:
        while step < config.steps:
            with meter.waiting():
                pixels = meshes.to_devices(next(batches)["pixels"], mesh)
            state, scalars = step_function(state, pixels)
            step += 1
            if pending is not None:
                report(pending, rate, meter, bar, records)
                pending = None
            if step % config.log.scalars == 0 or step == config.steps:
                pending = (step, scalars)
            if held_out and due(step, config.log.validation, config.steps):
                losses = [evaluate(state.params, crops, validation_key)[0] for crops in held_out]
                if records:
                    records.scalars(step, {"validation/loss": float(np.mean(losses))})
            if held_out and due(step, config.log.panels, config.steps):
                picture = draw(state.params, held_out[0], validation_key)
                if records:
                    masked, drawn, original = map(np.asarray, picture)
                    records.panel(step, triplet_sheet(masked, drawn, original, names))
            checkpoints.save(step, state, force=step == config.steps)
            bar.update()
            if stop.requested(step):
                checkpoints.save(step, state, force=True)
                break
        if pending is not None:
            report(pending, rate, meter, bar, records)
    finally:
        batches.close()
        checkpoints.close()
        bar.close()
        if records:
            records.close()
        stop.restore()

    if step >= config.steps and first:
        save_model(model, state.params, config.model, preprocessing(config))
    if stop.received:
        log.warning("stopped at step %d of %d; the same command goes on.", step, config.steps)
    return model


def check_channels(config: TrainConfig, index: Index) -> None:
    """Refuses a config that asks for channels which the screen lacks.

    Raises:
      InputError: names the first of them and those that there are.
    """
    missing = [name for name in config.model.encoder.channels if name not in index.channels]
    if missing:
        raise InputError(
            f"{config.data.index} has no channel '{missing[0]}' (it has "
            f"{', '.join(index.channels)}); set model.encoder.channels."
        )


def claim(workdir: Path, config: TrainConfig) -> None:
    """Writes the resolved config in `workdir`, or checks that the same one stands there."""
    path, values = workdir / "config.json", configs.to_dict(config)
    if not path.exists():
        if jax.process_index() == 0:
            write_json(path, values)
        return
    differing = sorted(_differences(read_json(path), values))
    if differing:
        raise InputError(
            f"{workdir} holds a run with another {differing[0]}; "
            "give another --workdir, or the same config to go on."
        )


def preprocessing(config: TrainConfig) -> Preprocessing:
    """What a user of the encoder must do to images: recorded with the weights."""
    encoder = config.model.encoder
    return Preprocessing(
        channels=encoder.channels, any_channels=encoder.channel_agnostic, crop=encoder.crop
    )


def training_batches(config: TrainConfig, index: Index, start: int) -> CropBatches:
    """This host's raw crops of step `start`, `start + 1`, …"""
    encoder, data = config.model.encoder, config.data
    return crop_batches(
        index,
        crop=encoder.crop,
        batch=data.batch,
        seed=config.seed,
        channels=encoder.channels,
        start_step=start,
        world=jax.process_count(),
        rank=jax.process_index(),
        workers=data.workers,
        cache_bytes=data.cache_bytes,
        max_broken=data.max_broken,
    )


def validation_batches(config: TrainConfig, index: Index, mesh: Any) -> list[jax.Array]:
    """Fixed centre crops of experiments unseen in training, on the devices; none where none are."""
    encoder, hosts = config.model.encoder, jax.process_count()
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    sites = int((index.table["Metadata_Split"] == "validation").sum())
    crops = min(config.data.validation_crops, sites) // ways * ways
    if not crops:
        log.warning(
            "%s has %d validation sites for %d devices: no validation loss.",
            config.data.index, sites, ways,
        )  # fmt: skip
        return []
    part = min(crops, config.data.batch // config.optimizer.accumulate)
    found = validation_crops(
        index,
        crop=encoder.crop,
        batch=part,
        channels=encoder.channels,
        limit=crops,
        world=hosts,
        rank=jax.process_index(),
    )
    # Whole batches alone, so that neither fillers nor a broken site's blank enter the loss; every
    # host leaves out the same ones only if it sees the same files, as hosts of one run do.
    return [meshes.to_devices(b["pixels"], mesh) for b in found if b["mask"].all()]


class StopSignal:
    """Notes SIGTERM and SIGINT, so that the loop can save and end; a second SIGINT interrupts."""

    def __init__(self) -> None:
        self.received = False
        self._before = {name: signal.signal(name, self._note)
                        for name in (signal.SIGTERM, signal.SIGINT)}  # fmt: skip

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = True

    def requested(self, step: int) -> bool:
        """Whether all hosts should stop after `step`; they agree on the step."""
        if jax.process_count() > 1:
            self.received |= bool(multihost_utils.reached_preemption_sync_point(step))
        return self.received

    def restore(self) -> None:
        """Gives the signals back to whoever had them."""
        for name, handler in self._before.items():
            signal.signal(name, handler)


class Meter:
    """Crops per second, and the share of the time that was spent waiting for data."""

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._step: int | None = None
        self._since = self._began = time.monotonic()
        self._waited = 0.0

    def waiting(self) -> "Meter":
        return self

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._waited += time.monotonic() - self._began

    def read(self, step: int) -> dict[str, float]:
        """The means since the last reading, which was at an earlier step."""
        now = time.monotonic()
        values: dict[str, float] = {}
        if self._step is not None:  # the first interval holds the compilation
            seconds = now - self._since
            values["speed/crops_per_second"] = self._batch * (step - self._step) / seconds
            values["speed/data_wait"] = self._waited / seconds
        self._since, self._step, self._waited = now, step, 0.0
        return values


def report(
    pending: tuple[int, Any], rate: Any, meter: Meter, bar: tqdm, records: Records | None
) -> None:
    """Reads a step's numbers from the device and shows them."""
    step, scalars = pending
    values = {f"train/{name}": float(value) for name, value in scalars.items()}
    values |= {"train/learning_rate": float(rate(step - 1)), **meter.read(step)}
    shown = {"loss": f"{values['train/loss']:.4f}"}
    if "speed/crops_per_second" in values:
        shown["images/s"] = f"{values['speed/crops_per_second']:.0f}"
    bar.set_postfix(shown, refresh=False)
    if records:
        records.scalars(step, values)


def due(step: int, every: int, last: int) -> bool:
    """Whether something that happens every `every` steps, and at the end, happens at `step`."""
    return step % every == 0 or step == last


def progress_bar(steps: int, start: int, *, visible: bool) -> tqdm:
    """A bar with time left; where no one watches, a line now and then."""
    watched = sys.stderr.isatty()
    return tqdm(
        total=steps,
        initial=start,
        desc="train",
        unit="step",
        disable=not visible,
        mininterval=0.3 if watched else 20,
        dynamic_ncols=watched,
    )


def _differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            yield from _differences(old.get(key), new.get(key), f"{where}{'.' * bool(where)}{key}")
    elif old != new:
        yield where

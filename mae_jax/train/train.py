"""The training loop: folder → program → state → data → loop, for every network.

The same run name (work folder) goes on where it stopped: everything random follows from the seed
and the step's number, so an interrupted run ends with the parameters of one that never stopped.
"""

import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from mae_jax.reconstruct.pictures import triplet_sheet
from mae_jax.train import mesh as meshes
from mae_jax.train.batches import Crops
from mae_jax.train.checkpoints import Checkpoints
from mae_jax.train.config import TrainConfig
from mae_jax.train.meter import Meter
from mae_jax.train.program import Program, program
from mae_jax.train.progress import progress_bar
from mae_jax.train.records import Records
from mae_jax.train.rollback import roll_back
from mae_jax.train.signals import StopSignal
from mae_jax.train.step import TrainState
from mae_jax.train.watchdog import Watchdog
from mae_jax.train.workdir import claim
from mae_jax.weights import save_model

log = logging.getLogger(__name__)


def train(config: TrainConfig, workdir: str | Path) -> Path | None:
    """Trains as `config` says and returns the folder of the saved model; None if stopped before.

    A work folder that holds a part of the same run is resumed; a finished one is left as it is.
    SIGTERM and SIGINT save the state and return after the step in hand.

    Raises:
      InputError: the index or the config is wrong, or the folder holds another run.
    """
    workdir = Path(workdir)

    # ---- program: what the config becomes on these devices; nothing is computed yet
    mesh = meshes.make_mesh(config.mesh)
    run = program(config, mesh)
    crops = Crops(config, run.task, mesh)

    # ---- folder: one run, one resolved config
    claim(workdir, config)
    model = workdir / "model"
    if model.exists():  # written last: the run is finished
        return model
    first = jax.process_index() == 0

    # ---- state: made already divided, or the newest checkpoint
    checkpoints = Checkpoints(workdir, config.checkpoint)
    if checkpoints.latest is None:
        state = run.init()
        if config.keep_untrained:
            save(workdir / "untrained", run, state)
    else:
        state = checkpoints.restore(run.state)
    start = int(state.step)

    # ---- data
    batches = crops.training(start + int(state.faults.offset))
    held_out = crops.held_out()

    # ---- loop: the numbers of a step are read after the next one has been dispatched
    records = Records(workdir, start) if first else None
    bar = progress_bar(config.steps, start, visible=first)
    meter = Meter(config.data.batch)
    pending: tuple[int, Any] | None = None
    step = start
    stop = StopSignal()
    watchdog = Watchdog(config.faults.step_seconds)
    try:
        while step < config.steps:
            with watchdog:
                with meter.waiting():
                    batch, channels = next(batches)
                state, scalars = run.step(state, batch, channels)
                step += 1
                trouble = pending and report(pending, run.rate, meter, bar, records)
                pending = None
            if trouble:
                state = roll_back(state, trouble, run.state, checkpoints, config.faults)
                step = int(state.step)
                batches.close()
                batches = crops.training(step + int(state.faults.offset))
                bar.update(step - bar.n)
                if records:
                    records.close()
                    records = Records(workdir, step)
                continue
            if step % config.log.scalars == 0 or step == config.steps:
                pending = (step, scalars)
            loss: float | None = None
            if held_out and due(step, config.log.validation, config.steps):
                losses = [run.evaluate(state.weights, state.model_state, *each)[0]
                          for each in held_out]  # fmt: skip
                loss = float(np.mean(losses))
                if records:
                    records.scalars(step, {"validation/loss": loss})
            if held_out and run.task.draws and due(step, config.log.panels, config.steps):
                pictures = run.draw(state.weights, state.model_state, *held_out[0])
                if records:
                    names = held_out[0].channels or run.task.channels
                    sheet = triplet_sheet(*map(np.asarray, pictures), names)
                    records.panel(step, sheet)
            bar.update()
            last = stop.requested() or step == config.steps
            checkpoints.save(step, state, loss=loss, force=last)
            if stop.received:
                break
        if pending is not None:
            report(pending, run.rate, meter, bar, records)
        checkpoints.finish()
    finally:
        batches.close()
        checkpoints.close()
        watchdog.close()
        bar.close()
        if records:
            records.close()
        stop.restore()

    if step < config.steps:
        log.warning("stopped at step %d of %d; the same command goes on.", step, config.steps)
        return None
    save(model, run, state)
    return model


def report(
    pending: tuple[int, Any], rate: Any, meter: Meter, bar: tqdm, records: Records | None
) -> int | None:
    """Reads a step's numbers from the device and shows them; its number if it is in trouble."""
    step, scalars = pending
    values = {f"train/{name}": float(value) for name, value in scalars.items()}
    values |= {"train/learning_rate": float(rate(step - 1)), **meter.read(step)}
    shown = {"loss": f"{values['train/loss']:.4f}"}
    if "speed/crops_per_second" in values:
        shown["images/s"] = f"{values['speed/crops_per_second']:.0f}"
    bar.set_postfix(shown, refresh=False)
    if records:
        records.scalars(step, values)
    return step if values["train/trouble"] >= 0 else None


def due(step: int, every: int, last: int) -> bool:
    """Whether something that happens every `every` steps, and at the end, happens at `step`."""
    return step % every == 0 or step == last


def save(folder: Path, run: Program, state: TrainState) -> None:
    """Writes the network as a model folder; all hosts must call it, the first one writes."""
    tree = run.task.saved(state.weights, state.model_state)
    if jax.process_count() > 1:  # parts of it are on devices of other hosts
        tree = jax.jit(lambda t: t, out_shardings=meshes.replicated(run.mesh))(tree)
    if jax.process_index() == 0:
        save_model(folder, tree, run.task.model, run.task.preprocessing())

"""The training loop: folder → program → state → data → loop, for every network.

The same run name (work folder) goes on where it stopped: everything random follows from the seed
and the step's number, so an interrupted run ends with the parameters of one that never stopped.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from mae_jax.distributed import mesh as meshes
from mae_jax.distributed.hardware import device_peak_flops
from mae_jax.networks.saved_model import save_model
from mae_jax.train.checkpoints import Checkpoints
from mae_jax.train.compiled import CompiledFns, build
from mae_jax.train.config import TrainConfig
from mae_jax.train.early_stopping import EarlyStopping
from mae_jax.train.metric_logger import Records, history
from mae_jax.train.preemption import StopSignal
from mae_jax.train.profiler import Profiler
from mae_jax.train.progress import progress_bar
from mae_jax.train.rollback import roll_back
from mae_jax.train.step import TrainState
from mae_jax.train.throughput import ThroughputTracker
from mae_jax.train.train_data import DeviceBatch, TrainData
from mae_jax.train.warm_start import warm_start
from mae_jax.train.watchdog import Watchdog
from mae_jax.train.workdir import create_or_verify
from mae_jax.viz.panels import reconstruction_grid

log = logging.getLogger(__name__)
VALIDATION = "validation/loss"


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
    run = build(config, mesh)
    crops = TrainData(config, run.task, mesh)

    # ---- folder: one run, one resolved config
    create_or_verify(workdir, config)
    model = workdir / "model"
    if model.exists():  # written last: the run is finished
        return model

    # ---- state: made already divided, or the newest checkpoint
    checkpoints = Checkpoints(workdir, config.checkpoint)
    if checkpoints.latest is None:
        state = run.init()
        if config.init_from:
            state = warm_start(config.init_from, run.task, state)
        if config.save_initial_model:
            save(workdir / "untrained", run, state)
    else:
        state = checkpoints.restore(run.state)
    step = int(state.step)

    # ---- data
    batches = crops.training(step + int(state.divergence.skipped_batches))
    held_out = crops.validation()

    # ---- loop: the numbers of a step are read after the next one has been dispatched
    meter, plateau, records = watched(run, config, workdir, step)
    bar = progress_bar(config.steps, step, visible=jax.process_index() == 0)
    profiler = Profiler(workdir / "profile", *config.log.profile)
    pending: tuple[int, Any] | None = None
    stop = StopSignal()
    watchdog = Watchdog(config.divergence.step_timeout_seconds)
    try:
        while step < config.steps and not plateau.reached:
            profiler.before(step)
            with watchdog:
                with meter.time("data"):
                    batch, channels = next(batches)
                state, scalars = run.step(state, batch, channels)
                step += 1
                trouble = pending and report(pending, run.rate, meter, bar, records)
                pending = None
            if trouble:
                state = roll_back(state, trouble, run.state, checkpoints, config.divergence)
                step = int(state.step)
                batches.close()
                batches = crops.training(step + int(state.divergence.skipped_batches))
                if records:
                    records.close()
                meter, plateau, records = watched(run, config, workdir, step)
                bar.update(step - bar.n)
                continue
            if step % config.log.scalars == 0 or step == config.steps:
                pending = (step, scalars)
            loss: float | None = None
            if held_out and due(step, config.log.validation, config.steps):
                with meter.time("validation"):
                    loss = validate(run, state, held_out)
                plateau.add(loss)
                if records:
                    records.scalars(step, {VALIDATION: loss})
            if (
                held_out
                and run.task.has_reconstruction
                and due(step, config.log.image_every, config.steps)
            ):
                with meter.time("pictures"):
                    picture = draw(run, state, held_out[0])
                    if records:
                        records.panel(step, picture)
            bar.update()
            last = stop.requested() or step == config.steps or plateau.reached
            with meter.time("save"):
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
        profiler.close()
        bar.close()
        if records:
            records.close()
        stop.restore()

    # ---- end: the model is written last, and says that the run is finished
    if step < config.steps and not plateau.reached:
        log.warning("stopped at step %d of %d; the same command goes on.", step, config.steps)
        return None
    if step < config.steps:
        log.warning("step %d of %d is the last: the validation loss no longer falls.", step,
                    config.steps)  # fmt: skip
    save(model, run, state)
    return model


def watched(
    run: CompiledFns, config: TrainConfig, workdir: Path, step: int
) -> tuple[ThroughputTracker, EarlyStopping, Records | None]:
    """What a run at `step` is watched with; its past tells how long it took and what it reached."""
    past = history(workdir, step)
    peak = device_peak_flops(run.mesh.devices.flat[0].device_kind)
    meter = ThroughputTracker(config.data.batch, run.task.flops, run.mesh.size, peak, past)
    plateau = EarlyStopping(
        config.early_stopping, (row[VALIDATION] for row in past if VALIDATION in row)
    )
    first = jax.process_index() == 0
    return meter, plateau, Records(workdir, step, config.log.wandb) if first else None


def validate(run: CompiledFns, state: TrainState, held_out: Sequence[DeviceBatch]) -> float:
    """The mean loss of the crops held out."""
    losses = [run.evaluate(state.weights, state.model_state, *each)[0] for each in held_out]
    return float(np.mean(losses))


def draw(run: CompiledFns, state: TrainState, held_out: DeviceBatch) -> np.ndarray:
    """The picture (height, width, 3) of the first crops held out."""
    pictures = run.draw(state.weights, state.model_state, *held_out)
    masked, drawn, original = map(np.asarray, pictures)
    return reconstruction_grid(masked, drawn, original, held_out.channels or run.task.channels)


def report(
    pending: tuple[int, Any],
    rate: Any,
    meter: ThroughputTracker,
    bar: tqdm,
    records: Records | None,
) -> int | None:
    """Reads a step's numbers from the device and shows them; its number if it is in trouble."""
    step, scalars = pending
    values = {f"train/{name}": float(value) for name, value in scalars.items()}
    values |= {"train/learning_rate": float(rate(step - 1)), **meter.read(step)}
    shown = {"loss": f"{values['train/loss']:.4f}"}
    if "speed/crops_per_second" in values:
        shown["crops/s"] = f"{values['speed/crops_per_second']:.0f}"
    if "speed/mfu" in values:
        shown["MFU"] = f"{100 * values['speed/mfu']:.0f} %"
    bar.set_postfix(shown, refresh=False)
    if records:
        records.scalars(step, values)
    return step if values["train/rollback_step"] >= 0 else None


def due(step: int, every: int, last: int) -> bool:
    """Whether something that happens every `every` steps, and at the end, happens at `step`."""
    return step % every == 0 or step == last


def save(folder: Path, run: CompiledFns, state: TrainState) -> None:
    """Writes the network as a model folder; all hosts must call it, the first one writes."""
    tree = run.task.to_saved(state.weights, state.model_state)
    if jax.process_count() > 1:  # parts of it are on devices of other hosts
        tree = jax.jit(lambda t: t, out_shardings=meshes.replicated(run.mesh))(tree)
    if jax.process_index() == 0:
        save_model(folder, tree, run.task.model, run.task.preprocessing())

"""The trainer: work folder → state → data → loop, for every network.

The same work folder resumes where it stopped: everything random follows from the seed and the
step, so an interrupted run ends with the parameters of one that was never interrupted. All that is
not the loop is a callback (`mae_jax.train.callbacks`) or an evaluator (`mae_jax.train.evaluators`).
"""

import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from mae_jax import locks
from mae_jax.distributed import mesh as meshes
from mae_jax.distributed.hardware import device_peak_flops
from mae_jax.networks.saved_model import MODEL_CARD, RESULTS_CARD, save_model
from mae_jax.networks.task import Scalars
from mae_jax.train import callbacks as cb
from mae_jax.train.accumulation import resolve_accumulation
from mae_jax.train.checkpoints import Checkpoints
from mae_jax.train.compiled import build
from mae_jax.train.config import TrainConfig
from mae_jax.train.evaluators import VALIDATION_LOSS, Evaluator, ValidationLoss
from mae_jax.train.index_channels import resolve_channels
from mae_jax.train.initial_architecture import adopt_architecture
from mae_jax.train.metric_writers import MetricWriter, NoopWriter, make_writer, read_metrics
from mae_jax.train.model_card import model_card, results_card
from mae_jax.train.optimizer import schedule as build_schedule
from mae_jax.train.pixel_scale import resolve_scale
from mae_jax.train.preemption import StopSignal
from mae_jax.train.rollback import roll_back
from mae_jax.train.step import TrainState
from mae_jax.train.throughput import ThroughputTracker
from mae_jax.train.train_data import DataSource, DeviceBatch, TrainData
from mae_jax.train.warm_start import warm_start
from mae_jax.train.workdir import create_or_verify, steps_to_extend

log = logging.getLogger(__name__)


# By name; None where a checkpoint has none (version 0.1).
CallbackStates = Mapping[str, Any] | None


def train(config: TrainConfig, workdir: str | Path) -> Path | None:
    """Trains on all devices; see `Trainer.fit`."""
    return Trainer(config, workdir=workdir).fit()


class Trainer:
    """A training run.

    Args:
      config: what to train, and how.
      mesh: the devices; by default all of them, as `config.mesh` says.
      callbacks: further callbacks, called after those of the config; checkpoints come last.
      evaluators: further evaluators.
      workdir: the folder of the run.
      data: the batches; by default those of `config.data`.
      progress: whether to show a bar.

    Attributes:
      step, num_steps: steps done, and steps of the whole run.
      state: the train state; it is donated to the next step.
      is_last: whether the run ends after this step.
      fns, mesh, writer, throughput, validation_batches, callbacks: for callbacks and evaluators.

    Raises:
      InputError: the index or the config is wrong.
    """

    # Set when `fit` initializes or restores the state.
    state: TrainState
    throughput: ThroughputTracker

    def __init__(
        self,
        config: TrainConfig,
        mesh: Mesh | None = None,
        callbacks: Sequence[cb.Callback] = (),
        evaluators: Sequence[Evaluator] = (),
        *,
        workdir: str | Path,
        data: DataSource | None = None,
        progress: bool = True,
    ) -> None:
        self.workdir = Path(workdir)
        config = resolve_channels(config, self.workdir)
        config = adopt_architecture(resolve_scale(config, self.workdir), self.workdir)
        self.mesh = meshes.make_mesh(config.mesh) if mesh is None else mesh
        self.config = config = resolve_accumulation(config, self.mesh, self.workdir)
        self.fns = build(config, self.mesh)
        self.data: DataSource = data or TrainData(config, self.fns.task, self.mesh)
        self.evaluators = [ValidationLoss(config.log.validation), *evaluators]
        self.callbacks = list(callbacks)
        self.validation_batches: list[DeviceBatch] = []
        self.writer: MetricWriter = NoopWriter()
        self.step, self.num_steps, self.is_last = 0, config.steps, False
        self._stop_reason = ""
        self._progress = progress
        self._lease: locks.Lease | None = None
        self._evaluated: dict[str, dict[str, float]] = {}
        self._batches: Generator[DeviceBatch, None, None] | None = None

    def fit(self) -> Path | None:
        """Trains and returns the folder of the saved model; None if SIGTERM stopped the run.

        A work folder that holds a part of the same run is resumed; a finished one is left as it
        is, unless `steps` is now larger, which extends it. SIGTERM and SIGINT save the state and
        end the run after the current step.

        Raises:
          InputError: the folder holds another run, is in use by another process or cannot be
            written, or the loss diverges.
          MachineError: the last state could not be saved.
          KeyboardInterrupt: SIGINT stopped the run; the state is saved.
        """
        model_folder = self.workdir / "model"
        finished = model_folder.exists()  # written last
        if finished and not steps_to_extend(self.workdir, self.config):
            create_or_verify(self.workdir, self.config)
            return model_folder
        with ExitStack() as stack:
            if jax.process_index() == 0:
                self._lease = stack.enter_context(locks.hold(self.workdir))
            return self._fit(model_folder)

    def _fit(self, model_folder: Path) -> Path | None:
        config = self.config

        # ---- work folder: one run, one resolved config
        steps = steps_to_extend(self.workdir, config)
        if steps:
            self._say_extension(steps)
            # Before the config has the new number of steps, so that a kill in between does no harm.
            if model_folder.exists() and jax.process_index() == 0:
                model_folder.rename(self.workdir / f"model-{steps}")
        create_or_verify(self.workdir, config)

        with ExitStack() as stack:
            # ---- callbacks
            checkpoints = Checkpoints(self.workdir, config.checkpoint, config.divergence)
            stack.callback(checkpoints.close)
            stack.callback(self._close_data_and_writer)
            stop = StopSignal()
            stack.callback(stop.restore)
            self.callbacks = [
                cb.HangWatchdog(config.divergence.step_timeout_seconds),
                cb.Profiler(self.workdir / "profile", *config.log.profile),
                cb.MetricLogging(),
                *[cb.ProgressBar()] * self._progress,
                cb.ReconstructionImages(config.log.image_every),
                cb.EarlyStopping(config.early_stopping),
                *self.callbacks,
                cb.Checkpointing(checkpoints),
            ]
            for callback in reversed(self.callbacks):  # the watchdog is closed first
                stack.callback(callback.close)

            # ---- state: initialize sharded, or restore the latest checkpoint; data from there on
            self.validation_batches = self.data.validation()
            batches = self._reset_to(*self._initial_state(checkpoints))

            # ---- loop: the scalars of a step are read after the next step has been dispatched
            pending: tuple[int, Scalars] | None = None
            while self.step < self.num_steps and not self._stop_reason:
                self._notify("on_step_start")
                with self.throughput.time("data"):
                    batch, channels = next(batches)
                self.state, scalars = self.fns.step(self.state, batch, channels)
                self.step += 1
                diverged_at = self._log_and_check(pending)
                pending = (self.step, scalars)
                self._notify("on_step_end")
                if self._lease is not None:
                    self._lease.check()

                if diverged_at is None:
                    # ---- evaluators and callbacks, each on a schedule of its own
                    self._evaluated = {}
                    self.is_last = stop.requested() or self.step == self.num_steps
                    for evaluator in self.evaluators:
                        if evaluator.should_run(self):
                            self.evaluate(evaluator.name)
                    for callback in self.callbacks:
                        if callback.should_run(self):
                            self._run_callback(callback)

                    # ---- the end, which no diverged state may reach
                    if self.step == self.num_steps or self._stop_reason:
                        diverged_at, pending = self._log_and_check(pending, check=True), None

                if diverged_at is not None:
                    self._stop_reason, pending = "", None
                    restored = roll_back(
                        self.state, diverged_at, self.fns.state, checkpoints, config.divergence
                    )
                    batches = self._reset_to(*restored)
                elif stop.received:
                    break
            self._log_and_check(pending)
            self._notify("on_fit_end")

        # ---- the model is written last, which marks the run as finished
        if self.step < self.num_steps and not self._stop_reason:
            log.warning(
                "stopped at step %d of %d; the same command resumes.", self.step, self.num_steps
            )
            if stop.interrupted:
                raise KeyboardInterrupt
            return None
        if self._stop_reason:
            log.warning(
                "step %d of %d is the last: %s.", self.step, self.num_steps, self._stop_reason
            )
        self._save_model(model_folder, cards=True)
        return model_folder

    # ---- for callbacks and evaluators

    def stop(self, reason: str) -> None:
        """Ends the run after this step, as a finished one; to be called on all hosts."""
        self._stop_reason, self.is_last = reason, True

    def evaluate(self, name: str) -> dict[str, float]:
        """The metrics of the evaluator `name`, computed and logged once per step at most."""
        if name not in self._evaluated:
            evaluator = next(each for each in self.evaluators if each.name == name)
            jax.block_until_ready(self.state.step)
            with self.throughput.time("evaluation"):
                self._evaluated[name] = dict(evaluator.evaluate(self))
            if self._evaluated[name]:
                self._notify("on_metrics", self.step, self._evaluated[name])
        return self._evaluated[name]

    @property
    def evaluations(self) -> dict[str, float]:
        """The metrics of all evaluators that have run at this step."""
        return {name: value for each in self._evaluated.values() for name, value in each.items()}

    # ---- parts of `fit`

    def _say_extension(self, steps: int) -> None:
        config = self.config
        before = build_schedule(config.optimizer, steps).rate(steps - 1)
        log.warning(
            "the run of %d steps is extended to %d: schedule '%s' now spans %d steps, so the "
            "learning rate of step %d is %.3g (that of step %d was %.3g); its model is kept in "
            "model-%d.",
            steps, config.steps, config.optimizer.schedule, config.steps,
            steps + 1, float(self.fns.lr_schedule(steps)), steps, float(before), steps,
        )  # fmt: skip

    def _initial_state(self, checkpoints: Checkpoints) -> tuple[TrainState, CallbackStates]:
        if checkpoints.latest is not None:
            return checkpoints.restore_with_callbacks(self.fns.state)
        self.state = self.fns.init()
        if self.config.init_from:
            self.state = warm_start(self.config.init_from, self.fns.task, self.state)
        if self.config.save_initial_model:
            self._save_model(self.workdir / "untrained")
        return self.state, {}

    def _reset_to(
        self, state: TrainState, callback_states: CallbackStates
    ) -> Generator[DeviceBatch, None, None]:
        """Sets everything to the step of `state`, and returns the batches from there on."""
        self._close_data_and_writer()
        self.state, self.step = state, int(state.step)
        self._evaluated = {}
        history = read_metrics(self.workdir, until=self.step)
        if callback_states is None:  # of version 0.1, which counted the rows of the log
            losses = [row[VALIDATION_LOSS] for row in history if VALIDATION_LOSS in row]
            callback_states = {"EarlyStopping": {"losses": losses}}
        self.writer = make_writer(self.workdir, self.step, self.config.log.wandb)
        self.throughput = ThroughputTracker(
            self.config.data.batch,
            self.fns.task.flops,
            self.mesh.size,
            device_peak_flops(self.mesh.devices.flat[0].device_kind),
            history,
        )
        for callback in self.callbacks:
            callback.load_state_dict(callback_states.get(callback.name, {}))
        self._notify("on_fit_start")
        self._batches = self.data.training(self.step + int(state.divergence.skipped_batches))
        return self._batches

    def _log_and_check(
        self, pending: tuple[int, Scalars] | None, check: bool = False
    ) -> int | None:
        """Reads the scalars of a step from the device and logs them, if it is due.

        Returns the step if the run has diverged, which is checked on a schedule of its own, or
        always with `check`.
        """
        if pending is None:
            return None
        step, scalars = pending
        if cb.is_due(step, self.num_steps, self.config.log.scalars):
            metrics = {f"train/{name}": float(value) for name, value in scalars.items()}
            metrics["train/learning_rate"] = float(self.fns.lr_schedule(step - 1))
            self._notify("on_metrics", step, metrics | self.throughput.read(step))
        check = check or step % self.config.divergence.check_every == 0
        return step if check and int(scalars["rollback_step"]) >= 0 else None

    def _run_callback(self, callback: cb.Callback) -> None:
        if not callback.blocking:
            return callback.run(self)
        jax.block_until_ready(self.state.step)  # else the time of the step would be counted here
        with self.throughput.time(callback.name):
            callback.run(self)

    def _notify(self, hook: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(self, *arguments)

    def _close_data_and_writer(self) -> None:
        if self._batches is not None:
            self._batches.close()
        self.writer.close()
        self._batches, self.writer = None, NoopWriter()

    def _save_model(self, folder: Path, cards: bool = False) -> None:
        """Writes the network as a model folder, with its cards if they are wanted.

        All hosts must call it; the first one writes.
        """
        task = self.fns.task
        tree = task.to_saved(self.state.weights, self.state.model_state)
        if jax.process_count() > 1:  # parts of it are on devices of other hosts
            tree = jax.jit(lambda t: t, out_shardings=meshes.replicated(self.mesh))(tree)
        if jax.process_index() == 0:
            documents = {}
            if cards:
                metrics = read_metrics(self.workdir)
                documents = {
                    MODEL_CARD: model_card(self.config, task, tree, metrics, self.step),
                    RESULTS_CARD: results_card(metrics),
                }
            save_model(folder, tree, task.model, task.preprocessing(), documents)

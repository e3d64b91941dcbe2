"""The configuration of a training run, as one tree of frozen dataclasses."""

import functools
import operator
from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal

from mae_jax.config import nearest, regular_expressions, schema, setting
from mae_jax.distributed.config import MeshConfig
from mae_jax.errors import InputError
from mae_jax.networks import registry
from mae_jax.networks.mae.config import MAEConfig
from mae_jax.train.schedules import SCHEDULES


@schema
class DatasetConfig:
    """One of several screens that are trained on together (channel-agnostic networks).

    Attributes:
      name: unique among the datasets.
      index: the screen's index.
      channels: the screen's channels to train on; () for all.
      decoder_channels: the network's channel that reconstructs each of them; () for equal names.
        A stain can thus have a decoder of its own in every dataset.
      weight: relative share of the steps; None for its number of sites.
    """

    name: str
    index: str
    channels: tuple[str, ...] = ()
    decoder_channels: tuple[str, ...] = setting((), renamed_from="decoders")
    weight: float | None = setting(None, gt=0, renamed_from="share")


@schema
class DataConfig:
    """Training and validation data.

    Attributes:
      index: the screen's index, a parquet file made by `mae-jax index`.
      datasets: several screens instead of `index`; the crops of a step come from one of them.
      batch: global batch size, the crops per optimizer step over all devices and hosts.
      crop: side of a crop in pixels, for networks whose config has none (DenseNet).
      sampling: "sites" visits every site once an epoch; "label" draws labels equally
        often; "plate" fills each batch from one plate (AdaBN).
      scale: divisor of raw pixels before self-standardization, recorded with the model; None takes
        that of a saved model in `init_from`, else 2^n - 1 for the n bits that the gray values
        really use, which `mae-jax index` measures, else the maximum of the pixels' type.
      eps: added to the variance of the scaled pixels, recorded with the model.
      label: the index's column with the classes of classifiers.
      workers: processes per host that decode images; 0 decodes in threads.
      cache_bytes: memory for decoded sites, in bytes.
      validation_crops: number of center crops of the validation split for the validation loss.
      max_unreadable_fraction: share of unreadable images above which the run stops.
    """

    index: str = ""
    datasets: tuple[DatasetConfig, ...] = setting((), renamed_from="sets")
    batch: int = setting(4096, ge=1)
    crop: int = setting(256, ge=1)
    sampling: Literal["sites", "label", "plate"] = "sites"
    scale: float | None = setting(None, gt=0)
    eps: float = setting(1e-5, gt=0)
    label: str = "Metadata_Perturbation"
    workers: int = setting(0, ge=0)
    cache_bytes: int = setting(2 * 1024**3, ge=0)
    validation_crops: int = setting(1024, ge=0)
    max_unreadable_fraction: float = setting(0.01, ge=0, le=1, renamed_from="max_broken")


def _schedule(name: str) -> str | None:
    if name in SCHEDULES:
        return None
    return f"must be a schedule, but there is no '{name}': {nearest(name, list(SCHEDULES))}"


@schema
class OptimizerConfig:
    """The recipe of section A.2: Lion, one cycle with warm-up and cosine decay, no clipping.

    Attributes:
      name: "lion", "adamw", "sgd", "muon" (orthogonalized updates of hidden matrices, AdamW for all
        else), or "schedule-free-adamw" (evaluates and saves the average of its iterates; takes the
        schedule "constant").
      schedule: "one_cycle" as the paper states it; "one_cycle_torch" as PyTorch's OneCycleLR, which
        rises from `lr` / 25 by a cosine, ends at `lr` / 250,000 and cycles beta1 (or momentum)
        between 0.95 and 0.85, for those who continue released models; "constant" after a linear
        warm-up.
      lr: maximum learning rate of the cycle.
      b1, b2: decay rates of Lion's and AdamW's moments; b1 is also SGD's and Muon's momentum, and
        schedule-free AdamW's share of the average in the point of its gradients. b1 is not used by
        "one_cycle_torch".
      weight_decay: decoupled; skips 1-D parameters (biases, norms, gains) and names that match
        `no_decay`.
      no_decay: regular expressions; a parameter whose own name matches one does not decay.
      warmup: share of all steps in which the learning rate rises.
      final_lr: final learning rate relative to the maximum; "one_cycle" only.
      grad_accum_steps: micro-batches per step, over which gradients are averaged; 0 takes the
        fewest that fit the devices' memory, and the run's folder records how many.
      ema_decay: decay of the exponential moving average of the weights (0.9999, say), which is
        then evaluated and saved; 0 for none.
    """

    name: Literal["lion", "adamw", "sgd", "muon", "schedule-free-adamw"] = "lion"
    schedule: str = setting("one_cycle", check=_schedule)
    lr: float = setting(1e-4, gt=0)
    b1: float = setting(0.9, ge=0, lt=1)
    b2: float = setting(0.95, ge=0, lt=1)
    weight_decay: float = setting(0.05, ge=0)
    # Parameters that are no matrices, although stored with more than one dimension.
    no_decay: tuple[str, ...] = setting(
        ("token", "pos", "gamma", "bias", "scale"),
        check=regular_expressions,
        renamed_from="spared",
    )
    warmup: float = setting(0.1, ge=0, le=1)
    final_lr: float = setting(0.0, ge=0, le=1)
    grad_accum_steps: int = setting(1, ge=0, renamed_from="accumulate")
    ema_decay: float = setting(0.0, ge=0, lt=1, renamed_from="ema")

    def __post_init__(self) -> None:
        if self.name != "schedule-free-adamw":
            return
        if self.schedule != "constant":
            raise InputError(
                "schedule-free-adamw needs no schedule but a warm-up; give "
                f"optimizer.schedule=constant, not {self.schedule}."
            )
        if self.ema_decay or not self.b1:
            raise InputError(
                "schedule-free-adamw averages the weights itself; give optimizer.ema_decay=0 and "
                "a b1 above 0."
            )


@schema
class CheckpointConfig:
    """When checkpoints of the whole state are saved, and which are kept.

    Attributes:
      every: steps between two checkpoints.
      keep: number of latest checkpoints to keep.
      keep_best: number of checkpoints of lowest validation loss to keep as well, among those at
        whose step it was measured.
      keep_every: steps between two milestones: checkpoints that are always saved and kept; 0 for
        none.
    """

    every: int = setting(1000, ge=1)
    keep: int = setting(3, ge=1)
    keep_best: int = setting(1, ge=0)
    keep_every: int = setting(0, ge=0)


@schema
class DivergenceConfig:
    """Loss-spike handling and hang detection.

    A step without finite loss and gradient is always skipped: counted, and nothing is changed.

    Attributes:
      spike: also skip a step whose loss exceeds the running mean by so many running standard
        deviations; 0 skips none.
      stats_window: steps over which mean and deviation run; before so many, no loss is called a
        spike.
      max_skipped, skip_window: when more than `max_skipped` steps are skipped within
        `skip_window`, the run rolls back to the last snapshot before them and leaves out the
        batches since.
      check_every: steps between two checks of that.
      snapshot_every: steps between two snapshots: checkpoints that a run can roll back to.
      rollbacks: how often a run may go back before it gives up.
      step_timeout_seconds: a step that takes longer ends the process, with the stacks of its
        threads, so that the job is restarted; 0 waits forever.
    """

    spike: float = setting(10.0, ge=0)
    stats_window: int = setting(100, ge=1, renamed_from="memory")
    max_skipped: int = setting(10, ge=0, renamed_from="limit")
    skip_window: int = setting(100, ge=1, renamed_from="window")
    check_every: int = setting(10, ge=1)
    snapshot_every: int = setting(1000, ge=1)
    rollbacks: int = setting(3, ge=0)
    step_timeout_seconds: float = setting(600.0, ge=0, renamed_from="step_seconds")


@schema
class EarlyStoppingConfig:
    """Early stopping where the validation loss no longer falls.

    Attributes:
      patience: validations in a row without a better loss after which the run ends; 0 never ends
        it early.
      every: steps between two validations that count, whatever is logged.
      min_delta: the share by which a loss must be below the best to be better.
    """

    patience: int = setting(0, ge=0)
    every: int = setting(1000, ge=1)
    min_delta: float = setting(0.0, ge=0, lt=1, renamed_from="least")


@schema
class LogConfig:
    """Logging intervals, in steps.

    Attributes:
      scalars: loss, rate, norms, speed.
      validation: loss on the fixed validation crops.
      image_every: images of reconstructed validation crops.
      num_images: crops per image.
      profile: (first step, number of steps) to trace with JAX's profiler; (0, 0) for none.
      wandb: project of Weights & Biases to log to as well; "" for none.
    """

    scalars: int = setting(50, ge=1)
    validation: int = setting(1000, ge=1)
    image_every: int = setting(1000, ge=1, renamed_from="panels")
    num_images: int = setting(4, ge=1, renamed_from="panel_crops")
    profile: tuple[int, int] = setting((0, 0), ge=0)
    wandb: str = ""


def _registered(network: Any) -> str | None:
    """What is wrong with the name of a network to train, or None."""
    known = registry.names(trainable=True)
    if network in known:
        return None
    if isinstance(network, str) and registry.current_name(network) in known:
        return f"'{network}' is now called '{registry.current_name(network)}'; write that instead."
    return f"cannot be '{network}': {nearest(str(network), known)}"


@schema
class TrainConfig:
    """A training run.

    Attributes:
      network: name of a registered network (`mae_jax.networks.registry`): "mae" (joint or
        channel-agnostic), "unet", the classifiers "densenet" and "vit", or one of your own.
      model: the network's config, of the schema that `network` names.
      steps: optimizer steps of the whole run.
      seed: of the parameters, the crops, the masks and the dropped paths.
      init_from: a model whose weights the run starts from (ImageNet initialization): a saved one,
        or whatever `from_pretrained` reads; "" starts from random ones.
      init_architecture: "own" continues from the architecture of the model in `init_from`: `model`
        then only sets channels (matched by name), classes, crop, how it is computed, dropped paths,
        mask and loss, and a decoder where the model has none; "config" refuses other architectures.
      save_initial_model: also save the network as it was before the first step.
      license: of the model, for its card: a short name such as "cc-by-4.0"; "" where not stated.
    """

    network: str = setting("mae", check=_registered)
    model: Any = field(default_factory=MAEConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    early_stopping: EarlyStoppingConfig = setting(
        default_factory=EarlyStoppingConfig, renamed_from="plateau"
    )
    log: LogConfig = field(default_factory=LogConfig)
    divergence: DivergenceConfig = setting(default_factory=DivergenceConfig, renamed_from="faults")
    steps: int = setting(100_000, ge=1)
    seed: int = setting(0, ge=0, lt=2**63)
    init_from: str = ""
    init_architecture: Literal["own", "config"] = "own"
    save_initial_model: bool = setting(False, renamed_from="keep_untrained")
    license: str = ""

    def __post_init__(self) -> None:
        if not registry.get(self.network).has_config(self.model):
            raise InputError(
                f"network is '{self.network}', but model is that of "
                f"'{registry.of_config(self.model).name}'; set both to the same network."
            )
        if self.data.batch % max(1, self.optimizer.grad_accum_steps):
            raise InputError(
                f"data.batch ({self.data.batch}) must be a multiple of optimizer.grad_accum_steps "
                f"({self.optimizer.grad_accum_steps})."
            )

    @staticmethod
    def upgrade_saved(values: dict[str, Any]) -> dict[str, Any]:
        """Networks have had other names ("mu-net")."""
        network = values.get("network")
        if not isinstance(network, str):
            return values
        return values | {"network": registry.current_name(network)}

    @staticmethod
    def open_hints() -> dict[str, Any]:
        """`model` has the config of any registered network with a task."""
        configs = [registry.get(name).config for name in registry.names(trainable=True)]
        return {"model": functools.reduce(operator.or_, configs)}

    @staticmethod
    def narrowed(values: Mapping[str, Any], where: str) -> dict[str, type]:
        """The schema of `model`, which `network` names (`mae_jax.config.from_dict`).

        Raises:
          InputError: there is no such network.
        """
        network = values.get("network", "mae")
        if problem := _registered(network):
            raise InputError(f"{where}.network {problem}")
        return {"model": registry.get(network).config}

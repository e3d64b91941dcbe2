"""The compiled functions of a run: the same for training, for planning and for tests."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import optax
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import PyTree

from mae_jax.distributed import mesh as meshes
from mae_jax.distributed.sharding_context import activation_sharding
from mae_jax.errors import InputError
from mae_jax.networks.registry import make_task, of_config
from mae_jax.networks.task import Batch, Task
from mae_jax.train.config import TrainConfig
from mae_jax.train.optimizer import optimizer, schedule
from mae_jax.train.step import TrainState, initial_state, train_step


@dataclass(frozen=True)
class CompiledFns:
    """The functions of a config on a mesh; each is compiled when it is first called.

    Attributes:
      task: the network and its loss.
      mesh: the devices.
      state: shapes of the state with their shardings, into which a checkpoint is restored.
      batch: shapes of a global batch with their shardings.
      lr_schedule: the learning rate by step.
      init: () -> the initial state, created sharded.
      step: (state, batch, channels) -> (state, scalars); the state is donated.
      evaluate: (weights, model state, batch, channels) -> (loss, scalars) of validation crops.
      reconstruct: (weights, model state, batch, channels) -> the first `log.num_images` crops
        masked, reconstructed and original.
    """

    task: Task
    mesh: Mesh | AbstractMesh
    state: TrainState
    batch: Batch
    lr_schedule: optax.Schedule
    init: Callable[[], TrainState]
    # Any: jitted functions, which are also lowered.
    step: Any
    evaluate: Any
    reconstruct: Any


def build(config: TrainConfig, mesh: Mesh | AbstractMesh) -> CompiledFns:
    """The functions of `config` on `mesh`; nothing is computed or compiled yet.

    Raises:
      InputError: the micro-batch does not divide among the devices of the mesh.
    """
    if not config.optimizer.grad_accum_steps:
        raise InputError(
            "optimizer.grad_accum_steps is 0; fit it with mae_jax.train.accumulation, or give a "
            "number."
        )
    task = make_task(config.model, config.data.crop, scale=config.data.scale, eps=config.data.eps)
    micro_batch = config.data.batch // config.optimizer.grad_accum_steps
    num_shards = meshes.num_batch_shards(mesh)
    if micro_batch % num_shards:
        raise InputError(
            f"micro-batches of {micro_batch} crops (data.batch over optimizer.grad_accum_steps) do "
            f"not divide among the {num_shards} devices of the mesh's data and fsdp axes; choose a "
            "multiple."
        )
    transform = optimizer(config.optimizer, config.steps)
    init_key, step_key, eval_key = jax.random.split(jax.random.key(config.seed), 3)
    # Shapes first, so that no array is ever whole on one device.
    init_fn = partial(initial_state, config, transform)
    shapes = jax.eval_shape(init_fn, init_key)
    if config.optimizer.name == "schedule-free-adamw" and shapes.model_state:
        raise InputError(
            "schedule-free-adamw evaluates other weights than those that the running statistics of "
            f"the network '{config.network}' are measured with; choose another optimizer.name."
        )
    layout = of_config(config.model).sharding_rules if config.mesh.layout == "auto" else ()
    shardings = meshes.state_sharding(shapes, mesh, config.mesh.rules + layout)
    batch_sharding, replicated = meshes.batch_sharding(mesh), meshes.replicated(mesh)
    init = jax.jit(_with_mesh(init_fn, mesh), out_shardings=shardings)

    def eval_fn(weights: PyTree, model_state: PyTree, batch: Batch, channels: Any) -> Any:
        loss, (scalars, _) = task.loss(
            weights, model_state, batch, eval_key, train=False, channels=channels
        )
        return loss, scalars

    def reconstruct_fn(weights: PyTree, model_state: PyTree, batch: Batch, channels: Any) -> Any:
        first = jax.tree.map(lambda a: a[: config.log.num_images], batch)
        return task.reconstruct(weights, model_state, first, eval_key, channels=channels)

    step_fn = train_step(config, transform, step_key, shardings.params)
    eval_shardings = (shardings.weights, shardings.model_state, batch_sharding)
    return CompiledFns(
        task=task,
        mesh=mesh,
        state=meshes.abstract_arrays(shapes, shardings),
        batch=jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=batch_sharding),
            task.batch(config.data.batch),
        ),
        lr_schedule=schedule(config.optimizer, config.steps).rate,
        init=lambda: init(init_key),
        step=jax.jit(
            _with_mesh(step_fn, mesh, *meshes.BATCH_AXES),
            static_argnums=2,
            in_shardings=(shardings, batch_sharding),
            out_shardings=(shardings, replicated),
            donate_argnums=0,
        ),
        evaluate=jax.jit(
            _with_mesh(eval_fn, mesh, *meshes.BATCH_AXES),
            static_argnums=3,
            in_shardings=eval_shardings,
            out_shardings=replicated,
        ),
        # The few crops of an image need not divide: every device works on all of them.
        reconstruct=jax.jit(
            _with_mesh(reconstruct_fn, mesh),
            static_argnums=3,
            in_shardings=eval_shardings,
            out_shardings=replicated,
        ),
    )


def _with_mesh(
    function: Callable[..., Any], mesh: Mesh | AbstractMesh, *batch_axes: str
) -> Callable[..., Any]:
    """`function`, traced in the context of a mesh and of the axes that shard its batch."""

    def traced(*arguments: Any) -> Any:
        with activation_sharding(mesh, *batch_axes):
            return function(*arguments)

    return traced

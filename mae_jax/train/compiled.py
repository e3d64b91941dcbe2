"""The compiled functions of a run: the same for training, for planning and for tests."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import optax
from jax.sharding import AbstractMesh, Mesh

from mae_jax.distributed import mesh as meshes
from mae_jax.distributed.sharding_context import activation_sharding
from mae_jax.errors import InputError
from mae_jax.networks.sharding_rules import RULES
from mae_jax.networks.tasks import Batch, Task, task_of
from mae_jax.train.config import TrainConfig
from mae_jax.train.optimizer import optimizer, schedule
from mae_jax.train.step import TrainState, initial_state, train_step


@dataclass(frozen=True)
class CompiledFns:
    """What a config becomes on a mesh; nothing is computed or compiled before it is called.

    Attributes:
      task: the network and what it learns.
      mesh: the devices.
      state: shapes of the state with their places: what a checkpoint is restored into.
      batch: shapes of a global batch with their places.
      rate: the learning rate by step.
      init: () -> the first state, made already divided.
      step: (state, batch, channels) -> (state, scalars); the state given is used up.
      evaluate: (weights, model state, batch, channels) -> (loss, scalars) of crops held out.
      draw: (weights, model state, batch, channels) -> its first crops masked, reconstructed
        and as they are.
    """

    task: Task
    mesh: Mesh | AbstractMesh
    state: TrainState
    batch: Batch
    rate: optax.Schedule
    init: Callable[[], TrainState]
    step: Any
    evaluate: Any
    draw: Any


def build(config: TrainConfig, mesh: Mesh | AbstractMesh) -> CompiledFns:
    """The program of `config` on `mesh`.

    Raises:
      InputError: a micro-batch that the mesh does not divide.
    """
    task = task_of(config.model, config.data.crop)
    micro, ways = (
        config.data.batch // config.optimizer.grad_accum_steps,
        meshes.num_batch_shards(mesh),
    )
    if micro % ways:
        raise InputError(
            f"micro-batches of {micro} crops (data.batch over optimizer.grad_accum_steps) do not "
            f"divide among the {ways} devices of the mesh's data and fsdp axes; choose a multiple."
        )
    transform = optimizer(config.optimizer, config.steps)
    init_key, step_key, held_out_key = jax.random.split(jax.random.key(config.seed), 3)
    # Shapes first, so that nothing is ever whole on one device.
    first = partial(initial_state, config, transform)
    shapes = jax.eval_shape(first, init_key)
    layout = RULES[config.network] if config.mesh.layout == "auto" else ()
    places = meshes.state_sharding(shapes, mesh, config.mesh.rules + layout)
    crops, everywhere = meshes.batch_sharding(mesh), meshes.replicated(mesh)
    made = jax.jit(_with_mesh(first, mesh), out_shardings=places)

    def evaluate(weights: Any, model_state: Any, batch: Batch, channels: Any) -> Any:
        loss, (scalars, _) = task.loss(
            weights, model_state, batch, held_out_key, train=False, channels=channels
        )
        return loss, scalars

    def draw(weights: Any, model_state: Any, batch: Batch, channels: Any) -> Any:
        shown = jax.tree.map(lambda a: a[: config.log.num_images], batch)
        return task.reconstruct(weights, model_state, shown, held_out_key, channels=channels)

    eval_shardings = (places.weights, places.model_state, crops)
    return CompiledFns(
        task=task,
        mesh=mesh,
        state=meshes.abstract_arrays(shapes, places),
        batch=jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=crops),
            task.batch(config.data.batch),
        ),
        rate=schedule(config.optimizer, config.steps),
        init=lambda: made(init_key),
        step=jax.jit(
            _with_mesh(
                train_step(config, transform, step_key, places.params), mesh, *meshes.BATCH_AXES
            ),
            static_argnums=2,
            in_shardings=(places, crops),
            out_shardings=(places, everywhere),
            donate_argnums=0,
        ),
        evaluate=jax.jit(
            _with_mesh(evaluate, mesh, *meshes.BATCH_AXES),
            static_argnums=3,
            in_shardings=eval_shardings,
            out_shardings=everywhere,
        ),
        # The few crops of a picture need not divide: every device works on all of them.
        draw=jax.jit(
            _with_mesh(draw, mesh),
            static_argnums=3,
            in_shardings=eval_shardings,
            out_shardings=everywhere,
        ),
    )


def _with_mesh(
    function: Callable[..., Any], mesh: Mesh | AbstractMesh, *axes: str
) -> Callable[..., Any]:
    """`function`, which knows while it is traced for which mesh, and how its batch is divided."""

    def inside(*arguments: Any) -> Any:
        with activation_sharding(mesh, *axes):
            return function(*arguments)

    return inside

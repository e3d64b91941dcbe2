"""Which checkpoints of a run are kept."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from mae_jax.train.config import CheckpointConfig, DivergenceConfig

LOSS = "validation_loss"


@dataclasses.dataclass(frozen=True)
class RetentionPolicy:
    """Which checkpoints are kept; the config's attributes say how many.

    A checkpoint that is neither due nor a snapshot (one that a signal caused) is kept only while
    it is the newest, and takes no other's place. Snapshots are kept as long as a run may roll back
    to them.
    """

    checkpoint: CheckpointConfig
    divergence: DivergenceConfig

    def is_regular(self, step: int) -> bool:
        """Whether a checkpoint is due at a step."""
        milestone = self.checkpoint.keep_every and step % self.checkpoint.keep_every == 0
        return step % self.checkpoint.every == 0 or bool(milestone) or self.is_snapshot(step)

    def is_snapshot(self, step: int) -> bool:
        """Whether a run can roll back to a step."""
        return step % self.divergence.snapshot_every == 0

    @property
    def num_snapshots(self) -> int:
        """How many snapshots are kept: one from before any divergence, and one in reserve."""
        config = self.divergence
        return 2 + math.ceil((config.skip_window + config.check_every + 1) / config.snapshot_every)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Answers for each checkpoint (`step`, `metrics`), in order of steps; orbax asks this."""
        config = self.checkpoint
        due = [c.step for c in checkpoints if c.step % config.every == 0]
        snapshots = [c.step for c in checkpoints if self.is_snapshot(c.step)]
        kept = {*due[-config.keep :], *snapshots[-self.num_snapshots :]}
        kept |= {c.step for c in checkpoints[-1:]}
        losses = {c.step: c.metrics[LOSS] for c in checkpoints if c.metrics}
        measured = [step for step, loss in losses.items() if math.isfinite(loss)]
        kept |= set(sorted(measured, key=losses.__getitem__)[: config.keep_best])
        if config.keep_every:
            kept |= {c.step for c in checkpoints if c.step % config.keep_every == 0}
        return [c.step in kept for c in checkpoints]

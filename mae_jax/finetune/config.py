"""The settings of a fine-tuning."""

from typing import Literal

from mae_jax.config import schema, setting

METHODS = {
    "linear": "a linear layer on embeddings, fitted until it converges; the encoder stays as it is",
    "attentive": "attention pooling of all tokens, then a linear layer; the encoder stays as it is",
    "lora": "the linear probe, then low-rank updates of the encoder's matrices together with it",
    "full": "the linear probe, then all parameters together with it, early blocks more slowly",
}
# Learning rates by method, of AdamW with a cosine, and its weight decay.
RATES = {"attentive": 1e-3, "lora": 1e-3, "full": 5e-4}
WEIGHT_DECAY = 0.01


@schema
class FineTuneConfig:
    """How an encoder is fine-tuned.

    Attributes:
      method: one of `METHODS`.
      task: what the labels are: "classes", "multilabel" or "regression"; "auto" looks at them
        (`mae_jax.finetune.targets.read_targets`).
      holdout: what is held out as a whole for the test: "well", "plate", "experiment", another
        metadata column, or "split" for the index's own validation split; "auto" takes plates if
        every class is on two of them, else wells.
      test_fraction: share of the wells, plates, … that are held out.
      validation_fraction: share of the other wells by whose score training is stopped early, and
        the weight decay of the linear probe is chosen.
      balance: draw all classes equally often (positive labels weigh more where there are several).
      steps: the most steps; of the linear probe, iterations per weight decay.
      batch: sites, or crops, per step.
      every: steps between two looks at the validation wells.
      patience: looks in a row without a better score after which training stops; 0 never stops.
      lr: the highest learning rate; None for the method's own (`RATES`). The linear probe has none.
      weight_decay: of the method; None for 0.01, and for the linear probe, which "lora" and "full"
        start from, for what is best on the validation wells.
      layer_decay: of "full", the factor of the learning rate from each block to the one before it.
      rank: of the updates of "lora".
      channels: of the index, to read; () for all that the encoder takes.
      crop: side of the crops in pixels; None for that of the encoder's training.
      pooling: of the embeddings; "auto" is one mean per channel, where the encoder has that.
      validation_crops: the most crops of one look at the validation wells.
      seed: of the split, the order, the crops and the initial weights.
    """

    method: Literal["linear", "attentive", "lora", "full"] = "linear"
    task: Literal["auto", "classes", "multilabel", "regression"] = "auto"
    holdout: str = "auto"
    test_fraction: float = setting(0.2, gt=0, lt=1)
    validation_fraction: float = setting(0.2, gt=0, lt=1)
    balance: bool = True
    steps: int = setting(2000, ge=1)
    batch: int = setting(64, ge=1)
    every: int = setting(50, ge=1)
    patience: int = setting(10, ge=0)
    lr: float | None = setting(None, gt=0)
    weight_decay: float | None = setting(None, ge=0)
    layer_decay: float = setting(0.75, gt=0, le=1)
    rank: int = setting(8, ge=1)
    channels: tuple[str, ...] = ()
    crop: int | None = setting(None, ge=1)
    pooling: Literal["auto", "mean", "channel", "class"] = "auto"
    validation_crops: int = setting(2048, ge=1)
    seed: int = setting(0, ge=0, lt=2**31)

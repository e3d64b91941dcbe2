"""What the channels of a job mean for its tables: names of features, wells that lack a stain."""

from collections.abc import Sequence

from mae_jax.errors import InputError
from mae_jax.inference.embedding_plan import EmbeddingPlan
from mae_jax.networks.encoder import Encoder


def feature_channels(encoder: Encoder, plan: EmbeddingPlan, pooling: str) -> tuple[str, ...]:
    """The channels that have an equal share of the features each, in order; () if they have not.

    So it is for the pooling "channel", and for statistics per channel. Black channels that a
    recipe adds are called pad1, pad2, ….
    """
    channels = next(iter(_channel_sets(encoder, plan)), ())
    black = 0 if encoder.recipe is None else encoder.recipe.pad_channels - len(channels)
    channels = (*channels, *(f"pad{number + 1}" for number in range(black)))
    number = len(channels)
    prepared = encoder.preprocessing
    if not number or not (prepared.any_channels or prepared.bag_of_channels):
        return ()
    proportional = encoder.width(2 * number, pooling) == 2 * encoder.width(number, pooling)
    return channels if proportional else ()


def usual_channels(encoder: Encoder, plan: EmbeddingPlan) -> tuple[str, ...]:
    """The channels of a well that lacks none, if some wells lack one that others have; else ()."""
    sets = _channel_sets(encoder, plan)
    return tuple(dict.fromkeys(name for names in sets for name in names)) if len(sets) > 1 else ()


def describe_lacking(encoder: Encoder, plan: EmbeddingPlan, usual: Sequence[str]) -> list[str]:
    """One sentence for each stain that wells lack, with the first few of these wells."""
    wells: dict[str, list[str]] = {}
    for rows, plate, well in zip(
        plan.table["rows"],
        plan.table["Metadata_Plate"],
        plan.table["Metadata_Well"],
        strict=True,
    ):
        for name in usual:
            if name not in plan.index.sites[rows[0]][0]:
                wells.setdefault(name, []).append(f"{plate}/{well}".strip("/"))
    sentences = []
    for channel, names in wells.items():
        shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        lack = "1 well lacks" if len(names) == 1 else f"{len(names)} wells lack"
        sentences.append(
            f"{lack} {channel} ({shown}): their embeddings are of their other channels, and "
            "Metadata_Missing_Channels says so."
        )
    return sentences


def _channel_sets(encoder: Encoder, plan: EmbeddingPlan) -> list[tuple[str, ...]]:
    """The sets of channels that wells are embedded with, the one of most sites first."""
    counts: dict[tuple[str, ...], int] = {}
    for names, _ in plan.index.sites:
        counts[names] = counts.get(names, 0) + 1
    sets: dict[tuple[str, ...], int] = {}
    for names, sites in counts.items():
        chosen = names if plan.channels is None else plan.channels
        if not set(chosen) <= set(names):
            continue  # such a well is skipped, and reported with its reason
        try:
            ordered = encoder.select_channels(chosen, plan.assigned)
        except InputError:
            continue
        sets[ordered] = sets.get(ordered, 0) + sites
    return sorted(sets, key=lambda names: -sets[names])

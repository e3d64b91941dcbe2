"""Names of the channels of a Yokogawa CV7000 or CV8000, from its measurement settings (.mes)."""

from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

from mae_jax.data.image_uri import resolve
from mae_jax.data.storage import read_bytes
from mae_jax.errors import InputError, redact_credentials


def channel_targets(root: str, paths: Sequence[str]) -> Mapping[str, str]:
    """The target of each channel by its number as the file names write it ('1' and '01').

    A .mes file lists the channels with their number (`Ch`) and `Target`. Channels without a target
    are left out, and nothing is named where there is no such file or where several disagree.

    Raises:
      InputError: the file is no XML.
    """
    found: list[dict[str, str]] = []
    for path in paths:
        if path.lower().endswith(".mes"):
            targets = _targets(resolve(root, path))
            if targets and targets not in found:
                found.append(targets)
    if len(found) != 1 or len(set(found[0].values())) < len(found[0]):
        return {}
    return {
        **found[0],
        **{number.zfill(2): name for number, name in found[0].items()},
    }


def _targets(path: str) -> dict[str, str]:
    try:
        tree = ElementTree.fromstring(read_bytes(path))
    except ElementTree.ParseError as error:
        raise InputError(f"{redact_credentials(path)} is not valid XML ({error}).") from None
    targets = {}
    for element in tree.iter():
        if element.tag.rpartition("}")[2] == "Channel":
            own = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
            if own.get("Ch") and own.get("Target"):
                targets[own["Ch"]] = own["Target"]
    return targets

"""Names of stains and their synonyms, and which channel of a screen is which of an encoder's.

Microscopes and screens name one stain in many ways: an encoder's DNA is another screen's Hoechst,
DAPI or HOECHST 33342. `SYNONYMS` is the one table of them; `match_channels` compares two lists of
names by it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache


@dataclass(frozen=True)
class Stain:
    """What a channel shows, and other names of it.

    Attributes:
      names: of the dye or of the structure; they count before those of fluorophores.
      fluorophores: names of filters or fluorophores by which Cell Painting's usual protocol
        images it; another dye in the same name overrules them.
    """

    names: tuple[str, ...]
    fluorophores: tuple[str, ...] = ()


# Written in any case and with any separators: only letters and digits are compared.
SYNONYMS: dict[str, Stain] = {
    "DNA": Stain(
        (
            "DNA",
            "Hoechst",
            "Hoechst 33342",
            "Hoechst 33258",
            "DAPI",
            "DRAQ5",
            "NucBlue",
            "nucleus",
            "nuclei",
            "nuclear",
        ),
    ),
    "ER": Stain(
        ("ER", "ConA", "Con A", "Concanavalin A", "Concanavalin", "endoplasmic reticulum"),
        ("FITC", "Alexa 488", "Alexa Fluor 488", "AF488", "GFP"),
    ),
    "RNA": Stain(
        ("RNA", "SYTO 14", "SYTO", "nucleoli", "nucleolus", "cytoplasmic RNA"),
        ("488 long", "Alexa 532", "Alexa Fluor 532", "AF532", "Cy3"),
    ),
    "AGP": Stain(
        (
            "AGP",
            "actin Golgi plasma membrane",
            "phalloidin",
            "WGA",
            "wheat germ agglutinin",
            "PhalloAndWGA",
            "actin",
            "Golgi",
            "plasma membrane",
        ),
        (
            "Alexa 568",
            "Alexa Fluor 568",
            "AF568",
            "Alexa 555",
            "Alexa Fluor 555",
            "TRITC",
            "Texas Red",
            "TxRed",
        ),
    ),
    "Actin": Stain(("Actin", "F-actin", "phalloidin")),
    "Mito": Stain(
        ("Mito", "MitoTracker", "MitoTracker Deep Red", "mitochondria", "mitochondrion"),
        ("Cy5", "Alexa 647", "Alexa Fluor 647", "AF647"),
    ),
    "Microtubules": Stain(("Microtubules", "microtubule", "tubulin", "alpha-tubulin", "MT")),
    "Protein": Stain(("Protein", "protein of interest")),
    "BF": Stain(("BF", "brightfield", "bright field", "transmitted light", "transmission")),
}


@dataclass(frozen=True)
class ChannelMatch:
    """Which channel of a screen is which of an encoder's.

    Attributes:
      found: the encoder's name -> the screen's.
      unclear: for each of the encoder's names that is not in `found`, the channels of the screen
        that could be it: none, or more than one, or one that another name claims too.
    """

    found: dict[str, str] = field(default_factory=dict)
    unclear: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def complaint(self) -> str:
        """What is missing or ambiguous, in words; "" for nothing."""
        missing = [name for name, channels in self.unclear.items() if not channels]
        words = [f"none is {' or '.join(missing)}"] if missing else []
        words += [
            f"{name} could be {' or '.join(channels)}"
            for name, channels in self.unclear.items()
            if channels
        ]
        return ", and ".join(words)

    def describe(self) -> str:
        """The matches in words: "DNA = Hoechst 33342, ER"."""
        return ", ".join(n if n == c else f"{n} = {c}" for n, c in self.found.items())


def match_channels(
    wanted: Sequence[str], available: Sequence[str], assigned: Mapping[str, str] | None = None
) -> ChannelMatch:
    """Find each of an encoder's channels among those of a screen.

    Equal names come first, then names that differ in case and separators, then synonyms, then
    fluorophores. A channel serves one name: what one name takes is no candidate of another. So
    with Actin and AGP wanted of phalloidin and WGA, phalloidin is Actin and WGA is AGP.

    Args:
      wanted: the encoder's names.
      available: the screen's names.
      assigned: the encoder's name -> the screen's, where someone has said so.
    """
    found = {name: channel for name, channel in (assigned or {}).items() if name in wanted}
    while True:
        left = [name for name in available if name not in found.values()]
        candidates = {name: _candidates(name, left) for name in wanted if name not in found}
        claims = [channels[0] for channels in candidates.values() if len(channels) == 1]
        certain = {
            name: channels[0]
            for name, channels in candidates.items()
            if len(channels) == 1 and (claims.count(channels[0]) == 1 or name == channels[0])
        }
        if not certain:
            in_order = {name: found[name] for name in wanted if name in found}
            return ChannelMatch(in_order, {n: tuple(c) for n, c in candidates.items()})
        found |= certain


def _candidates(name: str, available: Sequence[str]) -> list[str]:
    """The channels that `name` could be, by the strictest rule that any of them meets."""
    ranks = {channel: _rank(name, channel) for channel in available}
    best = max(ranks.values(), default=0)
    return [channel for channel, rank in ranks.items() if rank == best] if best else []


def _rank(name: str, channel: str) -> int:
    if name == channel:
        return 4
    if _letters(name) == _letters(channel):
        return 3
    own = next((stain for stain in SYNONYMS if _letters(stain) == _letters(name)), None)
    by_name, strong = stains(name) if own is None else (frozenset({own}), True)
    by_channel, other_strong = stains(channel)
    if not by_name & by_channel:
        return 0
    return 2 if strong and other_strong else 1


@cache
def stains(name: str) -> tuple[frozenset[str], bool]:
    """The stains of `SYNONYMS` that a channel's name tells, and whether by more than a fluorophore.

    Every run of words of the name is looked up. Where several are found, as in "phalloidin/WGA",
    the stains that all of them tell count, if there are such.
    """
    words = re.findall(r"[a-z]+|\d+", name.lower())
    runs = {
        "".join(words[start:end])
        for start in range(len(words))
        for end in range(start + 1, len(words) + 1)
    }
    for table in _tables():
        told = [table[run] for run in runs if run in table]
        if told:
            common = frozenset.intersection(*told)
            return common or frozenset.union(*told), table is _tables()[0]
    return frozenset(), False


@cache
def _tables() -> tuple[dict[str, frozenset[str]], dict[str, frozenset[str]]]:
    """Names -> stains, and fluorophores -> stains."""
    tables: tuple[dict[str, frozenset[str]], dict[str, frozenset[str]]] = ({}, {})
    for stain, synonyms in SYNONYMS.items():
        for table, names in zip(tables, (synonyms.names, synonyms.fluorophores), strict=True):
            for name in map(_letters, names):
                table[name] = table.get(name, frozenset()) | {stain}
    return tables


def _letters(name: str) -> str:
    """A name in lower case, its letters and digits alone; the name itself if it has none."""
    return re.sub(r"[^a-z0-9]", "", name.lower()) or name

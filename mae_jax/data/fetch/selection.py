"""Which plates, wells and sites of a data set to take."""

from dataclasses import dataclass

import pandas as pd

from mae_jax.config import nearest
from mae_jax.errors import InputError

_LEVELS = ("source", "batch", "plate", "well", "site")


@dataclass(frozen=True)
class Selection:
    """Names at each level, or a number of them; () and None take all.

    Attributes:
      source, batch, plate, well, site: names.
      num_plates: so many plates.
      num_wells: so many wells per plate.
      num_sites: so many sites per well.
    """

    source: tuple[str, ...] = ()
    batch: tuple[str, ...] = ()
    plate: tuple[str, ...] = ()
    well: tuple[str, ...] = ()
    site: tuple[str, ...] = ()
    num_plates: int | None = None
    num_wells: int | None = None
    num_sites: int | None = None

    def apply(self, sites: pd.DataFrame) -> pd.DataFrame:
        """The rows of a table of sites that are selected.

        Args:
          sites: one row per site with `Metadata_Plate`, `Metadata_Well`, `Metadata_Site` and, if
            the data set has them, `Metadata_Source` and `Metadata_Batch`, all strings. The first
            plates, wells and sites in the table's order count.

        Raises:
          InputError: a name is not in the table, or the data set has no such level.
        """
        for level in _LEVELS:
            wanted = getattr(self, level)
            if not wanted:
                continue
            column = f"Metadata_{level.capitalize()}"
            if column not in sites:
                raise InputError(f"this data set has no {level}; leave out --{level}.")
            known = sites[column].unique().tolist()
            for name in wanted:
                if name not in known:
                    raise InputError(f"there is no {level} '{name}' here: {nearest(name, known)}")
            sites = sites[sites[column].isin(wanted)]
        plate = [
            c for c in ("Metadata_Source", "Metadata_Batch", "Metadata_Experiment") if c in sites
        ]
        plate.append("Metadata_Plate")
        well = [*plate, "Metadata_Well"]
        sites = _first(sites, [], plate, self.num_plates)
        sites = _first(sites, plate, well, self.num_wells)
        return _first(sites, well, [*well, "Metadata_Site"], self.num_sites)

    def words(self) -> str:
        """In words, for messages and the record."""
        parts = [
            f"{level} {', '.join(getattr(self, level))}"
            for level in _LEVELS
            if getattr(self, level)
        ]
        for level in ("plates", "wells", "sites"):
            count = getattr(self, f"num_{level}")
            if count is not None:
                per = {"plates": "", "wells": " per plate", "sites": " per well"}[level]
                parts.append(f"{count} {level}{per}")
        return "; ".join(parts) or "all of it"


def _first(
    sites: pd.DataFrame, within: list[str], level: list[str], count: int | None
) -> pd.DataFrame:
    """The rows of the first `count` values of `level` within each value of `within`."""
    if count is None:
        return sites
    values = sites[level].drop_duplicates()
    kept = values.groupby(within, sort=False).head(count) if within else values.head(count)
    keys = set(kept.itertuples(index=False, name=None))
    chosen = [key in keys for key in sites[level].itertuples(index=False, name=None)]
    return sites[chosen]

"""Relationships from the databases' own downloads: CORUM, hu.MAP, Reactome, SIGNOR, STRING.

Every reader gives `Relationships`. Complexes and pathways become all pairs of their members.
"""

import gzip
import itertools
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd

from mae_jax.errors import InputError
from mae_jax.evaluation.relationships import Relationships, separator

# The paper takes StringDB's pairs with a combined score above 95 % of its scale of 1,000.
STRING_SCORE = 950
# Beyond this many members a "complex" says little about any pair in it.
LARGEST = 1000


def complex_pairs(
    complexes: Iterable[Iterable[str]], largest: int = LARGEST
) -> list[tuple[str, str]]:
    """All pairs within each complex of 2 to `largest` members."""
    pairs: list[tuple[str, str]] = []
    for members in complexes:
        unique = sorted({m.strip() for m in members if m.strip() and m.strip() != "None"})
        if len(unique) <= largest:
            pairs.extend(itertools.combinations(unique, 2))
    return pairs


def read_corum(path: str | os.PathLike[str], organism: str = "Human") -> Relationships:
    """CORUM's `allComplexes.txt` or `coreComplexes.txt` (tab-separated, one complex a row).

    Takes the subunits' gene names, separated by ";" (before version 4 the column is
    `subunits(Gene name)`, since then `subunits_gene_name`), of complexes of one organism.
    Also reads complexes without a header: name, then genes separated by blanks.
    """
    table = _table(path, "\t")
    column = _one_of(table, path, ["subunits(Gene name)", "subunits_gene_name"], optional=True)
    if column is None:
        return Relationships.of("CORUM", complex_pairs(r.split() for r in _second(path)))
    if (kind := _one_of(table, path, ["Organism", "organism"], optional=True)) is not None:
        table = table[table[kind] == organism]
    return Relationships.of("CORUM", complex_pairs(v.split(";") for v in table[column]))


def read_humap(path: str | os.PathLike[str]) -> Relationships:
    """hu.MAP's complexes (`humap2_complexes_*.txt`: CSV with `genenames` separated by blanks)."""
    table = _table(path, separator(Path(path)))
    column = _one_of(table, path, ["genenames", "Genenames", "gene_names"])
    return Relationships.of("HuMAP", complex_pairs(v.split() for v in table[column]))


def read_reactome(path: str | os.PathLike[str], largest: int = LARGEST) -> Relationships:
    """Reactome's gene sets (`ReactomePathways.gmt`) or its interactions from FI or PSI-MITAB.

    GMT: one pathway a line: name, identifier, genes. MITAB (`*.interactions.psi-mitab.txt`): the
    gene names stand in the alias columns as `uniprotkb:GENE(gene name)`.
    """
    with _open(path) as file:
        head = file.readline()
    if "uniprotkb:" in head or head.startswith("#ID"):
        return Relationships.of("Reactome", _mitab_pairs(path))
    with _open(path) as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    if not all(len(r) >= 3 for r in rows if r != [""]):
        raise InputError(f"{path} is neither a .gmt file (name, id, genes) nor PSI-MITAB.")
    return Relationships.of("Reactome", complex_pairs((r[2:] for r in rows), largest))


def read_signor(path: str | os.PathLike[str]) -> Relationships:
    """SIGNOR's download (`ENTITYA`, `TYPEA`, `ENTITYB`, `TYPEB`): its pairs of proteins."""
    table = _table(path, separator(Path(path)))
    columns = {c.lower(): c for c in table.columns}
    for name in ("entitya", "typea", "entityb", "typeb"):
        if name not in columns:
            raise InputError(f"{path} lacks column {name.upper()}; is it SIGNOR's download?")
    both = (table[columns["typea"]] == "protein") & (table[columns["typeb"]] == "protein")
    pairs = table.loc[both, [columns["entitya"], columns["entityb"]]]
    return Relationships.of("SIGNOR", pairs.to_numpy().tolist())


def read_string(
    links: str | os.PathLike[str],
    info: str | os.PathLike[str],
    score: int = STRING_SCORE,
) -> Relationships:
    """STRING's links (`9606.protein.links.*.txt.gz`) with a combined score above `score`.

    Args:
      links: protein1, protein2, combined_score, separated by blanks.
      info: `9606.protein.info.*.txt.gz`: the protein's identifier and its gene name
        (`preferred_name`).
      score: of 1,000; the paper's rule is > 95 %, so above 950.
    """
    names = _table(info, "\t")
    identifier = names.columns[0]
    if "preferred_name" not in names:
        raise InputError(f"{info} lacks column preferred_name; give STRING's protein.info file.")
    gene = dict(zip(names[identifier], names["preferred_name"], strict=True))
    pairs: list[tuple[str, str]] = []
    try:
        kinds = {"protein1": str, "protein2": str, "combined_score": int}
        with pd.read_csv(links, sep=" ", chunksize=1_000_000, dtype=kinds) as chunks:
            for chunk in chunks:
                strong = chunk[chunk["combined_score"] > score]
                a, b = strong["protein1"].map(gene), strong["protein2"].map(gene)
                known = a.notna() & b.notna()
                pairs.extend(zip(a[known], b[known], strict=True))
    except (FileNotFoundError, KeyError, ValueError):
        raise InputError(
            f"{links} is not STRING's protein.links file (protein1 protein2 combined_score)."
        ) from None
    return Relationships.of("StringDB", pairs)


READERS: dict[str, Callable[..., Relationships]] = {
    "pairs": Relationships.read,
    "corum": read_corum,
    "humap": read_humap,
    "reactome": read_reactome,
    "signor": read_signor,
    "string": read_string,
}


def read_database(given: str) -> Relationships:
    """`FILE` with entity1,entity2, or `KIND:FILE` with a kind of `READERS`.

    STRING takes two files: `string:LINKS+INFO`, since a comma separates databases.

    Raises:
      InputError: a file cannot be read, or STRING lacks one of its two.
    """
    kind, colon, rest = given.partition(":")
    if not colon or kind not in READERS:
        return Relationships.read(given)
    if kind != "string":
        return READERS[kind](rest)
    links, plus, info = rest.partition("+")
    if not plus:
        raise InputError(
            f"string:{rest} is one file; give STRING's links and info as string:LINKS+INFO."
        )
    return read_string(links, info)


def _mitab_pairs(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    def gene(cell: str) -> str:
        for part in cell.split("|"):
            if part.endswith("(gene name)"):
                return part.removesuffix("(gene name)").partition(":")[2].strip('"')
        return ""

    pairs = []
    with _open(path) as file:
        for line in file:
            cells = line.rstrip("\n").split("\t")
            if len(cells) > 5 and not line.startswith("#"):
                a, b = gene(cells[4]), gene(cells[5])
                if a and b:
                    pairs.append((a, b))
    return pairs


def _second(path: str | os.PathLike[str]) -> list[str]:
    with _open(path) as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    if not rows or any(len(r) != 2 for r in rows):
        raise InputError(f"{path} is not CORUM's table: it has no column of subunits' gene names.")
    return [r[1] for r in rows]


def _open(path: str | os.PathLike[str]):  # type: ignore[no-untyped-def]
    if not Path(path).is_file():
        raise InputError(f"{path} does not exist; check the path.")
    opener = gzip.open if str(path).endswith(".gz") else open
    return opener(path, "rt", encoding="utf-8", errors="replace")


def _table(path: str | os.PathLike[str], sep: str) -> pd.DataFrame:
    if not Path(path).is_file():
        raise InputError(f"{path} does not exist; check the path.")
    return pd.read_csv(path, sep=sep, dtype=str, keep_default_na=False, on_bad_lines="skip")


def _one_of(
    table: pd.DataFrame, path: str | os.PathLike[str], names: list[str], optional: bool = False
) -> str | None:
    for name in names:
        if name in table.columns:
            return name
    if optional:
        return None
    raise InputError(f"{path} has none of the columns {', '.join(names)}.")

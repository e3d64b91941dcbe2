"""The databases' own downloads, in their formats, as small files of the same shape."""

import gzip
from pathlib import Path

import pytest

from mae_jax.errors import InputError
from mae_jax.evaluation.relationship_databases import (
    complex_pairs,
    read_corum,
    read_database,
    read_humap,
    read_reactome,
    read_signor,
    read_string,
)


def pairs(r: object) -> set[tuple[str, str]]:
    return {tuple(p) for p in r.pairs}  # type: ignore[attr-defined]


def test_complexes_become_all_pairs_of_members() -> None:
    assert complex_pairs([["B", "A", "C", "A"], ["X"], []]) == [("A", "B"), ("A", "C"), ("B", "C")]
    assert complex_pairs([["A", "B", "C"]], largest=2) == []


@pytest.mark.parametrize("column", ["subunits(Gene name)", "subunits_gene_name"])
def test_corum(tmp_path: Path, column: str) -> None:
    path = tmp_path / "allComplexes.txt"
    path.write_text(
        f"ComplexID\tComplexName\tOrganism\t{column}\n"
        "1\tone\tHuman\tBCL6;HDAC4;None\n2\ttwo\tMouse\tA;B\n3\tthree\tHuman\tHDAC4;BCL6;X\n"
    )
    got = read_corum(path)
    assert pairs(got) == {("BCL6", "HDAC4"), ("BCL6", "X"), ("HDAC4", "X")}
    assert got.duplicates == 1


def test_humap(tmp_path: Path) -> None:
    path = tmp_path / "humap2_complexes_20200809.txt"
    path.write_text("HuMAP2_ID,Confidence,Uniprot_ACCs,genenames\nHuMAP2_00000,3,P1 P2,B A\n")
    assert pairs(read_humap(path)) == {("A", "B")}


def test_reactome_sets_and_interactions(tmp_path: Path) -> None:
    gmt = tmp_path / "ReactomePathways.gmt"
    gmt.write_text("Path one\tR-HSA-1\tA\tB\tC\nPath two\tR-HSA-2\tC\tA\n")
    assert pairs(read_reactome(gmt)) == {("A", "B"), ("A", "C"), ("B", "C")}
    mitab = tmp_path / "reactome.homo_sapiens.interactions.psi-mitab.txt"
    alias = "reactome:p(shortlabel)|uniprotkb:{}(gene name)"
    row = ["uniprotkb:P1", "uniprotkb:P2", "-", "-", alias.format("B"), alias.format("A"), "x"]
    mitab.write_text("#ID(s) interactor A\tID(s) interactor B\n" + "\t".join(row) + "\n")
    assert pairs(read_reactome(mitab)) == {("A", "B")}
    (tmp_path / "bad.gmt").write_text("one line\n")
    with pytest.raises(InputError, match=r"neither a \.gmt"):
        read_reactome(tmp_path / "bad.gmt")


def test_signor(tmp_path: Path) -> None:
    path = tmp_path / "signor.tsv"
    path.write_text(
        "ENTITYA\tTYPEA\tIDA\tENTITYB\tTYPEB\n"
        "TP53\tprotein\tx\tMDM2\tprotein\nATP\tchemical\tx\tMDM2\tprotein\n"
    )
    assert pairs(read_signor(path)) == {("MDM2", "TP53")}
    path.write_text("a\tb\n1\t2\n")
    with pytest.raises(InputError, match="ENTITYA"):
        read_signor(path)


def test_string_takes_scores_above_95_per_cent(tmp_path: Path) -> None:
    links, info = tmp_path / "links.txt.gz", tmp_path / "info.txt.gz"
    with gzip.open(links, "wt") as file:
        file.write("protein1 protein2 combined_score\n9606.E1 9606.E2 951\n9606.E2 9606.E1 951\n")
        file.write("9606.E1 9606.E3 950\n9606.E2 9606.E9 999\n")
    with gzip.open(info, "wt") as file:
        file.write("#string_protein_id\tpreferred_name\tprotein_size\n")
        file.write("9606.E1\tARF5\t1\n9606.E2\tM6PR\t2\n9606.E3\tFKBP4\t3\n")
    got = read_string(links, info)
    assert pairs(got) == {("ARF5", "M6PR")}
    assert got.duplicates == 1
    assert pairs(read_string(links, info, score=900)) == {("ARF5", "M6PR"), ("ARF5", "FKBP4")}
    assert pairs(read_database(f"string:{links}+{info}")) == {("ARF5", "M6PR")}
    with pytest.raises(InputError, match=r"protein.links"):
        read_string(info, info)


def test_corum_clusters_are_efaars_pairs(shared_data: Path) -> None:
    """The published complexes and the published pairs are of one making."""
    folder = shared_data / "relationships"
    clusters = read_database(f"corum:{folder / 'CORUM_clusters.tsv'}")
    known = read_database(str(folder / "CORUM.txt"))
    shared = pairs(clusters) & pairs(known)
    assert len(shared) > 0.9 * len(known)

"""Tables in the layout of each benchmark, a few wells of each."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mae_jax.evaluation import Profiles

WIDTH = 8


def profiles_of(wells: pd.DataFrame, features: np.ndarray) -> Profiles:
    """Profiles with generic names of features."""
    names = tuple(f"feature_{i}" for i in range(features.shape[1]))
    return Profiles(wells.astype("str"), features.astype(np.float32), names)


@pytest.fixture
def bbbc021(tmp_path: Path) -> Path:
    """Two weeks of three plates: two mechanisms in both, one in week 1 alone; DMSO and taxol."""
    folder = tmp_path / "bbbc021"
    folder.mkdir()
    series = {  # week -> compound -> mechanism
        1: {"a1": "A", "b1": "B", "taxol": "T"},
        2: {"a2": "A", "b2": "B", "t2": "T"},
    }
    rows, moa = [], {("DMSO", 0.0): "DMSO"}
    for week, compounds in series.items():
        for replicate in (1, 2, 3):
            content = {f"A{c:02d}": ("DMSO", 0.0) for c in range(1, 7)}
            content |= {f"H{c:02d}": ("taxol", 0.3) for c in (2, 6)}  # the plate's control
            for row, (compound, mechanism) in zip("BCD", compounds.items(), strict=True):
                for column, dose in zip((3, 4, 5), (1.0, 0.3, 0.1), strict=True):
                    content[f"{row}{column:02d}"] = (compound, dose)
                    if dose < 1:
                        moa[compound, dose] = mechanism
            for well, (compound, dose) in content.items():
                for site in (1, 2):
                    rows.append(
                        {
                            "TableNumber": 1,
                            "ImageNumber": site,
                            "Image_Metadata_Plate_DAPI": f"Week{week}_{week}000{replicate}",
                            "Image_Metadata_Well_DAPI": well,
                            "Replicate": replicate,
                            "Image_Metadata_Compound": compound,
                            "Image_Metadata_Concentration": dose,
                        }
                    )
    pd.DataFrame(rows).to_csv(folder / "BBBC021_v1_image.csv", index=False)
    table = [(c, d, m) for (c, d), m in moa.items()]
    columns = ["compound", "concentration", "moa"]
    pd.DataFrame(table, columns=columns).to_csv(folder / "BBBC021_v1_moa.csv", index=False)
    return folder


@pytest.fixture
def jump_lite(tmp_path: Path) -> tuple[Path, Profiles]:
    """Two sources of compounds and one of CRISPR, two batches each, and wells with an effect."""
    folder = tmp_path / "jump_lite"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows, features = [], []
    groups = {
        "source_2": ("group_high", "compound"),
        "source_7": ("group_low", "compound"),
        "source_13": ("group_crispr", "crispr"),
    }
    targets = {f"JCP2022_{i:06d}": f"TG{i % 4}" for i in range(1, 17)}
    by_target = {t: 2 * rng.standard_normal(WIDTH) for t in sorted(set(targets.values()))}
    for source, (group, kind) in groups.items():
        first = 800100 if kind == "crispr" else 1
        for batch in ("b1", "b2"):
            shift = rng.standard_normal(WIDTH)
            for i in range(24):
                treatment = f"JCP2022_{first + i:06d}" if i < 16 else "JCP2022_033924"
                control = i >= 16
                rows.append(
                    {
                        "Metadata_Well_Key": f"{source}__{batch}__{source}{batch}__x{i}",
                        "Metadata_Source": source,
                        "Metadata_Batch": f"{source}_{batch}",
                        "Metadata_Plate": f"{source}{batch}",
                        "Metadata_Well": f"{chr(65 + i // 12)}{i % 12 + 1:02d}",
                        "Metadata_JCP2022": treatment,
                        "Metadata_broad_sample": "",
                        "Metadata_Symbol": "",
                        "Metadata_pert_type": "negcon" if control else "trt",
                        "Metadata_Perturbation_Type": kind,
                        "Metadata_Group": group,
                    }
                )
                effect = np.zeros(WIDTH)
                if not control:
                    own = np.random.default_rng(i).standard_normal(WIDTH)
                    effect = by_target.get(targets.get(treatment, ""), own) + 0.3 * own
                features.append(effect + shift + 0.5 * rng.standard_normal(WIDTH))
    wells = pd.DataFrame(rows)
    wells.to_parquet(folder / "jump_lite_perturbation_metadata.parquet")
    chemistry = pd.DataFrame(
        [
            {"C0": i, "Metadata_JCP2022": jcp, "target": target, "WithinModalityTier": tier}
            for i, (jcp, target) in enumerate(targets.items())
            for tier in (("Tier3",) if i else ("Tier3", "Tier2"))
        ]
        + [{"C0": 99, "Metadata_JCP2022": "JCP2022_000001", "target": "TG3",
            "WithinModalityTier": "Excluded"}]
    )  # fmt: skip
    chemistry.to_parquet(folder / "jump_lite_refchem_annotations.parquet")
    keys = wells[["Metadata_Source", "Metadata_Batch", "Metadata_Plate", "Metadata_Well"]]
    return folder, profiles_of(keys, np.array(features))


@pytest.fixture
def rxrx3(tmp_path: Path) -> tuple[Path, Profiles]:
    """RxRx3-core's metadata: 30 genes by two guides, 4 compounds at two doses, controls."""
    folder = tmp_path / "rxrx3"
    folder.mkdir()
    rng = np.random.default_rng(1)
    effects = 2 * rng.standard_normal((30, WIDTH))
    effects[1::2] = effects[::2]  # genes 2i and 2i + 1 are alike
    rows, features = [], []

    def add(experiment: str, number: int, gene: str, treatment: str, dose: str, kind: str) -> None:
        address = f"{chr(65 + number // 24)}{number % 24 + 1:02d}"
        rows.append(
            {
                "well_id": f"{experiment}_1_{address}",
                "experiment_name": experiment,
                "plate": 1,
                "address": address,
                "gene": gene,
                "treatment": treatment,
                "SMILES": "",
                "concentration": dose,
                "perturbation_type": kind,
                "cell_type": "HUVEC",
            }
        )
        features.append(0.2 * rng.standard_normal(WIDTH))

    for experiment in ("gene-001", "gene-002"):
        for i in range(60):
            add(experiment, i, f"G{i // 2}", f"G{i // 2}_guide_{i % 2 + 1}", "", "CRISPR")
            features[-1] += effects[i // 2]
        for i in range(60, 84):
            add(experiment, i, "EMPTY_control", "EMPTY_control", "", "CRISPR")
    for i in range(16):
        compound = i // 4
        dose = "0.25" if i % 2 else "2.5"
        add("compound-001", i, "", f"compound{compound}", dose, "COMPOUND")
        features[-1] += (-1) ** i * effects[2 * compound]
    for i in range(16, 32):
        add("compound-001", i, "", "EMPTY_control", "", "COMPOUND")
    table = pd.DataFrame(rows)
    table.to_csv(folder / "metadata_rxrx3_core.csv", index=False)
    table.to_csv(folder / "metadata_rxrx3.csv", index=False)
    known = [(f"G{2 * c}", 5.0, f"compound{c}") for c in range(4)]
    known += [(f"G{2 * c + 1}", 50.0, f"compound{c}") for c in range(4)]
    known += [(f"G{i}", 50_000.0, "unseen") for i in range(8, 30)]
    truth = pd.DataFrame(known, columns=["gene_symbol", "nM_value", "treatment"])
    truth = truth.assign(measurement_type="ec50, ic50", database="Curated, by hand")
    truth.to_csv(folder / "compound_gene_interactions.csv", index=False)
    pairs = pd.DataFrame({"entity1": [f"G{i}" for i in range(0, 30, 2)],
                          "entity2": [f"G{i}" for i in range(1, 30, 2)]})  # fmt: skip
    pairs.to_csv(folder / "CORUM.txt", index=False)
    return folder, profiles_of(table[["well_id"]].add_prefix("Metadata_"), np.array(features))

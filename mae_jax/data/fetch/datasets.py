"""The data sets that `mae-jax fetch` knows."""

from mae_jax.data.fetch.bbbc021 import plan_bbbc021
from mae_jax.data.fetch.chammi75 import SUBSETS, plan_chammi75
from mae_jax.data.fetch.gallery import plan_cpjump1, plan_jump
from mae_jax.data.fetch.jump_lite import CODECS, plan_jump_lite
from mae_jax.data.fetch.plan import Dataset
from mae_jax.data.fetch.recursion import plan_rxrx1, plan_rxrx3_core

_RECURSION = "Recursion Non-Commercial End User License Agreement"
DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            "cpjump1",
            "CPJUMP1 (cpg0000): compounds, CRISPR and ORFs that target the same genes, 8 channels",
            "7.5 TB; about 64 GB per plate",
            "CC0 1.0",
            plan_cpjump1,
        ),
        Dataset(
            "jump",
            "JUMP Cell Painting (cpg0016): 2,525 plates of 13 sources, 5 stains",
            "127 TB",
            "CC0 1.0",
            plan_jump,
        ),
        Dataset(
            "jump-lite",
            "JUMP-lite: 551 plates of JUMP, compressed, with 24,356 perturbations",
            "16 GB (jpegxl_lossy_d20), 92 GB (mq), 238 GB (hq), 4.8 TB (zstd)",
            "CC0 1.0",
            plan_jump_lite,
            options={"codec": CODECS},
        ),
        Dataset(
            "rxrx3-core",
            "RxRx3-core: 735 genes and 1,674 compounds, 512 px, 6 stains",
            "18 GB",
            _RECURSION,
            plan_rxrx3_core,
            must_accept=True,
        ),
        Dataset(
            "rxrx1",
            "RxRx1: 1,108 siRNAs in four cell types, 512 px, 6 stains",
            "46 GB",
            "CC BY-NC-SA 4.0",
            plan_rxrx1,
            must_accept=True,
        ),
        Dataset(
            "bbbc021",
            "BBBC021: 113 compounds on MCF7 cells with mechanisms of action, 3 stains",
            "about 40 GB; 0.75 GB per plate",
            "CC BY-NC-SA 3.0",
            plan_bbbc021,
            must_accept=True,
        ),
        Dataset(
            "chammi-75",
            "CHAMMI-75: images of 75 studies with different channels",
            "about 5 TB",
            "one per study; see the column experiment.* of its table",
            plan_chammi75,
            must_accept=True,
            options={"subset": SUBSETS},
        ),
    )
}

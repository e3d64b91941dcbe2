"""Evaluations as specifications: `run(RecallSpec(…)).save(folder)`.

Each file holds the specifications of one family and the functions that run them. `EVALUATIONS` has
one entry per evaluation; the command line (`mae-jax evaluate NAME`) is made from it: the options
are the fields of the specification that are annotated with `Option`, with the fields' defaults.

To add an evaluation, write its specification and its function in a file here, and add its entry.
"""

from mae_jax.evaluation.protocols.base import Evaluation, Progress, Spec
from mae_jax.evaluation.protocols.batch_effects import (
    BatchEffectsSpec,
    NeighborsSpec,
    run_batch_effects,
    run_neighbors,
)
from mae_jax.evaluation.protocols.compound_gene import CompoundGeneSpec, run_compound_gene
from mae_jax.evaluation.protocols.features import FeaturesSpec, run_features
from mae_jax.evaluation.protocols.flops import FlopsSpec, run_flops
from mae_jax.evaluation.protocols.gene_sets import GeneSetsSpec, run_gene_sets
from mae_jax.evaluation.protocols.mechanism import MechanismSpec, run_mechanism
from mae_jax.evaluation.protocols.option import Option
from mae_jax.evaluation.protocols.paper import PaperSpec, run_paper
from mae_jax.evaluation.protocols.phenotypic import (
    ActivitySpec,
    ConsistencySpec,
    run_activity,
    run_consistency,
)
from mae_jax.evaluation.protocols.recall import (
    BlocksSpec,
    CompareSpec,
    RecallSpec,
    run_blocks,
    run_compare,
    run_recall,
)
from mae_jax.evaluation.protocols.replicates import ReplicatesSpec, run_replicates
from mae_jax.evaluation.protocols.retrieval import (
    CPJUMP1Spec,
    RetrievalSpec,
    SiblingsSpec,
    run_cpjump1,
    run_retrieval,
    run_siblings,
)
from mae_jax.evaluation.results import Result

__all__ = [
    "EVALUATIONS",
    "ActivitySpec",
    "BatchEffectsSpec",
    "BlocksSpec",
    "CPJUMP1Spec",
    "CompareSpec",
    "CompoundGeneSpec",
    "ConsistencySpec",
    "Evaluation",
    "FeaturesSpec",
    "FlopsSpec",
    "GeneSetsSpec",
    "MechanismSpec",
    "NeighborsSpec",
    "Option",
    "PaperSpec",
    "RecallSpec",
    "ReplicatesSpec",
    "Result",
    "RetrievalSpec",
    "SiblingsSpec",
    "run",
]

# The order is that of the overview, `mae-jax evaluate --help`.
EVALUATIONS: dict[str, Evaluation] = {
    evaluation.spec.name: evaluation
    for evaluation in (
        Evaluation(
            RecallSpec,
            run_recall,
            "recall of known relationships (Tables 2, 3 and 6, Fig. 5)",
            "--embeddings MAE=emb/mae,WSL=emb/wsl --corrections none,tvn \\\n"
            "      --relationships corum:allComplexes.txt,reactome.csv --out evaluation",
        ),
        Evaluation(
            RetrievalSpec,
            run_retrieval,
            "perturbation retrieval: replicates among the controls of their plate",
            "--embeddings emb/mae --correction tvn --batch plate --out retrieval",
        ),
        Evaluation(
            SiblingsSpec,
            run_siblings,
            "sibling retrieval among the perturbations that were retrieved",
            "--embeddings emb/mae --siblings Metadata_Gene --out siblings",
        ),
        Evaluation(
            CPJUMP1Spec,
            run_cpjump1,
            "both retrievals on CPJUMP1's own plates (Tables 4, 8 and 9)",
            "--embeddings emb/mae --design cpjump1_design --out cpjump1",
        ),
        Evaluation(
            GeneSetsSpec,
            run_gene_sets,
            "recall at 5 % false positives on gene sets (Table 5)",
            "--embeddings emb/mae --relationships string:links.txt.gz+info.txt.gz \\\n"
            "      --sets sets.json --out genesets",
        ),
        Evaluation(
            FeaturesSpec,
            run_features,
            "prediction of CellProfiler features (Table 7, Fig. 6 and 9)",
            "--train emb/exp1,exp1_features.csv.gz --test emb/exp2,exp2_features.csv.gz \\\n"
            "      --out features",
        ),
        Evaluation(
            ReplicatesSpec,
            run_replicates,
            "replicate consistency and perturbation strength, with p-values",
            "--embeddings emb/mae --out replicates",
        ),
        Evaluation(
            ActivitySpec,
            run_activity,
            "phenotypic activity: normalized AP of each perturbation's replicates",
            "--embeddings emb/mae --correction tvn --out activity",
        ),
        Evaluation(
            ConsistencySpec,
            run_consistency,
            "phenotypic consistency: normalized AP of perturbations that share a target",
            "--embeddings emb/mae --targets Metadata_Target --out consistency",
        ),
        Evaluation(
            MechanismSpec,
            run_mechanism,
            "mechanism of action by the nearest treatment, not same compound or batch (NSC, NSCB)",
            "--embeddings emb/bbbc021 --correction standardize-plate --not-same Metadata_Week \\\n"
            "      --out mechanism",
        ),
        Evaluation(
            CompoundGeneSpec,
            run_compound_gene,
            "compounds among the knock-outs of the genes that they act on (RxRx3-core)",
            "--embeddings emb/rxrx3-core --interactions compound_gene_interactions.csv \\\n"
            "      --controls Metadata_treatment=EMPTY_control --out compound-gene",
        ),
        Evaluation(
            NeighborsSpec,
            run_neighbors,
            "accuracy of labels predicted by the nearest wells, also of other plates alone",
            "--embeddings emb/mae --neighbors 1 --out neighbors",
        ),
        Evaluation(
            BatchEffectsSpec,
            run_batch_effects,
            "batch effects: mixing of plates, and retrieval by well position and by plate",
            "--embeddings emb/mae --correction tvn --mixing-of plate --out batch-effects",
        ),
        Evaluation(
            CompareSpec,
            run_compare,
            "which model recalls more, with intervals and p-values",
            "--embeddings MAE=emb/mae,WSL=emb/wsl --relationships corum.csv --out compare",
        ),
        Evaluation(
            BlocksSpec,
            run_blocks,
            "which block of an encoder makes the best map",
            "--embeddings 4=emb/block4,8=emb/block8,12=emb/block12 \\\n"
            "      --relationships corum.csv --out blocks",
        ),
        Evaluation(
            FlopsSpec,
            run_flops,
            "training compute, as the paper counts it and the true count",
            "--size L --patch 8 --crops 3.5e9",
            needs_out=False,
        ),
        Evaluation(
            PaperSpec,
            run_paper,
            "the paper's tables and figures, next to the published numbers",
            "--embeddings MAE=emb/mae,WSL=emb/wsl --relationships corum.csv --out paper",
        ),
    )
}


def run(spec: Spec, progress: Progress = lambda message: None) -> Result:
    """Run one evaluation.

    Args:
      spec: any specification of this package.
      progress: called with a line about each step.

    Returns:
      Tables, figures and settings; `result.save(folder)` writes what `mae-jax evaluate` writes.

    Raises:
      InputError: whatever the evaluation refuses.
    """
    return EVALUATIONS[spec.name].run(spec, progress)

"""Tools on AnnData, scanpy style: results are written into the object."""

from scsiameseclu_jax.tl.adapters import celltypist
from scsiameseclu_jax.tl.annotation import annotate_markers
from scsiameseclu_jax.tl.classification import classify
from scsiameseclu_jax.tl.clusters import add_clusters, predict, siameseclu
from scsiameseclu_jax.tl.markers import markers
from scsiameseclu_jax.tl.number import estimate_n_clusters
from scsiameseclu_jax.tl.questions import answer, questions
from scsiameseclu_jax.tl.trajectory import trajectory
from scsiameseclu_jax.tl.transfer import transfer_labels
from scsiameseclu_jax.tl.tree import cluster_tree
from scsiameseclu_jax.tl.umap import umap

__all__ = [
    "add_clusters",
    "annotate_markers",
    "answer",
    "celltypist",
    "classify",
    "cluster_tree",
    "estimate_n_clusters",
    "markers",
    "predict",
    "questions",
    "siameseclu",
    "trajectory",
    "transfer_labels",
    "umap",
]

"""Tools on AnnData, scanpy style: results are written into the object."""

from scsiameseclu_jax.tl.annotation import annotate_markers
from scsiameseclu_jax.tl.clusters import add_clusters, predict, siameseclu
from scsiameseclu_jax.tl.markers import markers
from scsiameseclu_jax.tl.number import estimate_n_clusters
from scsiameseclu_jax.tl.record import check_key, check_threshold
from scsiameseclu_jax.tl.trajectory import trajectory

__all__ = [
    "add_clusters",
    "annotate_markers",
    "check_key",
    "check_threshold",
    "estimate_n_clusters",
    "markers",
    "predict",
    "siameseclu",
    "trajectory",
]

"""Plots of what `tl` wrote: axes are returned, nothing is written or shown, no state is changed.

Plots of several panels return a list of axes. Save a figure with ``ax.figure.savefig(...)``; in a
notebook it shows below its cell.
"""

from scsiameseclu_jax.pl.cells import embedding, overview
from scsiameseclu_jax.pl.classification import confusion, rejection
from scsiameseclu_jax.pl.comparison import cluster_types, sankey
from scsiameseclu_jax.pl.confidence import confidence
from scsiameseclu_jax.pl.evidence import history, n_clusters, stability
from scsiameseclu_jax.pl.markers import markers
from scsiameseclu_jax.pl.trajectory import expression_along, trajectory
from scsiameseclu_jax.pl.tree import cluster_tree

__all__ = [
    "cluster_tree",
    "cluster_types",
    "confidence",
    "confusion",
    "embedding",
    "expression_along",
    "history",
    "markers",
    "n_clusters",
    "overview",
    "rejection",
    "sankey",
    "stability",
    "trajectory",
]

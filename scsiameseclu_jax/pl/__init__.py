"""Plots of what `tl` wrote: axes and figures are returned, nothing is shown, no state is changed.

Figures are made without pyplot: save one with ``ax.figure.savefig(...)``; in a notebook,
``ax.figure`` as the last expression of a cell displays it.
"""

from scsiameseclu_jax.pl.cells import embedding, overview, project
from scsiameseclu_jax.pl.evidence import history, n_clusters, stability
from scsiameseclu_jax.pl.markers import markers

__all__ = ["embedding", "history", "markers", "n_clusters", "overview", "project", "stability"]

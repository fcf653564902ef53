"""Data in: readers of the field's file formats, bundled cells and markers, simulated cells."""

from scsiameseclu_jax.datasets.bundled import pbmc68k_reduced
from scsiameseclu_jax.datasets.marker_lists import marker_sets, read_markers
from scsiameseclu_jax.datasets.pair_lists import read_pairs
from scsiameseclu_jax.datasets.readers import read
from scsiameseclu_jax.datasets.simulation import simulate, simulate_to
from scsiameseclu_jax.datasets.stores import read_lazy

__all__ = [
    "marker_sets",
    "pbmc68k_reduced",
    "read",
    "read_lazy",
    "read_markers",
    "read_pairs",
    "simulate",
    "simulate_to",
]

"""Data in: readers of the field's file formats, a bundled labelled set and simulated cells."""

from scsiameseclu_jax.datasets.bundled import pbmc68k_reduced
from scsiameseclu_jax.datasets.readers import read
from scsiameseclu_jax.datasets.simulation import simulate

__all__ = ["pbmc68k_reduced", "read", "simulate"]

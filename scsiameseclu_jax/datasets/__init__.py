"""Data in: readers of the field's file formats, a bundled labelled set and simulated cells."""

from scsiameseclu_jax.datasets.bundled import pbmc68k_reduced
from scsiameseclu_jax.datasets.paper import PaperDataset, paper
from scsiameseclu_jax.datasets.readers import read
from scsiameseclu_jax.datasets.simulation import simulate

__all__ = ["PaperDataset", "paper", "pbmc68k_reduced", "read", "simulate"]

"""Preprocessing on AnnData, scanpy style."""

from scsiameseclu_jax.preprocessing.count_splitting import split_counts
from scsiameseclu_jax.preprocessing.counts import counts

__all__ = ["counts", "split_counts"]

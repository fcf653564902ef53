"""Preprocessing on AnnData, scanpy style."""

from scsiameseclu_jax.preprocessing.count_splitting import split_counts
from scsiameseclu_jax.preprocessing.counts import counts
from scsiameseclu_jax.preprocessing.findings import Finding, check

__all__ = ["Finding", "check", "counts", "split_counts"]

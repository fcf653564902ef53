"""A web page about a clustering: one file that loads nothing else."""

from scsiameseclu_jax.reporting.build import report

__all__ = ["report"]

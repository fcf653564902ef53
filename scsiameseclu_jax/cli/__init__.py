"""The command line."""

from scsiameseclu_jax.cli.parser import main

__all__ = ["main"]

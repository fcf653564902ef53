"""scSiameseClu in JAX: cluster single cells from raw counts, in linear memory, without labels."""

from importlib.metadata import version

from scsiameseclu_jax import datasets, functional, metrics, pl, pp, tl
from scsiameseclu_jax.config import Config
from scsiameseclu_jax.datasets import read
from scsiameseclu_jax.doctor import doctor
from scsiameseclu_jax.model import SiameseClu
from scsiameseclu_jax.reporting import report
from scsiameseclu_jax.training.memory import estimate_memory
from scsiameseclu_jax.training.mesh import cell_mesh

__version__ = version("scsiameseclu-jax")

__all__ = [
    "Config",
    "SiameseClu",
    "cell_mesh",
    "datasets",
    "doctor",
    "estimate_memory",
    "functional",
    "metrics",
    "pl",
    "pp",
    "read",
    "report",
    "tl",
]

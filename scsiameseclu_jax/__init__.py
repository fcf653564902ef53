"""scSiameseClu in JAX: cluster single cells from raw counts, in linear memory, without labels."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scsiameseclu_jax import datasets, functional, metrics, pl, pp, tl
    from scsiameseclu_jax.config import Config
    from scsiameseclu_jax.datasets import read
    from scsiameseclu_jax.machine import doctor
    from scsiameseclu_jax.model import SiameseClu
    from scsiameseclu_jax.reporting import report
    from scsiameseclu_jax.training.memory import estimate_memory
    from scsiameseclu_jax.training.mesh import cell_mesh

    __version__: str

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

# Where what is no module is. All is imported when it is first asked for: the command line has to
# heed signals before it imports what takes seconds.
_HOMES = {
    "Config": "config",
    "SiameseClu": "model",
    "cell_mesh": "training.mesh",
    "doctor": "machine",
    "estimate_memory": "training.memory",
    "read": "datasets",
    "report": "reporting",
}


def __getattr__(name: str) -> Any:
    value: Any
    if name == "__version__":
        from importlib.metadata import version

        value = version("scsiameseclu-jax")
    elif name in _HOMES:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    elif name in __all__:
        value = import_module(f"{__name__}.{name}")
    else:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

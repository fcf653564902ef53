"""What every benchmark writes: figures, and the versions they were measured with."""

import functools
import hashlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

# What clusters and scores depend on; not the command line, plots and the like.
_MODULES = [
    *("batch_effects", "batches", "config", "device", "estimation", "fitted", "fitting"),
    *("metrics/clustering", "model", "neighbors", "normalization", "novelty", "partition", "pp"),
    *("reference", "consensus", "provenance", "stability"),
]

PACKAGES = [
    "scsiameseclu-jax",
    *("jax", "jaxlib", "flax", "optax", "ott-jax", "jraph"),
    *("numpy", "scipy", "scikit-learn", "scanpy", "anndata", "igraph"),
]


@functools.cache
def versions() -> dict[str, str]:
    """Return the version of Python and of each package that can change a result."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def write(path: Path, text: str) -> None:
    """Write by renaming, so that an interrupted benchmark leaves a whole file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def code_files() -> list[Path]:
    """Return the files of the package that a result can depend on."""
    package = ROOT / "scsiameseclu_jax"
    named = [package / f"{name}.py" for name in _MODULES]
    folders = [
        path for name in ("functional", "datasets") for path in (package / name).glob("*.py")
    ]
    return sorted([*named, *folders])


def code_fingerprint(settings: dict[str, Any]) -> str:
    """Return a hash of the package's code, its dependencies' versions and the settings of a run."""
    code = [hashlib.sha256(path.read_bytes()).hexdigest() for path in code_files()]
    parts = {"code": code, "versions": versions(), "settings": settings}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

"""What every benchmark writes: figures, and the versions they were measured with."""

import ast
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
    *("reference", "consensus", "pairs", "provenance", "stability"),
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


def _code(path: Path) -> str:
    """Return what a file does: without comments and docstrings, which change no result."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        for name, value in ast.iter_fields(node):
            if isinstance(value, list):
                setattr(node, name, [item for item in value if not _is_text(item)])
    return ast.dump(tree)


def _is_text(node: object) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def code_fingerprint(settings: dict[str, Any]) -> str:
    """Return a hash of the package's code, its dependencies' versions and the settings of a run."""
    code = [hashlib.sha256(_code(path).encode()).hexdigest() for path in code_files()]
    parts = {"code": code, "versions": versions(), "settings": settings}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

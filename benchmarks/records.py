"""What every benchmark writes: figures, and the versions they were measured with."""

import functools
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

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

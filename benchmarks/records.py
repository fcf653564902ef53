"""What every benchmark writes: figures, and the code and versions they were measured with."""

import ast
import functools
import hashlib
import json
import platform
import subprocess
from collections.abc import Callable, Collection
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "scsiameseclu_jax"
# A result depends on all that a fit imports, and on the readers of the data.
FIT = (f"{PACKAGE}.model", f"{PACKAGE}.datasets")

PACKAGES = [
    "scsiameseclu-jax",
    *("jax", "jaxlib", "flax", "optax", "ott-jax", "jraph"),
    *("numpy", "scipy", "scikit-learn", "scanpy", "anndata", "igraph"),
]

Run = dict[str, Any]


@functools.cache
def versions(*more: str) -> dict[str, str]:
    """Return the version of Python and of each package that can change a result, and of others."""
    numbers = {"python": platform.python_version()}
    for name in [*PACKAGES, *more]:
        try:
            numbers[name] = version(name)
        except PackageNotFoundError:
            numbers[name] = "not installed"
    return numbers


@functools.cache
def commit() -> str:
    """Return the commit of this checkout, ``-dirty`` behind it if tracked files differ from it."""
    words = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


# Files, written whole or not at all.


def write(path: Path, text: str) -> None:
    """Write by renaming, so that an interrupted benchmark leaves a whole file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def save(out: Path, table: str, **document: Any) -> None:
    """Write the figures as JSON, with the versions, and the table beside it as Markdown."""
    write(out, json.dumps({"versions": versions()} | document, indent=1))
    write(out.with_suffix(".md"), table)


def save_plot(out: Path, draw: Callable[[Path], None]) -> None:
    """Write the picture that `draw` draws into a file beside the JSON."""
    part = out.with_name(out.stem + ".part.png")
    draw(part)
    part.replace(out.with_suffix(".png"))


def on_record(out: Path, marks: Collection[str], *, fresh: bool = False) -> list[Run]:
    """Return the runs on record that the present code made: no table mixes two codes."""
    if fresh or not out.exists():
        return []
    runs = json.loads(out.read_text(encoding="utf-8"))["runs"]
    return [run for run in runs if run.get("fingerprint") in marks]


# The code that a result depends on.


def code_files(*modules: str) -> list[Path]:
    """Return the files of `modules` and of all that they import from here, functions included.

    The root of the package re-exports everything, so that it is passed through only.
    """
    reached: dict[str, Path] = {}
    names = list(modules or FIT)
    while names:
        name = names.pop()
        path = _file(name)
        if path is not None and name not in reached and name != PACKAGE:
            reached[name] = path
            names += _imports(path.read_text(encoding="utf-8"))
    return sorted(reached.values())


def _file(name: str) -> Path | None:
    """Return the file of a module of this repository, None for names that are not modules."""
    folder = ROOT.joinpath(*name.split("."))
    files = (folder.with_suffix(".py"), folder / "__init__.py")
    return next((path for path in files if path.is_file()), None)


@functools.cache
def _imports(source: str) -> list[str]:
    """Return what a source imports; ``from a import b`` gives a and a.b."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


@functools.cache
def _code_hash(source: str) -> str:
    """Return a hash of what a source does: comments and docstrings change no result."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        for name, value in ast.iter_fields(node):
            if isinstance(value, list):
                setattr(node, name, [item for item in value if not _is_text(item)])
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _is_text(node: object) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def code_fingerprint(settings: dict[str, Any], *modules: str) -> str:
    """Return a hash of the code of `modules` (a fit's), of versions and of a run's settings."""
    code = [_code_hash(path.read_text(encoding="utf-8")) for path in code_files(*modules)]
    parts = {"code": code, "versions": versions(), "settings": settings}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

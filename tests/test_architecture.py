"""The rules of the house, held by reading the sources and by fresh interpreters."""

import ast
import doctest
import importlib
import inspect
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import scsiameseclu_jax as scs

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "scsiameseclu_jax"
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
FUNCTIONAL = "scsiameseclu_jax.functional"
# A module imports from those before it only.
ORDER = [
    "types",
    "graph",
    "augmentation",
    "networks",
    "fusion",
    "likelihood",
    "losses",
    "transport",
    "monitors",
    "objective",
    "training",
    "prediction",
]
OWNERS = {"jraph": {"graph", "types"}, "flax": {"networks"}, "ott": {"transport"}}
OWNERS["optax"] = {"training"}
ALLOWED = {"collections", "enum", "functools", "jax", "math", "numpy", "typing", "__future__"}
LABELS = re.compile(r"^(y|y_true|truth|labels?|labels?_(key|column)|cell_types?|annotations?)$")


def imports(path):
    """Every imported module, in functions too; ``from a import b`` gives a and a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(path):
    return {name for name in imports(path) if name in SOURCES}


def reached(name):
    """Return all modules that a module imports, directly or not.

    The package itself, which re-exports everything, is only passed through by ``from ... import``.
    """
    found, open_ = {"scsiameseclu_jax"}, [name]
    while open_:
        for other in own(SOURCES[open_.pop()]) - found:
            found.add(other)
            open_.append(other)
    return found - {"scsiameseclu_jax"}


def python(code, **env):
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | env,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("room", ORDER)
def test_functional_imports_nothing_from_above(room):
    name = f"{FUNCTIONAL}.{room}"
    allowed = {f"{FUNCTIONAL}.{other}" for other in ORDER[: ORDER.index(room)]}
    allowed |= {"scsiameseclu_jax.config", FUNCTIONAL}
    assert own(SOURCES[name]) <= allowed
    third = {m.split(".")[0] for m in imports(SOURCES[name])} - ALLOWED - {"scsiameseclu_jax"}
    assert third == {library for library, rooms in OWNERS.items() if room in rooms}


def test_every_module_of_functional_has_its_place():
    rooms = {name.rpartition(".")[2] for name in SOURCES if name.startswith(FUNCTIONAL + ".")}
    assert rooms == set(ORDER)
    for name, path in SOURCES.items():
        if not name.startswith(FUNCTIONAL):
            assert not {m.split(".")[0] for m in imports(path)} & set(OWNERS), name


ABOVE = ("metrics", "tl", "pl", "reporting", "cli", "commands")
LABEL_FREE = [
    "pp",
    "annotation",
    "count_splitting",
    "expression",
    "normalization",
    "partition",
    "estimation",
    "consensus",
    "device",
    "batches",
    "batch_effects",
    "fitting",
    "fitted",
    "neighbors",
    "novelty",
    "reference",
    "provenance",
    "stability",
    "storage",
    "model",
    "progress",
    *(f"functional.{room}" for room in ORDER),
]


@pytest.mark.parametrize("room", LABEL_FREE)
def test_labels_can_not_reach_training(room):
    name = f"scsiameseclu_jax.{room}"
    above = re.compile(rf"scsiameseclu_jax\.({'|'.join(ABOVE)})(\.|$)")
    assert not [other for other in reached(name) if above.match(other)]
    scores = {module for module in imports(SOURCES[name]) if module.startswith("sklearn.metrics.")}
    unsupervised = ("silhouette_score", "calinski_harabasz_score")
    assert not {score for score in scores if not score.endswith(unsupervised)}
    arguments = [
        argument.arg
        for node in ast.walk(ast.parse(SOURCES[name].read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    ]
    assert arguments or room == "functional.types"
    assert not [argument for argument in arguments if LABELS.match(argument)]


def test_metrics_are_imported_where_labels_are_the_task_or_shown_only():
    metrics = {name for name in SOURCES if name.startswith("scsiameseclu_jax.metrics")}
    users = {name for name in SOURCES if metrics & own(SOURCES[name])}
    rooms = ("reporting.known", "tl.classification", "pl.classification")
    assert users - metrics == {"scsiameseclu_jax", *(f"scsiameseclu_jax.{room}" for room in rooms)}


def test_known_types_enter_by_two_doors_only():
    name = "scsiameseclu_jax.tl.heads"
    users = {user for user in SOURCES if name in own(SOURCES[user])}
    assert users == {f"scsiameseclu_jax.tl.{room}" for room in ("classification", "transfer")}


def test_importing_is_free():
    found = python(
        "import jax\n"
        "before = dict(jax.config.values)\n"
        "import scsiameseclu_jax, scsiameseclu_jax.cli\n"
        "from jax._src import xla_bridge\n"
        "changed = {k: v for k, v in jax.config.values.items() if before.get(k, v) != v}\n"
        "print(changed, xla_bridge.backends_are_initialized(), len(jax.live_arrays()))\n"
    )
    assert found.splitlines()[0].startswith("{} False 0")


def test_no_file_is_two_rooms():
    files = [
        p
        for d in ("scsiameseclu_jax", "tests", "benchmarks", "examples")
        for p in (ROOT / d).rglob("*.py")
    ]
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in files}
    assert len(lengths) > 40
    assert not {name: length for name, length in lengths.items() if length > 400}
    assert not [name for name in lengths if name.endswith("/utils.py")]


def public():
    for name in SOURCES:
        if name.endswith("__main__"):
            continue
        module = importlib.import_module(name)
        for key, value in vars(module).items():
            own_ = getattr(value, "__module__", None) == name
            if (
                own_
                and not key.startswith("_")
                and (inspect.isfunction(value) or inspect.isclass(value))
            ):
                yield f"{name}.{key}", value


def test_public_names_have_docstrings():
    found = dict(public())
    assert len(found) > 60
    assert not [name for name, value in found.items() if not inspect.getdoc(value)]


def test_all_lists_what_is_there():
    for module in (scs, scs.functional):
        assert all(hasattr(module, name) for name in getattr(module, "__all__", ()))
    names = set(scs.functional.__all__)
    assert names <= set(dir(scs.functional))
    assert len(names) == len(scs.functional.__all__)


@pytest.mark.parametrize("name", [n for n, p in SOURCES.items() if ">>>" in p.read_text()])
def test_doctests(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


def test_tests_named_in_the_readme_exist():
    text = (ROOT / "README.md").read_text()
    files = set(re.findall(r"tests/(\w+\.py)", text))
    assert files
    assert not [name for name in files if not (ROOT / "tests" / name).exists()]
    for name in re.findall(r"::(test_\w+)|`(test_\w+)`", text):
        test = name[0] or name[1]
        assert any(f"def {test}(" in p.read_text() for p in (ROOT / "tests").glob("*.py")), test


SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.slow
def test_readme_snippets_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in SNIPPETS:
        exec(compile(code, "README.md", "exec"), names)


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_examples_run(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path)])  # else it reads those of pytest
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out

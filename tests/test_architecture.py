"""The rules of the house, held by reading the sources and by fresh interpreters."""

import ast
import doctest
import importlib
import inspect
import os
import re
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
ROOMS = {name: name.split(".")[1] if "." in name else "" for name in SOURCES}
FUNCTIONAL = "scsiameseclu_jax.functional"
# Which modules of `functional` may use a library: none, if it is not named.
OWNERS = {
    "jraph": {"graph"},
    "flax": {"encoders"},
    "ott": {"transport"},
    "optax": {"training"},
}
ALLOWED = {"collections", "dataclasses", "functools", "jax", "math", "numpy", "operator", "typing"}
ALLOWED |= {"zlib", "__future__"}
# What labels may reach: everything else is before them.
WITH_LABELS = {"metrics", "tl", "pl", "reporting", "cli", "datasets", "__main__", ""}
LABELS = re.compile(r"^(y|y_true|truth|labels?|labels?_(key|column)|cell_types?|annotations?)$")


def imports(path):
    """Every imported module, in functions too; ``from a import b`` gives a and a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        yield from imports_of(node)


def imports_of(node):
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


def floors():
    """Return the floor of each folder or file of the package: 1 + the highest it imports from."""
    below = {}
    for name, path in SOURCES.items():
        rooms = {ROOMS[other] for other in own(path) if ROOMS[other]}
        below.setdefault(ROOMS[name] or "package", set()).update(rooms - {ROOMS[name]})
    found = {}

    def floor(room, above=()):
        assert room not in above, f"a circle: {above}"
        if room not in found:
            found[room] = 1 + max((floor(r, (*above, room)) for r in below[room]), default=0)
        return found[room]

    return {room: floor(room) for room in below}


def test_floors_are_few_and_without_a_circle():
    found = floors()
    assert max(found.values()) <= 10, found
    order = ["config", "functional", "training", "reference", "model", "tl", "reporting"]
    levels = [found[room] for room in order]
    assert levels == sorted(set(levels))
    assert len(list(PACKAGE.glob("*.py"))) <= 12


FUNCTIONAL_ROOMS = sorted(
    name.removeprefix(FUNCTIONAL + ".") for name in SOURCES if name.startswith(FUNCTIONAL + ".")
)


@pytest.mark.parametrize("room", FUNCTIONAL_ROOMS)
def test_functional_imports_nothing_from_above(room):
    path = SOURCES[f"{FUNCTIONAL}.{room}"]
    inside = {name for name in own(path) if name.startswith(FUNCTIONAL)}
    assert own(path) - inside <= {"scsiameseclu_jax.config"}
    third = {m.split(".")[0] for m in imports(path)} - ALLOWED - {"scsiameseclu_jax"}
    assert third <= {library for library, rooms in OWNERS.items() if room in rooms}


def test_functional_has_no_circle():
    def below(name, above=()):
        assert name not in above, above
        for other in own(SOURCES[name]):
            if other.startswith(FUNCTIONAL + "."):
                below(other, (*above, name))

    for room in FUNCTIONAL_ROOMS:
        below(f"{FUNCTIONAL}.{room}")


def test_libraries_of_the_method_are_used_in_functional_only():
    users = {
        (ROOMS[name], library)
        for name, path in SOURCES.items()
        if ROOMS[name] != "functional"
        for library in {m.split(".")[0] for m in imports(path)} & set(OWNERS)
    }
    # nested parameters become named arrays by flax's own function; types of optimisers
    assert users <= {("reference", "flax"), ("model", "optax")}


LABEL_FREE = sorted(
    name for name, room in ROOMS.items() if room not in WITH_LABELS and name.count(".")
)


@pytest.mark.parametrize("name", LABEL_FREE)
def test_labels_cannot_reach_training(name):
    above = [other for other in reached(name) if ROOMS[other] in WITH_LABELS - {"", "datasets"}]
    assert not above
    assert not [other for other in reached(name) if ROOMS[other] == "datasets"]
    scores = {module for module in imports(SOURCES[name]) if module.startswith("sklearn.metrics.")}
    unsupervised = ("silhouette_score", "calinski_harabasz_score")
    assert not {score for score in scores if not score.endswith(unsupervised)}
    arguments = [
        argument.arg
        for node in ast.walk(ast.parse(SOURCES[name].read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    ]
    assert not [argument for argument in arguments if LABELS.match(argument)]


def test_the_label_free_part_is_most_of_it():
    rooms = {ROOMS[name] for name in LABEL_FREE}
    stations = {"preprocessing", "functional", "partition", "training", "certainty", "model"}
    assert stations <= rooms
    assert len(LABEL_FREE) > 40


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
        "from scsiameseclu_jax import *\n"
        "import scsiameseclu_jax.cli.commands\n"
        "from jax._src import xla_bridge\n"
        "changed = {k: v for k, v in jax.config.values.items() if before.get(k, v) != v}\n"
        "print(changed, xla_bridge.backends_are_initialized(), len(jax.live_arrays()))\n"
    )
    assert found.splitlines()[0].startswith("{} False 0")


HEAVY = ["matplotlib.pyplot", "ott", "scanpy", "sklearn", "pynndescent", "numba", "umap"]


def test_importing_loads_what_is_needed_at_once_only():
    code = f"import sys\nprint([m for m in {HEAVY} if m in sys.modules])"
    assert python(f"from scsiameseclu_jax import *\n{code}").strip() == "[]"


@pytest.mark.parametrize("room", ["signals", "parser"])
def test_the_command_heeds_signals_and_helps_before_it_imports_anything(room):
    code = f"import sys, scsiameseclu_jax.cli.{room}\nprint([*sys.modules])"
    found = ast.literal_eval(python(code))
    assert not [m for m in ("jax", "numpy", "pandas", "anndata", "h5py", *HEAVY) if m in found]


def test_what_only_an_extra_brings_is_imported_where_it_is_used():
    tops = {
        (name, module.split(".")[0])
        for name, path in SOURCES.items()
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in imports_of(node)
    }
    assert not [(name, m) for name, m in tops if m in ("dask", "distributed", "xarray")]


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


@pytest.mark.parametrize("name", ["benchmarks/results/README.md", "CONTRIBUTING.md"])
def test_tests_that_documents_name_exist(name):
    text = (ROOT / name).read_text()
    files = set(re.findall(r"tests/[\w/]+\.py", text))
    assert files
    assert not [file for file in files if not (ROOT / file).exists()]
    sources = [path.read_text() for path in (ROOT / "tests").rglob("*.py")]
    for pair in re.findall(r"::(test_\w+)|`(test_\w+)`", text):
        test = "".join(pair)
        assert any(f"def {test}(" in source for source in sources), test


SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.slow
def test_readme_snippets_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in (*SNIPPETS, *SNIPPETS[:2]):  # those that write files, again
        exec(compile(code, "README.md", "exec"), names)

import inspect
import os
import tempfile

import jax
import pytest


def pytest_configure(config):
    """Make quick tests quick: most of their time is compilation, and the vote of candidates.

    Programs are compiled without optimisations, and tables of neighbours are a third as wide (each
    column is unrolled); slow tests have it all as users do. Compiled programs are kept on disk, in
    one folder for all processes of a run: modules forget those in memory, and many are the same.
    The command line, too, takes the folder that the environment names, not the user's own.
    By default nothing learns: contrast is tested by itself.
    Each process has one thread for dense products: threads of several wait for each other.

    Whatever the version of pandas, it lends arrays read-only, as it always does from 3 on.
    """
    os.environ["PANDAS_COPY_ON_WRITE"] = "1"  # nothing has imported pandas yet
    if "not slow" in config.option.markexpr:
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
        jax.config.update("jax_disable_most_optimizations", True)

        from scsiameseclu_jax.config import Training
        from scsiameseclu_jax.functional import graph

        graph._TABLE_WIDTH = 8
        _set_default(Training, "contrast_steps", 0)
    if "PYTEST_XDIST_WORKER" not in os.environ:  # workers inherit the folder
        folder = tempfile.TemporaryDirectory(prefix="scsiameseclu-programs-")
        config.add_cleanup(folder.cleanup)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder.name
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _set_default(kind, name, value):
    """Change the default of a dataclass's field, which its ``__init__`` keeps as well."""
    names = list(inspect.signature(kind).parameters)
    defaults = dict(zip(names[::-1], kind.__init__.__defaults__[::-1], strict=False))
    defaults[name] = value
    kind.__init__.__defaults__ = tuple(defaults[key] for key in names if key in defaults)
    kind.__dataclass_fields__[name].default = value


# Files whose few tests take long: begun last, they would leave one process alone at the end.
LONG = {"test_constraints.py", "test_examples.py", "test_minibatches.py", "test_model.py"}
LONG |= {"test_mesh.py", "test_predict.py", "test_training.py"}


def pytest_collection_modifyitems(items):
    """Begin with the long files."""
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Compiled programs of all modules together would hold several GiB."""
    yield
    jax.clear_caches()


@pytest.fixture
def x64():
    """Float64 within the test only; the package never touches the setting."""
    with jax.enable_x64(True):
        yield

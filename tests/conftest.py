import os
import tempfile

import jax
import pytest

_MOST_BYTES = 2**34


def pytest_configure(config):
    """Compile quickly, for that is what most of the time goes to; slow tests compile as users do.

    Compiled programs are kept on disk: modules forget those in memory, and many are the same. All
    processes share a folder of limited size: only then do reading and writing lock it.
    """
    if "not slow" in config.option.markexpr:
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
        jax.config.update("jax_disable_most_optimizations", True)
    if not hasattr(config, "workerinput"):  # workers inherit it
        folder = tempfile.TemporaryDirectory(prefix="scsiameseclu-programs-")
        config.add_cleanup(folder.cleanup)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(_MOST_BYTES)
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_compilation_cache_max_size", _MOST_BYTES)


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

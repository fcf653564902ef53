import jax
import pytest


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

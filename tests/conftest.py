import jax
import pytest


@pytest.fixture
def x64():
    """Float64 within the test only; the package never touches the setting."""
    with jax.enable_x64(True):
        yield

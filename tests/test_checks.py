"""What a user passes is checked; the device that computations go to."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import scsiameseclu_jax as scs
from scsiameseclu_jax.checks import check_n_clusters

TWO_DEVICES = """
import jax, jax.numpy as jnp
from scsiameseclu_jax.checks import default_device

one, two = jax.devices("cpu")
assert default_device() == one
for wanted, device in ((two, two), ("cpu", one), (one, one)):
    with jax.default_device(wanted):
        assert default_device() == device, (wanted, default_device())
        assert jnp.ones(2).devices() == {default_device()}
jax.config.update("jax_default_device", two)
assert default_device() == two
"""


@pytest.mark.parametrize("n_clusters", [-1, 0, 1, 120, 500])
def test_bad_number_of_clusters(n_clusters):
    with pytest.raises(ValueError, match=rf"between 2 and n_obs - 1 \(119\), found {n_clusters}"):
        check_n_clusters(n_clusters, 120)


@pytest.mark.parametrize("n_clusters", [2.5, "3", None, True])
def test_number_of_clusters_of_wrong_type(n_clusters):
    with pytest.raises(TypeError, match="n_clusters"):
        check_n_clusters(n_clusters, 120)


@pytest.mark.parametrize("n_clusters", [2, np.int64(119), "auto"])
def test_good_numbers_of_clusters(n_clusters):
    check_n_clusters(n_clusters, 120)


def test_the_device_is_that_of_jax_default_device():
    flags = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    source = str(Path(scs.__file__).parents[1])
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-c", TWO_DEVICES]
    subprocess.run(command, check=True, env=os.environ | flags | {"PYTHONPATH": path}, timeout=300)

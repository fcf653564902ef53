"""The device that computations go to."""

import os
import subprocess
import sys
from pathlib import Path

import scsiameseclu_jax as scs

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


def test_the_device_is_that_of_jax_default_device():
    flags = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    source = str(Path(scs.__file__).parents[1])
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-c", TWO_DEVICES]
    subprocess.run(command, check=True, env=os.environ | flags | {"PYTHONPATH": path}, timeout=300)

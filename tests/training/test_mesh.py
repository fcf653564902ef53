"""Cells over several devices and processes give what one device gives."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import scsiameseclu_jax as scs
import scsiameseclu_jax.functional as F
from scsiameseclu_jax.training import mesh as meshes
from scsiameseclu_jax.training.checkpoint import leaves_of, with_leaves
from scsiameseclu_jax.training.mesh import check_agreed, cut, fitted_to, rows_over

SCRIPT = Path(__file__).with_name("several_devices.py")


def start(*words, devices):
    """Start the script with so many CPU devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=env, text=True, **pipes)


def result(process):
    try:
        out, err = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def check(one, other):
    """Compare every loss term of 20 steps, the embedding and the clusters."""
    for name, values in one["history"].items():
        np.testing.assert_allclose(other["history"][name], values, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(other["fused"], one["fused"], atol=1e-4)
    assert other["clusters"] == one["clusters"]


def on_devices(what):
    """Return what one process with eight devices found; two with two each found the same."""
    port = free_port()
    alone = start(what, devices=8)
    pair = [start(what, f"127.0.0.1:{port}", i, devices=2) for i in range(2)]
    try:
        found = result(alone)
        plain = found["plain"]
        terms = {"zinb", "clustering", "cell_correlation_graph", "adjacency"}
        assert terms <= plain["history"].keys()
        assert len(plain["history"]["zinb"]) == 20
        for process in pair:
            check(plain, result(process)["4"])
    finally:
        for process in pair:
            process.kill()
    return found


def test_a_step_on_eight_devices_and_two_processes_is_one_on_one_device():
    found = on_devices("steps")
    check(found["plain"], found["8"])  # the last device has padding, too


@pytest.mark.slow
def test_a_fit_on_several_devices_and_processes_is_one_on_one_device():
    found = on_devices("fit")
    for name in ("1", "8", "3"):  # of 3 the last has few cells
        check(found["plain"], found[name])
    assert found["few"] < 1e-5  # fewer cells than devices
    assert found["channels"] and len(set(found["channels"])) == len(found["channels"])
    one_by_one, at_once = found["refits"]
    assert at_once == one_by_one
    one_by_one, at_once = found["seeds"]
    np.testing.assert_allclose(at_once, one_by_one, rtol=1e-6)
    assert len(set(one_by_one)) == 4


def test_mesh_is_checked():
    cells = scs.datasets.simulate(n_cells=60, n_genes=50, n_clusters=3, rng=0)
    wide = jax.make_mesh((1, 1), ("a", "b"))
    model = scs.SiameseClu(3)
    with pytest.raises(ValueError, match="mesh of one axis"):
        model.fit(cells, mesh=wide, progress=False)
    with pytest.raises(TypeError, match=r"jax\.sharding\.Mesh, found int"):
        model.fit(cells, mesh=4, progress=False)
    with pytest.raises(ValueError, match="Expected 1 to 1 devices, found 2"):
        scs.cell_mesh(2)


@pytest.mark.parametrize(("devices", "rows"), [(1, 704), (8, 704), (3, 708), (64, 768)])
def test_rows_are_split_evenly(devices, rows):
    class Mesh:
        size = devices

    assert rows_over(Mesh(), 704) == rows
    assert rows % (2 * devices) == 0 and rows_over(None, 704) == 704


def test_processes_that_do_not_do_the_same_are_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    others = {"cells": (5, 3), "settings": 1}
    monkeypatch.setattr(
        meshes.multihost_utils,
        "process_allgather",
        lambda own: np.stack([own, [meshes.zlib.crc32(repr(v).encode()) for v in others.values()]]),
    )
    check_agreed(scs.cell_mesh(), cells=(5, 3), settings=1)
    check_agreed(None, cells=(5, 4), settings=2)
    with pytest.raises(ValueError, match="Expected the same settings in all 2 processes"):
        check_agreed(scs.cell_mesh(), cells=(5, 3), settings=2)


def test_what_an_optimiser_keeps_of_each_cell_is_padded_anew():
    x = np.random.default_rng(0).normal(size=(10, 4))
    near = (np.arange(10)[:, None] + 1) % 10
    values = {"network": {"n_latent": 3}, "fusion": {"gate": "per_cell"}}
    method = F.siameseclu(2, config=scs.Config.from_dict(values))
    few, many = (F.cell_data(x, None, near, n_rows=n) for n in (16, 24))
    states = [
        method.start_stage(method.init(jax.random.key(0), data), "train") for data in (few, many)
    ]
    small, like = (cut(state, data) for state, data in zip(states, (few, many), strict=True))
    found = fitted_to(with_leaves(like, leaves_of(small)), many, None)
    shapes = [[leaf.shape for leaf in jax.tree.leaves(state)] for state in (found, states[1])]
    assert shapes[0] == shapes[1]
    for state, data in ((found, many), (fitted_to(small, few, scs.cell_mesh(1)), few)):
        again = cut(state, data)
        for one, other in zip(leaves_of(again), leaves_of(small), strict=True):
            np.testing.assert_array_equal(one, other)

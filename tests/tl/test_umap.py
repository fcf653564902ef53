"""UMAP: its graph and forces against dense oracles, what it keeps, and what it need not load."""

import importlib
import subprocess
import sys

import jax
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.optimize import brentq
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors

import scsiameseclu_jax as scs
from scsiameseclu_jax.preprocessing.neighbors import nearest_neighbors, unit_rows

module = importlib.import_module("scsiameseclu_jax.tl.umap")  # the function has its name


def islands(n=400, k=5, d=10, seed=0):
    """Rows of k groups that are well apart, and their groups."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(k, size=n)
    rows = 3 * rng.normal(size=(k, d))[codes] + 0.5 * rng.normal(size=(n, d))
    return rows.astype(np.float32), codes


def project(rows, **options):
    adata = AnnData(np.ones((len(rows), 1), np.float32), obsm={"X_siameseclu": rows})
    scs.tl.umap(adata, **options)
    return adata.obsm["X_siameseclu_umap"]


def graph(rows):
    neighbors = nearest_neighbors(rows, 15)[0].reshape(len(rows), -1)
    return module._similarities(unit_rows(rows), neighbors)


def _excess(width, beyond):
    return np.exp(-beyond / width).sum() - np.log2(len(beyond))


def test_similarities_are_those_of_the_paper():
    rows, _ = islands(60)
    rows[1] = rows[0]
    unit = rows.astype(float) / np.linalg.norm(rows, axis=1, keepdims=True)
    distances = 1 - unit @ unit.T
    np.fill_diagonal(distances, np.inf)
    one_way = np.zeros_like(distances)
    for own, given in zip(one_way, distances, strict=True):
        near = np.argsort(given)[:15]
        beyond = given[near] - given[near].min()
        own[near] = np.exp(-beyond / brentq(_excess, 1e-6, 1e3, args=(beyond,)))
    wanted = one_way + one_way.T - one_way * one_way.T
    np.testing.assert_allclose(graph(rows).toarray(), wanted, atol=1e-3)


def test_each_cell_is_pulled_by_its_strongest_links():
    similarities = graph(islands(80)[0])
    links, weights = module._strongest(similarities, 6)
    dense = similarities.toarray()
    for row, own, shares in zip(dense, links, weights, strict=True):
        wanted = np.sort(row)[::-1][:6]
        np.testing.assert_allclose(row[own], wanted)
        np.testing.assert_allclose(shares, wanted / wanted.sum(), rtol=1e-6)


def test_cells_move_as_the_forces_say():
    rows, _ = islands(50)
    start = np.random.default_rng(0).normal(size=(50, 2))
    links, weights = module._strongest(graph(rows), 50)
    key = jax.random.key(3)
    arrays = [array.astype(np.float32) for array in (start.T, weights)]
    found = module._lay_out(arrays[0], links, arrays[1], 50, key, 4)
    # Of the energy that attraction lowers, log(1 + d^2), and repulsion, the log of d^2 / (1 + d^2).
    attraction = np.zeros((50, 50))
    np.add.at(attraction, (np.arange(50)[:, None], links), weights)
    places, speed = start.copy(), np.zeros_like(start)
    for i in range(4):
        drawn = np.asarray(jax.random.randint(jax.random.fold_in(key, i), (100,), 0, 50))
        apart = places[:, None] - places
        squared = (apart**2).sum(axis=2, keepdims=True)
        pull = 2 * attraction[:, :, None] * 2 * apart / (1 + squared)
        push = (2 * apart / ((0.01 + squared) * (1 + squared)))[:, drawn].mean(axis=1)
        speed = 0.8 * speed + 0.3 * (1 - i / 4) * (5 * push - pull.sum(axis=1))
        places = places + speed
    np.testing.assert_allclose(np.asarray(found).T, places, rtol=1e-4, atol=1e-4)


def test_islands_stay_apart_and_neighbors_near():
    rows, codes = islands()
    found = project(rows)
    assert silhouette_score(found, codes) > 0.7
    before = nearest_neighbors(rows, 15)[0].reshape(len(rows), -1)
    after = NearestNeighbors(n_neighbors=15).fit(found).kneighbors(return_distance=False)
    kept = np.mean([len(np.intersect1d(*pair)) / 15 for pair in zip(before, after, strict=True)])
    assert kept > 0.4
    assert np.abs(found).max() < 100


@pytest.mark.parametrize(
    "rows",
    [
        np.ones((1, 4)),
        np.eye(2),
        np.eye(3, 1),
        np.zeros((20, 3)),
        np.ones((40, 3)),
        np.repeat(np.eye(3), 30, axis=0),
    ],
    ids=["one cell", "two", "one dimension", "zeros", "alike", "three places"],
)
def test_few_and_equal_cells(rows):
    found = project(rows.astype(np.float32))
    assert found.shape == (len(rows), 2)
    assert np.isfinite(found).all()


def test_like_sizes_share_a_program():
    programs = module._lay_out._cache_size
    project(islands(697)[0])
    before = programs()
    project(islands(699)[0], rng=5)
    assert programs() == before


def test_precision_of_jax_changes_nothing():
    rows = islands(60)[0]
    with jax.enable_x64(True):
        found = project(rows)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()


def test_after_a_fit_nothing_is_compiled_by_numba(tmp_path):
    """A fresh process would spend most of its time on that."""
    adata = scs.datasets.pbmc68k_reduced()[:150].copy()
    rows = np.random.default_rng(0).normal(size=(150, 5)).astype(np.float32)
    codes = np.arange(150) % 3
    rows[np.arange(150), codes] += 9
    adata.obs["siameseclu"] = pd.Categorical(codes.astype(str))
    adata.obsm["X_siameseclu"] = rows
    adata.uns["siameseclu"] = {"params": {"n_clusters": 3, "layer": "counts"}, "manifest": {}}
    adata.write_h5ad(tmp_path / "in.h5ad")
    code = (
        "import sys, anndata, scsiameseclu_jax as scs\n"
        f"adata = anndata.read_h5ad({str(tmp_path / 'in.h5ad')!r})\n"
        "scs.tl.markers(adata)\n"
        "scs.tl.annotate_markers(adata, 'blood')\n"
        "scs.tl.umap(adata)\n"
        "scs.pl.overview(adata, labels='cell_type')\n"
        f"scs.report(adata, {str(tmp_path / 'out.html')!r}, labels='cell_type')\n"
        "print([m for m in ('numba', 'umap', 'pynndescent', 'scanpy') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"

"""Cells whose counts stay on disk: what is found is what is found in memory."""

import os
import signal
import threading
import time

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

import scsiameseclu_jax as scs
from scsiameseclu_jax import reference
from scsiameseclu_jax.cli import main
from scsiameseclu_jax.preprocessing import blocks
from scsiameseclu_jax.preprocessing.prepare import prepare
from scsiameseclu_jax.reporting import genes
from tests.datasets.test_stores import bytes_of

pytest.importorskip("dask.array")

FEW_GENES = scs.Config.from_dict({"preprocessing": {"n_top_genes": 100}})


@pytest.fixture(scope="module", autouse=True)
def several_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_MOST_ROWS", 40)
        yield


@pytest.fixture(scope="module")
def adata():
    adata = scs.datasets.simulate(n_cells=150, n_genes=200, n_clusters=4, difficulty=0.2, rng=3)
    adata.obs["batch"] = ["x", "y", "z"] * 50
    return adata


@pytest.fixture(scope="module")
def store(adata, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "cells.zarr"
    adata.write_zarr(path)
    return path


@pytest.fixture(scope="module")
def model(adata):
    return scs.SiameseClu(4).fit(adata, progress=False)


@pytest.fixture(scope="module")
def in_memory(adata, model):
    return scs.tl.add_clusters(adata, model, copy=True)


@pytest.fixture(scope="module")
def on_disk(store):
    """A clustering of cells that anndata has read lazily."""
    cells = ad.experimental.read_lazy(store)
    with pytest.MonkeyPatch.context() as patch:  # never all counts at once
        patch.setattr(blocks.Selected, "tocsr", None)
        scs.tl.siameseclu(cells, 4, progress=False)
    return cells


def test_clusters_and_all_that_is_written_are_those_of_memory(in_memory, on_disk):
    assert blocks.is_lazy(on_disk.X)
    assert isinstance(on_disk.obs, pd.DataFrame)
    found, wanted = (cells.obs["siameseclu"] for cells in (on_disk, in_memory))
    assert adjusted_rand_score(wanted, found) >= 0.98
    assert set(on_disk.obsm) == set(in_memory.obsm)
    one, other = (cells.uns["siameseclu"] for cells in (on_disk, in_memory))
    assert one.keys() == other.keys()
    for name in ("data", "rows", "n_genes", "config"):
        assert one["manifest"][name] == other["manifest"][name]
    np.testing.assert_allclose(
        on_disk.obs["siameseclu_confidence"], in_memory.obs["siameseclu_confidence"], atol=0.05
    )


def test_questions_answers_and_a_report_of_it(in_memory, on_disk, tmp_path, monkeypatch):
    table = scs.tl.questions(on_disk, 2)
    assert table["genes_a"].tolist() == scs.tl.questions(in_memory, 2)["genes_a"].tolist()
    answered = scs.tl.answer(on_disk, table.assign(answer="no"), copy=True)
    assert blocks.is_lazy(answered.X)
    monkeypatch.setattr(genes, "_CELLS", 100)
    monkeypatch.setattr(genes, "_LEAST_CELLS", 10)
    answered.obsm["X_siameseclu_umap"] = answered.obsm["X_siameseclu"][:, :2]
    scs.report(answered, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "of the cells; the file does not hold them" in page
    assert "in 150 of the cells" not in page
    assert "Genes per cell" in page


def test_new_cells_on_disk(adata, model, tmp_path, monkeypatch):
    new = adata[:120, np.r_[10:200, 3]].copy()  # without a few genes, in another order
    new.write_zarr(tmp_path / "new.zarr")
    lazy = scs.datasets.read_lazy(tmp_path / "new.zarr")
    found, wanted = model.predict(lazy), model.predict(new)
    np.testing.assert_array_equal(found.labels, wanted.labels)
    np.testing.assert_array_equal(found.novelty, wanted.novelty)
    assert found.missing_genes == wanted.missing_genes
    # of more cells, those that are read together are judged together
    monkeypatch.setattr(reference, "_CELLS", 60)
    parts = model.predict(lazy)
    np.testing.assert_array_equal(parts.labels, wanted.labels)
    halves = [model.predict(new[rows].copy()).novelty for rows in (slice(60), slice(60, None))]
    np.testing.assert_allclose(parts.novelty, np.concatenate(halves), atol=1e-6)


@pytest.fixture(scope="module")
def inside(adata, store, model):
    """A folder with cells in both kinds of files, and a model that was fitted to them."""
    adata.write_h5ad(store.parent / "cells.h5ad")
    model.save(store.parent / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(store.parent)
        yield store.parent


def predict(source, out, *words):
    return main(["predict", "model", source, out, "--lazy", "always", "--no-cache", *words])


def test_the_command_copies_counts_as_they_are(inside, model):
    assert predict("cells.zarr", "out.zarr", "--labels", "cell_type") == 0
    assert bytes_of(inside / "out.zarr", "X") == bytes_of(inside / "cells.zarr", "X")
    found = ad.read_zarr(inside / "out.zarr").obs
    assert list(found.columns[:3]) == ["cell_type", "batch", "siameseclu"]
    assert (found["siameseclu"].to_numpy() == model.labels.astype(str)).mean() > 0.98
    assert "siameseclu" not in ad.read_zarr(inside / "cells.zarr").obs


def test_the_command_writes_a_file_of_another_kind_block_by_block(inside, adata, model):
    assert predict("cells.zarr", "other.h5ad") == 0
    found = ad.read_h5ad(inside / "other.h5ad")
    assert (found.X != adata.X).nnz == 0
    assert (found.obs["siameseclu"].to_numpy() == model.labels.astype(str)).mean() > 0.98


def test_the_command_puts_results_into_the_file_that_it_reads(inside, capsys):
    name = "cells.h5ad"
    before = bytes_of(inside / name, "X")
    assert predict(name, name) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert predict(name, name, "--overwrite") == 0
    assert "counts are read in blocks: --lazy always" in capsys.readouterr().err
    assert bytes_of(inside / name, "X") == before
    assert "siameseclu" in scs.datasets.read(inside / name).obs
    assert main(["predict", "model", name, name, "--overwrite", "--no-cache"]) == 2
    assert "apart from the input" in capsys.readouterr().err


@pytest.mark.slow
def test_refits_and_parts_of_cells_on_disk(store):
    cells = ad.experimental.read_lazy(store)
    scs.tl.siameseclu(cells, 4, n_resamples=2, progress=False)
    assert cells.obs["siameseclu_agreement"].mean() > 0.9
    scs.tl.siameseclu(cells, 2, restrict_to=("siameseclu", ["0"]), progress=False)
    assert cells.obs["siameseclu_R"].nunique() == 5
    assert blocks.is_lazy(cells.X)


def same(found, wanted):
    np.testing.assert_array_equal(found.order, wanted.order)
    np.testing.assert_array_equal(found.features, wanted.features)
    np.testing.assert_array_equal(found.preprocessor.selected, wanted.preprocessor.selected)


def two_workers(distributed, **options):
    options |= {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    return distributed.LocalCluster(**options)


def test_workers_of_a_cluster_find_the_same(store):
    distributed = pytest.importorskip("distributed")
    cells, config = scs.datasets.read_lazy(store), FEW_GENES
    wanted = prepare(cells, config=config)
    with two_workers(distributed, processes=False) as cluster, distributed.Client(cluster):
        same(prepare(cells, config=config), wanted)
        found = prepare(cells, batch_key="batch", config=config)  # scanpy's tasks start tasks
    same(found, prepare(cells, batch_key="batch", config=config))


def kill_once(client, pids, done):
    """Kill the first worker that is seen to work, with all that it holds."""
    while not done.is_set():
        busy = [pids[address] for address, tasks in client.processing().items() if tasks]
        if busy:
            os.kill(busy[0], signal.SIGKILL)
            return
        time.sleep(0.001)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no such signal")
def test_a_worker_that_is_killed_loses_nothing(store):
    distributed = pytest.importorskip("distributed")
    cells, config = scs.datasets.read_lazy(store), FEW_GENES
    wanted = prepare(cells, config=config)
    with two_workers(distributed) as cluster, distributed.Client(cluster) as client:
        done = threading.Event()
        killer = threading.Thread(target=kill_once, args=(client, client.run(os.getpid), done))
        killer.start()
        found = prepare(cells, config=config)
        assert not killer.is_alive()  # it has killed one
        done.set()
        killer.join()
    same(found, wanted)

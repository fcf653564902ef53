"""Mini-batches of graph parts: what they hold, and that they find what all cells at once find."""

import threading

import anndata as ad
import jax
import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.metrics import adjusted_rand_score

import scsiameseclu_jax as scs
import scsiameseclu_jax.functional as F
from scsiameseclu_jax.preprocessing import blocks, neighbors
from scsiameseclu_jax.preprocessing.prepare import prepare
from scsiameseclu_jax.training import stages
from scsiameseclu_jax.training.device import device_data, links
from scsiameseclu_jax.training.minibatches import MiniBatches, graph_parts
from scsiameseclu_jax.training.progress import Progress

STEPS = {"contrast_steps": 0, "feature_steps": 10, "steps": 10}
WHOLE = scs.Config.from_dict({"training": STEPS})
PARTS = scs.Config.from_dict({"training": STEPS, "scale": {"full_cells": 100, "batch_cells": 160}})


@pytest.fixture(scope="module")
def adata():
    return scs.datasets.simulate(n_cells=600, n_genes=150, n_clusters=4, difficulty=0.2, rng=0)


@pytest.fixture(scope="module")
def prepared(adata):
    return prepare(adata, config=PARTS)


@pytest.fixture(scope="module")
def batches(prepared):
    return MiniBatches(prepared, F.siameseclu(4, config=PARTS), seed=0)


@pytest.fixture(scope="module")
def model(adata):
    return scs.SiameseClu(4, config=PARTS).fit(adata, progress=False)


@pytest.mark.parametrize("n_parts", [1, 7, 32])
def test_parts_are_of_like_size_and_hold_every_cell_once(prepared, batches, n_parts):
    graph = links(F.normalize(batches.data.graph), 600)
    parts = graph_parts(prepared.features, graph, n_parts)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(600))
    sizes = [len(part) for part in parts]
    assert len(parts) == n_parts and max(sizes) - min(sizes) <= 3
    assert all((np.diff(part) > 0).all() for part in parts)


def test_parts_keep_neighbours_together(prepared, batches):
    graph = links(F.normalize(batches.data.graph), 600).tocoo()
    member = np.empty(600, int)
    for i, part in enumerate(graph_parts(prepared.features, graph.tocsr(), 8)):
        member[part] = i
    between = graph.row != graph.col
    inside = (member[graph.row] == member[graph.col])[between].mean()
    assert inside > 0.3  # of random parts 1/8


def test_a_round_of_mini_batches_holds_every_cell_once(batches):
    drawn = batches._draw(np.random.default_rng(1))
    cells = np.concatenate([next(drawn) for _ in range(4)])
    np.testing.assert_array_equal(np.sort(cells), np.arange(600))


def test_a_mini_batch_is_the_graph_among_its_cells(prepared, batches):
    cells = np.sort(np.random.default_rng(0).choice(600, 150, replace=False))
    data = batches.batch(cells)
    n = len(cells)
    ends = prepared.receivers, prepared.senders
    dense = sp.csr_matrix((prepared.weights, ends), shape=(600, 600)).toarray()
    dense = np.maximum(dense, dense.T)[np.ix_(cells, cells)] + np.eye(n)
    np.testing.assert_allclose(links(data.graph, n).toarray(), dense, rtol=1e-6)
    scale = 1 / np.sqrt(dense.sum(axis=1))
    found = links(F.normalize(data.graph), n).toarray()
    np.testing.assert_allclose(found, scale[:, None] * dense * scale, rtol=1e-5)
    np.testing.assert_array_equal(data.features[:n], prepared.features[cells])
    np.testing.assert_array_equal(data.counts[:n, :150], prepared.counts[cells].toarray())
    assert int(data.n_cells) == n and data.mask.shape == batches.batch(cells[:99]).mask.shape


def test_removed_links_are_those_of_all_cells(prepared, batches):
    method = F.siameseclu(4, config=PARTS)
    state = batches.init(jax.random.key(0))
    state = method.prune_graph(state, batches.data, method.embed(state, batches.data))
    batches.begin(state, "train")
    kept = links(batches.data.graph.with_weights(1 + state.edge_mask), 600)
    cells = next(batches._draw(np.random.default_rng(2)))
    graph = batches.batch(cells).graph
    real = slice(int(graph.graph.n_edge[0]))
    rows, columns = np.asarray(graph.receivers)[real], np.asarray(graph.senders)[real]
    among = batches._kept[cells][:, cells]
    among.sort_indices()
    wanted = np.asarray(kept[cells[rows], cells[columns]]).ravel()
    np.testing.assert_array_equal(among.data, wanted)
    assert set(wanted) == {1, 2}  # some are removed


def test_one_mini_batch_of_all_cells_is_a_step_on_all_cells(prepared):
    """One algorithm: the same losses, the same targets, refreshed at the same steps."""
    method = F.siameseclu(4, config=WHOLE)
    parts = MiniBatches(prepared, method, seed=0)
    data = device_data(prepared)
    state = method.init(jax.random.key(0), data)
    z = method.embed(state, data)
    rng = np.random.default_rng(0)
    centers, sizes = np.asarray(z)[rng.choice(600, 4)], np.array([1.0, 2.0, 3.0, 4.0])
    whole = method.start_clustering(method.prune_graph(state, data, z), data, z, centers, sizes)
    whole = part = method.start_stage(whole, "train")
    parts.begin(part, "train")
    whole, wanted = method.fit(whole, data, n_steps=7)
    part, found = parts.run(part, "train", 7)
    for name in ("loss", "changed", "sinkhorn_error", "mean_cosine"):
        one, two = getattr(found, name), getattr(wanted, name)
        np.testing.assert_allclose(one, two, rtol=2e-3, atol=2e-5, err_msg=name)
    np.testing.assert_allclose(part.plan.target, whole.plan.target, rtol=1e-2, atol=1e-4)
    np.testing.assert_allclose(part.params["centers"], whole.params["centers"], atol=1e-5)


def test_finds_what_all_cells_at_once_find(adata, model):
    whole = scs.SiameseClu(4, config=WHOLE).fit(adata, progress=False)
    assert adjusted_rand_score(whole.labels, model.labels) > 0.9
    assert model.manifest["cells_per_step"] == "150 on average, in 8 of 32 parts"
    assert whole.manifest["cells_per_step"] == "all"
    assert set(model.history) == set(whole.history)
    assert len(model.history["loss"]) == len(whole.history["loss"])
    assert np.isfinite(model.history["loss"]).all()
    # the transport is over all cells: their proportions hold
    assert model.history["sinkhorn_error"][-1] < 1e-3


def test_the_centres_learn(adata, model):
    train = model.history["stage"] == "train"
    assert model.history["clustering"][train][-1] < model.history["clustering"][train][0]


def test_same_seed_same_bits_and_order_does_not_matter(adata, model):
    rows = np.random.default_rng(3).permutation(adata.n_obs)
    other = scs.SiameseClu(4, config=PARTS).fit(adata[rows], progress=False)
    np.testing.assert_array_equal(other.labels, model.labels[rows])
    np.testing.assert_array_equal(other.proba, model.proba[rows])


def test_mini_batches_share_one_compilation(prepared, batches):
    method = F.siameseclu(4, config=PARTS)
    state = method.start_stage(batches.init(jax.random.key(0)), "graph")
    state, _ = batches.run(state, "graph", 5)
    made = []

    def listen(event, *_, **__):
        if "backend_compile" in event:
            made.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        batches.run(state, "graph", 5)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert made == []


def test_batches_after_a_checkpoint_are_those_that_would_have_come(prepared, batches):
    """And a look at what a step leads to, or a step that fails, is nothing that happened."""
    one, two = (MiniBatches(prepared, F.siameseclu(4, config=PARTS), seed=3) for _ in range(2))
    state = batches._method.start_stage(one.init(jax.random.key(0)), "features")
    state, _ = one.run(state, "features", 3)
    one.look(state, "features")
    assert one.drawn == 3
    two.skip(one.drawn)
    np.testing.assert_array_equal(next(one._cells), next(two._cells))
    broken = state._replace(weights=state.weights | {"zinb": np.float32(np.inf)})
    after, info = one.run(broken, "features", 5)
    assert after is broken
    assert info.loss.shape == (1,) and not np.isfinite(info.loss).any()


def test_weights_of_each_cell_need_all_cells(adata):
    setting = {"fusion": {"gate": "per_cell"}, "scale": {"full_cells": 100}}
    model = scs.SiameseClu(4, config=scs.Config.from_dict(setting))
    with pytest.raises(ValueError, match="for mini-batches, found 'per_cell'"):
        model.fit(adata, progress=False)


@pytest.mark.parametrize(
    ("changed", "patience", "settled"),
    [
        ([0.1, 0.0, 0.0], 2, True),
        ([0.1, 0.0, 0.0], 3, False),
        ([0.0, 0.0], 3, False),
        ([0.0, 0.0], 0, False),
        ([0.0, 0.1], 1, False),
    ],
)
def test_settled(changed, patience, settled):
    rows = [
        {"stage": np.array(["joint"]), "loss": np.ones(1)},
        {"stage": np.full(len(changed), "train"), "changed": np.array(changed)},
    ]
    assert stages._settled(rows, patience) == settled


@pytest.mark.slow
def test_training_stops_early():
    adata = scs.datasets.simulate(n_cells=200, n_genes=80, n_clusters=3, difficulty=0.1, rng=0)
    steps = {"contrast_steps": 0, "feature_steps": 4, "steps": 200, "patience": 20}
    model = scs.SiameseClu(3, config=scs.Config.from_dict({"training": steps}))
    model.fit(adata, progress=False)
    taken = model.manifest["training_steps"]
    assert 20 <= taken < 200
    train = model.history["stage"] == "train"
    assert train.sum() == taken
    assert not model.history["changed"][train][-20:].any()


@pytest.mark.slow  # pynndescent compiles for half a minute
def test_approximate_neighbours(monkeypatch, adata):
    x = np.random.default_rng(0).normal(size=(900, 8))
    exact, cells = neighbors.nearest_neighbors(x, 10)
    monkeypatch.setattr(neighbors, "EXACT_CELLS", 100)
    found, same = neighbors.nearest_neighbors(x, 10)
    np.testing.assert_array_equal(same, cells)
    assert (found != cells).all()
    rows = zip(exact.reshape(900, 10), found.reshape(900, 10), strict=True)
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in rows]) > 0.9
    assert len(np.unique(found + 900 * cells)) == len(found)
    assert prepare(adata, config=PARTS).search == "approximate"


def test_the_config_and_the_device_agree_with_each_other(prepared):
    data = device_data(prepared)
    counts = np.asarray(data.counts)[:600, : prepared.counts.shape[1]]
    np.testing.assert_array_equal(counts, prepared.counts.toarray())
    assert not np.asarray(data.counts)[600:].any()


def test_counts_on_disk_are_read_for_each_step(prepared, adata, model, monkeypatch):
    """The fit is the same to the bit, and what the next step needs is read ahead."""
    da = pytest.importorskip("dask.array")
    monkeypatch.setattr(blocks, "_MOST_ROWS", 100)
    chunks = da.from_array(adata.X, chunks=(50, adata.n_vars), asarray=False)
    raw = blocks.read_counts(ad.AnnData(chunks), layer=None)
    counts = blocks.Selected(raw, np.flatnonzero(raw.getnnz(axis=0)), prepared.order)
    asked, read = [], blocks.Blocks.of_genes

    def noted(self, rows, genes):
        asked.append(threading.current_thread() is threading.main_thread())
        return read(self, rows, genes)

    monkeypatch.setattr(blocks.Blocks, "of_genes", noted)
    method = F.siameseclu(4, config=PARTS)
    with Progress("embedding", show=False) as bar:
        fit = stages.fit(prepared._replace(counts=counts), method, seed=0, bar=bar)
    assert fit.history.keys() == model.history.keys()
    for name, wanted in model.history.items():
        np.testing.assert_array_equal(fit.history[name], wanted)
    assert asked.count(False) >= 20  # mini-batches of 20 steps
    assert asked.count(True) <= 3

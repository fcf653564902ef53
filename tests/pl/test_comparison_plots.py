"""Plots of confidence, of flows between namings of the cells, and of trajectories."""

from itertools import combinations, product

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch

import scsiameseclu_jax as scs
from scsiameseclu_jax.pl import flows

GENES = ["up", "down", "none"]


def result(k=4, n=240, *, long=False, missing=False, calibrated=False):
    """AnnData as `tl` leaves it, made by hand: clusters in a row, types of two clusters each."""
    rng = np.random.default_rng(0)
    codes = np.arange(n) % k
    counts = np.stack([1 + 4 * codes, 1 + 4 * (k - codes), np.full(n, 40)], axis=1)
    adata = AnnData(counts.astype(np.float32), var=pd.DataFrame(index=GENES))
    names = [f"CD4+ memory T cell, subset number {i}" if long else str(i) for i in range(k)]
    adata.obs["siameseclu"] = pd.Categorical.from_codes(codes, names)
    kinds = [f"type {i}" for i in range((k + 1) // 2)]
    adata.obs["cell_type"] = pd.Categorical.from_codes(
        np.where((np.arange(n) < 5) & missing, -1, codes // 2), kinds
    )
    proba = rng.dirichlet(np.full(k, 0.3), n) + np.eye(k)[codes]
    proba /= proba.sum(axis=1, keepdims=True)
    adata.obsm["siameseclu_proba"] = proba.astype(np.float32)
    adata.obs["siameseclu_confidence"] = proba.max(axis=1).astype(np.float32)
    adata.obsm["X_siameseclu"] = np.stack([codes, rng.random(n)], axis=1).astype(np.float32)
    adata.obsm["X_siameseclu_umap"] = adata.obsm["X_siameseclu"]
    chain = np.eye(k, k=1, dtype=np.float32) + np.eye(k, k=-1, dtype=np.float32)
    links = np.where(chain > 0, 0.8, 0.1).astype(np.float32)
    links[0, -1] = links[-1, 0] = 0.5
    time = np.arange(k, dtype=np.float32) / k
    adata.uns["siameseclu_paga"] = {
        "groups": np.array(names),
        "connectivities": links,
        "tree": chain * 0.8,
        "pseudotime": time[::-1].copy(),
        "root": adata.obs_names[k - 1],
        "root_cluster": names[-1],
    }
    adata.obs["siameseclu_pseudotime"] = time[::-1][codes]
    adata.uns["siameseclu"] = {}
    if calibrated:
        adata.obs["siameseclu_agreement"] = (rng.integers(0, 6, n) / 5).astype(np.float32)
        adata.uns["siameseclu"] = {"stability": {"calibration_error": 0.021}}
    return adata


def drawn(made):
    """Draw for real, so that nothing is left to go wrong later; return all texts."""
    figure = (made[0] if isinstance(made, list) else made).figure
    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(mpl.text.Text) if text.get_text()]


def crossings(table):
    """The oracle: look at each two flows."""
    flows_ = list(product(*map(range, table.shape)))
    return sum(
        table[a, b] * table[c, d]
        for (a, b), (c, d) in combinations(flows_, 2)
        if (a - c) * (b - d) < 0
    )


def test_crossings_are_counted_and_few_are_left():
    rng = np.random.default_rng(0)
    tables = [rng.integers(0, 9, (5, 4)), rng.integers(0, 9, (4, 6))]
    tables[1][:, 0] += tables[0].sum(axis=0) - tables[1].sum(axis=1) + 30
    orders = [rng.permutation(k) for k in (5, 4, 6)]
    wanted = crossings(tables[0][orders[0]][:, orders[1]])
    wanted += crossings(tables[1][orders[1]][:, orders[2]])
    assert flows.crossings(tables, orders) == wanted
    found = flows.crossings(tables, flows.order(tables))
    assert found <= min(wanted, flows.crossings(tables, [np.arange(k) for k in (5, 4, 6)]))
    # A partition that is only renamed has no crossing at all.
    renamed = 10 * np.eye(12, dtype=int)[rng.permutation(12)]
    assert flows.crossings([renamed], flows.order([renamed])) == 0


def test_two_or_three_categories_are_in_the_best_order():
    rng = np.random.default_rng(1)
    for _ in range(20):
        table = rng.integers(0, 20, (3, 3))
        best = min(
            crossings(table[list(a)][:, list(b)])
            for a in ([0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0])
            for b in ([0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0])
        )
        assert flows.crossings([table], flows.order([table])) <= 1.3 * best


def test_flows_fill_their_categories():
    table = np.array([[30, 10], [0, 60]])
    made = flows.arrange([table], min_share=0.0)
    for own, total in zip(made.spans, (table.sum(axis=1), table.sum(axis=0)), strict=True):
        heights = np.array([bottom - top for top, bottom in own])
        np.testing.assert_allclose(heights, total / 100 * 0.98)
        assert max(bottom for _, bottom in own) == pytest.approx(1)
    for i, (top, bottom) in enumerate(made.spans[0]):
        starts = sorted(flow.start for flow in made.links if flow.source == i)
        assert starts[0][0] == pytest.approx(top)
        assert starts[-1][1] == pytest.approx(bottom)
    assert made.hidden == 0
    few = flows.arrange([np.array([[95, 1], [1, 95]])], min_share=0.05)
    assert len(few.links) == 2
    assert few.hidden == pytest.approx(2 / 192)


@pytest.mark.parametrize("k", [2, 40])
def test_sankey_names_all_categories_of_two_or_three_columns(k):
    adata = result(k, long=True, missing=True)
    adata.obs["kind"] = ["a", "b"] * (adata.n_obs // 2)
    for columns in (["siameseclu", "cell_type"], ["siameseclu", "kind", "cell_type"]):
        ax = scs.pl.sankey(adata, *columns)
        assert isinstance(ax, Axes)
        texts = drawn(ax)
        for column in columns:
            assert column in texts
            assert {str(name) for name in adata.obs[column].dropna()} <= set(texts)
        assert "missing" in texts
        places = [text.get_position() for text in ax.texts]
        left = sorted(y for x, y in places if x < 0)
        assert len(left) == k
        assert min(np.diff(left)) > 0.01


def test_small_flows_are_not_drawn():
    adata = result(2, n=200)
    adata.obs["other"] = adata.obs["siameseclu"].astype(str)
    adata.obs.iloc[0, adata.obs.columns.get_loc("other")] = "1"
    bare = scs.pl.sankey(adata, "siameseclu", "other")
    whole = scs.pl.sankey(adata, "siameseclu", "other", min_share=0)
    assert [len(ax.findobj(PathPatch)) for ax in (bare, whole)] == [2, 3]
    assert "0.5 % of cells" in bare.get_xlabel()
    assert not whole.get_xlabel()


def test_types_of_clusters_are_along_the_diagonal():
    adata = result(6, missing=True)
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.reorder_categories(
        ["type 2", "type 0", "type 1"]
    )
    ax = scs.pl.cluster_types(adata)
    texts = drawn(ax)
    shares = np.asarray(ax.images[0].get_array())
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert (np.diff(shares.argmax(axis=1)) >= 0).all()
    assert texts.count("100") == 6
    rows = [label.get_text() for label in ax.get_yticklabels()]
    assert "0  (39)" in rows  # one of its cells has no type
    columns = [label.get_text() for label in ax.get_xticklabels()]
    assert set(columns) == {"type 0", "type 1", "type 2"}
    drawn(scs.pl.cluster_types(result(40, long=True), "siameseclu", "cell_type"))


def test_confidence_by_cluster():
    adata = result(4)
    panels = scs.pl.confidence(adata)
    texts = drawn(panels)
    assert len(panels) == 1
    assert texts.count("60") == 4  # cells of each
    assert "confidence (not calibrated)" in texts
    adata.uns["siameseclu"]["manifest"] = {"confidence": "calibrated by its votes"}
    assert "confidence (another fit agrees)" in drawn(scs.pl.confidence(adata))
    middle = adata.obs.groupby("siameseclu", observed=True)["siameseclu_confidence"].median()
    medians = [line.get_xdata()[0] for line in panels[0].lines[1::2]]
    np.testing.assert_allclose(medians, middle, rtol=1e-6)


def test_confidence_of_unassigned_cells_and_its_reliability():
    adata = result(4, calibrated=True)
    names = adata.obs["siameseclu"].astype(str).to_numpy(dtype=object, copy=True)
    names[adata.obs["siameseclu_confidence"] < 0.6] = "Unassigned"
    adata.obs["siameseclu"] = pd.Categorical(names)
    left = (names == "Unassigned").mean()
    panels = scs.pl.confidence(adata)
    texts = drawn(panels)
    assert f"{100 * left:.1f} % of cells unassigned" in texts
    assert "unassigned" in texts
    assert "Unassigned" not in texts
    assert "calibration error 0.021" in texts
    assert len(panels) == 2
    del adata.obsm["siameseclu_proba"]  # where they belong is not known: a row of their own
    assert "Unassigned" in drawn(scs.pl.confidence(adata))
    drawn(scs.pl.confidence(result(40, long=True)))


def test_trajectory_draws_links_by_kind():
    adata = result(5)
    ax = scs.pl.trajectory(adata)
    texts = drawn(ax)
    assert {"0", "1", "2", "3", "4", "root"} <= set(texts)
    styles = [line.get_linestyle() for line in ax.lines]
    assert styles.count("-") == 4  # the tree
    assert styles.count("--") == 1  # one more; those below the threshold are left out
    assert len(scs.pl.trajectory(adata, min_connectivity=0.6).lines) == 4
    assert adata.uns["siameseclu_paga"]["root"] in ax.get_title()


def test_trajectory_with_many_long_names_and_cells_out_of_reach():
    adata = result(40, long=True)
    adata.obs.loc[adata.obs_names[:20], "siameseclu_pseudotime"] = np.nan
    texts = drawn(scs.pl.trajectory(adata, basis="X_siameseclu"))
    assert "A  CD4+ memory T cell, subset number 0" in texts
    assert "AN" in texts


def test_expression_is_in_the_order_of_pseudotime():
    adata = result(4)
    panels = scs.pl.expression_along(adata, ["up", "down"])
    drawn(panels)
    assert [ax.get_title(loc="left") for ax in panels] == ["up", "down"]
    ticks = [label.get_text() for label in panels[-1].get_xticklabels()]
    assert ticks == ["3", "2", "1", "0"]
    up, down = (ax.lines[0].get_ydata() for ax in panels)
    assert (np.diff(up) < 0).all()
    assert (np.diff(down) > 0).all()
    part = scs.pl.expression_along(adata, ["up"], clusters=["0", "2"])
    assert [label.get_text() for label in part[0].get_xticklabels()] == ["2", "0"]
    adata.uns["siameseclu_paga"]["pseudotime"][0] = np.nan
    assert len(scs.pl.expression_along(adata, ["up"])[0].get_xticks()) == 3
    with pytest.raises(ValueError, match=r"that the root reaches.*found \['0'\]"):
        scs.pl.expression_along(adata, ["up"], clusters=["0"])


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda a: scs.pl.sankey(a, "siameseclu", "no"), KeyError, "found 'no'"),
        (
            lambda a: scs.pl.sankey(a, "siameseclu", "siameseclu_confidence"),
            ValueError,
            "numbers of type float32",
        ),
        (lambda a: scs.pl.sankey(a, "siameseclu", "cell_type", min_share=2), ValueError, "found 2"),
        (lambda a: scs.pl.cluster_types(a, labels="no"), KeyError, "found 'no'"),
        (lambda a: scs.pl.confidence(a, "cell_type"), KeyError, "cell_type_confidence"),
        (lambda a: scs.pl.trajectory(a, "cell_type"), KeyError, "scs.tl.trajectory"),
        (lambda a: scs.pl.trajectory(a, min_connectivity=2), ValueError, "between 0 and 1"),
        (lambda a: scs.pl.expression_along(a, "up"), TypeError, "a single name 'up'"),
        (lambda a: scs.pl.expression_along(a, ["x"]), KeyError, "'x'"),
        (lambda a: scs.pl.expression_along(a, []), ValueError, "found none"),
        (lambda a: scs.pl.expression_along(a, ["up"], clusters=[]), ValueError, "found none"),
    ],
)
def test_bad_input_is_named(call, error, match):
    with pytest.raises(error, match=match):
        call(result())


def test_other_clusters_than_those_of_the_trajectory_and_no_cells_with_both():
    adata = result(4)
    adata.obs["siameseclu"] = adata.obs["siameseclu"].cat.rename_categories({"3": "new"})
    for call in (scs.pl.trajectory, lambda a: scs.pl.expression_along(a, ["up"])):
        with pytest.raises(ValueError, match=r"none in \['3'\]"):
            call(adata)
    adata.obs["cell_type"] = None
    with pytest.raises(ValueError, match="only missing values"):
        scs.pl.cluster_types(adata)
    adata.obs["cell_type"] = np.where(adata.obs_names == adata.obs_names[0], "one", None)
    adata.obs.iloc[0, adata.obs.columns.get_loc("siameseclu")] = np.nan
    with pytest.raises(ValueError, match="found none"):
        scs.pl.cluster_types(adata)
    adata.obs["siameseclu_confidence"] = np.nan
    with pytest.raises(ValueError, match="a cluster and a confidence"):
        scs.pl.confidence(adata)


def test_nothing_global_and_nothing_in_the_object_changes():
    adata = result(4, calibrated=True)
    mpl.get_backend()
    before, figures = mpl.rcParams.copy(), plt.get_fignums()
    columns, keys = list(adata.obs), set(adata.uns) | set(adata.obsm)
    scs.pl.sankey(adata, "siameseclu", "cell_type")
    scs.pl.cluster_types(adata)
    scs.pl.confidence(adata)
    scs.pl.trajectory(adata)
    scs.pl.expression_along(adata, GENES)
    ax = Figure().add_subplot()
    assert scs.pl.sankey(adata, "siameseclu", "cell_type", ax=ax) is ax
    assert mpl.rcParams == before
    assert plt.get_fignums() == figures
    assert list(adata.obs) == columns
    assert set(adata.uns) | set(adata.obsm) == keys

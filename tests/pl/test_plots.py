"""Plots: what they return, what they leave alone, what they say of wrong input."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend

import scsiameseclu_jax as scs


def result(n_clusters, n_cells=120, key="siameseclu"):
    """AnnData as `tl` leaves it, made by hand."""
    rng = np.random.default_rng(0)
    codes = np.arange(n_cells) % n_clusters
    centers = 4 * rng.normal(size=(n_clusters, 8))
    adata = AnnData(np.ones((n_cells, 2), np.float32))
    names = [str(i) for i in range(n_clusters)]
    adata.obs[key] = pd.Categorical.from_codes(codes, names)
    adata.obs[f"{key}_confidence"] = rng.random(n_cells).astype(np.float32)
    types = [f"type of cell {i}" for i in range(n_clusters)]
    adata.obs["cell_type"] = pd.Categorical.from_codes(np.where(codes == 1, -1, codes), types)
    noise = rng.normal(size=(n_cells, 8))
    adata.obsm[f"X_{key}"] = (centers[codes] + noise).astype(np.float32)
    stage = np.repeat(["features", "graph", "joint", "train"], [6, 2, 2, 4])
    loss = np.linspace(2, 1, len(stage))
    clustering = np.where(stage == "train", loss, np.nan)
    history = {"loss": loss, "zinb": loss / 3, "clustering": clustering, "stage": stage}
    adata.uns[key] = {"history": history | {"gradient_norm": loss}}
    return adata


@pytest.fixture(scope="module")
def projected():
    adata = result(3)
    scs.pl.project(adata)
    return adata


def draw(ax):
    """Draw for real, so that nothing is left to go wrong later."""
    ax.figure.canvas.draw()
    return [text.get_text() for text in ax.texts], ax.get_legend()


def test_projection_is_stored_and_repeatable_and_leaves_neighbors_alone():
    adata, other = result(3), result(3)
    adata.uns["neighbors"] = {"mine": 1}
    made = scs.pl.project(adata)
    assert made.shape == (120, 2)
    np.testing.assert_array_equal(made, scs.pl.project(other))
    np.testing.assert_array_equal(made, adata.obsm["X_siameseclu_umap"])
    assert adata.uns["neighbors"] == {"mine": 1}
    assert len(adata.obsp) == 0
    assert "neighbors" not in other.uns
    # Whatever is stored is used: it is computed once.
    other.obsm["X_siameseclu_umap"] = made + 1
    np.testing.assert_array_equal(scs.pl.project(other), made + 1)


def test_cells_without_an_embedding_are_left_out():
    adata = result(3)
    adata.obsm["X_siameseclu"][::4] = np.nan  # as after `restrict_to`
    made = scs.pl.project(adata)
    np.testing.assert_array_equal(np.isnan(made[:, 0]), np.arange(120) % 4 == 0)
    ax = scs.pl.embedding(adata)
    draw(ax)
    assert len(ax.collections[0].get_offsets()) == 90


def test_projection_of_a_view_leaves_it_a_view():
    adata = result(3)
    view = adata[:60]
    assert scs.pl.project(view).shape == (60, 2)
    assert view.is_view
    assert "X_siameseclu_umap" not in adata.obsm


def test_projection_of_few_cells():
    assert np.isfinite(scs.pl.project(result(2, n_cells=5))).all()


def test_embedding_writes_each_cluster_on_the_plot(projected):
    ax = scs.pl.embedding(projected)
    marks, legend = draw(ax)
    assert isinstance(ax, Axes)
    assert marks == ["0", "1", "2"]
    assert [text.get_text() for text in legend.get_texts()] == marks
    assert ax.get_title() == "siameseclu"


def test_embedding_of_forty_clusters_has_forty_colors():
    adata = result(40, n_cells=200)
    adata.obsm["X_siameseclu_umap"] = adata.obsm["X_siameseclu"][:, :2]
    for color in ("siameseclu", "cell_type"):
        ax = scs.pl.embedding(adata, color=color)
        marks, legend = draw(ax)
        present = adata.obs[color].nunique()
        assert len(set(marks)) == present
        colors = {tuple(face) for face in ax.collections[0].get_facecolors()}
        assert len(colors) == 40
        assert len(legend.get_texts()) == 40


@pytest.mark.parametrize("n_clusters", [2, 8, 9, 20, 21, 60])
def test_colors_differ(n_clusters):
    adata = result(n_clusters)
    ax = scs.pl.embedding(adata, basis="X_siameseclu")
    assert len({tuple(face) for face in ax.collections[0].get_facecolors()}) == n_clusters


def test_long_names_become_letters_and_missing_labels_are_named(projected):
    marks, legend = draw(scs.pl.embedding(projected, color="cell_type"))
    assert marks == ["A", "B"]
    entries = [text.get_text() for text in legend.get_texts()]
    assert entries == ["A  type of cell 0", "B  type of cell 2", "missing"]


def test_embedding_of_numbers_other_bases_and_axes(projected):
    figure = Figure()
    ax = figure.add_subplot()
    same = scs.pl.embedding(projected, color="siameseclu_confidence", basis="X_siameseclu", ax=ax)
    assert same is ax
    _, legend = draw(ax)
    assert legend is None
    assert len(figure.axes) == 2  # with the colour scale
    points = np.asarray(ax.collections[0].get_offsets())
    wanted = projected.obsm["X_siameseclu"][:, :2]
    np.testing.assert_allclose(np.sort(points[:, 0]), np.sort(wanted[:, 0]))


def test_marks_of_mixed_clusters_are_apart():
    adata = result(3)
    adata.obsm["mixed"] = np.random.default_rng(0).random((adata.n_obs, 2))
    ax = scs.pl.embedding(adata, basis="mixed")
    places = np.array([text.get_position() for text in ax.texts])
    gaps = np.linalg.norm(places[:, None] - places, axis=2)[np.triu_indices(3, 1)]
    assert gaps.min() > 0.04


def test_history_draws_losses_and_names_stages():
    ax = scs.pl.history(result(3))
    marks, legend = draw(ax)
    assert ax.get_yscale() == "log"
    assert marks == ["features", "graph", "joint", "train"]
    entries = [text.get_text() for text in legend.get_texts()]
    assert entries == ["zinb", "clustering", "loss (sum)"]  # no monitors


def test_history_of_a_fit_without_steps():
    adata = result(3)
    history = adata.uns["siameseclu"]["history"]
    adata.uns["siameseclu"]["history"] = {name: values[:0] for name, values in history.items()}
    draw(scs.pl.history(adata))


def test_history_after_a_round_trip(tmp_path):
    import anndata as ad

    adata = result(3)
    adata.write_h5ad(tmp_path / "a.h5ad")
    draw(scs.pl.history(ad.read_h5ad(tmp_path / "a.h5ad")))


def test_overview(projected):
    alone = scs.pl.overview(projected)
    beside = scs.pl.overview(projected, labels="cell_type")
    assert isinstance(alone, Figure)
    assert [len(figure.axes) for figure in (alone, beside)] == [1, 2]
    beside.canvas.draw()
    assert beside.axes[0].get_title() == "3 clusters"
    unsure = projected.copy()
    unsure.obs["siameseclu"] = pd.Categorical(["Unassigned", *unsure.obs["siameseclu"][1:]])
    assert scs.pl.overview(unsure).axes[0].get_title() == "3 clusters"
    legends = beside.axes[1].findobj(Legend)
    assert len(legends) == 1


def test_another_key():
    adata = result(3, key="mine")
    draw(scs.pl.embedding(adata, "mine"))
    draw(scs.pl.history(adata, "mine"))
    assert "X_mine_umap" in adata.obsm


def test_nothing_global_changes(projected):
    mpl.get_backend()  # chosen at the first look at it, of which the comparison below is one
    before, figures = mpl.rcParams.copy(), plt.get_fignums()
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    scs.pl.project(result(3))
    scs.pl.embedding(projected)
    scs.pl.history(projected)
    scs.pl.overview(projected, labels="cell_type")
    assert mpl.rcParams == before
    assert plt.get_fignums() == figures
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        (lambda a: scs.pl.project(a, "other"), "X_other"),
        (lambda a: scs.pl.embedding(a, "other"), "other"),
        (lambda a: scs.pl.embedding(a, color="none"), "color"),
        (lambda a: scs.pl.embedding(a, basis="X_none"), "basis"),
        (lambda a: scs.pl.history(a, "other"), "other"),
        (lambda a: scs.pl.overview(a, labels="none"), "none"),
    ],
)
def test_missing_keys_are_named(projected, call, wanted):
    with pytest.raises(KeyError, match=wanted):
        call(projected)


def test_basis_of_one_column(projected):
    adata = projected.copy()
    adata.obsm["flat"] = np.zeros((adata.n_obs, 1))
    with pytest.raises(ValueError, match="two columns"):
        scs.pl.embedding(adata, basis="flat")


@pytest.mark.parametrize("k", [3, 40])
def test_stability_shows_each_pair_of_clusters(k, tmp_path):
    adata = result(k)
    together = np.eye(k) * 0.9 + 0.05
    record = {"together": together, "jaccard": np.linspace(0, 1, k)}
    adata.uns["siameseclu"]["stability"] = record
    ax = scs.pl.stability(adata)
    np.testing.assert_array_equal(ax.images[0].get_array(), together)
    assert ax.get_yticklabels()[-1].get_text() == f"{k - 1}  (1.00)"
    ax.figure.savefig(tmp_path / "stability.png")
    del adata.uns["siameseclu"]["stability"]
    with pytest.raises(KeyError, match="n_resamples"):
        scs.pl.stability(adata)

"""Plots: what they return, what they leave alone, what they say of wrong input."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.legend import Legend

import scsiameseclu_jax as scs
from scsiameseclu_jax.pl import figures
from scsiameseclu_jax.pl.cells import covered, places
from scsiameseclu_jax.pl.colors import MISSING, apart, colors_beside, palette, seen
from scsiameseclu_jax.reporting.figures import figure
from scsiameseclu_jax.tl.record import UNASSIGNED


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
    scs.tl.umap(adata)
    return adata


def draw(ax):
    """Draw for real, so that nothing is left to go wrong later."""
    ax.figure.draw_without_rendering()
    return [text.get_text() for text in ax.texts], ax.get_legend()


def test_umap_is_repeatable_and_leaves_neighbors_alone():
    adata, other = result(3), result(3)
    adata.uns["neighbors"] = {"mine": 1}
    assert scs.tl.umap(adata) is None
    coordinates = adata.obsm["X_siameseclu_umap"]
    assert coordinates.shape == (120, 2)
    copy = scs.tl.umap(other, copy=True)
    np.testing.assert_array_equal(coordinates, copy.obsm["X_siameseclu_umap"])
    assert "X_siameseclu_umap" not in other.obsm
    assert adata.uns["neighbors"] == {"mine": 1}
    assert len(adata.obsp) == 0
    assert "neighbors" not in copy.uns
    scs.tl.umap(other, rng=1)
    assert (coordinates != other.obsm["X_siameseclu_umap"]).any()


def test_cells_without_an_embedding_are_left_out():
    adata = result(3)
    adata.obsm["X_siameseclu"][::4] = np.nan  # as after `restrict_to`
    scs.tl.umap(adata)
    unknown = np.isnan(adata.obsm["X_siameseclu_umap"][:, 0])
    np.testing.assert_array_equal(unknown, np.arange(120) % 4 == 0)
    ax = scs.pl.embedding(adata, "siameseclu_umap")
    draw(ax)
    assert len(ax.collections[0].get_offsets()) == 90


def test_umap_of_a_view_leaves_the_whole_as_it_is():
    adata = result(3)
    view = adata[:60]
    scs.tl.umap(view)
    assert view.obsm["X_siameseclu_umap"].shape == (60, 2)
    assert "X_siameseclu_umap" not in adata.obsm


def test_umap_of_few_cells():
    few = scs.tl.umap(result(2, n_cells=5), copy=True)
    assert np.isfinite(few.obsm["X_siameseclu_umap"]).all()


def test_embedding_writes_each_cluster_on_the_plot(projected):
    ax = scs.pl.embedding(projected, "siameseclu_umap", color="siameseclu")
    marks, legend = draw(ax)
    assert isinstance(ax, Axes)
    assert marks == ["0", "1", "2"]
    assert [text.get_text() for text in legend.get_texts()] == marks
    assert ax.get_title() == "siameseclu"
    alike = scs.pl.embedding(projected, "X_siameseclu_umap")
    assert draw(alike) == ([], None)
    assert len(alike.collections[0].get_facecolors()) == 1


def test_embedding_of_forty_clusters_has_forty_colors():
    adata = result(40, n_cells=200)
    adata.obsm["X_siameseclu_umap"] = adata.obsm["X_siameseclu"][:, :2]
    for color in ("siameseclu", "cell_type"):
        ax = scs.pl.embedding(adata, "siameseclu_umap", color=color)
        marks, legend = draw(ax)
        present = adata.obs[color].nunique()
        assert len(set(marks)) == present
        colors = {tuple(face) for face in ax.collections[0].get_facecolors()}
        assert len(colors) == 40
        assert len(legend.get_texts()) == 40


@pytest.mark.parametrize(("n", "least"), [(7, 0.15), (20, 0.1), (40, 0.08)])
def test_colors_are_told_apart_by_the_colour_blind_too(n, least):
    """Distances in Oklab: to each other, to white, and to the grey of missing values."""
    colors = np.array([to_rgb(color) for color in (*palette(n), MISSING, "white")])
    far = apart(seen(colors), seen(colors)) + np.eye(n + 2)
    far[-2:, -2:] = 1
    assert far.min() > least
    assert palette(n) == palette(60)[:n]


def test_marks_stand_above_clusters_that_they_would_hide():
    points = np.concatenate([np.random.default_rng(0).uniform(size=(200, 2)), np.full((3, 2), 0.5)])
    codes = np.repeat([0, 1], [200, 3])
    where = places(points, codes, 2)
    assert covered(points, codes, where).tolist() == [False, True]
    adata = result(2, n_cells=203)
    adata.obsm["X_siameseclu_umap"] = points
    adata.obs["siameseclu"] = pd.Categorical(codes.astype(str))
    ax = scs.pl.embedding(adata, "siameseclu_umap", color="siameseclu")
    draw(ax)
    on, above = ax.texts
    at = [ax.transData.transform(text.get_position())[1] for text in (on, above)]
    boxes = [text.get_window_extent() for text in (on, above)]
    assert boxes[0].y0 < at[0] < boxes[0].y1
    assert at[1] < boxes[1].y0 < at[1] + 10


@pytest.mark.parametrize("letters", [1, 60])
@pytest.mark.parametrize("n_clusters", [2, 40])
def test_legends_are_inside_the_figure(n_clusters, letters):
    adata = result(n_clusters)
    names = {name: f"{name:>{letters}}".replace(" ", "n") for name in adata.obs["siameseclu"]}
    adata.obs["siameseclu"] = adata.obs["siameseclu"].cat.rename_categories(names)
    ax = scs.pl.embedding(adata, "siameseclu", color="siameseclu")
    _, legend = draw(ax)
    width, height = ax.figure.canvas.get_width_height()
    box = legend.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= width
    assert 0 <= box.y0 < box.y1 <= height
    assert ax.get_window_extent().width > 300


def test_cells_left_unassigned_are_grey_and_bear_no_mark():
    adata = result(3)
    adata.obs["siameseclu"] = adata.obs["siameseclu"].cat.rename_categories({"1": "Unassigned"})
    ax = scs.pl.embedding(adata, "siameseclu", color="siameseclu")
    marks, legend = draw(ax)
    assert marks == ["0", "2"]
    assert [text.get_text() for text in legend.get_texts()] == ["0", "Unassigned", "2"]
    faces = [to_hex(handle.get_facecolors()[0]).upper() for handle in legend.legend_handles]
    assert faces == [palette(3)[0], MISSING, palette(3)[2]]


def test_history_of_nothing_that_was_trained():
    adata = result(2)
    adata.uns["siameseclu"]["history"] = {"stage": np.array([])}
    with pytest.raises(KeyError, match="nothing was trained"):
        scs.pl.history(adata)


@pytest.mark.parametrize("n_clusters", [2, 8, 9, 20, 21, 60])
def test_colors_differ(n_clusters):
    adata = result(n_clusters)
    ax = scs.pl.embedding(adata, "siameseclu", color="siameseclu")
    assert len({tuple(face) for face in ax.collections[0].get_facecolors()}) == n_clusters


def test_long_names_become_letters_and_missing_labels_are_named(projected):
    marks, legend = draw(scs.pl.embedding(projected, "siameseclu_umap", color="cell_type"))
    assert marks == ["A", "B"]
    entries = [text.get_text() for text in legend.get_texts()]
    assert entries == ["A  type of cell 0", "B  type of cell 2", "missing"]


def test_embedding_of_numbers_other_bases_and_axes(projected):
    figure = Figure()
    ax = figure.add_subplot()
    same = scs.pl.embedding(projected, "X_siameseclu", color="siameseclu_confidence", ax=ax)
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
    ax = scs.pl.embedding(adata, "mixed", color="siameseclu")
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
    assert [len(panels) for panels in (alone, beside)] == [1, 2]
    beside[0].figure.draw_without_rendering()
    assert beside[0].get_title() == "3 clusters"
    unsure = projected.copy()
    unsure.obs["siameseclu"] = pd.Categorical(["Unassigned", *unsure.obs["siameseclu"][1:]])
    assert scs.pl.overview(unsure)[0].get_title() == "3 clusters"
    legends = beside[1].findobj(Legend)
    assert len(legends) == 1


def test_another_key():
    adata = result(3, key="mine")
    scs.tl.umap(adata, "mine")
    draw(scs.pl.embedding(adata, "mine_umap", color="mine"))
    draw(scs.pl.overview(adata, "mine")[0])
    draw(scs.pl.history(adata, "mine"))


def test_nothing_global_changes(projected):
    mpl.get_backend()  # chosen at the first look at it, of which the comparison below is one
    before, figures = mpl.rcParams.copy(), plt.get_fignums()
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    scs.tl.umap(result(3))
    keys = set(projected.obs) | set(projected.obsm) | set(projected.uns)
    scs.pl.embedding(projected, "siameseclu_umap")
    scs.pl.history(projected)
    scs.pl.overview(projected, labels="cell_type")
    assert mpl.rcParams == before
    assert plt.get_fignums() == figures
    assert set(projected.obs) | set(projected.obsm) | set(projected.uns) == keys
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        (lambda a: scs.tl.umap(a, "other"), "X_other"),
        (lambda a: scs.pl.embedding(a, "other_umap"), r"scs.tl.umap\(adata, key='other'\)"),
        (lambda a: scs.pl.embedding(a, "siameseclu", color="none"), "color"),
        (lambda a: scs.pl.embedding(a, "X_none"), "basis"),
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
        scs.pl.embedding(adata, "flat")


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


@pytest.mark.parametrize("inside", [False, True])
def test_figures_show_in_notebooks(monkeypatch, inside):
    assert not figures.in_ipython()
    monkeypatch.setattr(figures, "in_ipython", lambda: inside)
    plt.close("all")
    drawn = scs.pl.history(result(3)).figure
    assert plt.get_fignums() == ([1] if inside else [])
    figure(drawn, "loss", "Loss")  # for a page: not shown below a cell
    assert not plt.get_fignums()


def test_labels_have_the_colours_of_the_clusters_that_they_share_cells_with():
    adata = result(4)
    adata.obs["name"] = adata.obs["siameseclu"].map(dict(zip("0123", "dcbb", strict=True)))
    adata.obsm["X_siameseclu_umap"] = adata.obsm["X_siameseclu"][:, :2]
    left, right = scs.pl.overview(adata, labels="name")
    colors = [
        {
            text.get_text(): to_hex(dot.get_facecolor()[0])
            for text, dot in zip(ax.get_legend().texts, ax.get_legend().legend_handles, strict=True)
        }
        for ax in (left, right)
    ]
    assert colors[1]["d"] == colors[0]["0"] and colors[1]["c"] == colors[0]["1"]
    assert colors[1]["b"] in {colors[0]["2"], colors[0]["3"]}
    codes = np.array([0, 0, 1, 2, -1])
    found = colors_beside(codes, ["x", UNASSIGNED, "z"], np.array([1, 1, 0, -1, 0]), ["0", "1"])
    assert found[:2] == [palette(2)[1], MISSING]
    assert found[2] not in found[:2]

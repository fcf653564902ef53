"""pl.cluster_tree: what it draws of the cells that there are now."""

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import scsiameseclu_jax as scs
from scsiameseclu_jax.pl.colors import palette
from tests.pl.test_plots import result


def treed(k, n_cells=400, levels=None):
    adata = result(k, n_cells)
    scs.tl.cluster_tree(adata, levels)
    return adata


def branches(ax):
    """Return the colour of each branch that ends at the right, and where it lies, and all lines."""
    (lines,) = [c for c in ax.collections if isinstance(c, LineCollection)]
    return lines.get_segments(), [to_hex(color) for color in lines.get_colors()]


def named(ax):
    return {text.get_text(): text.get_position()[1] for text in ax.get_yticklabels()}


@pytest.mark.parametrize("k", [2, 3, 10, 30])
def test_a_line_crosses_a_branch_of_each_cluster(k):
    ax = scs.pl.cluster_tree(treed(k))
    ax.figure.draw_without_rendering()
    dashed = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert [line.get_xdata()[0] for line in dashed] == [k]
    segments, colors = branches(ax)
    for level in {2, k}:
        crossed = [s for s in segments if s[:, 0].min() < level < s[:, 0].max()]
        assert len(crossed) == level
    crossed = [
        color
        for segment, color in zip(segments, colors, strict=True)
        if segment[:, 0].min() < k < segment[:, 0].max()
    ]
    assert sorted(crossed) == sorted(map(to_hex, palette(k)))


def test_names_are_beside_the_branches_of_their_color_and_do_not_overlap():
    adata = treed(10)
    ax = scs.pl.cluster_tree(adata)
    segments, colors = branches(ax)
    for i, color in enumerate(palette(10)):
        own = [s for s, c in zip(segments, colors, strict=True) if c == to_hex(color)]
        y = np.concatenate(own)[:, 1]
        assert y.min() <= named(ax)[f"{i}  (40 cells)"] <= y.max()
    renderer = FigureCanvasAgg(ax.figure).get_renderer()
    ax.figure.draw(renderer)
    boxes = [text.get_window_extent(renderer) for text in ax.get_yticklabels()]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_names_are_those_of_now():
    adata = treed(3)
    swapped = adata.obs["siameseclu"].cat.rename_categories({"0": "1", "1": "0"})
    adata.obs["siameseclu"] = swapped
    adata.obs["siameseclu"] = adata.obs["siameseclu"].cat.rename_categories({"2": "B cells"})
    assert set(named(scs.pl.cluster_tree(adata))) == {
        "0  (133 cells)",
        "1  (134 cells)",
        "B cells  (133 cells)",
    }
    few = adata[::2].copy()
    sizes = few.obs["siameseclu"].value_counts()
    wanted = {f"{name}  ({size} cells)" for name, size in sizes.items()}
    assert set(named(scs.pl.cluster_tree(few))) == wanted


def test_unassigned_cells_are_not_in_it():
    adata = result(3)
    adata.obs["siameseclu"] = adata.obs["siameseclu"].cat.add_categories("Unassigned")
    adata.obs.iloc[:30, adata.obs.columns.get_loc("siameseclu")] = "Unassigned"
    scs.tl.cluster_tree(adata)
    assert set(named(scs.pl.cluster_tree(adata))) == {f"{i}  (30 cells)" for i in range(3)}


def test_colors_are_those_of_the_overview():
    adata = result(5)
    names = adata.obs["siameseclu"].cat.rename_categories({"0": "Unassigned"})
    adata.obs["siameseclu"] = names
    adata.obsm["X_siameseclu"][names == "1"] = np.nan  # as after `restrict_to`
    scs.tl.cluster_tree(adata)
    scs.tl.umap(adata)
    _, colors = branches(scs.pl.cluster_tree(adata))
    (panel,) = scs.pl.overview(adata)
    handles = panel.get_legend().legend_handles
    legend = {
        text.get_text().split()[-1]: to_hex(handle.get_facecolor()[0])
        for text, handle in zip(panel.get_legend().texts, handles, strict=True)
    }
    assert list(legend) == ["Unassigned", "2", "3", "4"]
    assert {legend[name] for name in "234"} == set(colors) - {to_hex("0.3")}


def test_other_levels_are_dotted():
    ax = scs.pl.cluster_tree(treed(4, levels=[3, 4, 9]))
    dotted = [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"]
    assert sorted(dotted) == [3, 9]


def test_axes_and_state_are_as_in_other_plots():
    adata = treed(3)
    ax = Figure().add_subplot()
    assert scs.pl.cluster_tree(adata, ax=ax) is ax
    before = plt.get_fignums(), adata.copy()
    scs.pl.cluster_tree(adata)
    assert plt.get_fignums() == before[0]
    assert list(adata.obs) == list(before[1].obs)
    assert set(adata.uns) == set(before[1].uns)


def test_without_a_tree_or_with_other_clusters():
    with pytest.raises(KeyError, match=r"cluster_tree\(adata, key='siameseclu'\)"):
        scs.pl.cluster_tree(result(3))
    adata = treed(3)
    with pytest.raises(ValueError, match=r"the 3 clusters .*run `scs.tl.cluster_tree` again"):
        scs.pl.cluster_tree(adata[adata.obs["siameseclu"] != "1"].copy())
    merged = adata.copy()
    merged.obs["siameseclu"] = merged.obs["siameseclu"].astype(str).replace("2", "1")
    with pytest.raises(ValueError, match="other cells in them"):
        scs.pl.cluster_tree(merged)
    adata.obs.iloc[0, adata.obs.columns.get_loc("siameseclu")] = "2"
    with pytest.raises(ValueError, match="other cells in them"):
        scs.pl.cluster_tree(adata)

"""Plots of predicted types: what is drawn, and that it is legible."""

import itertools

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import scsiameseclu_jax as scs


def predictions(n_types, n=400, *, seed=0):
    rng = np.random.default_rng(seed)
    names = [f"a rather long name of cell type {i}" for i in range(n_types)]
    truth = np.concatenate([names, rng.choice(names, n)])
    wrong = rng.random(len(truth)) < 0.2
    return truth, np.where(wrong, rng.choice([*names, "Unassigned"], len(truth)), truth)


def drawn(ax):
    FigureCanvasAgg(ax.figure).draw()
    return [text.get_text() for text in ax.texts]


def test_confusion_shows_shares_of_the_known_type_and_counts():
    table = scs.metrics.confusion(list("aaaabb"), ["a", "a", "a", "b", "b", "Unassigned"])
    ax = scs.pl.confusion(table)
    shares = [[0.75, 0.25, 0], [0, 0.5, 0.5]]
    np.testing.assert_allclose(ax.images[0].get_array(), shares)
    assert drawn(ax) == ["3", "1", "1", "1"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b", "Unassigned"]
    assert drawn(scs.pl.confusion(table, counts=False)) == []


def test_confusion_of_columns_leaves_out_unknown_cells_and_empty_columns():
    truth, found = predictions(5)
    obs = {"known": truth, "found": np.where(found == "Unassigned", truth, found)}
    obs = pd.DataFrame(obs, index=[str(i) for i in range(len(truth))])
    obs.loc["0", "known"] = None
    ax = scs.pl.confusion(AnnData(obs=obs), "known", "found")
    assert ax.images[0].get_array().shape == (5, 5)
    assert sum(int(text) for text in drawn(ax)) == len(truth) - 1
    with pytest.raises(KeyError, match="found 'other'"):
        scs.pl.confusion(AnnData(obs=obs), "known", "other")
    with pytest.raises(KeyError, match="found None"):
        scs.pl.confusion(AnnData(obs=obs))


def test_confusion_of_forty_types_is_legible():
    ax = scs.pl.confusion(scs.metrics.confusion(*predictions(40)))
    assert drawn(ax) == []  # no room for counts
    boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
    assert len(boxes) == 40
    assert all(one.y0 >= two.y1 for one, two in itertools.pairwise(boxes))
    assert min(box.x0 for box in boxes) >= 0
    below = [label.get_window_extent() for label in ax.get_xticklabels()]
    assert all(one.x1 <= two.x0 for one, two in itertools.pairwise(below))
    assert min(box.y0 for box in below) >= 0


def test_given_axes():
    figure = Figure()
    ax = figure.add_subplot()
    assert scs.pl.confusion(scs.metrics.confusion(*predictions(3)), ax=ax) is ax
    curve = scs.metrics.rejection_curve(["a", "b"], ["a", "a"], [0.9, 0.3])
    assert scs.pl.rejection(curve, ax=figure.add_subplot()).figure is figure
    FigureCanvasAgg(figure).draw()


def test_rejection_draws_each_curve_and_marks_the_threshold():
    truth, found = predictions(4)
    sure = np.random.default_rng(0).random(len(truth))
    curve = scs.metrics.rejection_curve(truth, found, sure)
    ax = scs.pl.rejection({"one": curve, "two": curve}, min_confidence=0.5)
    drawn(ax)
    lines = [line for line in ax.lines if len(line.get_xdata()) > 1]
    np.testing.assert_array_equal(lines[0].get_xdata(), curve["coverage"])
    assert lines[0].get_linestyle() != lines[1].get_linestyle()  # for black and white
    kept = curve[curve["threshold"] >= 0.5].iloc[0]
    entries = [text.get_text() for text in ax.get_legend().get_texts()]
    wanted = f"from 0.5 on {kept['coverage']:.0%} assigned, {kept['accuracy']:.1%} right"
    assert entries == [f"one\n{wanted}", f"two\n{wanted}"]
    assert scs.pl.rejection(curve).get_legend() is None
    with pytest.raises(ValueError, match="none in"):
        scs.pl.rejection(curve.iloc[:0])

"""Clusters named by their cells and by their genes."""

import numpy as np
import pandas as pd
import pytest

import scsiameseclu_jax as scs
from benchmarks import marker_overlap as naming

LABELS = ["B"] * 5 + ["T"] * 4 + ["NK"] * 2
CLUSTERS = [0, 0, 0, 1, 1, 2, 2, 2, 1, 3, 2]


def test_overlap_is_a_share_of_the_list():
    found = {"0": ["a", "b", "c", "d"], "1": ["x"]}
    known = {"A": ["d", "c", "b", "a"], "B": ["y", "x"]}
    four = naming.marker_overlap(found, known, n_genes=4)
    assert four.to_numpy().tolist() == [[1, 0], [0, 0.25]]
    assert (four.index.tolist(), four.columns.tolist()) == (["0", "1"], ["A", "B"])
    two = naming.marker_overlap(found, known, n_genes=2)
    assert two.to_numpy().tolist() == [[0, 0], [0, 0.5]]
    assert naming.overlap_mapping(two) == {"1": "B"}  # nothing shared: no name
    fields = np.array([("a", "x"), ("b", "z")], dtype=[("0", "O"), ("1", "O")])
    pd.testing.assert_frame_equal(naming.marker_overlap(fields, known, n_genes=2), two)


def test_best_mapping_gives_the_accuracy():
    mapping = naming.best_mapping(LABELS, CLUSTERS)
    assert mapping == {"0": "B", "2": "T", "3": "NK"}
    found = naming.mapped_accuracy(LABELS, CLUSTERS, mapping)
    assert found == pytest.approx(scs.metrics.accuracy(LABELS, CLUSTERS))
    assert naming.mapped_accuracy(LABELS, CLUSTERS, mapping | {"1": "B"}) == pytest.approx(9 / 11)


def test_both_protocols_on_blood():
    adata = scs.datasets.pbmc68k_reduced()
    adata = adata[adata.obs["cell_type"].isin(["CD19+ B", "CD56+ NK", "Dendritic"])].copy()
    # A cluster too many: one to one it is lost, by its genes it is not.
    labels = adata.obs["cell_type"].astype(str)
    half = np.arange(adata.n_obs) % 2 == 0
    adata.obs["k"] = np.where((labels == "Dendritic") & half, "other", labels)
    scs.tl.markers(adata, "k")
    scs.tl.markers(adata, "cell_type", method="t-test", key_added="gold")
    names = (adata.uns[f"{name}_markers"]["names"] for name in ("k", "gold"))
    overlap = naming.marker_overlap(*names)
    assert overlap.shape == (4, 3)
    assert overlap.to_numpy().max() <= 1
    by_genes = naming.overlap_mapping(overlap)
    assert by_genes["other"] == by_genes["Dendritic"] == "Dendritic"
    by_cells = naming.best_mapping(labels, adata.obs["k"])
    assert len(by_cells) == 3
    assert naming.mapped_accuracy(labels, adata.obs["k"], by_genes) == 1
    assert naming.mapped_accuracy(labels, adata.obs["k"], by_cells) < 0.8


def test_bad_input():
    with pytest.raises(ValueError, match="n_genes"):
        naming.marker_overlap({"0": ["a"]}, {"A": ["a"]}, n_genes=0)
    for one, other in (({}, {"A": ["a"]}), ({"0": ["a"]}, np.zeros(3))):
        with pytest.raises(ValueError, match="found none"):
            naming.marker_overlap(one, other)
    for score in (naming.best_mapping, lambda *a: naming.mapped_accuracy(*a, {})):
        with pytest.raises(ValueError, match="equal length"):
            score(["B"], [0, 1])
        with pytest.raises(ValueError, match="missing"):
            score(["B", None], [0, 1])
        with pytest.raises(ValueError, match="at least one cell"):
            score([], [])

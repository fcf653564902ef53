"""Stored results are about cells: names that change, cells that go, and groups that are others."""

import numpy as np
import pandas as pd
import pytest

import scsiameseclu_jax as scs
from scsiameseclu_jax.reference import Predicted
from scsiameseclu_jax.reporting import figures
from scsiameseclu_jax.tl import ties
from scsiameseclu_jax.tl.record import add
from tests.reports import Page, assessed, clustered, typed

KEY = "siameseclu"
TYPES = {f"kind {i}": [f"Gene{j}" for j in range(i, 12, 3)] for i in range(3)}
SWAP = {"0": "1", "1": "2", "2": "0"}


@pytest.fixture(scope="module")
def whole():
    """Three clusters, each with genes of its own, and all that is stored of them."""
    adata = assessed(clustered())
    scs.tl.markers(adata, n_top=4)
    scs.tl.annotate_markers(adata, TYPES)
    typed(adata)  # with a trajectory, as if of the clusters
    ties.tie(adata, f"{KEY}_paga", adata.obs[KEY].cat.codes)
    return adata


@pytest.fixture
def adata(whole):
    return whole.copy()


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Read the report of an object, without pictures."""
    monkeypatch.setattr(figures, "_encoded", lambda drawn, pixels: ("image/png", b"\x89PNG"))

    def read(adata, **options):
        scs.report(adata, tmp_path / "report.html", overwrite=True, **options)
        return Page((tmp_path / "report.html").read_text("utf-8"))

    return read


def genes_of(page, name):
    """Return the numbers, modulo 3, of the genes that a report lists for a cluster."""
    row = page.text("markers").partition(" the best first ")[2].partition(" A gene stands")[0]
    words = row.replace(",", "").split()
    genes = []
    for word in words[words.index(name) + 1 :]:
        if not word.startswith("Gene"):
            break
        genes.append(int(word.removeprefix("Gene")) % 3)
    return set(genes)


def changed(adata, how):
    """Return the object after what users do to it, and what each cluster is called then."""
    if how == "renamed":
        adata.obs[KEY] = adata.obs[KEY].cat.rename_categories(lambda name: f"T{name}")
        return adata, {"0": "T0", "1": "T1", "2": "T2"}
    if how == "renumbered":
        adata.obs[KEY] = adata.obs[KEY].astype(str).map(SWAP).astype("category")
        return adata, SWAP
    rng = np.random.default_rng(0)
    adata.obs_names = [f"new {i}" for i in range(adata.n_obs)]
    adata = adata[rng.permutation(adata.n_obs)[:70]].copy()
    adata.obs[KEY] = adata.obs[KEY].astype(str).map(SWAP).astype("category")
    return adata, SWAP


HOW = ["renamed", "renumbered", "cut, reordered, renumbered, other cell names"]


@pytest.mark.parametrize("how", HOW)
def test_groups_are_found_again(adata, page, how):
    adata, now = changed(adata, how)
    shown = page(adata)
    assert "Found for this report" not in shown.text("markers")
    for number, name in now.items():
        assert genes_of(shown, name) == {int(number)}
        assert f"{name} kind {number} kind {number} " in shown.text("annotation")
        jaccard = adata.uns[KEY]["stability"]["jaccard"][int(number)]
        assert f"{name} {jaccard:.2f} " in shown.text("stability")
        ticks = [t.get_text() for t in scs.pl.stability(adata).get_yticklabels()]
        assert f"{name}  ({jaccard:.2f})" in ticks
    assert f"of cluster {now['0']}." in shown.text("trajectory")
    assert f"May be one cluster, for refits mostly join them: {now['0']} + {now['1']}." in (
        shown.text("stability")
    )
    ax = scs.pl.markers(adata, n=2)
    clusters = [label.get_text() for label in ax.get_xticklabels()]
    genes = [int(label.get_text().removeprefix("Gene")) % 3 for label in ax.get_yticklabels()]
    back = {name: int(number) for number, name in now.items()}
    assert genes == [back[name] for name in clusters for _ in range(2)]
    scs.pl.confidence(adata)
    drawn = scs.pl.expression_along(adata, ["Gene0"])
    names = [label.get_text() for label in drawn[0].get_xticklabels()]
    highest = np.argmax(drawn[0].lines[0].get_ydata())
    assert names[highest] == now["0"]  # which Gene0 marks
    assert names == [now[number] for number in "012"]  # by their pseudotime
    scs.pl.trajectory(adata)


def test_a_file_keeps_the_tie(adata, page, tmp_path):
    adata, now = changed(adata, "renumbered")
    adata.write_h5ad(tmp_path / "a.h5ad")
    shown = page(scs.datasets.read(tmp_path / "a.h5ad"))
    assert all(genes_of(shown, name) == {int(number)} for number, name in now.items())


@pytest.mark.parametrize("how", ["clustered again", "one divided", "a few moved"])
def test_other_groups_are_told(adata, page, how):
    codes = adata.obs[KEY].cat.codes.to_numpy(copy=True)
    if how == "clustered again":
        codes = np.random.default_rng(0).permutation(codes)
    elif how == "one divided":
        codes[np.flatnonzero(codes == 2)[::2]] = 3
    else:
        codes[:2] = (codes[:2] + 1) % 3
    adata.obs[KEY] = pd.Categorical(codes.astype(str))
    shown = page(adata)
    assert f"The groups in {KEY} are not the clusters of the fit" in shown.text("warnings")
    assert "of the clusters of the fit, not of the groups" in shown.text("confidence")
    assert "median, calibrated" not in shown.text("top")
    assert "Confidence" not in shown.text("clusters").partition("Clusters and their cells")[2]
    assert "by the numbers that they had in the fit" in shown.text("stability")
    assert "Found for this report" in shown.text("markers")
    assert "the file holds some of other groups of cells" in shown.text("markers")
    assert "Clusters were changed since they were annotated" in shown.text("annotation")
    assert "Expected cells in all clusters of the trajectory" in shown.text("trajectory")
    for call in (scs.pl.markers, scs.pl.trajectory, scs.pl.confidence):
        with pytest.raises(ValueError, match="found"):
            call(adata)
    assert "of the fit, not of now" in scs.pl.stability(adata).get_xlabel()


def test_a_branch_is_drawn_where_other_clusters_are_gone(adata):
    adata.obs[KEY] = adata.obs[KEY].astype(str).map(SWAP).astype("category")
    part = adata[adata.obs[KEY] != "1"].copy()  # which was 0
    ax = scs.pl.expression_along(part, ["Gene1"], clusters=["2", "0"])[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["2", "0"]
    means = ax.lines[0].get_ydata()
    assert means[0] > means[1]
    for call in (scs.pl.trajectory, lambda a: scs.pl.expression_along(a, ["Gene1"])):
        with pytest.raises(ValueError, match=r"found none in \['0'\]; run"):
            call(part)
    with pytest.raises(ValueError, match=r"found \['1'\]"):
        scs.pl.expression_along(part, ["Gene1"], clusters=["1"])


def test_what_is_unchanged_is_shown_if_nothing_can_be_found_anew(adata, page):
    adata.obs[KEY] = adata.obs[KEY].astype(str).map({"0": "0", "1": "T", "2": "T"})
    shown = page(adata, markers=False)
    assert genes_of(shown, "0") == {0}
    assert "T not looked for" in shown.text("markers")
    assert "none of T" in shown.text("markers")
    assert "Clusters were joined since the fit" in shown.text("warnings")
    assert "0 kind 0" in shown.text("annotation")
    assert "again: T." in shown.text("annotation")
    assert "by the numbers that they had in the fit" in shown.text("stability")
    assert scs.pl.confidence(adata)[0].get_yticklabels()[1].get_text() == "T"
    with pytest.raises(ValueError, match=r"found others in \['T'\]"):
        scs.pl.markers(adata)
    adata.obs[KEY] = np.where(np.arange(adata.n_obs) % 2, "a", "b")
    shown = page(adata, markers=False)
    assert "and none of these groups" in shown.text("markers")
    assert "above all others" not in shown.text("markers")
    adata.X = np.log1p(adata.X)  # nor could they be
    assert "and none of these groups" in page(adata).text("markers")


def test_results_of_earlier_versions_are_found_by_name(adata, page):
    for name in ("markers", "annotation", "paga"):
        del adata.obsm[f"{KEY}_{name}"]
    del adata.uns[f"{KEY}_markers"]["params"]["groups"]
    assert genes_of(page(adata), "1") == {1}
    scs.pl.markers(adata)
    adata.obs[KEY] = adata.obs[KEY].cat.rename_categories(lambda name: f"T{name}")
    assert "Found for this report" in page(adata).text("markers")
    with pytest.raises(ValueError, match="T0"):
        scs.pl.markers(adata)


def test_cells_that_are_left_unassigned_since_change_no_group(adata, page):
    names = adata.obs[KEY].astype(str).to_numpy(object, copy=True)
    names[::7] = "Unassigned"
    adata.obs[KEY] = pd.Categorical(names)
    shown = page(adata)
    assert all(genes_of(shown, name) == {int(name)} for name in "012")
    assert "warnings" not in [part["id"] for part in shown.named("section")]
    scs.pl.markers(adata)


def confidence_rows(page):
    """Return cluster and number of cells in each row of the table of confidence."""
    text = page.text("confidence").partition("Share below 0.5")[2].replace("Share unassigned", "")
    words = text.split()
    return {words[i]: int(words[i + 1]) for i in range(0, len(words), 8) if words[i] in ROWS}


ROWS = ("0", "1", "2", "T0", "T1", "T2")


@pytest.mark.parametrize("renamed", [False, True])
def test_a_cluster_that_is_unassigned_as_a_whole_is_in_the_table(adata, page, renamed):
    names = adata.obs[KEY].astype(str)
    sizes = names.value_counts()
    wanted = {f"T{name}" if renamed else name: sizes[name] for name in "01"} | {"2": sizes["2"]}
    names = names.map({"0": "T0", "1": "T1", "2": "2"}) if renamed else names
    adata.obs[KEY] = pd.Categorical(names.replace("2", "Unassigned").to_numpy())
    rows = confidence_rows(page(adata))
    assert rows == wanted
    assert sum(rows.values()) == adata.n_obs
    ax = scs.pl.confidence(adata)[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == list(wanted)
    texts = [text.get_text() for text in ax.texts]
    assert "100 %" in texts


def test_origin_of_equal_soft_assignments_and_of_names_that_are_taken():
    proba = np.array([[0.5, 0.5, 0], [0.5, 0.5, 0], [1, 0, 0], [0, 0.6, 0.4], [0, 0.1, 0.9]])
    found = ties.origin(pd.Categorical(list("ba") + list("bac")), proba, {})
    assert found.kept
    assert found.names == ["b", "a", "c"]
    # the third, without a cell, cannot be called as another is by now
    found = ties.origin(pd.Categorical(["2", "1", "2", "1", "Unassigned"]), proba, {})
    assert found.names == ["2", "1", "2 of the fit"]
    assert list(found.own) == ["2", "1", "2", "1", "2 of the fit"]
    restricted = {"restrict_to": {"k": np.array(["a", "b"])}}
    spread = np.where(np.arange(5)[:, None] < 1, np.nan, proba)
    names = pd.Categorical(["other", "a-b,1", "a-b,0", "a-b,1", "Unassigned"])
    found = ties.origin(names, spread, restricted)
    assert found.names == ["a-b,0", "a-b,1", "a-b,2"]
    assert list(found.own) == ["other", "a-b,1", "a-b,0", "a-b,1", "a-b,2"]


def test_new_clusters_drop_what_tied_results_of_old_ones(adata):
    proba, zeros = adata.obsm[f"{KEY}_proba"], np.zeros(adata.n_obs, np.float32)
    adata.obsm["mine_markers"] = np.zeros((adata.n_obs, 2))
    z = adata.obsm[f"X_{KEY}"]
    found = Predicted(proba.argmax(axis=1), proba, zeros, z, zeros, zeros > 0, [])
    add(adata, KEY, found, z, min_confidence=None)
    add(adata, "mine", found, z, min_confidence=None)
    assert not {f"{KEY}_{name}" for name in ("markers", "annotation", "paga")} & set(adata.obsm)
    assert "mine_markers" in adata.obsm  # which was never ours

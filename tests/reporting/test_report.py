"""The report: what the page is made of, what it says, and what cannot harm it."""

import base64
import hashlib
import itertools
import json
import re

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scsiameseclu_jax as scs
from scsiameseclu_jax.pl.colors import MISSING, palette
from scsiameseclu_jax.preprocessing import expression
from scsiameseclu_jax.preprocessing.normalization import logarithm
from scsiameseclu_jax.reporting import explorer, figures, result
from scsiameseclu_jax.reporting.markup import page_script
from tests.reports import Page, assessed, clustered, marked, typed

HARMFUL = '</script><script>alert("x")</script><!-- & "$\\frac{1}$"'


def read(adata, folder, *args, **options):
    """Write a report and read it."""
    path = folder / "report.html"
    assert scs.report(adata, path, *args, overwrite=True, **options) is None
    return Page(path.read_text("utf-8"))


@pytest.fixture
def undrawn(monkeypatch):
    """For what is not about pictures: they are made, but not drawn, which takes the time."""
    monkeypatch.setattr(figures, "_encoded", lambda drawn, pixels: ("image/png", b"\x89PNG"))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return read(typed(marked(assessed(clustered()))), folder, labels="cell_type", title="Blood")


def sections(page):
    return [attributes["id"] for attributes in page.named("section")]


def test_sections_and_what_leads_to_them(page):
    wanted = ["clusters", "number", "confidence", "stability", "markers"]
    wanted += [
        "annotation",
        "transferred",
        "trajectory",
        "known",
        "data",
        "training",
        "run",
        "versions",
    ]
    assert sections(page) == wanted
    links = [a["href"] for a in page.named("a")]
    assert links == ["#results", *(f"#{name}" for name in sections(page))]


def test_structure_for_those_who_hear_it(page):
    assert page.named("html") == [{"lang": "en"}]
    for name in ("header", "nav", "main", "footer", "h1", "title"):
        assert len(page.named(name)) == 1, name
    levels = [int(name[1]) for name, _ in page.elements if re.fullmatch(r"h[1-6]", name)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert all(a["aria-labelledby"] in ids for a in page.named("section"))
    for box in page.named("div"):
        if box.get("class") == "scroll":
            assert (box["tabindex"], box["role"]) == ("0", "region")
            assert box["aria-label"]
    n_tables = len(page.named("table"))
    assert n_tables == len(page.named("caption")) > 5
    assert all(a["scope"] in ("col", "row") for a in page.named("th"))


def test_images_are_inside_and_described(page):
    images = page.named("img")
    assert len(images) == 11
    for image in images:
        assert len(image["alt"]) > 10
        kind, _, data = image["src"].partition(";base64,")
        assert kind in ("data:image/png", "data:image/svg+xml")
        start = {"data:image/png": b"\x89PNG", "data:image/svg+xml": b"<?xml"}[kind]
        assert base64.b64decode(data, validate=True).startswith(start)
        assert int(image["width"]) > 100
        assert int(image["height"]) > 100
    assert all(a["role"] == "img" and a["aria-label"] for a in page.named("svg"))


def test_pictures_are_the_same_each_time_and_names_no_formulas():
    adata = clustered(names=["$\\frac{1$", "x" * 60 + ",1", "細胞"])
    drawn, again = (scs.pl.confidence(adata)[0].figure for _ in range(2))
    assert figures.figure(drawn, "alt", "caption") == figures.figure(again, "alt", "caption")
    names = [text.get_text() for text in drawn.axes[0].get_yticklabels()]
    assert names == ["$\\frac{1$", "x" * 16 + "…" + "x" * 13 + ",1", "細胞"]


def test_nothing_is_loaded(page):
    for name, attributes in page.elements:
        assert name not in ("iframe", "object", "embed", "base", "form")
        for key, value in attributes.items():
            assert not key.startswith("on")
            if key in ("src", "href", "srcset", "action", "poster", "data"):
                assert value.startswith(("data:", "#")), value
    assert not re.search(r"url\(|@import|https?:", page.text("style"))


def test_only_its_own_script_may_run(page):
    data, own = page.named("script")
    assert data == {"type": "application/json", "id": "map-data"}
    assert own == {}
    (rules,) = (a["content"] for a in page.named("meta") if "http-equiv" in a)
    digest = base64.b64encode(hashlib.sha256(page_script().encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in rules
    assert "default-src 'none';" in rules
    assert not re.search(r"innerHTML|insertAdjacent|document.write|eval|https?:", page_script())


def test_what_the_page_says(page):
    assert page.text("title") == "Blood"
    assert "cells 90 genes 40 clusters given 3" in page.text("top")
    assert "was given" in page.text("number")
    assert "0.021" in page.text("confidence")
    assert "not calibrated" not in page.text()
    assert "mean: another fit agrees" in page.text("top")
    top = marked(clustered()).uns["siameseclu_top_markers"].iloc[0]
    assert f"0 {top.gene}, " in page.text("markers")
    values = f"{top.score:.2f} {top.logfoldchange:.2f} {top.pval_adj:.1e}"
    assert f"0 {top.gene} {values} {100 * top.share_in:.1f} %" in page.text("markers")
    assert "P-values after clustering are inflated" in page.text("markers")
    assert "0 kind 0 kind 0 0.80 0.50 B cell 5" in page.text("annotation")
    assert re.search(r"0 \d+ \d+\.\d % kind 0", page.text("clusters"))
    assert "again 3 times" in page.text("stability")
    assert "mostly join them: 0 + 1" in page.text("stability")
    assert "mostly take them apart: 2" in page.text("stability")
    assert "0 0.90 stable" in page.text("stability")
    assert "accuracy 95.1 %, balanced accuracy 90.0 %" in page.text("transferred")
    assert "Unassigned 9 10.0 % 0.75 100.0 %" in page.text("transferred")
    assert "from 0, of cluster 0. That it begins there was given" in page.text("trajectory")
    assert "ARI 100.0 %" in page.text("known")
    assert "after training" in page.text("known")
    assert "0123456789abcdef" in page.text("data")
    assert "zinb" not in page.text("run").split("All settings")[0]
    assert "jax 0.10.0" in page.text("versions")
    assert "Time of the fit 3.7 s" in page.text("versions")
    assert "embedding 2.2 compilation 1.1 results 0.4" in page.text("versions")
    assert "warnings" not in sections(page)


@pytest.mark.parametrize("how", ["calibrated by its votes", "not calibrated"])
def test_confidence_without_refits(tmp_path, undrawn, how):
    adata = clustered()
    adata.uns["siameseclu"]["manifest"]["confidence"] = how
    page = read(adata, tmp_path, markers=False)
    first = page.text("top").partition("Skip")[2].partition("Contents")[0]
    if how == "not calibrated":
        assert "is not calibrated here" in page.text("confidence")
        assert "Confidence is not calibrated." in page.text("clusters")
        assert "confidence" not in first
    else:
        assert "candidates say that voted" in page.text("confidence")
        assert "not calibrated" not in page.text()
        assert "mean: another fit agrees" in first
    assert not {"stability", "known", "markers"} & set(sections(page))
    assert "cell_type" not in page.text()


def test_chosen_number_shows_its_evidence(tmp_path, undrawn):
    adata = clustered()
    tried = np.arange(2, 9)
    estimate = {"n_clusters": 3, "candidates": tried, "votes": tried / 9, "why": "3 is best"}
    estimate["criteria"] = {"modularity": 1 / tried}
    adata.uns["siameseclu"]["params"]["n_clusters"] = "auto"
    adata.uns["siameseclu"]["estimate"] = estimate
    page = read(adata, tmp_path, markers=False)
    assert "3, was chosen without labels" in page.text("number")
    assert "3 is best" in page.text("number")
    assert "clusters chosen 3" in page.text("top")
    assert any("vote" in image["alt"] for image in page.named("img"))
    # Evidence that was asked for beside a given number.
    other = clustered()
    other.uns["n_clusters"] = estimate
    page = read(other, tmp_path, markers=False)
    assert "was given" in page.text("number")
    assert "3 is best" in page.text("number")


def test_names_can_not_harm(tmp_path):
    adata = assessed(clustered(names=[HARMFUL, "<b>1", "it's 2"]))
    adata.obs[HARMFUL] = pd.Categorical(np.where(adata.obs["cell_type"] == "type 0", HARMFUL, "b"))
    adata.var_names = [f"<i>{name}" for name in adata.var_names]
    adata.uns["siameseclu"]["manifest"] |= {"warnings": np.array([HARMFUL]), "device": "<u>"}
    page = read(adata, tmp_path, labels=HARMFUL, title=HARMFUL)
    assert not {"b", "i", "u"} & {name for name, _ in page.elements}
    assert len(page.named("script")) == 2
    text = (tmp_path / "report.html").read_text("utf-8")
    data = text.partition('id="map-data">')[2].partition("</script>")[0]
    assert not set("<>&") & set(data)
    fields = json.loads(data)["fields"]
    assert [field["title"] for field in fields] == ["Cluster", HARMFUL]
    assert [HARMFUL in field["names"] for field in fields] == [True, True]
    assert page.text("title") == HARMFUL
    for where in ("clusters", "confidence", "known", "warnings"):
        assert HARMFUL in page.text(where), where
    assert "<u>" in page.text("versions")


def test_markers_are_found_where_there_are_none(tmp_path, undrawn):
    adata = clustered()
    page = read(adata, tmp_path)
    assert "Found for this report" in page.text("markers")
    first = page.text("markers").partition("the best first 0 ")[2].partition(" 1 ")[0]
    assert {int(gene.removeprefix("Gene")) % 3 for gene in first.split(", ")} == {0}
    assert "inflated" in page.text("markers")
    # Clusters from one part of the counts, p-values from the other.
    scs.pp.split_counts(adata)
    adata.uns["siameseclu"]["params"] |= {"layer": "counts_fit", "split_seed": 0}
    page = read(adata, tmp_path)
    assert "are from counts_fit, p-values from counts_test" in page.text("markers")
    assert "inflated" not in page.text("markers")
    # One cluster of one cell: there is nothing to compare.
    adata.obs["siameseclu"] = pd.Categorical(["0"] + 89 * ["1"])
    assert "None were looked for: Expected two groups" in read(adata, tmp_path).text("markers")
    assert "siameseclu_top_markers" not in adata.uns


def test_all_genes_are_normalised_once(tmp_path, undrawn, monkeypatch):
    widths = []

    def watched(raw, size_factors):
        widths.append(raw.shape[1])
        return logarithm(raw, size_factors)

    monkeypatch.setattr(expression, "logarithm", watched)
    adata = clustered()
    read(adata, tmp_path)
    assert widths[0] == adata.n_vars  # to find marker genes
    assert 0 < max(widths[1:]) < adata.n_vars  # to draw the top ones


def test_unassigned_cells_are_counted_with_their_cluster(tmp_path, undrawn):
    adata = clustered()
    unsure = np.arange(90) % 9 == 0
    clusters = adata.obs["siameseclu"].astype(str).where(~unsure, "Unassigned")
    adata.obs["siameseclu"] = pd.Categorical(clusters, ["0", "1", "2", "Unassigned"])
    adata.uns["siameseclu"]["params"]["min_confidence"] = 0.5
    page = read(adata, tmp_path)
    assert "clusters given 3" in page.text("top")
    assert "unassigned of cells 11.1 %" in page.text("top")
    assert "below 0.5 are Unassigned" in page.text("confidence")
    own = adata.obsm["siameseclu_proba"].argmax(axis=1)
    share = f"{100 * unsure[own == 0].mean():.1f} %"
    row = page.text("confidence").partition("Share unassigned ")[2].partition(" 1 ")[0]
    assert row.startswith(f"0 {(own == 0).sum()} ")
    assert row.endswith(share)


def test_predicted_cells(tmp_path, undrawn):
    adata = clustered()
    record = adata.uns["siameseclu"]
    del record["history"]
    record["params"] = {"layer": "X", "alpha": 0.1, "config": scs.Config().to_dict()}
    record["missing_genes"] = np.array(["CD3D"])
    adata.uns[3] = "not a name that a clustering could have"
    adata.obs["siameseclu_is_novel"] = np.arange(90) < 9
    page = read(adata, tmp_path, markers=False)
    assert "novel of cells 10.0 %" in page.text("top")
    assert "settled by its fit" in page.text("number")
    assert "1 genes of the model are missing and left out: CD3D" in page.text("warnings")
    assert "scsiameseclu predict model new.h5ad clustered.h5ad --alpha 0.1 --layer X" in (
        page.text("run")
    )
    assert "training" not in sections(page)


def test_cells_of_a_part(tmp_path, undrawn):
    adata = clustered(names=["other", "b,0", "b,1"])
    part = (adata.obs["siameseclu"] != "other").to_numpy()
    adata.obsm["X_siameseclu"][~part] = np.nan
    adata.obsm["siameseclu_proba"] = np.where(
        part[:, None], adata.obsm["siameseclu_proba"][:, 1:], np.nan
    )
    adata.obs["siameseclu_confidence"] = np.where(part, 0.9, np.nan).astype(np.float32)
    adata.uns["siameseclu"]["params"]["restrict_to"] = {"cell_type": np.array(["b"])}
    found = result.find(adata, "siameseclu")
    assert found.colors == {"other": MISSING, "b,0": palette(2)[0], "b,1": palette(2)[1]}
    np.testing.assert_array_equal(found.drawn, part)
    page = read(adata, tmp_path, markers=False)
    assert "Only the cells of b in the column cell_type" in page.text("clusters")
    assert "no counterpart of restrict_to" in page.text("run")
    assert "restrict_to=('cell_type', ['b'])" in page.text("run")
    assert np.isnan(adata.obsm["X_siameseclu"]).any()


def test_the_time_of_a_model_from_before_stages_were_measured(tmp_path, undrawn):
    adata = clustered()
    adata.uns["siameseclu"]["manifest"]["seconds"] = 1.5
    page = read(adata, tmp_path, markers=False)
    assert "Time of the fit 1.5 s" in page.text("versions")
    assert "Stage" not in page.text("versions")


def test_the_tree_is_of_the_clusters_that_there_are_now(tmp_path, undrawn):
    adata = clustered(key="mine")
    scs.tl.cluster_tree(adata, 2, "mine")
    before = list(adata.obs), set(adata.uns)
    adata.obs["mine"] = np.where(adata.obs["mine"] == "2", "1", adata.obs["mine"].astype(str))
    page = read(adata, tmp_path, "mine", markers=False)
    assert any("Tree through the 2 clusters" in image["alt"] for image in page.named("img"))
    assert "cluster_tree(adata, [5, 20], key='mine')" in page.text("number")
    assert (list(adata.obs), set(adata.uns)) == before
    adata.obs["mine"] = "0"
    page = read(adata, tmp_path, "mine", markers=False)
    assert not any("Tree" in image["alt"] for image in page.named("img"))


def test_a_file_without_counts_or_embedding(tmp_path, undrawn):
    adata = clustered()
    adata.X = np.log1p(adata.X)
    for key in list(adata.obsm):
        del adata.obsm[key]
    adata.uns["siameseclu"]["manifest"] = {}
    page = read(adata[:50], tmp_path)
    assert "No raw counts were found" in page.text("data")
    assert "log-normalised" in page.text("data")
    assert "not on record" in page.text("versions")
    assert len(page.named("img")) == 2  # confidence and losses


def test_the_object_stays_as_it_is(tmp_path, undrawn):
    adata = assessed(clustered())
    del adata.obsm["X_siameseclu_umap"]  # it is found for the page alone
    before = adata.copy()
    read(adata, tmp_path, labels="cell_type")
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert list(adata.uns) == list(before.uns)
    assert list(adata.obsm) == list(before.obsm)
    np.testing.assert_array_equal(adata.X, before.X)


def test_the_same_page_after_a_round_trip(tmp_path, undrawn):
    adata = assessed(clustered())
    adata.uns["siameseclu"]["params"]["config"]["losses"]["zinb"] = 0.5
    options = {"labels": "cell_type", "markers": False, "overwrite": True}
    scs.report(adata, tmp_path / "one.html", **options)
    for name in ("a.h5ad", "a.zarr"):
        write = adata.write_zarr if name.endswith("zarr") else adata.write_h5ad
        write(tmp_path / name)
        again = scs.datasets.read(tmp_path / name)
        scs.report(again, tmp_path / "two.html", **options)
        assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_a_changed_file_is_named(tmp_path, undrawn):
    page = read(clustered()[:60], tmp_path, markers=False)
    assert "The file has 60 cells, but 90 were clustered" in page.text("warnings")


def test_bad_input(tmp_path):
    adata, path = clustered(), tmp_path / "report.html"
    for call, error, wanted in (
        (lambda: scs.report(adata, path, "leiden"), KeyError, "keys .'siameseclu'"),
        (lambda: scs.report(AnnData(np.ones((3, 2))), path), KeyError, "found none"),
        (lambda: scs.report("a.h5ad", path), TypeError, "AnnData"),
        (lambda: scs.report(adata, path, labels="none"), KeyError, "cell_type"),
        (lambda: scs.report(adata, path, labels="siameseclu"), ValueError, "another column"),
        (lambda: scs.report(adata, tmp_path / "report.pdf"), ValueError, ".html"),
        (lambda: scs.report(adata, tmp_path / "none" / "a.html"), FileNotFoundError, "folder"),
    ):
        with pytest.raises(error, match=wanted):
            call()
    adata.obs["empty"] = pd.Series(np.nan, index=adata.obs_names)
    with pytest.raises(ValueError, match="empty"):
        scs.report(adata, path, labels="empty")
    many = clustered(201)
    many.obs["barcode"] = many.obs_names
    with pytest.raises(ValueError, match="at most 200 types, found 201"):
        scs.report(many, path, labels="barcode")
    assert not list(tmp_path.iterdir())
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="another name"):
        scs.report(adata, path)
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("k", "markers"), [(11, False), pytest.param(40, True, marks=pytest.mark.slow)]
)
def test_size_with_many_cells(k, markers, tmp_path):
    adata = assessed(clustered(8617, k, n_genes=3 * k))
    if markers:
        marked(adata)
    adata.obsm["X_siameseclu_umap"] += np.random.default_rng(1).normal(size=(8617, 2))
    options = {"labels": "cell_type", "markers": False}
    scs.report(adata, tmp_path / "report.html", **options)
    assert (tmp_path / "report.html").stat().st_size < 5e6


def numbers(text, kind):
    return np.frombuffer(base64.b64decode(text), kind)


def test_what_the_map_is_given():
    adata = clustered(names=["0", "1", "Unassigned"])
    adata.obs.loc[adata.obs_names[:3], "siameseclu_confidence"] = np.nan
    adata.obs["siameseclu_annotation"] = pd.Categorical(["B"] * 40 + [None] * 50)
    given = explorer.contents(result.find(adata, "siameseclu"), "cell_type")
    order = np.random.default_rng(0).permutation(90)
    umap = adata.obsm["X_siameseclu_umap"][order]
    low, high = umap.min(axis=0), umap.max(axis=0)
    x, y = (numbers(given[axis], "<u2") / 65535 for axis in "xy")
    np.testing.assert_allclose(low[0] + x * (high - low)[0], umap[:, 0], atol=1e-3)
    np.testing.assert_allclose(high[1] - y * (high - low)[1], umap[:, 1], atol=1e-3)
    cluster, annotation, known = given["fields"]
    assert cluster["names"] == ["0", "1", "Unassigned"]
    assert cluster["colors"] == [*palette(2), MISSING]
    codes = adata.obs["siameseclu"].cat.codes.to_numpy()[order]
    np.testing.assert_array_equal(numbers(cluster["codes"], np.uint8), codes)
    assert [mark for _, _, mark, _ in cluster["marks"]] == ["0", "1", ""]
    assert (annotation["names"], annotation["colors"][-1]) == (["B", "missing"], MISSING)
    assert len(annotation["marks"]) == 1
    assert known["title"] == "cell_type"
    sure = numbers(given["confidence"]["values"], np.uint8)
    assert (sure == 255).sum() == 3
    stored = adata.obs["siameseclu_confidence"].to_numpy()[order]
    np.testing.assert_allclose(sure[sure < 255] / 254, stored[sure < 255], atol=0.003)
    assert given["confidence"]["title"] == "Confidence, not calibrated"
    assert given["density"] is None


def test_more_cells_than_can_be_drawn_are_a_sample_over_their_density(monkeypatch):
    monkeypatch.setattr(explorer, "_MOST", 60)
    monkeypatch.setattr(explorer, "_LEAST", 10)
    adata = clustered(300, 300)  # clusters of more than a byte can number
    given = explorer.contents(result.find(adata, "siameseclu"), None)
    assert given["fields"][0]["wide"]
    codes = numbers(given["fields"][0]["codes"], "<u2")
    assert given["n"] == len(codes) == 300  # of each cluster some
    adata = clustered(300)
    given = explorer.contents(result.find(adata, "siameseclu"), None)
    assert 60 <= given["n"] < 90
    density = numbers(given["density"]["values"], np.uint8)
    assert len(density) == given["density"]["columns"] * given["density"]["rows"]
    assert density.max() == 255
    assert 100 < (density > 0).sum() <= 300


def test_clusters_that_were_replaced_have_no_confidence_on_the_map():
    adata = clustered()
    rng = np.random.default_rng(0)
    adata.obs["siameseclu"] = pd.Categorical(rng.permutation(adata.obs["siameseclu"].astype(str)))
    assert explorer.contents(result.find(adata, "siameseclu"), None)["confidence"] is None

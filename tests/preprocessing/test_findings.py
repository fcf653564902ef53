"""What is said of an object before a fit: by one code with what the fit refuses."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scsiameseclu_jax as scs
from scsiameseclu_jax.preprocessing.prepare import prepare


@pytest.fixture
def adata():
    return scs.datasets.simulate(n_cells=120, n_genes=80, n_clusters=3, mean_count=2.0)


def of(adata, severity="error", **options):
    return [f for f in scs.pp.check(adata, **options) if f.severity == severity]


def logged(counts):
    totals = np.asarray(counts.sum(axis=1))
    return sp.csr_matrix(np.log1p(counts.toarray() / totals * 1e4))


def test_good_counts_have_notes_only(adata):
    found = scs.pp.check(adata)
    assert {f.severity for f in found} == {"note", "warning"}
    (warning,) = (f for f in found if f.severity == "warning")
    assert warning.about == "gene names"  # simulated: by position
    counts = next(f for f in found if f.about == "counts")
    share = 100 * adata.X.nnz / (120 * 80)
    wanted = f"X holds counts of 120 cells x 80 genes, sparse (csr), float32; {share:.1f} % are"
    assert counts.found == f"{wanted} not zero, the largest is {adata.X.max():.0f}."
    depth = next(f for f in found if f.about == "depth")
    totals, genes = np.asarray(adata.X.sum(axis=1)).ravel(), np.diff(adata.X.indptr)
    assert f"median {np.median(totals):.0f}, 98 %" in depth.found
    assert depth.found.endswith(f"genes of a cell: median {np.median(genes):.0f}.")
    prepare(adata, config=scs.Config())


CHANGES = {
    "cell names": lambda a: setattr(a, "obs_names", ["a"] * 2 + list(a.obs_names[2:])),
    "gene names": lambda a: setattr(a, "var_names", ["a"] * 2 + list(a.var_names[2:])),
    "counts": lambda a: setattr(a, "X", logged(a.X)),
    "empty cells": lambda a: setattr(a, "X", sp.csr_matrix(a.X.toarray() * _but(120, 3)[:, None])),
    "size": lambda a: setattr(a, "X", sp.csr_matrix(a.X.toarray() * (np.arange(80) < 12) + _one())),
}


def _but(n, row):
    return (np.arange(n) != row).astype(np.float32)


def _one():
    one = np.zeros((120, 80), np.float32)
    one[:, 0] = 1
    return one


@pytest.mark.parametrize("about", CHANGES)
def test_what_blocks_is_what_a_fit_says(adata, about):
    CHANGES[about](adata)
    (blocking,) = of(adata)
    assert blocking.about == about
    with pytest.raises(ValueError, match="Expected") as raised:
        scs.SiameseClu(3).fit(adata, progress=False)
    text = f"{blocking.found[:-1]}; {blocking.mend}."
    assert text == str(raised.value)
    assert blocking.mend


def test_all_that_blocks_is_said_at_once(adata):
    for about in ("cell names", "gene names", "counts"):
        CHANGES[about](adata)
    adata.obs["batch"] = "one"
    adata.uns["neighbors"] = "text"
    options = {"use_rep": "none", "batch_key": "batch", "neighbors_key": "neighbors"}
    found = of(adata, **options)
    wanted = ["cell names", "gene names", "counts", "use_rep", "neighbors_key", "batch_key"]
    assert [f.about for f in found] == wanted
    assert "two batches or more" in found[-1].found


def test_the_lines_mend(adata):
    """Every line that is offered, run as it stands, takes its finding away."""
    adata.var["symbol"] = [f"Sym{i}" for i in range(80)]
    adata.obs_names = ["a"] * 2 + list(adata.obs_names[2:])
    x = adata.X.toarray()
    x[5], x[6] = 0, 0
    x[6, 3] = 2
    adata.X = x
    n_before = len(scs.pp.check(adata))
    for _ in range(n_before):
        found = [f for f in scs.pp.check(adata) if f.mend]
        if not found:
            break
        line = found[0].mend.split("`")[1]
        names = {"adata": adata, "np": np, "scipy": __import__("scipy.sparse"), "sc": _scanpy()}
        exec(line, names)
        adata = names["adata"]
        assert found[0].found not in [f.found for f in scs.pp.check(adata)]
    assert not [f for f in scs.pp.check(adata) if f.mend or f.severity == "error"]
    assert adata.shape == (118, 80)
    assert adata.var_names[0] == "Sym0"


def _scanpy():
    import scanpy

    return scanpy


@pytest.mark.parametrize("whole", [True, False])
def test_counts_elsewhere_are_named_and_not_used(adata, whole):
    raw = adata.copy()
    if not whole:
        adata.var_names = ["other", *adata.var_names[1:]]
    adata.raw = raw
    adata.layers["mine"] = adata.X.copy()
    adata.X = logged(adata.X)
    (blocking,) = of(adata)
    assert blocking.found == (
        "Expected whole counts in X, found fractions: it looks log-normalised."
    )
    assert blocking.mend == "layers['mine'] seems to hold counts: `layer='mine'`"
    notes = {f.found.split()[0]: f.mend for f in of(adata, "note") if "not used" in f.found}
    assert set(notes) == {"layers['mine']", ".raw"}
    names = {"adata": adata.copy()}
    exec(notes[".raw"].strip("`"), names)
    counts = scs.pp.counts(names["adata"])
    assert (counts != raw.X).nnz == 0
    assert not of(adata, layer="mine")
    notes = [f.found for f in of(adata, "note", layer="mine") if "not used" in f.found]
    assert notes == [".raw holds counts; it is not used."]


def rsem(x):
    x[x > 0] += np.where(np.arange((x > 0).sum()) % 3, 0, 0.37)


def scaled(x):
    x -= x.mean(axis=0)


def log10k(x):
    np.log1p(x / x.sum(axis=1, keepdims=True) * 1e4, out=x)


def normalized(x):
    x *= 1e4 / x.sum(axis=1, keepdims=True)


def small_normalized(x):
    x *= 20 / x.sum(axis=1, keepdims=True)


def subset_of_logged(x):
    log10k(x)
    x[:, :40] = 0


@pytest.mark.parametrize(
    ("change", "looks"),
    [
        (rsem, "it looks like fractional counts, of RSEM or SoupX, say"),
        (scaled, "some are negative: it looks scaled"),
        (log10k, "it looks log-normalised"),
        (subset_of_logged, "it looks log-normalised"),
        (normalized, "it looks normalised but not logarithmic"),
        (small_normalized, "it looks normalised but not logarithmic"),
        (lambda x: x.__setitem__((0, 0), 1e30), "values up to 1e+30"),
        (lambda x: x.__setitem__((0, 0), -1), "some are negative"),
    ],
)
def test_what_a_matrix_looks_like(adata, change, looks):
    x = adata.X.toarray().astype(np.float64)
    change(x)
    adata.X = x
    counts = next(f for f in of(adata) if f.about == "counts")
    assert counts.found.endswith(f"{looks}.")
    assert counts.mend.startswith("this object holds no raw counts: go back to the file as it came")
    with pytest.raises(ValueError, match=r"Expected .* counts in X, found"):
        scs.pp.counts(adata)


def test_warnings(adata):
    adata.X = adata.X > 0
    presence = [f for f in of(adata, "warning") if f.about == "counts"]
    assert "zeros and ones only" in presence[0].found
    x = scs.datasets.simulate(n_cells=120, n_genes=80, n_clusters=3, mean_count=2.0).X.toarray()
    x[7] = x[3]
    x[9] = 0
    x[9, 5] = 3
    adata.X = x.astype(np.int64)
    found = {f.about: f.found for f in of(adata, "warning")}
    assert found["cells"].startswith("1 cells are copies of others, count by count, the first")
    assert repr(adata.obs_names[7]) in found["cells"]
    assert found["depth"].startswith("1 cells have fewer than 10 counts")
    adata.var_names = [*adata.var_names[:-1], ""]
    (nameless,) = of(adata)
    assert (nameless.about, nameless.mend[:21]) == ("gene names", "give them names there")


def test_names_and_batches(adata):
    adata.var["feature_name"] = adata.var_names
    adata.var_names = [f"ENSG{i:011}" for i in range(80)]
    adata.obs["batch"] = np.where(np.arange(120) < 40, "b", "a")
    found = {f.about: f for f in scs.pp.check(adata, batch_key="batch")}
    assert found["gene names"].mend == "`adata.var_names = adata.var['feature_name'].astype(str)`"
    assert found["batches"].found == "obs['batch'] names 2 batches: 'a' of 80, 'b' of 40 cells."
    assert "genes like 'ENSG00000000000'." in found["names"].found


def test_nothing_is_changed(adata):
    adata.layers["counts"] = adata.X.toarray()
    before = adata.copy()
    scs.pp.check(adata[:100])
    scs.pp.check(adata)
    assert [name for name in adata.layers if name is not None] == ["counts"]  # of 0.13, None is X
    assert (adata.X != before.X).nnz == 0
    with pytest.raises(TypeError, match="AnnData"):
        scs.pp.check(adata.X)


def test_an_empty_object_and_one_without_a_matrix():
    for one in (ad.AnnData(np.zeros((0, 5))), ad.AnnData(obs=pd.DataFrame(index=["a"]))):
        assert [f.about for f in of(one)] == ["counts"]


# What reaches prepare by other doors than a file.


def broken(matrix, part, place, value):
    made = matrix.copy()
    getattr(made, part)[place] = value
    return made


@pytest.mark.parametrize("form", ["csr_matrix", "csc_matrix", "csr_array"])
@pytest.mark.parametrize(("part", "place"), [("indices", 3), ("indptr", 5), ("indptr", -1)])
@pytest.mark.parametrize("value", [2**29, -1, 0])
def test_damaged_matrices_are_refused_before_they_crash(adata, form, part, place, value):
    if (part, value) == ("indices", 0):
        pytest.skip("an index like any other")
    adata.layers["counts"] = getattr(sp, form)(adata.X)
    adata.layers["counts"] = broken(adata.layers["counts"], part, place, value)
    calls = [
        lambda a: scs.SiameseClu(3).fit(a),
        lambda a: scs.tl.siameseclu(a, 3),
        lambda a: scs.pp.split_counts(a),
        lambda a: scs.tl.transfer_labels(a, a, "cell_type"),
        lambda a: prepare(a, config=scs.Config()),
    ]
    for one in (adata, adata[5:]):
        for call in calls:
            with pytest.raises(ValueError, match=r"layers\['counts'\] to be a whole sparse"):
                call(one)
        assert of(one)[0].about == "counts"


def test_a_damaged_part_is_refused(adata):
    adata.X = broken(adata.X, "indptr", 3, 2**29)
    with pytest.raises(ValueError, match="whole sparse matrix"):
        scs.tl.siameseclu(adata, 2, restrict_to=("cell_type", ["0", "1"]))
    with pytest.raises(ValueError, match="whole sparse matrix"):
        scs.tl.siameseclu(adata[5:], 2, copy=True)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda a: setattr(a, "X", np.repeat(a.X[:1].toarray() + 1, 120, 0)), "all 120 alike"),
        (
            lambda a: setattr(
                a, "X", np.outer(np.arange(1, 121), a.X[:1].toarray() + 1).astype(np.float32)
            ),
            "all 120 alike",
        ),
        (lambda a: setattr(a, "X", a.X.toarray().astype(complex)), "numbers, found dtype complex"),
    ],
)
def test_counts_that_cannot_be_used(adata, change, match):
    change(adata)
    with pytest.raises(ValueError, match=match):
        prepare(adata, config=scs.Config())


def test_masked_values_are_no_counts(adata):
    adata.layers["m"] = np.ma.masked_less(adata.X.toarray(), 1)
    if isinstance(adata.layers["m"], np.ma.MaskedArray):
        with pytest.raises(TypeError, match=r"MaskedArray; fill what is masked"):
            scs.pp.counts(adata, layer="m")


def test_long_doubles_are_read(adata):
    wanted = prepare(adata, config=scs.Config())
    adata.X = adata.X.toarray().astype(np.longdouble)
    assert prepare(adata, config=scs.Config()).fingerprint == wanted.fingerprint


def representation(adata, change):
    x = np.random.default_rng(0).normal(size=(adata.n_obs, 20))
    return change(x)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda x: x * 1e200, r"up to 1e\+15 in .* scale the array"),
        (lambda x: _set(x, 1e20), r"found 1e\+20; scale"),
        (lambda x: _set(x, 1e8), "found 1e\\+08 for cell 'cell_3'"),
        (lambda x: _set(x, np.inf), "finite, varying 2-D"),
        (lambda x: x * 0 + 3, "finite, varying 2-D"),
        (lambda x: x[:, 0], "finite, varying 2-D|2-D array"),
        (lambda x: x.astype(complex), "real numbers, found complex128"),
        (lambda x: x.astype(str), "real numbers, found <U"),
        (lambda x: x.astype("datetime64[s]"), "real numbers, found datetime"),
    ],
)
def test_features_that_cannot_be_used(adata, change, match):
    x = representation(adata, change)
    adata.obsm["R"] = x if x.ndim == 2 else x[:, None][:, :0]
    with pytest.raises(ValueError, match=match):
        scs.SiameseClu(3).fit(adata, use_rep="R", progress=False)


def _set(x, value):
    x[3, 2] = value
    return x


def test_features_in_a_table(adata):
    adata.obsm["R"] = pd.DataFrame([["a"]] * 120, index=adata.obs_names, columns=["x"])
    with pytest.raises(ValueError, match="real numbers"):
        prepare(adata, use_rep="R", config=scs.Config())
    x = representation(adata, lambda x: x)
    adata.obsm["R"] = pd.DataFrame(x, index=adata.obs_names).rename(columns=str)
    one = prepare(adata, use_rep="R", config=scs.Config())
    adata.obsm["R"] = x
    two = prepare(adata, use_rep="R", config=scs.Config())
    np.testing.assert_array_equal(one.features, two.features)


def graph(adata, change):
    links = sp.random(120, 120, density=0.1, format="csr", random_state=0)
    adata.uns["neighbors"] = {"connectivities_key": "connectivities"}
    adata.obsp["connectivities"] = change(links)
    return adata


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda g: broken(g, "indices", 3, 2**29), "whole sparse matrix"),
        (lambda g: broken(g, "indptr", 3, -1), "whole sparse matrix"),
        (lambda g: broken(g, "data", 3, np.nan), "finite weights"),
        (lambda g: broken(g, "data", 3, -1), "positive weights .* found -1"),
        (lambda g: g.toarray().astype(complex), "found others, of type complex128"),
        (lambda g: g.toarray().astype("O"), "found others, of type object"),
    ],
)
def test_graphs_that_cannot_be_used(adata, change, match):
    graph(adata, change)
    for one in (adata, adata[:100]):
        with pytest.raises(ValueError, match=match):
            prepare(one, neighbors_key="neighbors", config=scs.Config())


def test_a_graph_that_is_text(adata):
    adata.uns["neighbors"] = "x"
    with pytest.raises(TypeError, match="describe a neighbour graph, found 'x'"):
        prepare(adata, neighbors_key="neighbors", config=scs.Config())
    adata.uns["neighbors"] = {"connectivities_key": ["a"]}
    with pytest.raises(KeyError, match="which uns"):
        prepare(adata, neighbors_key="neighbors", config=scs.Config())

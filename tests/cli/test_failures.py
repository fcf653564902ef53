"""What cannot be written, or was not foreseen: known before the fit, or nothing of it is lost."""

import argparse
import re
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest

import scsiameseclu_jax as scs
from scsiameseclu_jax.cli import failures
from scsiameseclu_jax.cli import parser as cli
from scsiameseclu_jax.cli.failures import in_shell
from scsiameseclu_jax.files import WriteError, objects, write_anndata, write_model
from tests.cli.test_cli import FIT, contents, fails, trained

N = 60
WORDS = ["cluster", "in.h5ad", "out.h5ad", "--n-clusters", "3", "--quiet"]
CLUSTERS = [str(i % 3) for i in range(N)]


def save(model, path, overwrite):
    write_model(path, {"n_clusters": model.n_clusters}, {}, overwrite=overwrite)


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """A folder with cells in it, to work in; fits and models are stand-ins."""
    scs.datasets.simulate(n_cells=N, n_genes=40, n_clusters=3, rng=0).write_h5ad(
        tmp_path / "in.h5ad"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(FIT, trained)
    monkeypatch.setattr("scsiameseclu_jax.model.SiameseClu.save", save)
    return tmp_path


def raises(error):
    def call(*_, **__):
        raise error

    return call


# After the fit.


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("out.h5ad", MemoryError()),
        ("out.h5ad", RuntimeError("bad\nly")),
        ("out.zarr", ZeroDivisionError("bad")),
    ],
)
def test_a_result_that_cannot_be_written(inside, capsys, monkeypatch, name, error):
    write = objects._write
    monkeypatch.setattr(
        objects,
        "_write",
        lambda path, adata: raises(error)() if "X_siameseclu" in adata.obsm else write(path, adata),
    )
    words = [name if word == "out.h5ad" else word for word in WORDS]
    assert cli.main([*words, "--save", "model"]) == 1
    captured = capsys.readouterr()
    assert captured.out.endswith("wrote model\n")
    (line,) = captured.err.splitlines()
    assert f"Could not write '{name}': " in line
    assert f"the clusters of the cells are in '{inside / name}.clusters.csv'" in line
    table = pd.read_csv(f"{name}.clusters.csv", index_col="cell", dtype={"cluster": str})
    assert list(table["cluster"]) == CLUSTERS
    assert list(table["confidence"]) == [1] * N
    assert list(table.index) == list(ad.read_h5ad("in.h5ad").obs_names)
    assert {"model", "in.h5ad", f"{name}.clusters.csv"} <= {path.name for path in inside.iterdir()}
    assert not (inside / name).exists()


def test_the_table_goes_where_it_can(tmp_path, monkeypatch):
    table = pd.DataFrame({"cluster": ["0", "1"]}, index=["a", "b"])
    for name in ("here", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    place = objects.write_table_near(Path("/proc/self/x.h5ad"), table)
    assert place == tmp_path / "here" / "x.h5ad.clusters.csv"
    assert place.read_text() == "cell,cluster\na,0\nb,1\n"
    other = objects.write_table_near(Path("x.h5ad"), table)  # replaces nothing
    assert other != place
    assert other.read_text() == place.read_text()
    monkeypatch.setattr(Path, "cwd", lambda: tmp_path / "none")
    path = tmp_path / "none" / f"{'ü' * 120}.h5ad"
    assert objects.write_table_near(path, table).parent == tmp_path / "temporary"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    assert objects.write_table_near(path, table) is None


@pytest.mark.parametrize("part", ["plot", "model", "refits", "table", "levels"])
def test_all_else_is_done(inside, capsys, monkeypatch, part):
    monkeypatch.setattr("scsiameseclu_jax.cli.commands.layout", lambda *_: np.zeros((N, 2)))
    broken = {
        "plot": "pl.overview",
        "model": "model.SiameseClu.save",
        "refits": "model.SiameseClu.assess",
        "table": "cli.commands._print_table",
        "levels": "tl.cluster_tree",
    }[part]
    monkeypatch.setattr(f"scsiameseclu_jax.{broken}", raises(MemoryError("too little")))
    words = ["--save", "model", "--plot", "a.png", "--resamples", "2" if part == "refits" else "0"]
    assert cli.main([*WORDS, *words, "--levels", "2"]) == 1
    captured = capsys.readouterr()
    assert "too little" in captured.err
    written = {"plot": "a.png", "model": "model"}.get(part)
    for name in ("out.h5ad", "model", "a.png"):
        assert (inside / name).exists() == (name != written)
        assert (f"wrote {name}\n" in captured.out) == (name != written)
    assert ("clusters  3 (K given)" in captured.out) == (part != "table")
    assert list(ad.read_h5ad("out.h5ad").obs["siameseclu"]) == CLUSTERS
    if part == "plot":
        assert "levels    siameseclu_leaf, siameseclu_2 (columns of obs)\n" in captured.out
        assert "siameseclu_2" in ad.read_h5ad("out.h5ad").obs


def test_a_model_is_kept_before_what_takes_long(inside, monkeypatch):
    monkeypatch.setattr("scsiameseclu_jax.model.SiameseClu.assess", raises(KeyboardInterrupt()))
    assert cli.main([*WORDS, "--save", "model", "--resamples", "2"]) == 130
    assert (inside / "model" / "model.json").exists()
    assert not (inside / "out.h5ad").exists()


def test_a_fit_whose_model_cannot_be_written(inside, capsys, monkeypatch):
    monkeypatch.setattr("scsiameseclu_jax.model.SiameseClu.save", raises(WriteError("Could not.")))
    words = ["fit", "in.h5ad", "--save", "model", "--n-clusters", "3", "--quiet"]
    assert cli.main(words) == 1
    captured = capsys.readouterr()
    assert "clusters  3 (K given)" in captured.out
    assert "wrote" not in captured.out
    assert "Could not.; the clusters of the cells are in " in captured.err
    assert len(pd.read_csv("model.clusters.csv")) == N


# On a full disk: HDF5 must not end the process.


@pytest.fixture
def limit():
    """Let no file grow beyond so many bytes, as if the disk were full."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda n: resource.setrlimit(resource.RLIMIT_FSIZE, (n, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("n_bytes", [0, 3000, 20_000])
def test_a_full_disk(tmp_path, limit, n_bytes):
    adata = scs.datasets.simulate(n_cells=N, n_genes=40, n_clusters=3, rng=0)
    adata.uns["deep"] = {f"key {i}": {"a": np.arange(i), "b": "text"} for i in range(20)}
    out = tmp_path / "out.h5ad"
    write_anndata(out, adata)
    before = out.read_bytes()
    assert len(before) > 20_000
    limit(n_bytes)
    with pytest.raises(WriteError, match=r"Could not write .*: .*File too large"):
        write_anndata(out, adata)
    assert contents(tmp_path) == {"out.h5ad": before}


def test_what_is_written_is_what_anndata_writes(tmp_path):
    adata = scs.datasets.simulate(n_cells=N, n_genes=40, n_clusters=3, rng=0)
    adata.obs["text"] = np.where(np.arange(N) < 9, "few", "many")
    adata.layers["counts"], adata.raw = adata.X.copy(), adata.copy()
    adata.copy().write_h5ad(tmp_path / "wanted.h5ad")
    write_anndata(tmp_path / "found.h5ad", adata)
    with h5py.File(tmp_path / "wanted.h5ad") as one, h5py.File(tmp_path / "found.h5ad") as other:
        names = [[], []]
        one.visititems(lambda name, item: names[0].append((name, dict(item.attrs).keys())))
        other.visititems(lambda name, item: names[1].append((name, dict(item.attrs).keys())))
        assert names[0] == names[1]
        for name, _ in names[0]:
            if isinstance(one[name], h5py.Dataset):
                np.testing.assert_array_equal(one[name][()], other[name][()])


# Before the fit.


def with_columns(path, table, columns, attrs=None):
    """Put columns into a table of a file as anndata would not."""
    with h5py.File(path, "a") as file:
        group = file[table]
        for name, values in columns.items():
            group[name] = values
            group[name].attrs["encoding-type"] = "array"
            group[name].attrs["encoding-version"] = "0.2.0"
        order = [*group.attrs["column-order"], *columns]
        group.attrs["column-order"] = np.array(order, h5py.string_dtype())


def test_what_cannot_be_written_is_refused_before_the_fit(inside, capsys, monkeypatch):
    with_columns("in.h5ad", "obs", {"cell/type": np.ones(N)})  # as anndata wrote before 0.13
    monkeypatch.setattr(FIT, None)
    words = [word.replace("out.h5ad", "out.zarr") for word in WORDS]
    line = fails(capsys, [*words, "--save", "model"], 2)
    assert re.search(
        r"found some that cannot: obs\['cell/type'\] \([^;]*\); write 'out.h5ad', or", line
    )
    with_columns("in.h5ad", "var", {"opaque": np.zeros(40, "V4")})
    line = fails(capsys, [*words, "--save", "model"], 2)
    assert "obs['cell/type'] (" in line
    assert "; var['opaque'] (" in line
    assert "; rename, convert or remove" in line
    assert "var['opaque'] (" in fails(capsys, WORDS, 2)
    assert contents(inside).keys() == {"in.h5ad"}


def test_results_whose_names_are_too_long_are_refused_before_the_fit(inside, capsys, monkeypatch):
    monkeypatch.setattr(FIT, None)
    words = [word.replace("out.h5ad", "out.zarr") for word in WORDS]
    line = fails(capsys, [*words, "--key-added", "ü" * 124], 2)  # the store has a folder for each
    assert f"some that cannot: '{'ü' * 124}' (" in line
    assert "write 'out.h5ad', or" in line


@pytest.mark.parametrize("name", ["out.h5ad", "out.zarr"])
def test_what_anndata_reads_and_does_not_write_is_written(inside, caplog, name):
    adata = ad.read_h5ad("in.h5ad")
    names = list(adata.obs_names)
    adata.raw = adata.copy()
    adata.obs.index, adata.var.index = (t.index.astype("string") for t in (adata.obs, adata.var))
    adata.obs["text"] = pd.array(["a", None] * 30, "string")
    with ad.settings.override(allow_write_nullable_strings=True):
        adata.write_h5ad("in.h5ad")
    # As SeuratDisk leaves it; and a name of other values.
    with h5py.File("in.h5ad", "a") as file:
        file["raw/var"].move("_index", "features")
        file["raw/var"].attrs["_index"] = "features"
        genes = np.array(ad.io.read_elem(file["raw/var/features"]), object)
    with_columns("in.h5ad", "raw/var", {"_index": genes})
    with h5py.File("in.h5ad", "a") as file:
        file["obs"].move("_index", "names")
        file["obs"].attrs["_index"] = "names"
    with_columns("in.h5ad", "obs", {"_index": np.arange(N)})
    words = [name if word == "out.h5ad" else word for word in WORDS if word != "--quiet"]
    assert cli.main(words) == 0
    found = scs.read(name)
    assert list(found.obs_names) == names
    assert list(found.obs["siameseclu"]) == CLUSTERS
    assert list(found.obs["index_0"]) == list(range(N))
    assert found.obs["text"].isna().tolist() == [False, True] * 30
    assert list(found.raw.var.columns) == []
    assert list(found.raw.var_names) == list(found.var_names)


def test_an_index_called_like_a_column_loses_its_name(tmp_path, caplog):
    adata = scs.datasets.simulate(n_cells=N, n_genes=40, n_clusters=3, rng=0)
    adata.obs["cell"] = np.arange(N)
    adata.obs.index.name = "cell"
    with caplog.at_level("INFO"):
        objects.check_target(tmp_path / "out.h5ad", adata)
    assert "the index of obs is no longer called 'cell'" in caplog.text
    write_anndata(tmp_path / "out.h5ad", adata)
    assert list(ad.read_h5ad(tmp_path / "out.h5ad").obs["cell"]) == list(range(N))


@pytest.mark.parametrize(
    ("free", "words", "wanted"),
    [
        (2000, [], r"Expected 0.0\d+ MB of space for 'out.h5ad', found 0.002 MB; make room"),
        (100_000, ["--save", "model"], r"Expected 0.118 MB of space for 'model', found 0.1 MB"),
    ],
)
def test_too_little_space(inside, capsys, monkeypatch, free, words, wanted):
    monkeypatch.setattr(FIT, None)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=1e9, free=free))
    assert re.search(wanted, fails(capsys, [*WORDS, *words], 2))
    assert contents(inside).keys() == {"in.h5ad"}


def test_perhaps_too_little_space(inside, capsys, monkeypatch):
    for total, said in ((1e9, True), (0, False)):  # some file systems do not tell
        usage = SimpleNamespace(total=total, free=3500)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, usage=usage: usage)
        assert cli.main([*WORDS, "--overwrite"]) == 0
        assert (
            "0.0035 MB of space for 'out.h5ad' may be too little" in capsys.readouterr().err
        ) == said


# Errors that nobody foresaw.


@pytest.mark.parametrize(
    ("error", "code"),
    [(IndexError("no\nsuch"), 1), (KeyError("no such"), 2), (TypeError("no such"), 2)],
)
def test_an_error_that_nobody_foresaw(inside, capsys, monkeypatch, error, code):
    monkeypatch.setattr(FIT, raises(error))
    line = fails(capsys, WORDS, code)
    assert line.startswith(f"scsiameseclu: error: unexpected {type(error).__name__}: no such; ")
    assert ".github/ISSUE_TEMPLATE/bug.yml" in line
    log = Path(re.search(r"the log '(.*?)'", line)[1])
    assert inside / "state" in log.parents
    text = log.read_text()
    assert "\nTraceback (most recent call last):\n" in text
    assert f"\n{type(error).__name__}: " in text
    assert "\nanndata 0." in text


def test_a_log_goes_where_it_can(inside, capsys, monkeypatch):
    monkeypatch.setattr(FIT, raises(IndexError("no such")))
    (inside / "state").write_text("a file")
    monkeypatch.setattr(tempfile, "tempdir", str(inside))
    assert f"the log '{inside}/error-" in fails(capsys, WORDS, 1)
    monkeypatch.setattr(tempfile, "tempdir", str(inside / "state"))
    assert "please report this, by" in fails(capsys, WORDS, 1)


@pytest.mark.parametrize(
    "error",
    [ValueError("Expected better."), MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: full")],
)
def test_an_error_that_is_foreseen_leaves_no_log(inside, capsys, monkeypatch, error):
    monkeypatch.setattr(FIT, raises(error))
    assert "unexpected" not in fails(capsys, WORDS, 2 if isinstance(error, ValueError) else 1)
    assert not (inside / "state").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("it is there: `layer='my counts'`.", "it is there: `--layer 'my counts'`."),
        ("or `layer=None`", "or `--layer X`"),
        ("Expected `use_rep` in obsm", "Expected --use-rep in obsm"),
        ("Expected `checkpoint_dir`", "Expected --checkpoint"),
        ("`adata = f(adata, layer='x')`", "`adata = f(adata, layer='x')`"),
        ("or overwrite it (`overwrite=True`)", "or overwrite it (`--overwrite`)"),
        ("on disk: `scs.datasets.read_lazy(path)`", "on disk: `--lazy always`"),
        ("run `scs.tl.siameseclu` first", "run `scsiameseclu cluster` first"),
        (
            "run `scs.tl.siameseclu(adata, ..., key_added='a b')` or `scs.tl.markers(adata)`",
            "run `scsiameseclu cluster --key-added 'a b'` or `scs.tl.markers(adata)`",
        ),
        ("`scs.tl.siameseclu(adata, key_added='siameseclu')`", "`scsiameseclu cluster`"),
        ("`scs.tl.questions` makes it", "`scsiameseclu questions` makes it"),
    ],
)
def test_arguments_are_named_as_the_shell_has_them(text, said):
    assert in_shell(text) == said


def test_words_of_the_shell_are_options():
    (group,) = (a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction))
    options = {word for one in group.choices.values() for word in one._option_string_actions}
    words = {*failures._WORDS.values(), *failures._SAME}
    assert {f"--{word.replace('_', '-')}" for word in words} <= options

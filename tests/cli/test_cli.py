"""The command line: what it writes, prints and returns, and what it leaves alone."""

import json
import os
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import anndata as ad
import matplotlib
import numpy as np
import pandas as pd
import pytest

import scsiameseclu_jax as scs
from scsiameseclu_jax.cli import parser as cli
from scsiameseclu_jax.files import WriteError
from tests.questions import QUESTION

FIT = "scsiameseclu_jax.model.SiameseClu.fit"

# Few steps of small networks, for compilation is what takes the time.
SHORT = """
[training]
contrast_steps = 0
feature_steps = 5
graph_steps = 0
joint_steps = 0
steps = 4
[network]
feature_layers = [16]
graph_layers = [16]
[augmentation]
diffusion = false
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set of 150 cells, with labels, and a config of few steps."""
    made = tmp_path_factory.mktemp("cli")
    adata = scs.datasets.simulate(n_cells=150, n_genes=200, n_clusters=3, difficulty=0.2)
    adata.obs["donor"] = "one"
    adata.write_h5ad(made / "in.h5ad")
    (made / "short.toml").write_text(SHORT)
    return made


def command(folder, *words):
    """Return what `subprocess` needs to run the program in a folder."""
    program = [sys.executable, "-m", "scsiameseclu_jax", *map(str, words)]
    source = str(Path(scs.__file__).parents[1])
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
    # The usual cache of programs, in a user's folder that is new; matplotlib's fonts stay there.
    del environment["JAX_COMPILATION_CACHE_DIR"]
    environment |= {"XDG_CACHE_HOME": str(folder.parent / "user")}
    environment |= {"MPLCONFIGDIR": matplotlib.get_cachedir()}
    return program, {"cwd": folder, "env": environment}


def run(folder, *words):
    program, options = command(folder, *words)
    options |= {"timeout": 300, "check": False, "text": True}
    return subprocess.run(program, capture_output=True, stdin=subprocess.DEVNULL, **options)


def cluster(folder, out, *words):
    settings = ["--n-clusters", 3, "--config", "short.toml"]
    return run(folder, "cluster", "in.h5ad", out, *settings, *words)


def kept(folder):
    """When each program that is kept in the user's folder was last used."""
    programs = folder.parent / "user" / "scsiameseclu_jax" / "programs"
    return {path.name: path.read_bytes() for path in programs.glob("*-atime")}


@pytest.fixture(scope="module")
def with_labels(folder):
    words = ["--labels", "cell_type", "--plot", "labels.png", "--save", "model"]
    done = cluster(folder, "labels.h5ad", *words)
    assert done.returncode == 0, done.stderr
    done.kept = kept(folder)
    return done


@pytest.fixture(scope="module")
def without_labels(folder, with_labels):
    done = cluster(folder, "plain.zarr", "--quiet")
    assert done.returncode == 0, done.stderr
    done.kept = kept(folder)
    return done


def test_cluster_writes_results_and_prints_scores(folder, with_labels):
    adata = ad.read_h5ad(folder / "labels.h5ad")
    assert set(adata.obs["siameseclu"]) <= {"0", "1", "2"}
    assert adata.obsm["siameseclu_proba"].shape == (150, 3)
    # The labels are back where they were.
    assert list(adata.obs.columns[:2]) == ["cell_type", "donor"]
    given = ad.read_h5ad(folder / "in.h5ad").obs["cell_type"]
    assert adata.obs["cell_type"].equals(given)
    wanted = scs.metrics.scores(given, adata.obs["siameseclu"])
    rows = dict(line.split(maxsplit=1) for line in with_labels.stdout.splitlines())
    assert rows["cells"] == "150"
    for name in ("ACC", "NMI", "ARI"):
        assert rows[name] == f"{100 * wanted[name]:.2f} %"
    assert "wrote labels.h5ad" in with_labels.stdout
    assert "INFO" in with_labels.stderr
    assert "umap" not in with_labels.stderr  # it is drawn, and not in what is written
    assert "X_siameseclu_umap" not in adata.obsm
    assert "INFO" not in with_labels.stdout
    assert (folder / "labels.png").read_bytes().startswith(b"\x89PNG")


def test_quiet_zarr_without_labels(folder, without_labels):
    assert without_labels.stderr == ""
    assert "ACC" not in without_labels.stdout
    assert ad.read_zarr(folder / "plain.zarr").n_obs == 150


def test_a_second_run_uses_the_programs_of_the_first(with_labels, without_labels):
    before, after = with_labels.kept, without_labels.kept
    unused = [name for name, used in before.items() if after[name] == used]
    assert len(before) > 3
    # those of the plot; on a busy machine small ones, too, take long enough to be kept
    assert len(unused) <= len(before) // 4, unused


def test_labels_and_plot_change_not_one_bit(folder, with_labels, without_labels):
    one, other = ad.read_h5ad(folder / "labels.h5ad"), ad.read_zarr(folder / "plain.zarr")
    assert list(one.obs.columns) == list(other.obs.columns)
    assert set(one.obsm) == set(other.obsm)
    assert {"X_siameseclu", "siameseclu_proba", "siameseclu_candidates"} <= set(one.obsm)
    for column in ("siameseclu", "siameseclu_confidence"):
        np.testing.assert_array_equal(one.obs[column], other.obs[column])
    for key in one.obsm:
        np.testing.assert_array_equal(one.obsm[key], other.obsm[key])
    histories = [adata.uns["siameseclu"]["history"] for adata in (one, other)]
    assert histories[0].keys() == histories[1].keys()
    for name, values in histories[0].items():
        np.testing.assert_array_equal(values, histories[1][name])


def test_a_saved_model_predicts_in_another_process(folder, with_labels):
    new = scs.datasets.simulate(n_cells=80, n_genes=200, n_clusters=3, difficulty=0.2)
    new.X.data[:] = np.maximum(new.X.data - 1, 0)
    new[:, ::-1].write_h5ad(folder / "new.h5ad")
    words = ["predict", "model", "new.h5ad", "new.zarr", "--labels", "cell_type", "--quiet"]
    done = run(folder, *words, "--key-added", "found", "--cache", "../mine")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert list((folder.parent / "mine").glob("*-cache"))
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    found = ["cells", "genes", "clusters", "novel", "ACC", "NMI", "ARI", "scored", "seconds"]
    assert [line[0] for line in lines] == [*found, "wrote"]
    made = ad.read_zarr(folder / "new.zarr")
    wanted = scs.SiameseClu.load(folder / "model").predict(new)
    np.testing.assert_array_equal(made.obs["found"].astype(int), wanted.labels)
    np.testing.assert_array_equal(made.obs["found_is_novel"], wanted.is_novel)
    np.testing.assert_allclose(made.obsm["found_proba"], wanted.proba, atol=1e-5)
    assert list(made.obs["found"].cat.categories) == ["0", "1", "2"]


def test_nothing_temporary_is_left(folder, with_labels, without_labels):
    made = {path.name for path in folder.iterdir()} - {"new.h5ad", "new.zarr"}
    assert made == {"in.h5ad", "short.toml", "labels.h5ad", "labels.png", "plain.zarr", "model"}


def test_help_version_and_usage_in_a_process(folder):
    assert "--n-clusters" in run(folder, "cluster", "--help").stdout
    done = run(folder, "cluster", "none.h5ad", "out.h5ad", "--n-clusters", 3)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "scsiameseclu: error: " + done.stderr[21:].splitlines()[0] + "\n"
    assert "none.h5ad" in done.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [(["--help"], 0), (["--version"], 0), ([], 2), (["cluster", "in.h5ad"], 2), (["none"], 2)],
)
def test_usage(words, code, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == code
    if words == ["--version"]:
        assert capsys.readouterr().out == f"scsiameseclu {version('scsiameseclu-jax')}\n"


def trained(model, adata, **_):
    """Stand-in for `SiameseClu.fit` in tests that run in this process."""
    n, k = adata.n_obs, model.n_clusters
    labels = np.arange(n) % k
    model._results = {
        "labels": labels,
        "proba": np.eye(k, dtype=np.float32)[labels],
        **dict.fromkeys(("estimate", "stability", "calibration", "votes", "pool")),
        "answers": [],
        **dict.fromkeys(("embedding", "fused"), np.zeros((n, 2), np.float32)),
        "history": {"loss": np.ones(3), "stage": np.repeat("train", 3)},
        "manifest": {"input": {"layer": "counts"}, "seed": 0, "n_cells": n, "data": ""},
    }
    return model


@pytest.fixture
def inside(folder, tmp_path, monkeypatch):
    """An empty folder to work in, with the inputs of `folder` in it."""
    for name in ("in.h5ad", "short.toml"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def fails(capsys, words, code):
    """Run a command that has to fail with one line, and return that line."""
    assert cli.main(words) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if " INFO " not in line]
    assert len(lines) == 1
    assert lines[0].startswith("scsiameseclu: ")
    return lines[0]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"IN": "none.h5ad"}, "none.h5ad"),
        ({"IN": "text.h5ad"}, "not HDF5"),
        ({"--n-clusters": "1"}, "Expected --n-clusters"),
        ({"--n-clusters": "150"}, "n_obs - 1 (149)"),
        ({"--levels": "5,1"}, "--levels between 2 and n_obs - 1 (149), found 1"),
        ({"--levels": "150"}, "found 150"),
        ({"--layer": "none"}, "Expected --layer"),
        ({"--use-rep": "none"}, "Expected --use-rep"),
        ({"--seed": "-1"}, "Expected --seed"),
        ({"--key-added": "a/b"}, "Expected --key-added"),
        ({"--labels": "none"}, "Expected --labels"),
        ({"--labels": "cell_type", "--key-added": "cell_type"}, "another column"),
        ({"--labels": "cell_type", "--batch-key": "cell_type"}, "than --batch-key"),
        ({"--config": "none.toml"}, "none.toml"),
        ({"--config": "."}, "directory"),
        ({"--config": "unknown.toml"}, "config.training"),
        ({"--config": "text.h5ad"}, "TOML"),
        ({"OUT": "out.csv"}, ".h5ad or .zarr"),
        ({"OUT": "there.h5ad"}, "--overwrite"),
        ({"OUT": "none/out.h5ad"}, "folder"),
        ({"OUT": "in.h5ad", "--overwrite": None}, "apart from the input"),
        ({"OUT": "link.h5ad", "--overwrite": None}, "apart from the input"),
        ({"OUT": "mine.zarr", "--overwrite": None}, "zarr store to replace"),
        ({"OUT": "folder.h5ad", "--overwrite": None}, "file to replace"),
        ({"--plot": "plot.gif"}, ".png or .pdf or .svg"),
        ({"--plot": "none/plot.png"}, "folder"),
    ],
)
def test_bad_input_leaves_everything_as_it_was(inside, capsys, monkeypatch, options, wanted):
    (inside / "text.h5ad").write_text("not HDF5, and = not = TOML")
    (inside / "there.h5ad").write_text("precious")
    (inside / "unknown.toml").write_text("[training]\nstep = 4\n")
    (inside / "link.h5ad").symlink_to(inside / "in.h5ad")
    for name in ("mine.zarr", "folder.h5ad"):
        (inside / name).mkdir()
        (inside / name / "precious.txt").write_text("precious")
    monkeypatch.setattr("scsiameseclu_jax.functional.Method.fit", None)  # never comes to training
    before = contents(inside)
    options = {"--n-clusters": "3", "--config": "short.toml"} | options
    names = [options.pop("IN", "in.h5ad"), options.pop("OUT", "out.h5ad")]
    flags = [word for pair in options.items() for word in pair if word is not None]
    line = fails(capsys, ["cluster", *names, *flags], 2)
    assert wanted in line
    assert not line.startswith(('scsiameseclu: error: "', "scsiameseclu: error: '"))
    assert contents(inside) == before


def test_folder_that_is_not_writable(inside, capsys, monkeypatch):
    (inside / "locked").mkdir()
    # In place of the folder's mode, which does not stop the root user of a container.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked")
    words = ["cluster", "in.h5ad", "locked/out.h5ad", "--n-clusters", "3"]
    assert "writable" in fails(capsys, words, 2)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FloatingPointError("Expected finite losses, found `zinb` = nan"), 1),
        (RuntimeError("RESOURCE_EXHAUSTED:\nout of memory"), 1),
        (MemoryError(), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_failures_while_training(inside, capsys, monkeypatch, error, code):
    def broken(model, adata, **_):
        assert "cell_type" not in adata.obs
        raise error

    monkeypatch.setattr(FIT, broken)
    before = contents(inside)
    words = ["cluster", "in.h5ad", "out.h5ad", "--n-clusters", "3", "--labels", "cell_type"]
    line = fails(capsys, words, code)
    assert str(error).split("\n")[0] in line
    assert contents(inside) == before


@pytest.mark.parametrize("name", ["out.h5ad", "out.zarr"])
def test_failure_while_writing_keeps_what_was_there(inside, capsys, monkeypatch, name):
    monkeypatch.setattr(FIT, trained)
    words = ["cluster", "in.h5ad", name, "--n-clusters", "3", "--overwrite"]
    assert cli.main(words) == 0
    capsys.readouterr()
    before = contents(inside)

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert cli.main(words) == 1
    (line,) = (line for line in capsys.readouterr().err.splitlines() if " INFO " not in line)
    assert "No space left" in line
    # The clusters are not lost.
    assert line.endswith(f"; the clusters of the cells are in '{inside / name}.clusters.csv'")
    table = pd.read_csv(f"{name}.clusters.csv", index_col="cell")
    assert list(table.index) == list(ad.read_h5ad("in.h5ad").obs_names)
    assert list(table["cluster"]) == [i % 3 for i in range(150)]
    Path(f"{name}.clusters.csv").unlink()
    assert contents(inside) == before


@pytest.mark.parametrize("name", ["out.h5ad", "out.zarr"])
def test_overwrite_replaces_all_of_it(inside, monkeypatch, name):
    monkeypatch.setattr(FIT, trained)
    words = ["cluster", "in.h5ad", name, "--n-clusters", "3", "--overwrite", "--key-added"]
    assert cli.main([*words, "first"]) == 0
    assert cli.main([*words, "second"]) == 0
    adata = scs.datasets.read(inside / name)
    assert "second" in adata.obs
    assert "first" not in adata.obs
    assert sorted(path.name for path in inside.iterdir()) == sorted(["in.h5ad", "short.toml", name])


def test_cells_without_a_label_are_not_scored(inside, capsys, monkeypatch):
    monkeypatch.setattr(FIT, trained)
    adata = ad.read_h5ad(inside / "in.h5ad")
    adata.obs.iloc[:10, 0] = np.nan
    adata.write_h5ad(inside / "some.h5ad")
    words = ["cluster", "some.h5ad", "out.h5ad", "--n-clusters", "3", "--labels", "cell_type"]
    assert cli.main(words) == 0
    assert "without 10 cells that have none" in capsys.readouterr().out


def test_levels_are_columns_of_the_same_fit(inside, capsys, monkeypatch):
    monkeypatch.setattr(FIT, trained)
    words = ["cluster", "in.h5ad", "out.h5ad", "--n-clusters", "4", "--overwrite", "--levels"]
    assert cli.main([*words, "2,3"]) == 0
    printed = capsys.readouterr().out
    assert "4 (K given)" in printed
    columns = ["siameseclu_leaf", "siameseclu_2", "siameseclu_3"]
    assert f"levels    {', '.join(columns)} (columns of obs)\n" in printed
    assert cli.main([*words, "2,3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["levels"] == columns
    adata = ad.read_h5ad(inside / "out.h5ad")
    assert set(columns) <= set(adata.obs)
    for k in (2, 3):
        assert adata.obs[f"siameseclu_{k}"].nunique() == k
    # Its cells are all alike, so no cluster can be split; the fit is kept nevertheless.
    assert cli.main([*words, "2,5"]) == 2
    captured = capsys.readouterr()
    assert "between 2 and 4, the number of leaves" in captured.err
    assert "wrote out.h5ad" in captured.out
    adata = ad.read_h5ad(inside / "out.h5ad")
    assert adata.obs["siameseclu"].nunique() == 4
    assert "siameseclu_2" not in adata.obs
    with pytest.raises(SystemExit):
        cli.main([*words, "2,x"])
    assert "whole numbers with commas" in capsys.readouterr().err


def test_fit_keeps_a_model(inside, capsys, monkeypatch):
    monkeypatch.setattr(FIT, trained)
    monkeypatch.setattr(
        "scsiameseclu_jax.model.SiameseClu.save",
        lambda model, path, overwrite: Path(path).mkdir(exist_ok=overwrite),
    )
    words = ["fit", "in.h5ad", "--save", "kept", "--n-clusters", "3", "--labels", "cell_type"]
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert "3 (K given)" in printed
    assert "ARI" in printed
    assert printed.endswith("wrote kept\n")
    assert "kept" in fails(capsys, words, 2)
    assert "to be a model" in fails(capsys, [*words, "--overwrite"], 2)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["fit", "in.h5ad", "--save", "none/model", "--n-clusters", "3"], "'none/model'"),
        (["fit", "in.h5ad", "--save", "in.h5ad", "--n-clusters", "3", "--overwrite"], "apart from"),
        (["predict", "none", "in.h5ad", "out.h5ad"], "Expected a model in 'none'"),
        (["predict", "none", "in.h5ad", "in.h5ad", "--overwrite"], "apart from the input"),
        (["predict", "in.h5ad", "model", "a.h5ad"], "order is `scsiameseclu predict MODEL IN OUT`"),
        (["cluster", "in.h5ad", "in.h5ad"], "apart from the input"),
        (["report", "in.h5ad", "in.h5ad"], "apart from the input"),
    ],
)
def test_bad_words_for_models(inside, capsys, words, wanted):
    before = contents(inside)
    assert wanted in fails(capsys, words, 2)
    assert contents(inside) == before


def test_a_model_that_can_not_be_written(inside, capsys, monkeypatch):
    def full(model, path, overwrite):
        raise WriteError("Could not write 'kept': No space left on device")

    monkeypatch.setattr(FIT, trained)
    monkeypatch.setattr("scsiameseclu_jax.model.SiameseClu.save", full)
    words = ["fit", "in.h5ad", "--save", "kept", "--n-clusters", "3"]
    assert cli.main(words) == 1
    assert "Could not write 'kept'" in capsys.readouterr().err


def test_layer_x_is_x(inside, monkeypatch):
    seen = []
    monkeypatch.setattr(
        FIT,
        lambda model, adata, **options: seen.append(options["layer"]) or trained(model, adata),
    )
    for layer in ("X", "counts", "raw"):
        words = ["cluster", "in.h5ad", f"{layer}.h5ad", "--n-clusters", "3", "--layer", layer]
        assert cli.main(words) == 0
    assert seen == [None, "counts", "raw"]


def test_demo(inside, capsys, monkeypatch):
    def stand_in(adata, k, **options):
        assert "cell_type" not in adata.obs
        assert k == "auto"
        scs.tl.add_clusters(adata, trained(scs.SiameseClu(8), adata))
        adata.obsm["X_siameseclu_umap"] = np.zeros((adata.n_obs, 2))

    monkeypatch.setattr("scsiameseclu_jax.tl.siameseclu", stand_in)
    question = pd.DataFrame([QUESTION])
    monkeypatch.setattr("scsiameseclu_jax.tl.questions", lambda adata, n: question[:n])
    assert cli.main(["demo", "--out", "made"]) == 0
    printed = capsys.readouterr().out
    assert "8 (K chosen without labels)" in printed
    made = ["demo.h5ad", "demo.html", "demo.png"]
    assert all(f"wrote {Path('made', name)}" in printed for name in made)
    assert sorted(path.name for path in (inside / "made").iterdir()) == made
    # It ends with a question, and the words that ask it again.
    assert "  A  35 cells, now in cluster 5\n     higher: IRF8 (100%, 14%)" in printed
    program, *words = shlex.split(printed.splitlines()[-1])
    args = cli._parser().parse_args(words)
    assert (program, args.source, args.ask) == ("scsiameseclu", Path("made/demo.h5ad"), 3)
    assert (args.n_clusters, args.seed) == ("auto", 0)
    question = question[:0]
    assert cli.main(["demo", "--out", "made"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("No question is left")

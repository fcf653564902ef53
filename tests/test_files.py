"""Files that are written: whole or not at all, and never over what would be lost."""

import json
import os
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

import scsiameseclu_jax as scs
from scsiameseclu_jax.cli import parser as cli
from scsiameseclu_jax.files import WriteError, read_model, write_model, write_text, write_whole
from tests.cli.test_cli import FIT, contents, fails, trained


@pytest.fixture
def inside(tmp_path, monkeypatch):
    adata = scs.datasets.simulate(n_cells=60, n_genes=40, n_clusters=3, rng=0)
    adata.obs["siameseclu_novelty"] = 0.5
    adata.write_h5ad(tmp_path / "in.h5ad")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["kept/out.h5ad", "--save", "kept"], "outputs apart from each other"),
        (["kept.zarr", "--save", "kept.zarr"], "outputs apart from each other"),
        (["out.h5ad", "--save", "kept", "--plot", "kept/a.png"], "outputs apart from each other"),
        (["out.h5ad", "--labels", "siameseclu_novelty"], "another column than the result"),
    ],
)
def test_words_that_would_lose_something(inside, capsys, monkeypatch, words, wanted):
    monkeypatch.setattr(FIT, None)
    (inside / "kept").mkdir()
    (inside / "kept" / "model.json").write_text("{}")
    before = contents(inside)
    more = ["--n-clusters", "3", "--overwrite"]
    assert wanted in fails(capsys, ["cluster", "in.h5ad", *words, *more], 2)
    assert contents(inside) == before


def test_a_model_is_not_replaced_with_what_else_is_there(inside, capsys, monkeypatch):
    monkeypatch.setattr(FIT, None)
    (inside / "kept").mkdir()
    for name in ("model.json", "notes.txt"):
        (inside / "kept" / name).write_text("{}")
    words = ["fit", "in.h5ad", "--save", "kept", "--n-clusters", "3", "--overwrite"]
    assert "found ['notes.txt'], which would be lost" in fails(capsys, words, 2)
    assert (inside / "kept" / "notes.txt").exists()


def unsure(model, adata, **options):
    """Stand-in for a fit that finds the types, less sure of ten cells."""
    trained(model, adata, **options)
    labels = model._results["labels"]
    model._results["proba"] = np.where(np.eye(3)[labels] > 0, 0.9, 0.05).astype(np.float32)
    model._results["proba"][:10] = 1 / 3
    return model


def test_unassigned_cells_are_no_cluster_and_not_scored(inside, capsys, monkeypatch):
    monkeypatch.setattr(FIT, unsure)
    words = ["cluster", "in.h5ad", "out.h5ad", "--n-clusters", "3", "--labels", "cell_type"]
    assert cli.main([*words, "--min-confidence", "0.5"]) == 0
    printed = capsys.readouterr().out
    assert "clusters  3 (K given)" in printed
    assert "without 10 that are Unassigned" in printed
    adata = ad.read_h5ad("out.h5ad")
    sure = (adata.obs["siameseclu"] != "Unassigned").to_numpy()
    assert sure.sum() == 50
    wanted = scs.metrics.scores(adata.obs["cell_type"][sure], adata.obs["siameseclu"][sure])
    assert f"ACC       {100 * wanted['ACC']:.2f} %" in printed
    assert cli.main([*words, "--min-confidence", "1", "--overwrite"]) == 0
    printed = capsys.readouterr().out
    assert "clusters  0 (K given)" in printed
    assert "ACC" not in printed


SETTINGS, ARRAYS = {"n_clusters": 3}, {"one": np.arange(6.0).reshape(2, 3)}


def save_model(path):
    write_model(path, SETTINGS, ARRAYS, overwrite=True)


def save_text(path):
    write_text(path, "new")


@pytest.fixture(params=["folder", "file"])
def written(request, tmp_path):
    """Something that is there, what would replace it, and what `contents` says of it."""
    path = tmp_path / "there"
    if request.param == "folder":
        write_model(path, {"n_clusters": 2}, {}, overwrite=False)
        return path, save_model, contents(tmp_path)
    path.write_text("old")
    return path, save_text, contents(tmp_path)


def test_what_is_replaced_is_replaced_whole(written, tmp_path):
    path, save, before = written
    save(path)
    assert contents(tmp_path).keys() == before.keys()
    assert contents(tmp_path) != before


def test_a_model_comes_back(tmp_path):
    save_model(tmp_path / "m")
    settings, arrays = read_model(tmp_path / "m")
    assert settings == SETTINGS
    np.testing.assert_array_equal(arrays["one"], ARRAYS["one"])


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_keeps_what_was_there(written, tmp_path, monkeypatch, step):
    path, save, before = written

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[step], fail)
    with pytest.raises(WriteError, match=r"Could not write .*there.*No space left"):
        save(path)
    assert contents(tmp_path) == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError("bad"), MemoryError("bad"), KeyError("bad")])
def test_a_writer_that_fails_leaves_nothing(tmp_path, error):
    def fail(new):
        new.write_text("half")
        raise error

    with pytest.raises(OSError, match=r"Could not write .*: bad$"):
        write_whole(tmp_path / "out", fail)
    assert not list(tmp_path.iterdir())


def test_what_can_not_be_put_back_is_not_lost(tmp_path, monkeypatch):
    save_model(tmp_path / "m")
    before = contents(tmp_path / "m")
    rename = Path.rename

    def fail(self, target):
        raise OSError(5, "Input/output error")

    def once(self, target):
        monkeypatch.setattr(Path, "rename", fail)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", once)
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(WriteError, match="Input/output error"):
        save_model(tmp_path / "m")
    monkeypatch.undo()
    (aside,) = tmp_path.iterdir()
    assert contents(aside / "old") == before


def test_all_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    steps, fsync, replace = [], os.fsync, Path.replace

    def flush(file):
        steps.append(Path(f"/proc/self/fd/{file}").resolve().name)
        fsync(file)

    def swap(self, target):
        steps.append("replace")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(Path, "replace", swap)
    save_model(tmp_path / "m")
    assert steps[-1] == "replace"
    assert sorted(steps[:-1]) == ["arrays.safetensors", "model.json", "new"]


def test_rights_are_those_of_the_umask_which_nobody_touches(tmp_path, monkeypatch):
    current = os.umask(0o027)
    try:
        monkeypatch.setattr(os, "umask", None)
        save_model(tmp_path / "m")
        save_text(tmp_path / "page.html")
    finally:
        monkeypatch.undo()
        os.umask(current)
    modes = {p.name: p.stat().st_mode & 0o777 for p in [tmp_path / "m", *tmp_path.rglob("*")]}
    assert modes == {
        "m": 0o750,
        "arrays.safetensors": 0o640,
        "model.json": 0o640,
        "page.html": 0o640,
    }


@pytest.mark.parametrize(
    ("version", "remedy"), [(1, "fit again"), (2, "fit again"), (4, "upgrade"), (None, "upgrade")]
)
def test_other_versions_are_refused(tmp_path, version, remedy):
    save_model(tmp_path / "m")
    path = tmp_path / "m" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": version}))
    with pytest.raises(ValueError, match=f"version 3, found {version}; .*{remedy}"):
        read_model(tmp_path / "m")

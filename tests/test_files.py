"""Files that are written: whole or not at all, and never over what would be lost."""

import json
import os
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

import scsiameseclu_jax as scs
from scsiameseclu_jax.cli import parser as cli
from scsiameseclu_jax.files import (
    WriteError,
    check_model_folder,
    check_output,
    read_model,
    whole,
    write_model,
    write_text,
    write_whole,
)
from scsiameseclu_jax.files.exchange import exchange
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


def no_room(*args):
    raise OSError(28, "No space left on device")


def in_turn(monkeypatch, *works):
    """Let each call of `Path.rename` work, or fail, in turn; folders cannot change places."""
    rename, todo = Path.rename, list(works)
    monkeypatch.setattr(whole, "exchange", lambda *_: False)
    monkeypatch.setattr(Path, "rename", lambda *paths: rename(*paths) if todo.pop(0) else no_room())


@pytest.mark.parametrize("step", ["fsync", "aside", "rename"])
def test_a_failure_keeps_what_was_there(written, tmp_path, monkeypatch, step):
    path, save, before = written
    monkeypatch.setattr(Path, "replace", no_room)
    if step == "fsync":
        monkeypatch.setattr(os, "fsync", no_room)
    else:
        in_turn(monkeypatch, step == "rename", False, True)
    with pytest.raises(WriteError, match=r"Could not write .*there.*No space left"):
        save(path)
    assert contents(tmp_path) == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [MemoryError("bad"), KeyError("bad"), ZeroDivisionError("bad")])
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
    in_turn(monkeypatch, True, False, False)
    with pytest.raises(WriteError, match="No space left"):
        save_model(tmp_path / "m")
    monkeypatch.undo()
    (aside,) = tmp_path.iterdir()
    assert contents(aside / "old" / "m") == before
    # Nor is it later: a run that comes here, or looks for it, puts it back.
    assert read_model(tmp_path / "m")[0] == SETTINGS
    assert list(tmp_path.iterdir()) == [tmp_path / "m"]


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="there is no way to")
def test_folders_change_places_at_one_moment(tmp_path, monkeypatch):
    save_model(tmp_path / "m")
    one, other = tmp_path / "m", tmp_path / "other"
    other.mkdir()
    assert exchange(one, other)
    assert list(one.iterdir()) == []
    assert read_model(other)[0] == SETTINGS
    assert not exchange(one, tmp_path / "none")
    monkeypatch.setattr(Path, "rename", None)  # what is replaced is never without its name
    write_model(other, {"n_clusters": 4}, {}, overwrite=True)
    assert read_model(other)[0] == {"n_clusters": 4}


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
    assert sorted(steps[:3]) == ["arrays.safetensors", "m", "model.json"]
    assert steps[3:] == ["replace", tmp_path.name]


def left(folder, process, host=None, *, aside=()):
    """What a killed run leaves."""
    path = folder / f".scsiameseclu-{host or whole._host()}-{process}-0123abcd"
    (path / "new").mkdir(parents=True)
    (path / "new" / "out.h5ad").write_text("half")
    for name in aside:
        (path / "old" / name).mkdir(parents=True)
        (path / "old" / name / "kept").write_text("whole")
    return path


NOBODY = 2**22 + 1  # more than Linux numbers processes


@pytest.mark.parametrize("process", [lambda: NOBODY, os.getpid], ids=["none", "own"])
def test_what_killed_runs_left_is_removed_and_said(tmp_path, caplog, process):
    path = left(tmp_path, process())
    with caplog.at_level("INFO"):
        write_text(tmp_path / "new.html", "new")
    assert [file.name for file in tmp_path.iterdir()] == ["new.html"]
    assert f"removed {path}, which a run that was killed had left" in caplog.text


def test_what_killed_runs_moved_aside_is_put_back(tmp_path, caplog):
    (tmp_path / "there").mkdir()
    left(tmp_path, NOBODY, aside=["there", "gone"])
    write_text(tmp_path / "new.html", "new")
    assert contents(tmp_path) == {"gone/kept": b"whole", "new.html": b"new"}
    assert f"put back {tmp_path / 'gone'}" in caplog.text


def test_what_other_runs_write_is_left_alone(tmp_path, caplog):
    paths = [left(tmp_path, os.getppid()), left(tmp_path, NOBODY, "f" * 8)]
    (tmp_path / ".scsiameseclu-notes").mkdir()
    with caplog.at_level("INFO"):
        write_text(tmp_path / "new.html", "new")
    assert all((path / "new" / "out.h5ad").exists() for path in paths)
    assert (tmp_path / ".scsiameseclu-notes").exists()
    assert f"{paths[1]} is of a run on another machine" in caplog.text


def test_links_are_followed(tmp_path):
    (tmp_path / "real").mkdir()
    for name in ("m", "page.html"):
        (tmp_path / name).symlink_to(tmp_path / "real" / name)  # nothing yet
    for _ in range(2):
        check_model_folder(tmp_path / "m", overwrite=True)
        save_model(tmp_path / "m")
        save_text(tmp_path / "page.html")
        assert all((tmp_path / name).is_symlink() for name in ("m", "page.html"))
        assert read_model(tmp_path / "real" / "m")[0] == SETTINGS
        assert (tmp_path / "real" / "page.html").read_text() == "new"


def test_places_where_nothing_can_be_written(tmp_path):
    (tmp_path / "a.html").symlink_to(tmp_path / "b.html")
    (tmp_path / "b.html").symlink_to(tmp_path / "a.html")
    (tmp_path / "c.html").symlink_to(tmp_path / "none" / "c.html")
    for name, wanted in (
        ("a.html", "links that lead in a circle"),
        ("c.html", "create it first"),
        ("none/a.html", "create it first"),
        (f"{'ü' * 125}x.html", "[Nn]ame too long"),  # 256 bytes, fewer letters
    ):
        with pytest.raises(OSError, match=wanted):
            check_output(tmp_path / name, (".html",), overwrite=True)
    longest = tmp_path / f"{'ü' * 125}.html"
    check_output(longest, (".html",), overwrite=False)
    write_text(longest, "long")
    assert {path.name[-5:] for path in tmp_path.iterdir()} == {".html"}


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux")
def test_proc_is_no_place():
    with pytest.raises(OSError, match="to be a place to write to"):
        check_output(Path("/proc/out.h5ad"), (".h5ad",), overwrite=True)


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

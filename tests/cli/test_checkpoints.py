"""The command line: runs that were cut off go on, and training that diverged has its exit code."""

import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

import scsiameseclu_jax as scs
from scsiameseclu_jax.cli import parser as cli
from tests.cli.test_cli import FIT, command, fails, trained


@pytest.fixture
def inside(tmp_path, monkeypatch):
    adata = scs.datasets.simulate(n_cells=60, n_genes=40, n_clusters=3, rng=0)
    adata.write_h5ad(tmp_path / "in.h5ad")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--checkpoint", "mine"], "found 'a.txt'; name an empty one"),
        (["--checkpoint", "in.h5ad"], "found something else"),
        (["--checkpoint", "no/where"], "create it first"),
        (["--checkpoint", "m"], "outputs apart from each other"),
        (["--checkpoint", "."], "found 'in.h5ad', 'mine'"),
    ],
)
def test_a_folder_that_will_not_do_is_refused_at_once(inside, capsys, monkeypatch, words, wanted):
    monkeypatch.setattr("scsiameseclu_jax.datasets.read", None)
    (inside / "mine").mkdir()
    (inside / "mine" / "a.txt").touch()
    fit = ["fit", "in.h5ad", "--save", "m", "--n-clusters", "3"]
    assert wanted in fails(capsys, [*fit, *words], 2)
    assert sorted(path.name for path in inside.iterdir()) == ["in.h5ad", "mine"]


@pytest.mark.parametrize(("ended", "code"), [(True, 3), (False, 0)])
def test_words_reach_the_fit_and_what_diverged_the_exit_code(inside, monkeypatch, ended, code):
    heard = []

    def diverged(model, adata, **options):
        heard.append(options)
        trained(model, adata, **options)
        model._results["manifest"]["diverged"] = {"train": {"ended": ended, "warning": "it did"}}
        return model

    monkeypatch.setattr(FIT, diverged)
    words = ["--n-clusters", "3", "--checkpoint", "kept", "--checkpoint-every", "7", "--quiet"]
    assert cli.main(["cluster", "in.h5ad", "out.h5ad", *words]) == code
    assert heard[0]["checkpoint_dir"] == Path("kept")
    assert heard[0]["every"] == 7
    found = scs.read("out.h5ad").uns["siameseclu"]["manifest"]["diverged"]["train"]
    assert found["ended"] == ended


CONFIG = """
[training]
contrast_steps = 400
feature_steps = 100
graph_steps = 30
joint_steps = 30
steps = 100
contrast_batch = 64
[network]
feature_layers = [16]
graph_layers = [16]
projection_layers = [16]
"""


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on(tmp_path):
    """``kill -9`` at 20 random moments, and the same command again until it ends."""
    folder = tmp_path / "here"
    folder.mkdir()
    adata = scs.datasets.simulate(n_cells=300, n_genes=200, n_clusters=4, difficulty=0.4, rng=0)
    adata.write_h5ad(folder / "in.h5ad")
    (folder / "c.toml").write_text(CONFIG)
    kept = ["--checkpoint", "kept", "--checkpoint-every", 10]

    def begin(out, *words):
        program, options = command(folder, "cluster", "in.h5ad", out, "--config", "c.toml", *words)
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(program, **streams, **options)

    def end(process):
        _, said = process.communicate()
        assert process.returncode in (0, -9), said
        assert "Traceback" not in said and "damaged" not in said
        return said, process.returncode == 0

    end(begin("wanted.zarr"))  # compiles, and keeps its programs
    began = time.monotonic()
    end(begin("timed.zarr"))
    whole = time.monotonic() - began
    rng, kills, is_done, finished, said = np.random.default_rng(0), 0, False, [], []
    while kills < 20 or not is_done:
        out = f"out_{len(said)}.zarr"
        process = begin(out, *kept)
        if kills < 20:
            try:
                process.wait(rng.uniform(0.2, 1.1) * whole)
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
        text, is_done = end(process)
        said.append(text)
        if is_done:
            finished.append(out)
            (folder / "kept" / "fit.checkpoint").unlink()  # the next one is another run
    assert sum("took up the checkpoint" in text for text in said) >= 5
    wanted = scs.read(folder / "wanted.zarr")
    for out in finished:
        found = scs.read(folder / out)
        for name, values in wanted.obsm.items():
            np.testing.assert_array_equal(found.obsm[name], values)
        history = found.uns["siameseclu"]["history"]
        for name, values in wanted.uns["siameseclu"]["history"].items():
            np.testing.assert_array_equal(history[name], values)
    assert not [path.name for path in (folder / "kept").iterdir()]

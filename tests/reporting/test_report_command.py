"""The report from the shell, and the commands and code that it says repeat a run."""

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import scsiameseclu_jax as scs
from scsiameseclu_jax.cli import parser as cli
from scsiameseclu_jax.reporting import repeat, result
from tests.cli.test_cli import run
from tests.reports import Page, assessed, clustered


@pytest.mark.parametrize("key", ["siameseclu", "it's mine"])
def test_commands_and_code_repeat_the_run(key, tmp_path, monkeypatch):
    adata = assessed(clustered(key=key), key)
    params = adata.uns[key]["params"]
    params |= {"layer": "X", "batch_key": "my donor", "use_rep": "X_pca", "min_confidence": 0.25}
    params["config"]["network"]["feature_layers"] = np.array([64, 32])
    params["config"]["fusion"]["local"] = np.bool_(False)
    adata.uns[key]["answers"] = pd.DataFrame({"cells_a": ["a"], "cells_b": ["b"], "answer": "no"})
    adata.uns[key]["answers"].to_csv(tmp_path / "answers.csv", index=False)
    found = result.find(adata, key)
    assert repeat.differing(repeat.plain(params["config"])) == {
        "network": {"feature_layers": [64, 32]},
        "fusion": {"local": False},
    }
    # The commands are what the command line takes.
    command, page = (shlex.split(line)[1:] for line in repeat.shell(found).splitlines())
    args = cli._parser().parse_args(command)
    assert (args.n_clusters, args.seed, args.resamples, args.layer) == (3, 7, 3, "X")
    assert (args.batch_key, args.use_rep, args.key_added) == ("my donor", "X_pca", key)
    assert args.min_confidence == 0.25
    assert args.answers == [Path("answers.csv")]
    assert cli._parser().parse_args(page).key == key
    settings = tmp_path / "settings.toml"
    settings.write_text(repeat.toml(repeat.differing(repeat.plain(params["config"]))))
    config = scs.Config.from_toml(settings)
    assert config.network.feature_layers == (64, 32)
    # The code calls what there is, with what was given.
    called = {}
    monkeypatch.setattr(scs.datasets, "read", lambda path: path)
    monkeypatch.setattr(scs.tl, "siameseclu", lambda *a, **b: called.update(b, a=a))
    monkeypatch.setattr(scs, "report", lambda *a, **b: called.update(page=(a, b)))
    monkeypatch.chdir(tmp_path)
    exec(repeat.python(found), {})
    pd.testing.assert_frame_equal(called.pop("answers"), adata.uns[key]["answers"])
    assert called.pop("page")[1] == ({} if key == "siameseclu" else {"key": key})
    wanted = {"a": ("counts.h5ad", 3), "layer": None, "batch_key": "my donor", "n_resamples": 3}
    wanted |= {"use_rep": "X_pca", "min_confidence": 0.25, "rng": 7, "config": config}
    assert called == wanted | ({} if key == "siameseclu" else {"key_added": key})


def test_command_line(tmp_path):
    adata = assessed(clustered())
    adata.write_h5ad(tmp_path / "in.h5ad")
    done = run(tmp_path, "report", "in.h5ad", "out.html", "--labels", "cell_type")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"wrote out.html \(\d\.\d\d MB\)\n", done.stdout)
    page = Page((tmp_path / "out.html").read_text("utf-8"))
    assert page.text("title") == "in"
    assert "ARI" in page.text("known")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.h5ad", "out.html"]
    # What is there already is not replaced unless that is asked for.
    before = (tmp_path / "out.html").read_bytes()
    words = ["report", str(tmp_path / "in.h5ad"), str(tmp_path / "out.html"), "--quiet"]
    assert cli.main(words) == 2
    assert (tmp_path / "out.html").read_bytes() == before
    assert cli.main([*words, "--overwrite", "--no-markers", "--title", "Mine"]) == 0
    assert Page((tmp_path / "out.html").read_text("utf-8")).text("title") == "Mine"


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["none.h5ad", "out.html"], "none.h5ad"),
        (["in.h5ad", "out.pdf"], ".html"),
        (["in.h5ad", "out.html", "--key", "other"], "keys ['siameseclu']"),
        (["in.h5ad", "out.html", "--labels", "none"], "cell_type"),
        (["text.h5ad", "out.html"], "not HDF5"),
    ],
)
def test_command_line_says_what_is_wrong(words, wanted, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    clustered().write_h5ad("in.h5ad")
    (tmp_path / "text.h5ad").write_text("not HDF5")
    assert cli.main(["report", *words]) == 2
    *_, line = capsys.readouterr().err.splitlines()  # the log may be before
    assert line.startswith("scsiameseclu: error: ")
    assert wanted in line
    assert not (tmp_path / "out.html").exists()

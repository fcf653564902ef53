"""The table that commands print: no cell is lost from it without a word."""

import json
import shlex
from pathlib import Path

import pandas as pd
import pytest

import scsiameseclu_jax as scs
from scsiameseclu_jax.cli import commands
from scsiameseclu_jax.cli import parser as cli
from scsiameseclu_jax.cli.rest import Rest
from scsiameseclu_jax.files import WriteError
from scsiameseclu_jax.reporting import figures
from tests.reports import clustered


def test_cells_that_are_unassigned_are_counted(capsys):
    adata = scs.datasets.simulate(n_cells=6, n_genes=5, n_clusters=2)
    found = pd.Series(["0", "0", "1", "Unassigned", "Unassigned", "1"], index=adata.obs_names)
    commands._print_table(adata, found, "K given", None, 1.0)
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["clusters"] == "2 (K given)"
    assert rows["unsure"] == "2 cells are Unassigned, in none of these"
    commands._print_table(adata, found.replace("Unassigned", "0"), "K given", None, 1.0)
    assert "unsure" not in capsys.readouterr().out


def test_the_same_for_programs(capsys):
    adata = scs.datasets.simulate(n_cells=6, n_genes=5, n_clusters=2)
    found = pd.Series(["0", "0", "1", "Unassigned", "Unassigned", "1"], index=adata.obs_names)
    labels = pd.Series([*"aabb", None, "b"], index=adata.obs_names, name="type")
    with Rest(as_json=True) as rest:
        with rest.part(Path("out.h5ad")):
            pass
        commands._print_table(adata, found, "K given", labels, 1.23456, rest=rest)
    facts = json.loads(capsys.readouterr().out)
    scores = facts.pop("scores")
    assert scores["ACC"] == scores["ARI"] == 1
    assert facts == {
        "cells": 6,
        "genes": 5,
        "clusters": 2,
        "how": "K given",
        "unassigned": 2,
        "answers": None,
        "seconds": 1.235,
        "wrote": ["out.h5ad"],
    }


def test_what_failed_is_not_among_what_was_written(capsys):
    with pytest.raises(WriteError, match="no space"), Rest(as_json=True) as rest:
        with rest.part(Path("out.h5ad")):
            raise OSError("no space")
        rest.facts["cells"] = 6
    assert json.loads(capsys.readouterr().out) == {"cells": 6, "wrote": []}


def test_reports_and_questions_for_programs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(figures, "_encoded", lambda drawn, pixels: ("image/png", b"\x89PNG"))
    monkeypatch.chdir(tmp_path)
    clustered().write_h5ad("in.h5ad")
    assert cli.main(["report", "in.h5ad", "out.html", "--no-markers", "--json"]) == 0
    size = (tmp_path / "out.html").stat().st_size
    assert json.loads(capsys.readouterr().out) == {"bytes": size, "wrote": ["out.html"]}


@pytest.mark.parametrize(
    "name", ["demo", "check", "cluster", "fit", "predict", "questions", "report", "doctor"]
)
def test_help_has_examples_and_exit_codes(name, capsys):
    with pytest.raises(SystemExit):
        cli.main([name, "--help"])
    text = capsys.readouterr().out
    assert f"examples:\n  scsiameseclu {name} " in text
    assert "Exit codes: 0 " in text
    assert "--json" in text
    # What is given as an example can be parsed.
    for line in text.partition("examples:\n")[2].partition("\n\n")[0].splitlines():
        words = shlex.split(line.partition(">")[0])
        assert words[0] == "scsiameseclu"
        cli._parser().parse_args(words[1:])

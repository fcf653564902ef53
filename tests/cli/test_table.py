"""The table that commands print: no cell is lost from it without a word."""

import pandas as pd

import scsiameseclu_jax as scs
from scsiameseclu_jax.cli import commands


def test_cells_that_are_unassigned_are_counted(capsys):
    adata = scs.datasets.simulate(n_cells=6, n_genes=5, n_clusters=2)
    found = pd.Series(["0", "0", "1", "Unassigned", "Unassigned", "1"], index=adata.obs_names)
    commands._print_table(adata, found, "K given", None, 1.0)
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["clusters"] == "2 (K given)"
    assert rows["unsure"] == "2 cells are Unassigned, in none of these"
    commands._print_table(adata, found.replace("Unassigned", "0"), "K given", None, 1.0)
    assert "unsure" not in capsys.readouterr().out

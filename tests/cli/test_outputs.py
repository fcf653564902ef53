"""Outputs of the command line: apart from each other, and what is counted and scored."""

import anndata as ad
import numpy as np
import pytest

import scsiameseclu_jax as scs
from scsiameseclu_jax.cli import parser as cli
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

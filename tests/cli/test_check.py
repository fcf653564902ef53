"""``scsiameseclu check``: the same findings for people and for programs."""

import json

import numpy as np
import pytest

import scsiameseclu_jax as scs
from scsiameseclu_jax.cli import parser as cli


@pytest.fixture
def adata():
    return scs.datasets.simulate(n_cells=120, n_genes=80, n_clusters=3, rng=0)


def test_a_file_that_a_fit_would_take(adata, tmp_path, capsys):
    adata.obs["batch"] = np.where(np.arange(120) < 40, "b", "a")
    adata.write_h5ad(tmp_path / "in.h5ad")
    assert cli.main(["check", str(tmp_path / "in.h5ad"), "--batch-key", "batch"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) < 80 or str(tmp_path) in max(lines, key=len)
    assert lines[-1] == f"A fit of {tmp_path / 'in.h5ad'} would start."
    starts = [line[:8].strip() for line in lines[:-2] if line[0] != " "]
    assert set(starts) == {"warning", "note"}
    assert starts == sorted(starts, key=lambda word: word == "note")  # warnings first
    text = " ".join(" ".join(lines).split())
    assert "X holds counts of 120 cells x 80 genes" in text
    assert "batches obs['batch'] names 2 batches: 'a' of 80, 'b' of 40 cells." in text
    assert "memory A fit takes about" in text


def test_a_file_that_a_fit_would_refuse(adata, tmp_path, capsys):
    adata.layers["raw"] = adata.X.copy()
    adata.X = np.log1p(adata.X.toarray())
    adata.write_h5ad(tmp_path / "in.h5ad")
    source = str(tmp_path / "in.h5ad")
    assert cli.main(["check", source]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("error   counts        Expected whole counts in X, found")
    assert "-> layers['raw'] seems to hold counts: `--layer raw`" in " ".join(lines)
    assert lines[-1] == f"A fit of {source} would not start: mend the errors first."
    assert cli.main(["cluster", source, str(tmp_path / "out.h5ad")]) == 2
    assert "layers['raw'] seems to hold counts" in capsys.readouterr().err
    assert cli.main(["check", source, "--layer", "raw"]) == 0
    capsys.readouterr()
    (tmp_path / "wide.toml").write_text("[network]\nn_latent = 200\n")
    assert cli.main(["check", source, "--layer", "raw", "--config", str(tmp_path / "wide.toml")])
    assert "at least 201 cells and genes" in " ".join(capsys.readouterr().out.split())


def test_json(adata, tmp_path, capsys):
    adata.write_h5ad(tmp_path / "in.h5ad")
    source = str(tmp_path / "in.h5ad")
    assert cli.main(["check", source, "--json", "--use-rep", "none"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert (found["cells"], found["genes"], found["starts"]) == (120, 80, False)
    first, *others = [f._asdict() for f in scs.pp.check(adata, use_rep="none")]
    assert found["findings"][1:-1] == others
    assert found["findings"][0] == first | {
        "found": first["found"].replace("`use_rep`", "--use-rep")
    }
    assert "--use-rep" in found["findings"][0]["found"]
    assert found["findings"][0]["about"] == "use_rep"
    assert found["findings"][-1]["about"] == "memory"
    (tmp_path / "text").write_text("no counts")
    assert cli.main(["check", str(tmp_path / "text"), "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert (found["cells"], found["starts"]) == (None, False)
    assert "not HDF5" in found["findings"][0]["found"]
    assert cli.main(["check", str(tmp_path / "text")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(
        f"scsiameseclu: error: Expected '{tmp_path / 'text'}' to be an .h5ad"
    )

"""Readers of marker lists, and the lists that come with the package."""

import pandas as pd
import pytest

from scsiameseclu_jax import datasets
from scsiameseclu_jax.datasets import marker_lists

KNOWN = {
    "blood": {"CD8 T": "CD8A", "B": "MS4A1", "NK": "NKG7", "Plasmacytoid dendritic": "LILRA4"},
    "pancreas": {"Alpha": "GCG", "Beta": "INS", "Delta": "SST", "Gamma": "PPY", "Ductal": "KRT19"},
}


@pytest.mark.parametrize("name", marker_lists.MARKER_SETS)
def test_bundled_lists(name):
    lists = datasets.marker_sets(name)
    for kind, gene in KNOWN[name].items():
        assert gene in lists[kind]
    assert all(len(genes) >= 2 == len(set(genes) & set(genes[:2])) for genes in lists.values())
    source = marker_lists.files("scsiameseclu_jax.datasets") / "marker_sets" / f"{name}.csv"
    table = pd.read_csv(source)
    assert table.columns.tolist() == ["type", "gene", "source"]
    assert not table.duplicated(["type", "gene"]).any()
    papers = {"Baron 2016", "Ding 2020", "Hao 2021", "Muraro 2016", "Villani 2017", "Zheng 2017"}
    assert set(table["source"]) <= papers
    for paper in set(table["source"]):
        author, year = paper.split()
        assert author in datasets.marker_sets.__doc__
        assert year in datasets.marker_sets.__doc__


def test_another_name():
    with pytest.raises(ValueError, match="'blood', 'pancreas'"):
        datasets.marker_sets("brain")


@pytest.mark.parametrize(
    "text",
    [
        "type,gene\nB,MS4A1\nB, CD79A\nT,NA\nB,MS4A1\n",
        "gene;Type;note\nMS4A1;B;x\nCD79A;B;\nNA;T;\n;B;no gene\n",
        "\ufefftype\tgene\nB\tMS4A1\nB\tCD79A \nT\tNA\n",
        "\ntype\tgene\nB\tMS4A1\nB\tCD79A\nT\tNA\n",
    ],
)
def test_tables(text, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(text, encoding="utf-8")
    assert datasets.read_markers(path) == {"B": ["MS4A1", "CD79A"], "T": ["NA"]}


def test_gene_sets(tmp_path):
    path = tmp_path / "a.GMT"
    path.write_text("B\tcells\tMS4A1\tCD79A\tMS4A1\t\n\nT cell\t\tCD3D\n")
    assert datasets.read_markers(str(path)) == {"B": ["MS4A1", "CD79A"], "T cell": ["CD3D"]}


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.csv", b"cell,gene\nB,MS4A1\n", "columns"),
        ("a.csv", b"B\tcells\tMS4A1\n", r"\.gmt"),
        ("a.csv", b"", "columns"),
        ("a.csv", b"type,gene\n", "found none"),
        ("a.csv", b"type,gene\nB,MS4A1,x,y\n", "columns|fields"),
        ("a.csv", b"\xff\xfe\x00", "text"),
        ("a.gmt", b"B\tMS4A1\n", "line 1"),
        ("a.gmt", b"\n", "found none"),
    ],
)
def test_bad_files(name, content, match, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=match) as caught:
        datasets.read_markers(path)
    assert str(caught.value).startswith("Expected ")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing at"):
        datasets.read_markers(tmp_path / "none.csv")

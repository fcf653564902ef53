"""What a release says of itself is true in one place and the same in all."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def lowest(requirements):
    """Return the lower bound of each requirement, as a tuple, by name."""
    found = [
        re.match(r"([\w.-]+)(?:\[.*?\])?>=([\d.]+(?:\.dev\d+)?)", text) for text in requirements
    ]
    return {one[1]: numbers(one[2]) for one in found if one}


def numbers(version):
    parts = tuple(int(part) for part in re.findall(r"\d+", version))
    return parts + (0,) * (4 - len(parts))


def test_the_lowest_versions_are_those_that_are_tried():
    extras = PROJECT["optional-dependencies"]
    expected = lowest([*PROJECT["dependencies"], *extras["test"], *extras["dask"]])
    lines = (ROOT / "constraints" / "lowest.txt").read_text(encoding="utf-8").splitlines()
    tried = dict(line.split("==") for line in lines if "==" in line and line[0] != "#")
    assert {name: numbers(version) for name, version in tried.items()} == expected


@pytest.mark.parametrize("name", ["CITATION.cff", "release/meta.yaml"])
def test_the_version_is_one(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert f"\nversion: {PROJECT['version']}\n" in text


def test_the_recipe_asks_for_what_the_package_does():
    recipe = yaml.safe_load((ROOT / "release" / "recipe.yaml").read_text(encoding="utf-8"))
    assert recipe["context"]["version"] == PROJECT["version"]
    assert f">={recipe['context']['python_min']}" == PROJECT["requires-python"]
    others = {"igraph": "python-igraph", "matplotlib": "matplotlib-base"}
    wanted = [re.match(r"([\w-]+)(\S*?),?(;|$)", text) for text in PROJECT["dependencies"]]
    wanted = {f"{others.get(found[1], found[1])} {found[2]}" for found in wanted}
    # The bound for old Pythons holds for all: a package for all of them has one.
    assert set(recipe["requirements"]["run"][1:]) == wanted - {"pynndescent >=0.5.13"}


def test_changes_of_the_version_are_told():
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(PROJECT['version'])}\]", changes, flags=re.MULTILINE)


@pytest.mark.slow
def test_scanpy_finds_neighbours_in_the_embedding_of_many_cells():
    """As the README tells users: not so on a fresh Python 3.11 with pynndescent 0.7."""
    import anndata as ad
    import scanpy as sc

    rng = np.random.default_rng(0)
    adata = ad.AnnData(np.ones((9000, 1), np.float32))
    adata.obsm["X_siameseclu"] = rng.normal(size=(9000, 20)).astype(np.float32)
    sc.pp.neighbors(adata, use_rep="X_siameseclu")
    assert adata.obsp["distances"].shape == (9000, 9000)

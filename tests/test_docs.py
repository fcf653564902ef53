"""The site: every public name is on it, its code runs, its figures are measured ones."""

import re
from importlib import import_module
from pathlib import Path

import pytest

import scsiameseclu_jax as scs
import scsiameseclu_jax.functional as F

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MODULES = [name for name in scs.__all__ if hasattr(getattr(scs, name), "__path__")]
# The build makes these; they are no pages of ours.
MADE = {"_build", "measurements", "generated"}
PAGES = [path for path in sorted(DOCS.rglob("*.md")) if not MADE & set(path.parts)]
RESULTS = ROOT / "benchmarks" / "results"


def reference(page):
    """Return the names that a page of the reference lists."""
    text = (DOCS / "api" / f"{page}.md").read_text(encoding="utf-8")
    listed = re.findall(r"^   ([A-Za-z_]\w*)$", text, flags=re.MULTILINE)
    return listed + re.findall(r"autodata:: [\w.]+\.(\w+)$", text, flags=re.MULTILINE)


@pytest.mark.parametrize("module", MODULES)
def test_each_public_name_is_in_the_reference_once(module):
    public = import_module(f"scsiameseclu_jax.{module}").__all__
    assert sorted(reference(module)) == sorted(public)


def test_names_of_the_package_itself_are_in_the_reference():
    assert sorted(reference("top")) == sorted(set(scs.__all__) - set(MODULES))


def test_each_page_is_in_a_table_of_contents():
    trees = "\n".join(
        "\n".join(re.findall(r"```{toctree}\n(.*?)```", page.read_text(), flags=re.DOTALL))
        for page in PAGES
    )
    listed = {line.split("/")[-1] for line in trees.splitlines()}
    assert {page.stem for page in PAGES if page.stem != "index"} <= listed


# Of other pages, the tests of what they describe; shell and output are not Python.
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_of_a_page_is_executed(page):
    if page.stem in {"larger-than-memory", "several-devices"}:
        pytest.skip("its code needs files and devices of the reader's")
    assert "```python" not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["docs/measured.md", "docs/peers.md", "README.md"])
def test_figures_are_measured(page):
    measured = "".join(path.read_text(encoding="utf-8") for path in RESULTS.glob("*.md"))
    numbers = set(re.findall(r"\d+\.\d+", measured))
    numbers |= {f"{float(number):.1f}" for number in numbers}
    text = re.sub(r"\(.*?\)", "", (ROOT / page).read_text(encoding="utf-8"))
    found = set(re.findall(r"(?<![\w.])\d+\.\d+(?![\w.])", text))
    assert found
    assert found <= numbers


TEXTS = [*PAGES, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))]


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.stem)
def test_links_work_in_the_repository(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    # What a build makes is in no clone.
    assert not [
        link for link in links if MADE & set(Path(link).parts) or not (page.parent / link).exists()
    ]


def test_the_open_core_names_what_a_term_and_an_encoder_get():
    text = (DOCS / "open-core.md").read_text(encoding="utf-8")
    for field in F.Context._fields:
        assert f"| `{field}` |" in text
    for record in (F.CellData, F.Views, F.Embeddings):
        row = next(line for line in text.splitlines() if f"`F.{record.__name__}`:" in line)
        assert not [name for name in record._fields if f"`{name}`" not in row]
    for stage, steps in scs.Config.paper().training.steps_of().items():
        row = next(line for line in text.splitlines() if line.startswith(f'| `"{stage}"` |'))
        assert row.split(" | ")[3] == str(steps)

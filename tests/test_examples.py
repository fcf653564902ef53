"""The examples, run as they are."""

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# One that hands something in is run by every test run; the others by the slow one.
OPEN_CORE = {"custom_loss"}
EXAMPLES = [
    pytest.param(path, id=path.stem, marks=[] if path.stem in OPEN_CORE else [pytest.mark.slow])
    for path in sorted((ROOT / "examples").glob("*.py"))
]


@pytest.mark.parametrize("path", EXAMPLES)
def test_examples_run(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path)])  # else it reads those of pytest
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out


def test_examples_are_short_and_there():
    lengths = {p.stem: len(p.read_text().splitlines()) for p in (ROOT / "examples").glob("*.py")}
    assert set(lengths) >= OPEN_CORE
    assert max(lengths.values()) <= 60

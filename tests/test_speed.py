"""The speed benchmark: what it prints, and a small run of it."""

import json

import pytest

from benchmarks import speed

RECORDS = [
    {"kind": "step", "n": 5000, "seconds": 0.5, "peak_mib": 500.0},
    {"kind": "dense", "n": 5000, "seconds": 2.0, "peak_mib": 4000.0},
    {"kind": "step", "n": 10000, "seconds": 2.0, "peak_mib": 1000.0},
    {"kind": "dense", "n": 10000, "failed": "out of memory"},
    {
        **{"kind": "fit", "n": 2000, "cache": "warm", "seconds": 30.25, "first_step": 3.5},
        "peak_mib": 800.0,
    },
]


def test_table_and_exponents():
    text = speed.table(RECORDS)
    assert "| 5,000 | 0.500 | 2.000 | 4.0 | 500 | 4000 |" in text
    assert "| 10,000 | 2.000 | - | - | 1000 | - |" in text
    assert "| 2,000 | warm | 30.2 | 3.5 | 800 |" in text
    assert "Peak memory from 5,000 cells on grows as n^1.00." in text
    assert "Time of a step from 5,000 cells on grows as n^2.00." in text
    assert "Failed: dense at 10,000: out of memory" in text
    assert speed.exponent(RECORDS[:1], "seconds") is None


def test_results_are_written_whole(tmp_path):
    speed.save(RECORDS, tmp_path / "made" / "speed.json")
    names = sorted(path.name for path in (tmp_path / "made").iterdir())
    assert names == ["speed.json", "speed.md", "speed.png"]
    assert json.loads((tmp_path / "made" / "speed.json").read_text())["records"] == RECORDS


def test_a_measurement_that_fails_is_a_record():
    made = speed.in_process("step", 1)
    assert made["kind"] == "step"
    assert "Expected" in made["failed"]


@pytest.mark.slow
def test_a_step_is_measured():
    made = speed.in_process("step", 300, "--steps", "5")
    assert 0 < made["seconds"] < 60
    assert made["peak_mib"] > 100
    assert made["temporary_mib"] > 0

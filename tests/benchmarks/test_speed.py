"""The speed benchmark: what it prints, and a small run of it."""

import pytest

from benchmarks import speed, speed_report

RECORDS = [
    {"kind": "step", "n": 5000, "seconds": 0.5, "peak_mib": 500.0},
    {"kind": "dense", "n": 5000, "seconds": 2.0, "peak_mib": 4000.0},
    {"kind": "step", "n": 10000, "seconds": 2.0, "peak_mib": 1000.0},
    {"kind": "dense", "n": 10000, "failed": "out of memory"},
    {
        **{"kind": "fit", "n": 2000, "cache": "warm", "seconds": 30.25, "compilation": 3.5},
        **{"peak_mib": 800.0, "estimate_mib": 900.0},
    },
    {"kind": "default", "n": 10000, "seconds": 0.5, "peak_mib": 600.0},
    {"kind": "default", "n": 20000, "seconds": 1.0, "peak_mib": 650.0},
    {"kind": "linear", "n": 10000, "seconds": 1.0, "peak_mib": 700.0},
    {"kind": "linear", "n": 20000, "seconds": 2.0, "peak_mib": 700.0},
    {"kind": "seeds", "n": 2000, "seconds": 0.1, "vmap_ratio": 7.5, "map_ratio": 7.04},
]


def test_table_and_exponents():
    text = speed_report.table(RECORDS)
    assert "| 5,000 | 0.500 | 2.000 | 4.0 | 500 | 4000 |" in text
    assert "| 10,000 | 2.000 | - | - | 1000 | - |" in text
    assert "| 2,000 | warm | 30.2 | 3.5 | 800 | 900 |" in text
    assert "Peak memory of a step, 5,000 to 10,000 cells: grows as n^1.00." in text
    assert "Time of a step over all pairs, 5,000 to 10,000 cells: grows as n^2.00." in text
    assert "| 20,000 | 1.000 | 650 |" in text
    assert "Time of the default's step, 10,000 to 20,000 cells: grows as n^1.00." in text
    assert "Time of a step with 2048 landmarks, 10,000 to 20,000 cells: grows as n^1.00." in text
    assert "8 seeds at 2,000 cells cost 7.5 times one by `vmap`, 7.0 times by `lax.map`." in text
    assert "Failed: dense at 10,000: out of memory" in text
    assert speed_report.exponent(RECORDS[:1], "seconds") is None


def test_a_measurement_that_fails_is_a_record():
    made = speed.in_process("step", 1)
    assert made["kind"] == "step"
    assert "Expected" in made["failed"]


def test_records_are_kept_of_the_same_versions_only(tmp_path, monkeypatch, capsys):
    out = tmp_path / "speed.json"
    speed.save(out, "", records=RECORDS)
    nothing = ["--sizes", "--large", "--default", "--linear", "--seeds", "--fits"]
    assert speed.main([*nothing, "--add", "--out", str(out)]) == 0
    assert speed.on_record(out) == RECORDS
    monkeypatch.setattr(speed, "versions", lambda: {"jax": "other"})
    with pytest.raises(SystemExit):
        speed.main([*nothing, "--add", "--out", str(out)])
    assert "other versions" in capsys.readouterr().err


@pytest.mark.slow
def test_seeds_are_measured():
    made = speed.in_process("seeds", 200, "--steps", "5")
    assert 1 < made["vmap_ratio"] < 100
    assert 1 < made["map_ratio"] < 100


@pytest.mark.slow
def test_a_step_is_measured():
    made = speed.in_process("step", 300, "--steps", "5")
    assert 0 < made["seconds"] < 60
    assert made["peak_mib"] > 100
    assert made["temporary_mib"] > 0

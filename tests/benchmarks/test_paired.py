"""The comparison of two codes over sets."""

import json

import pytest

from benchmarks import paired


def test_the_difference_is_over_sets_and_seeds_that_both_have(tmp_path, capsys):
    runs = [("a", 0, 0.5), ("a", 1, 0.7), ("a", 2, 0.0), ("b", 0, 0.3), ("c", 0, 0.9)]
    rows = [
        {"set": name, "seed": seed, "method": "siameseclu", "scores": {"ARI": ari}}
        for name, seed, ari in runs
    ]
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    before.write_text(json.dumps({"a": {"after": [0.4, 0.6]}, "b": {"after": [0.0]}}))
    after.write_text(json.dumps({"runs": [*rows, rows[0] | {"method": "kmeans"}]}))
    paired.main([str(before), str(after)])
    last = capsys.readouterr().out.splitlines()[-1]
    # a: 50 to 60, b: 0 to 30; the differences 10 and 30 have a deviation of 14.1
    assert last.split() == ["mean", "25.00", "45.00+20.00,", "standard", "error", "10.00"]


def test_one_set_is_too_few(tmp_path):
    path = tmp_path / "one.json"
    path.write_text(json.dumps({"a": {"after": [0.4, 0.6]}}))
    with pytest.raises(SystemExit):
        paired.main([str(path), str(path)])

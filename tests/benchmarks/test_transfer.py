"""The benchmark of new cells: what is split, run and averaged."""

import numpy as np

from benchmarks import transfer


def test_split_has_every_cell_once():
    seen, unseen = transfer.split(100, 3)
    assert len(seen) == 70
    np.testing.assert_array_equal(np.sort(np.r_[seen, unseen]), np.arange(100))
    assert not np.array_equal(seen, transfer.split(100, 4)[0])


def test_table_averages_over_seeds_and_types():
    new = {"kind": "new cells", "set": "a", "n_cells": 10, "seconds": 2.0, "false_flags": 0.1}
    out = {"kind": "left out", "n_cells": 100, "false_flags": 0.06, "flagged_at_5_percent": 0.4}
    lines = transfer.table(
        [
            new | {"seed": 0, "predicted": 0.6, "fitted": 0.8, "agreement": 0.9},
            new | {"seed": 1, "predicted": 0.8, "fitted": 0.8, "agreement": 0.7},
            out | {"set": "a", "type": "x", "flagged": 1.0},
            out | {"set": "b", "type": "y", "flagged": 0.5},
        ]
    ).splitlines()
    assert lines[2] == "| a | 0.700 | 0.800 | 0.875 | 0.800 | 10.0% | 5 |"
    assert lines[3].startswith("| mean | 0.700")
    assert lines[-2] == "| b | 1 | 50.0% | 6.0% | 40.0% |"
    assert lines[-1] == "| mean over types | 2 | 75.0% | 6.0% | 40.0% |"


def test_table_of_missing_genes():
    without = {"same_0.1": 0.98, "same_0.18": 0.9, "false_flags_0.1": 0.04, "false_flags_0.18": 0.0}
    runs = [
        {"kind": "missing genes", "set": "a", "false_flags": 0.05} | without,
        {"kind": "missing genes", "set": "b", "false_flags": 0.07} | without,
    ]
    head, _, *rows = transfer.missing_table(runs)
    assert head.count("|") == rows[0].count("|") == 7
    assert rows[0] == "| a | 5.0% | 98.0% | 4.0% | 90.0% | 0.0% |"
    assert rows[-1] == "| mean | 6.0% | 98.0% | 4.0% | 90.0% | 0.0% |"

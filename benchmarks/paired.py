"""Is one code better than another, over all sets?

``python -m benchmarks.paired BEFORE AFTER`` compares the mean ARI of each set in two results of
``benchmarks.accuracy`` (or ``results/graph_once.json``, by its ``after``), of the seeds that both
have: the mean difference over sets, in points, with its paired standard error.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

Scores = dict[str, dict[int, float]]


def scores(path: Path) -> Scores:
    """Return ARI by set and seed."""
    document = json.loads(path.read_text(encoding="utf-8"))
    if "runs" not in document:
        return {name: dict(enumerate(one["after"])) for name, one in document.items()}
    found: Scores = {}
    for run in document["runs"]:
        if run["method"] == "siameseclu":
            found.setdefault(run["set"], {})[run["seed"]] = run["scores"]["ARI"]
    return found


def differences(before: Scores, after: Scores) -> dict[str, tuple[float, float]]:
    """Return the mean of each set in both, in %, over the seeds that both have."""
    means = {}
    for name in before.keys() & after.keys():
        seeds = before[name].keys() & after[name].keys()
        if seeds:
            means[name] = tuple(
                100 * statistics.fmean(one[name][seed] for seed in seeds) for one in (before, after)
            )
    return means


def main(argv: list[str] | None = None) -> int:
    """Print a row for each set, and the mean with its error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paired", description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    arguments = parser.parse_args(argv)
    means = differences(scores(arguments.before), scores(arguments.after))
    if len(means) < 2:
        parser.error(f"Expected two sets or more that both files have, found {sorted(means)}.")
    for name, (one, other) in sorted(means.items()):
        print(f"{name:<20}{one:6.1f}{other:6.1f}{other - one:+6.1f}")
    changes = [other - one for one, other in means.values()]
    error = statistics.stdev(changes) / len(changes) ** 0.5
    one, other = (statistics.fmean(pair[i] for pair in means.values()) for i in range(2))
    print(f"{'mean':<20}{one:6.2f}{other:6.2f}{other - one:+6.2f}, standard error {error:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

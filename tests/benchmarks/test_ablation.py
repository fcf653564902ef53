"""The ablation benchmark: what it switches off, and what it prints."""

import numpy as np
import pytest

import scsiameseclu_jax as scs
from benchmarks import ablation

RUNS = [
    {"set": s, "variant": v, "seed": seed, "ari": ari}
    for (s, v, seed), ari in {
        ("a", "all terms", 0): 0.5,
        ("a", "all terms", 1): 0.6,
        ("b", "all terms", 0): 0.8,
        ("b", "all terms", 1): 0.8,
        ("a", "no ZINB", 0): 0.4,
        ("a", "no ZINB", 1): 0.6,
        ("b", "no ZINB", 0): 0.9,
        ("b", "no ZINB", 1): 0.5,
    }.items()
]


# in quick tests contrast is off by default
MARKS = {"no contrast": [pytest.mark.slow]}


@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=MARKS.get(name, [])) for name in ablation.VARIANTS]
)
def test_every_variant_but_the_first_leaves_something_out(variant):
    config = ablation.config_of(variant)
    assert (config == scs.Config.paper()) == (variant == ablation.BASE)
    assert (config == scs.Config()) == (variant == ablation.LEAN)


def test_changes_are_paired_by_set_and_seed():
    by_seed, by_set = ablation.changes(RUNS, "no ZINB")
    np.testing.assert_allclose(by_seed, [0.0, -0.15])
    assert by_set == pytest.approx({"a": -0.05, "b": -0.1})
    assert "| no ZINB | 4 | -7.5 ± 7.5 | -5.0 | -10.0 |" in ablation.table(RUNS)


def test_contrast_is_compared_with_the_default_by_its_embedding():
    def run(variant, one, value):
        scores = dict.fromkeys(ablation.EMBEDDING, value)
        return {"set": one, "variant": variant, "seed": 0, "ari": 0.5, "embedding": scores}

    runs = [run(ablation.LEAN, "a", 0.5), run(ablation.LEAN, "b", 0.7)]
    runs += [run("no contrast", "a", 0.4), run("no contrast", "b", 0.5)]
    table = ablation.table([*RUNS, *runs])
    assert "| no contrast | 2 | 45.0 (-15.0 ± 5.0) |" in table
    assert "| the default | 2 | 60.0 |" in table
    assert "no contrast" not in table.split("The embedding")[0]

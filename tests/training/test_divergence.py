"""What is taken for divergence, from the numbers of a few steps."""

import numpy as np
import optax
import pytest

import scsiameseclu_jax as scs
import scsiameseclu_jax.functional as F
from scsiameseclu_jax.training import divergence

METHOD = F.siameseclu(3, config=scs.Config(losses={"zinb": 2.0}))


def row(features=1.0, zinb=3.0, **monitors):
    """Steps whose loss is that of the terms."""
    columns = {"features": features, "zinb": zinb} | monitors
    *values, _ = np.broadcast_arrays(*map(np.float64, columns.values()), [0.0])
    columns = dict(zip(columns, values, strict=True))
    columns["loss"] = columns["features"] + 2 * columns["zinb"]
    columns.setdefault("gradient_norm", np.ones(len(columns["loss"])))
    return columns


def found(steps, first=None, n_taken=None):
    first = row() if first is None else first
    n_taken = len(steps["loss"]) if n_taken is None else n_taken
    return divergence.find(steps, first, METHOD, n_taken)


def test_a_loss_may_rise_but_not_far_above_its_start():
    assert found(row([1.0, 5.0], 3.0)) is None
    trouble = found(row([1.0, 90.0], [3.0, 4.0]))
    assert trouble.cause == "the loss rose from 7 to 98, most of all `features`"
    assert trouble.by_rate
    below = row(-5.0, 0.1)  # own terms may be negative
    assert found(row(20.0, 0.1), below) is None
    assert found(row(60.0, 0.1), below) is not None


def test_what_is_not_finite_is_named():
    steps = row([1.0, np.nan])
    assert found(steps, n_taken=1).cause == "`features` was nan"
    first = row(1.0, np.inf)
    assert found(first, first, n_taken=0) == ("`zinb` was inf", False)
    assert found(row(gradient_norm=np.nan), n_taken=0).cause == "`gradient_norm` was nan"
    assert "the updated parameters" in found(row(), n_taken=0).cause


@pytest.mark.parametrize(
    ("start", "steps", "wanted"),
    [
        ((0.1, 0.9), (0.7, 0.9), None),
        ((0.1, 0.9), (0.95, 0.9), "collapsed: the mean cosine of the cells rose from 0.1 to 0.95"),
        ((0.95, 0.9), (0.97, 0.9), None),  # as an own encoder may begin
        ((0.1, 0.9), (0.1, 0.6), None),
        ((0.1, 0.9), (0.1, 0.3), "entropy of their sizes fell from 0.9 to 0.3"),
        ((0.1, 0.1), (0.1, 0.09), None),  # a type of nearly all cells
    ],
)
def test_collapse_is_seen_against_the_start(start, steps, wanted):
    first, steps = (row(mean_cosine=a, size_entropy=b) for a, b in (start, steps))
    trouble = found(steps, first)
    assert wanted is None if trouble is None else wanted in trouble.cause


def test_a_stage_may_not_end_above_its_start_but_for_noise():
    def at_end(*losses):
        return divergence.find_at_end([row(), *(row(loss) for loss in losses)], row(), METHOD)

    assert at_end(*[0.9] * 10) is None
    assert at_end(*[1.2] * 10) is None
    assert "was 8 in the end" in at_end(*[2.0] * 10).cause
    assert at_end(*[0.5, 3.5] * 5) is None
    assert at_end(*[50.0] * 3, *[0.9] * 10) is None
    assert divergence.is_good(row([1.2, 50.0]), row(), METHOD)
    assert not divergence.is_good(row([2.0, 1.0]), row(), METHOD)


def test_the_warning_names_the_rate():
    trouble = {"cause": "it fell over", "by_rate": True, "step": 7, "tries": 3, "ended": True}
    text = divergence.warning("joint", trouble, METHOD, 10, 50)
    assert text == (
        "Stage 'joint' diverged by step 7: it fell over; and again with half the rate, 3 times. "
        "The stage ended after 10 of 50 steps; lower `config.training.pretrain_rate` (0.0001)."
    )
    own = F.siameseclu(3, optimizer=optax.sgd(1.0))
    text = divergence.warning("joint", trouble | {"ended": False}, own, 50, 50)
    assert text.endswith("It went on with the rate of your optimiser halved 3 times; lower it.")

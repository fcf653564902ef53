"""Does training go wrong? Seen, without labels, from the numbers of its steps."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import scsiameseclu_jax.functional as F

MAX_TRIES = 3  # halvings of a stage's rate before it ends

# Limits against the first step of a stage, the loss in sums of its absolute weighted terms.
_RISE = 10.0  # of the loss, of any step
_MARGIN = 0.05  # by which the loss may be above its start where a stage ends, or goes back to
_NOISE = 3.0  # the same in medians of the change from step to step
_COLLAPSE = 0.1  # what has to be left of 1 - mean cosine
_EVENNESS = 0.5  # what has to be left of the entropy of cluster sizes
_LAST = 10  # steps that tell how a stage has ended

_MONITORS = (
    "sinkhorn_error",
    "sinkhorn_iterations",
    "changed",
    "size_entropy",
    "mean_cosine",
    "silhouette",
)

Row = dict[str, np.ndarray]
"""Values of a few steps by name."""


class Trouble(NamedTuple):
    """What went wrong."""

    cause: str
    """In words."""
    by_rate: bool = True
    """Whether another rate may help: not if nothing had moved yet."""


def record(info: F.StepInfo, stage: F.Stage, n_taken: int) -> Row:
    """Turn the info of a few steps into named arrays: of those taken, and of one that failed."""
    columns = {"loss": info.loss, **info.terms, "gradient_norm": info.gradient_norm}
    if stage == "train":
        columns |= {name: getattr(info, name) for name in _MONITORS}
    row = {name: np.asarray(value, np.float64)[: n_taken + 1] for name, value in columns.items()}
    return row | {"stage": np.full(len(row["loss"]), stage)}


def find(row: Row, first: Row, method: F.Method, n_taken: int) -> Trouble | None:
    """Say what is wrong with a few steps of a stage; None if nothing is.

    A loss, gradient or parameter that is not finite; a loss far above its start; an embedding that
    has collapsed to a point; clusters without cells.

    Parameters
    ----------
    row, first
        From :func:`record`: those steps, and the first of the stage.
    method
        Has the weights of the terms.
    n_taken
        How many of the steps left a finite state.
    """
    weights = _weights(first, method)
    if n_taken < len(row["loss"]):
        for name in (*weights, "gradient_norm"):
            if not np.isfinite(row[name][-1]):
                by_rate = row is not first or n_taken > 0
                return Trouble(f"`{name}` was {row[name][-1]}", by_rate)
        return Trouble("the updated parameters, or the target, were not finite")
    start, worst = first["loss"][0], int(np.argmax(row["loss"]))
    if row["loss"][worst] > start + _RISE * _size(first, method):
        rises = {name: w * (row[name][worst] - first[name][0]) for name, w in weights.items()}
        most = max(rises, key=lambda name: rises[name])
        found = row["loss"][worst]
        return Trouble(f"the loss rose from {start:.3g} to {found:.3g}, most of all `{most}`")
    if "mean_cosine" in row:
        start, found = first["mean_cosine"][0], row["mean_cosine"].max()
        if 1 - found < _COLLAPSE * (1 - start):
            text = f"the mean cosine of the cells rose from {start:.3g} to {found:.3g}"
            return Trouble(f"the embedding collapsed: {text}")
        start, found = first["size_entropy"][0], row["size_entropy"].min()
        if found < _EVENNESS * start:
            text = f"the entropy of their sizes fell from {start:.3g} to {found:.3g}"
            return Trouble(f"clusters lost their cells: {text}")
    return None


def is_good(row: Row, first: Row, method: F.Method) -> bool:
    """Whether the state that some steps began with is one to go back to."""
    return bool(row["loss"][0] <= first["loss"][0] + _MARGIN * _size(first, method))


def find_at_end(rows: list[Row], first: Row, method: F.Method) -> Trouble | None:
    """Say what is wrong with a stage that has come to its end: a loss above its start."""
    losses = np.concatenate([row["loss"] for row in rows])[-_LAST:]
    noise = np.median(np.abs(np.diff(losses))) if len(losses) > 1 else 0.0
    start, end = first["loss"][0], np.median(losses)
    if end <= start + max(_MARGIN * _size(first, method), _NOISE * noise):
        return None
    return Trouble(f"the loss, {start:.3g} at first, was {end:.3g} in the end")


def _weights(first: Row, method: F.Method) -> dict[str, float]:
    return {term.name: term.weight for term in method.terms if term.name in first}


def _size(first: Row, method: F.Method) -> float:
    """Return the sum of the absolute terms of the loss at its start."""
    return float(sum(abs(w * first[name][0]) for name, w in _weights(first, method).items()))


def warning(stage: F.Stage, found: dict[str, Any], method: F.Method, done: int, count: int) -> str:
    """Say what became of a stage that diverged, and what to do.

    Parameters
    ----------
    stage
        The stage.
    found
        ``cause``, ``by_rate`` and ``step`` of the first trouble; ``tries``, how often the rate was
        halved; ``ended``, whether that was of no use.
    method
        The method.
    done, count
        Steps that the stage has taken, and was to take.
    """
    rate = "the rate of your optimiser"
    if method.optimizer is None:
        name = method.rate_name(stage)
        rate = f"`config.training.{name}` ({getattr(method.config.training, name):g})"
    what = f"Stage {stage!r} diverged by step {found['step']}: {found['cause']}"
    if not found["ended"]:
        return f"{what}. It went on with {rate} halved {found['tries']} times; lower it."
    left = f"after {done} of {count} steps" if done else "as if it had not begun"
    if not found["by_rate"]:
        return (
            f"{what} before anything was learned, so that no rate mends it. The stage ended "
            f"{left}; mend that term, or leave it out (a weight of 0 in `config.losses`)."
        )
    return (
        f"{what}; and again with half the rate, {found['tries']} times. The stage ended {left}; "
        f"lower {rate}."
    )

"""Does training go wrong? Seen, without labels, from the numbers of each few steps."""

from __future__ import annotations

from typing import Any

import numpy as np

import scsiameseclu_jax.functional as F

MAX_TRIES = 3  # halvings of a stage's rate, before the stage is ended

# Limits against the first step of the stage. In normal training (benchmarks of the default, short
# and paper's settings on simulated and real cells) none came near them.
_RISE = 1.0  # of the loss, in sums of the absolute weighted terms
_COLLAPSE = 0.1  # what is left of 1 - the mean cosine between cells
_EVENNESS = 0.5  # what is left of the entropy of cluster sizes

Row = dict[str, np.ndarray]
MONITORS = (
    "sinkhorn_error",
    "sinkhorn_iterations",
    "changed",
    "size_entropy",
    "mean_cosine",
    "silhouette",
)


def record(info: F.StepInfo, stage: F.Stage, n_taken: int) -> Row:
    """Turn the info of a few steps into named arrays: of those taken, and of one that failed."""
    columns = {"loss": info.loss, **info.terms, "gradient_norm": info.gradient_norm}
    if stage == "train":
        columns |= {name: getattr(info, name) for name in MONITORS}
    row = {name: np.asarray(value, np.float64)[: n_taken + 1] for name, value in columns.items()}
    return row | {"stage": np.full(len(row["loss"]), stage)}


def find(row: Row, first: Row, method: F.Method, n_taken: int) -> str | None:
    """Say what is wrong with a few steps of a stage; None if nothing is.

    Parameters
    ----------
    row
        From :func:`record`.
    first
        The first of the stage.
    method
        Has the weights of the terms.
    n_taken
        How many of the steps left a finite state.
    """
    weights = {term.name: term.weight for term in method.terms if term.name in row}
    terms = list(weights)
    if n_taken < len(row["loss"]):
        for name in (*terms, "gradient_norm"):
            if not np.isfinite(row[name][-1]):
                return f"`{name}` was {row[name][-1]}"
        return "the updated parameters, or the target, were not finite"
    size = sum(abs(weights[name] * first[name][0]) for name in terms)
    start, worst = first["loss"][0], int(np.argmax(row["loss"]))
    if row["loss"][worst] > start + _RISE * size:
        rises = {name: weights[name] * (row[name][worst] - first[name][0]) for name in terms}
        most = max(rises, key=lambda name: rises[name])
        return f"the loss rose from {start:.3g} to {row['loss'][worst]:.3g}, most of all `{most}`"
    if "mean_cosine" in row:
        start, found = first["mean_cosine"][0], row["mean_cosine"].max()
        if 1 - found < _COLLAPSE * (1 - start):
            return f"the embedding collapsed: the mean cosine rose from {start:.3g} to {found:.3g}"
        start, found = first["size_entropy"][0], row["size_entropy"].min()
        if found < _EVENNESS * start:
            return f"clusters lost their cells: size_entropy fell from {start:.3g} to {found:.3g}"
    return None


def warning(stage: F.Stage, found: dict[str, Any], method: F.Method, done: int, count: int) -> str:
    """Say what became of a stage that diverged, and what to do.

    Parameters
    ----------
    stage
        The stage.
    found
        ``cause`` and ``step`` of the first time; ``tries``, how often the rate was halved;
        ``ended``, whether that was of no use.
    method
        The method.
    done, count
        Steps that the stage has taken, and was to take.
    """
    rate = "the rate of your optimiser"
    if method.optimizer is None:
        name = method.rate_name(stage)
        rate = f"`config.training.{name}` ({getattr(method.config.training, name):g})"
    what = f"Stage {stage!r} diverged at step {found['step']}: {found['cause']}"
    if not found["ended"]:
        return f"{what}. It went on with {rate} halved {found['tries']} times; lower it."
    left = f"after {done} of {count} steps" if done else "as if it had not begun"
    if found["step"] == 1:  # before anything has moved
        return (
            f"{what}, which no rate mends. The stage ended {left}; mend that term, or leave it out "
            "(weight 0 in `config.losses`)."
        )
    return (
        f"{what}, and again with half the rate, {found['tries']} times. The stage ended {left}; "
        f"lower {rate}."
    )

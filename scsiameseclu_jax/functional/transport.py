"""Optimal-transport clustering: Student-t assignment and Sinkhorn targets."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from scsiameseclu_jax.functional.types import Plan

_HIGHEST = jax.lax.Precision.HIGHEST  # with tf32 Sinkhorn may not converge


def squared_distances(z: Array, centers: Array) -> Array:
    """Return the squared Euclidean distances [n, k] of cells z [n, d] to centres [k, d]."""
    squared = (
        jnp.sum(z**2, axis=1, keepdims=True)
        - 2 * jnp.matmul(z, centers.T, precision=_HIGHEST)
        + jnp.sum(centers**2, axis=1)
    )
    return jnp.maximum(squared, 0)


def log_assignment(z: Array, centers: Array) -> Array:
    """Assign cells to centres with a Student-t kernel of one degree of freedom.

    Parameters
    ----------
    z
        [n, d] embedding.
    centers
        [k, d] cluster centres.

    Returns
    -------
    [n, k] ``log q``, ``q_ij ~ (1 + |z_i - mu_j|^2)^-1``; ``exp`` of the rows sums to 1.

    References
    ----------
    Paper, soft assignment; van der Maaten and Hinton, JMLR 2008.
    """
    return jax.nn.log_softmax(-jnp.log1p(squared_distances(z, centers)))


def assign(log_q: Array, potential: Array, *, epsilon: Array | float) -> Array:
    """Return the transport plan's rows [n, k], which sum to 1, of any cells, seen or not.

    Parameters
    ----------
    log_q
        [n, k] from :func:`log_assignment`.
    potential
        [k] dual potential of the clusters, of a :class:`Plan`.
    epsilon
        Entropic regularisation of the plan.
    """
    return jax.nn.softmax((log_q + potential) / epsilon)


def empty_plan(n_cells: int, n_clusters: int, dtype: DTypeLike = float) -> Plan:
    """Return the plan before there is one: no target, potential 0, not converged."""
    return Plan(
        target=jnp.zeros((n_cells, n_clusters), dtype),
        potential=jnp.zeros(n_clusters, dtype),
        error=jnp.asarray(jnp.inf, dtype),
        iterations=jnp.asarray(0, jnp.int32),
        converged=jnp.asarray(False),  # noqa: FBT003
    )


def sinkhorn_target(
    log_q: Array,
    proportions: Array,
    mask: Array,
    potential: Array,
    *,
    epsilon: Array | float,
    threshold: Array | float = 1e-5,
    max_iterations: int = 5000,
    tau: float = 1.0,
) -> Plan:
    """Transport cells to clusters of given proportions at cost ``-log q``.

    No gradient flows through the plan. An own transport has this signature; unbalanced transport
    is ``functools.partial(sinkhorn_target, tau=0.9)``.

    Parameters
    ----------
    log_q
        [n, k] from :func:`log_assignment`.
    proportions
        [k] wanted share of each cluster, sums to 1.
    mask
        [n] 1 for cells, 0 for padding.
    potential
        [k] where to start: 0, or the last plan's.
    epsilon
        Entropic regularisation, positive.
    threshold
        Error of the marginals at which Sinkhorn has converged.
    max_iterations
        Iterations at most.
    tau
        In (0, 1]: below 1, clusters may depart from their proportions, the more the smaller it is.
        Every cell is assigned whatever it is.

    Returns
    -------
    The plan, its rows exactly normalised; ``error`` is measured on the columns after that.

    References
    ----------
    Cuturi, NeurIPS 2013; Chizat et al., Mathematics of Computation 2018 for unbalanced transport;
    as implemented in ott-jax.
    """
    # here, for ott imports pyplot; outside of the trace, for it may make arrays
    with jax.ensure_compile_time_eval():
        from ott.geometry.geometry import Geometry
        from ott.problems.linear.linear_problem import LinearProblem
        from ott.solvers.linear.acceleration import Momentum
        from ott.solvers.linear.sinkhorn import Sinkhorn

    log_q, proportions = jax.lax.stop_gradient((log_q, proportions))
    n = jnp.sum(mask)
    geometry = Geometry(cost_matrix=-log_q, epsilon=epsilon)
    problem = LinearProblem(geometry, a=mask / n, b=proportions, tau_b=tau)
    solver = Sinkhorn(
        threshold=threshold,
        max_iterations=max_iterations,
        # from iteration 50 over-relaxed by the observed rate: 2570 iterations became 320 on data
        # with very unequal proportions; the 10 is how often ott looks at the error
        momentum=Momentum(value=1.0, start=50, inner_iterations=10),
    )
    # ott updates the clusters' potential first, so a warm start has to come as the cells' one
    rows = jax.nn.logsumexp((log_q + potential) / epsilon, axis=1)
    start = epsilon * (jnp.log(mask / n) - rows)
    # ott makes numbers of the default type, which may be wider than these
    with jax.enable_x64(new_val=log_q.dtype == jnp.float64):
        out = solver(problem, init=(start, potential))
    # rows are normalised, so a constant does not matter: centred, it cannot drift over warm starts
    potential = out.g - jnp.mean(out.g)
    target = assign(log_q, potential, epsilon=epsilon) * mask[:, None]
    error = jnp.sum(jnp.abs(jnp.sum(target, axis=0) / n - proportions))
    return Plan(
        target=target,
        potential=potential,
        error=error,
        iterations=out.n_iters.astype(jnp.int32),
        # rounding can hold ott's own measure, of rows and columns in turn, above the threshold
        converged=(jnp.asarray(out.converged) | (error <= threshold)) & jnp.isfinite(error),
    )


def fill_empty_clusters(log_q: Array, potential: Array, proportions: Array, mask: Array) -> Array:
    """Raise the potential of clusters that are no cell's most likely one, until they have cells.

    Entropy spreads the mass of a very small cluster over so many cells that it is nowhere the
    largest. It then gets the cells that lack least, as many as its proportion says.

    Parameters
    ----------
    log_q
        [n, k] from :func:`log_assignment`.
    potential
        [k] from :func:`sinkhorn_target`.
    proportions
        [k] wanted share of each cluster, sums to 1.
    mask
        [n] 1 for cells, 0 for padding.

    Returns
    -------
    [k] potential, the same where every cluster has cells. Of clusters whose centres are the same,
    or so near that no potential parts them, one can stay empty.
    """
    k = len(potential)
    n = jnp.sum(mask).astype(jnp.int32)
    wanted = jnp.clip(jnp.round(proportions * n).astype(jnp.int32), 1, jnp.maximum(n - 1, 1))

    def sizes(potential: Array) -> tuple[Array, Array, Array]:
        scores = log_q + potential
        labels = jnp.argmax(scores, axis=1)
        return scores, labels, jax.ops.segment_sum(mask, labels, num_segments=k)

    def any_left(carry: tuple[Array, Array]) -> Array:
        tried, potential = carry
        return jnp.any((sizes(potential)[2] == 0) & ~tried)

    def fill(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        tried, potential = carry
        scores, labels, held = sizes(potential)
        j = jnp.argmax(jnp.where((held == 0) & ~tried, proportions, -1.0))
        lack = jnp.max(scores, axis=1) - scores[:, j]
        # no cluster gives its last cells, or two that lie together would take them in turn
        lack = jnp.sort(jnp.where((mask > 0) & (held[labels] > wanted[j]), lack, jnp.inf))
        last, following = lack[wanted[j] - 1], lack[wanted[j]]
        raised = jnp.where(jnp.isfinite(following), (last + following) / 2, last + 1e-3)
        # where cells lack the same it gets fewer: none, if it is all of them
        before = jnp.max(jnp.where(lack < last, lack, -jnp.inf))
        fewer = jnp.where(jnp.isfinite(before), (before + last) / 2, 0.0)
        # once each: two with the same centre cannot both have cells
        raised = jnp.where(following > last, raised, fewer)
        raised = jnp.where(jnp.isfinite(last), raised, 0.0)
        return tried.at[j].set(True), potential.at[j].add(raised)

    return jax.lax.while_loop(any_left, fill, (jnp.zeros(k, bool), potential))[1]

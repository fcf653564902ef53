"""The records that flow through the method, in the order in which they appear."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from scsiameseclu_jax.functional.graph import CellGraph
from scsiameseclu_jax.functional.propagation import ViewGraph

Params = dict[str, Any]
"""Nested dict of arrays."""


class Constraints(NamedTuple):
    """Pairs of cells known to be of one cluster, or of two."""

    cells: Array
    """[m, 2] rows of the two cells."""
    linked: Array
    """[m] whether they are of one cluster."""
    weights: Array
    """[m] 1 for pairs, 0 for padding."""


class CellData(NamedTuple):
    """What training sees of the cells, from :func:`cell_data`; further rows and genes pad."""

    features: Array
    """[n, p] encoder input, unit variance overall; padding rows are 0."""
    counts: Array
    """[n, g] raw counts of the selected genes, non-negative integers of any dtype."""
    size_factors: Array
    """[n] total counts over their median; padding rows are 1."""
    graph: CellGraph
    """Links of the cells and self loops with raw weights, from expression alone."""
    mask: Array
    """[n] 1 for cells, 0 for padding, in the dtype of the features."""
    n_genes: Array
    """[] how many columns of ``counts`` are genes."""
    constraints: Constraints | None = None
    """What is known of pairs of the cells, if anything is."""

    @property
    def n_cells(self) -> Array:
        """[] how many rows are cells."""
        return jnp.sum(self.mask > 0)


class NewCells(NamedTuple):
    """Cells that training has not seen, linked one way to those that it has."""

    features: Array
    """[m, p] features, as those of the cells of the fit."""
    neighbors: Array
    """[m, k] rows of their nearest cells of the fit."""
    weights: Array
    """[m, k] weights of these links, 0 for none."""


class Views(NamedTuple):
    """Two augmentations of the same cells: features, and how each view propagates."""

    features_1: Array
    """[n, p] features, with noise if there is any."""
    features_2: Array
    """[n, p] the same features with other noise; the same array if there is none."""
    graph_1: ViewGraph
    """View 1: one step over the graph without its least similar links."""
    graph_2: ViewGraph
    """View 2: diffusion over the whole graph."""


class Embeddings(NamedTuple):
    """Latents of both encoders in both views, and their fusion. None where a stage has none."""

    fused: Array
    """[n, d] what is decoded, and clustered; rows have length sqrt(d)."""
    features_1: Array | None = None
    """[n, d] feature encoder, view 1."""
    features_2: Array | None = None
    """[n, d] feature encoder, view 2."""
    graph_1: Array | None = None
    """[n, d] graph encoder, view 1."""
    graph_2: Array | None = None
    """[n, d] graph encoder, view 2."""
    layers: tuple[tuple[Array, Array], ...] = ()
    """Each layer of the graph encoder in view 1, then in view 2 [n, width], with the same layer
    propagated once more."""


class Plan(NamedTuple):
    """A transport target and how well Sinkhorn converged."""

    target: Array
    """[n, k] rows sum to 1, columns to ``proportions * n_cells`` up to ``error``."""
    potential: Array
    """[k] dual potential of the clusters; with it any cell can be assigned."""
    error: Array
    """[] L1 error of the column marginal, as a share of all cells."""
    iterations: Array
    """[] Sinkhorn iterations used."""
    converged: Array
    """[] whether the threshold was reached."""


class TrainState(NamedTuple):
    """All that a step changes, and the traced settings it depends on."""

    params: Params
    """Network parameters; ``params["centers"]`` [k, d] are the cluster centres, and there is a
    ``params["projection"]`` once the stage ``"contrast"`` has begun."""
    opt_state: Any
    """State of the optimiser."""
    key: Array
    """Typed key; a step draws from ``fold_in(key, step)``."""
    step: Array
    """[] steps taken in all stages."""
    weights: dict[str, Array]
    """Loss weights by name, traced."""
    values: dict[str, Array]
    """Other settings that are traced; see :func:`settings.values_of`."""
    edge_mask: Array
    """[e] 1 for edges that view 1 keeps, 0 for those removed."""
    proportions: Array
    """[k] share of the cells in each cluster, sums to 1."""
    plan: Plan
    """The current transport target."""


class StepInfo(NamedTuple):
    """What happened in one step, as scalars; a fit stacks them into a history."""

    loss: Array
    """The weighted sum of all terms."""
    terms: dict[str, Array]
    """Each term before its weight; terms that are off are absent."""
    gradient_norm: Array
    """Global norm of the gradient before clipping."""
    sinkhorn_error: Array
    """See :class:`Plan`."""
    sinkhorn_iterations: Array
    """See :class:`Plan`."""
    changed: Array
    """Share of cells whose target's largest entry moved in this step."""
    size_entropy: Array
    """Entropy of the soft cluster sizes over ``log k``: 1 is balanced, 0 one cluster."""
    mean_cosine: Array
    """Mean cosine between different cells: near 1, the embedding has collapsed."""
    silhouette: Array
    """Mean simplified silhouette of the cells, 0 to 1."""


class Assignment(NamedTuple):
    """Clusters of cells."""

    labels: Array
    """[n] the most likely cluster, 0 to k - 1."""
    proba: Array
    """[n, k] soft assignment, rows sum to 1."""

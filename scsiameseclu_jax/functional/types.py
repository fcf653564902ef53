"""The records that flow through the method, in the order in which they appear."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import jraph
from jax import Array


class CellGraph(NamedTuple):
    """A symmetric, weighted graph of cells: the operator that propagates over it.

    ``graph.edges`` [e] holds the weight of every directed edge, both directions and self loops,
    sorted by receiver; edges that only pad the arrays have weight 0. The table says the same as
    a gather: ``w`` edges of a cell to a row, and further rows for hubs.
    """

    graph: jraph.GraphsTuple
    """jraph's graph; ``nodes`` is None, ``edges`` [e] weights, the last graph is padding."""
    neighbors: Array
    """[n + s, w] the cell at the other end of each edge; the last s rows continue those of hubs."""
    slots: Array
    """[n + s, w] which edge that is; unused slots point to the last, padding, edge."""
    owners: Array
    """[s] which cell each of the last s rows belongs to, ascending."""

    @property
    def n_rows(self) -> int:
        """Rows of the arrays that the graph is used with, padding included."""
        return self.neighbors.shape[0] - self.owners.shape[0]


class Pairs(NamedTuple):
    """Pairs of cells known to be of one cluster, or of two."""

    cells: Array
    """[m, 2] rows of the two cells."""
    linked: Array
    """[m] whether they are of one cluster."""
    weights: Array
    """[m] 1 for pairs, 0 for padding."""


class CellData(NamedTuple):
    """What training sees of the cells. Rows past ``n_cells`` and genes past ``n_genes`` pad."""

    features: Array
    """[n, p] encoder input, unit variance overall; padding rows are 0."""
    counts: Array
    """[n, g] raw counts of the selected genes, non-negative integers of any dtype."""
    size_factors: Array
    """[n] total counts over their median; padding rows are 1."""
    graph: CellGraph
    """Normalised graph with self loops, from expression alone."""
    n_cells: Array
    """[] how many rows are cells."""
    n_genes: Array
    """[] how many columns of ``counts`` are genes."""
    pairs: Pairs | None = None
    """What is known of pairs of the cells, if anything is."""

    @property
    def mask(self) -> Array:
        """[n] 1 for cells, 0 for padding, in the dtype of the features."""
        rows = jnp.arange(self.features.shape[0])
        return (rows < self.n_cells).astype(self.features.dtype)


class NewCells(NamedTuple):
    """Cells that training has not seen, linked one way to those that it has."""

    features: Array
    """[m, p] features, as those of the cells of the fit."""
    neighbors: Array
    """[m, k] rows of their nearest cells of the fit."""
    weights: Array | float = 1.0
    """[m, k] 1 for a link, 0 for none."""


class Views(NamedTuple):
    """Two augmentations of the same cells: noisy features, and the graph each view uses."""

    features_1: Array
    """[n, p] features with noise."""
    features_2: Array
    """[n, p] the same features with other noise."""
    graph_1: CellGraph
    """View 1 propagates over this: the graph without its least similar links."""
    graph_2: CellGraph
    """View 2 diffuses over this: the whole graph."""


class Embeddings(NamedTuple):
    """Latents of both encoders in both views, and their fusion."""

    features_1: Array
    """[n, d] feature encoder, view 1."""
    features_2: Array
    """[n, d] feature encoder, view 2."""
    graph_1: Array
    """[n, d] graph encoder, view 1."""
    graph_2: Array
    """[n, d] graph encoder, view 2."""
    fused: Array
    """[n, d] the embedding that is clustered; rows have length sqrt(d)."""
    layers: tuple[tuple[Array, Array | None], ...]
    """Each layer of the graph encoder in view 1, then in view 2 [n, width], with the same layer
    propagated once more (None where nothing asks for it)."""


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

    params: dict[str, Any]
    """Network parameters; ``params["centers"]`` [k, d] are the cluster centres."""
    optimizer: Any
    """State of the optimiser."""
    key: Array
    """Typed key; a step draws from ``fold_in(key, step)``."""
    step: Array
    """[] steps taken in all stages."""
    weights: dict[str, Array]
    """Loss weights by name, traced."""
    kept: Array
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
    """Share of cells whose target's largest entry moved since the last refresh."""
    size_entropy: Array
    """Entropy of the soft cluster sizes over ``log k``: 1 is balanced, 0 one cluster."""
    mean_cosine: Array
    """Mean cosine between different cells: near 1, the embedding has collapsed."""
    silhouette: Array
    """Mean simplified silhouette of the cells, 0 to 1."""


class Prediction(NamedTuple):
    """Clusters of cells."""

    labels: Array
    """[n] the most likely cluster, 0 to k - 1."""
    proba: Array
    """[n, k] soft assignment, rows sum to 1."""
    embedding: Array
    """[n, d] fused embedding, rows of length sqrt(d)."""

"""New cells, encoded by the code that encodes those of the fit: over links that go one way."""

from __future__ import annotations

import jax.numpy as jnp

from scsiameseclu_jax.functional import graph
from scsiameseclu_jax.functional.types import CellData, NewCells, TrainState


def append_cells(state: TrainState, data: CellData, new: NewCells) -> tuple[TrainState, CellData]:
    """Append new cells behind those of the fit, and say that view 1 keeps all of their links.

    Parameters
    ----------
    state
        Trained state.
    data
        The n cells of the fit; ``counts`` are ignored.
    new
        The m new cells, which see their neighbours and are not seen.
    """
    m = len(new.features)
    features = jnp.concatenate([data.features, new.features.astype(data.features.dtype)])
    links = graph.link_new_cells(data.graph, new.neighbors, new.weights)
    n_edges = links.weights.shape[0] - data.graph.weights.shape[0]
    kept = jnp.ones(n_edges, state.edge_mask.dtype)
    return state._replace(edge_mask=jnp.concatenate([state.edge_mask, kept])), CellData(
        features=features,
        counts=jnp.zeros((len(features), 0), data.counts.dtype),
        size_factors=jnp.concatenate([data.size_factors, jnp.ones(m, data.size_factors.dtype)]),
        graph=links,
        mask=jnp.concatenate([data.mask, jnp.ones(m, data.mask.dtype)]),
        n_genes=data.n_genes,
    )

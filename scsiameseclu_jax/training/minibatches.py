"""Mini-batches of graph parts, for more cells than a step can see at once.

A step sees the induced graph of a few random parts. What clusters are made of stays global: targets
come from a transport of all cells, and so do the removed edges' similarities and the result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

import scsiameseclu_jax.functional as F
from scsiameseclu_jax.config import Config
from scsiameseclu_jax.preprocessing.prepare import Prepared
from scsiameseclu_jax.training.device import device_data, links

_PARTS = 8  # in a mini-batch: several, so that it holds cells of many kinds
_SMOOTHING = 3  # propagations before cells are parted, which keeps neighbours together


def graph_parts(features: np.ndarray, graph: sp.csr_matrix, n_parts: int) -> list[np.ndarray]:
    """Part cells into groups of like size that keep most neighbours together.

    Smoothed features are halved along their leading principal axis, again and again.

    Parameters
    ----------
    features
        [n, p] features.
    graph
        [n, n] normalised graph.
    n_parts
        Number of parts, 1 to n.

    Returns
    -------
    The cells of each part, ascending.
    """
    x = features
    for _ in range(_SMOOTHING):
        x = graph @ x
    parts = []
    rest = [(np.arange(len(x)), n_parts)]
    while rest:
        cells, count = rest.pop()
        if count == 1:
            parts.append(np.sort(cells))
            continue
        own = x[cells] - x[cells].mean(axis=0)
        axis = np.linalg.eigh(own.T @ own)[1][:, -1]
        ordered = cells[np.argsort(own @ axis, kind="stable")]
        cut = len(cells) * (count // 2) // count
        rest += [(ordered[:cut], count // 2), (ordered[cut:], count - count // 2)]
    return parts


class MiniBatches:
    """Steps that see one mini-batch each.

    Parameters
    ----------
    prepared
        The cells.
    n_clusters
        Number of clusters.
    config
        All settings; ``scale.batch_cells`` is the size of a mini-batch.
    seed
        Of the draws of parts.

    Raises
    ------
    ValueError
        If the config asks for weights of each cell, which mini-batches cannot train.

    References
    ----------
    Chiang et al., Cluster-GCN, KDD 2019.
    """

    def __init__(self, prepared: Prepared, n_clusters: int, *, config: Config, seed: int) -> None:
        if config.fusion.gate == "per_cell":
            msg = (
                "Expected `config.fusion.gate` to be 'computed' or 'fixed' for mini-batches, found "
                "'per_cell'; change it, or raise `config.scale.full_cells`."
            )
            raise ValueError(msg)
        n = len(prepared.order)
        self._prepared, self._n_clusters, self._config = prepared, n_clusters, config
        # in a step, targets stay as they are: they are refreshed for all cells at once
        held = dataclasses.replace(config.transport, refresh_every=0)
        steps = dataclasses.replace(config.training, patience=0)
        self._step_config = dataclasses.replace(config, transport=held, training=steps)
        self.data = device_data(prepared._replace(counts=prepared.counts[:, :0], constraints=None))
        n_batches = -(-n // config.scale.batch_cells)
        self._parts = graph_parts(
            prepared.features, links(self.data.graph, n), min(_PARTS * n_batches, n)
        )
        ends = prepared.receivers, prepared.senders
        self._links = sp.csr_matrix((prepared.weights, ends), shape=(n, n))
        self._n_rows = F.bucket(_PARTS * max(map(len, self._parts)))
        self._kept = self._links  # until there is more to know
        shapes = self.data.graph.graph.edges.shape[0], len(self.data.graph.owners)
        # what the whole graph has for as many cells: no induced graph is expected to have more
        self._sizes = tuple(
            -(-size * self._n_rows // self.data.features.shape[0]) for size in shapes
        )
        self._cells = self._draw(np.random.default_rng(seed))
        self.cells_per_step = (
            f"{n // n_batches} on average, in {_PARTS} of {len(self._parts)} parts"
        )

    def _draw(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Yield the cells of one mini-batch after the other; each part comes once in a round."""
        while True:
            order = rng.permutation(len(self._parts))
            for start in range(0, len(order), _PARTS):
                yield np.sort(
                    np.concatenate([self._parts[i] for i in order[start : start + _PARTS]])
                )

    def batch(self, cells: np.ndarray) -> F.CellData:
        """Return the cells [b] and the graph among them, padded like every other mini-batch."""
        own = self._prepared
        among = self._links[cells][:, cells].tocoo()
        part = own._replace(
            features=own.features[cells],
            counts=own.counts[cells],
            size_factors=own.size_factors[cells],
            senders=among.col,
            receivers=among.row,
            weights=among.data,
            constraints=None,  # few would have both cells in one mini-batch
        )
        return device_data(part, n_rows=self._n_rows, sizes=self._sizes)

    def init(self, key: jax.Array) -> F.TrainState:
        """Initialise a state of all cells; see :func:`scsiameseclu_jax.functional.init`."""
        few = self.batch(self._parts[0])
        state = F.init(key, few, n_clusters=self._n_clusters, config=self._config)
        return state._replace(
            kept=jnp.ones_like(self.data.graph.graph.edges),
            plan=F.empty_plan(self.data.features.shape[0], self._n_clusters),
        )

    def ready(self, state: F.TrainState, stage: F.Stage, sizes: set[int]) -> None:
        """Look up which links view 1 keeps; the first step of a stage compiles it."""
        del sizes
        if stage == "train":
            edges = self.data.graph.graph._replace(edges=1 + state.kept)
            self._kept = links(self.data.graph._replace(graph=edges), len(self._prepared.order))

    def run(
        self, state: F.TrainState, stage: F.Stage, n_steps: int
    ) -> tuple[F.TrainState, F.StepInfo]:
        """Take steps, each on the next mini-batch, and refresh targets when due.

        Parameters
        ----------
        state
            State of all cells.
        stage
            Which step.
        n_steps
            Number of steps.

        Returns
        -------
        The last state, and the history: a :class:`StepInfo` of arrays [n_steps].
        """
        infos = []
        for _ in range(n_steps):
            state, info = self._step(state, stage)
            infos.append(info)
        return state, jax.tree.map(lambda *values: jnp.concatenate(values), *infos)

    def _step(self, state: F.TrainState, stage: F.Stage) -> tuple[F.TrainState, F.StepInfo]:
        config, cells = self._config, next(self._cells)
        data = self.batch(cells)
        rows = np.pad(cells, (0, self._n_rows - len(cells)))
        kept = np.ones(data.graph.graph.edges.shape, np.float32)
        if stage == "train":
            among = self._kept[cells][:, cells]
            among.sort_indices()
            kept[: among.nnz] = among.data - 1  # the same edges in the same order
        target = state.plan.target[rows] * data.mask[:, None]
        # copies, for a fit donates its state
        plan = jax.tree.map(jnp.copy, state.plan._replace(target=target))
        inner = state._replace(kept=jnp.asarray(kept), plan=plan)
        inner, info = F.fit(inner, data, config=self._step_config, n_steps=1, stage=stage)
        state = inner._replace(kept=state.kept, plan=state.plan)
        every = config.transport.refresh_every
        if stage != "train" or not every or int(state.step) % every:
            return state, info
        before = state.plan.target
        state = F.refresh(state, self.data, config=config)
        moved = jnp.argmax(before, axis=1) != jnp.argmax(state.plan.target, axis=1)
        changed = jnp.sum(moved * self.data.mask) / jnp.sum(self.data.mask)
        error, iterations = state.plan.error[None], state.plan.iterations[None]
        return state, info._replace(
            changed=changed[None], sinkhorn_error=error, sinkhorn_iterations=iterations
        )

"""Mini-batches of graph parts, for more cells than a step can see at once.

A step sees the induced graph of a few random parts. What clusters are made of stays global: targets
come from a transport of all cells, and so do the removed edges' similarities and the result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import chain

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from jax.sharding import Mesh

import scsiameseclu_jax.functional as F
from scsiameseclu_jax.preprocessing.blocks import Selected
from scsiameseclu_jax.preprocessing.prepare import Prepared
from scsiameseclu_jax.training.device import device_data, links
from scsiameseclu_jax.training.mesh import rows_over

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
    method
        The method; ``config.scale.batch_cells`` is the size of a mini-batch.
    seed
        Of the draws of parts.
    mesh
        Devices that the cells, and those of each step, are split over.

    Raises
    ------
    ValueError
        If the config asks for weights of each cell, which mini-batches cannot train.

    References
    ----------
    Chiang et al., Cluster-GCN, KDD 2019.
    """

    def __init__(
        self, prepared: Prepared, method: F.Method, *, seed: int, mesh: Mesh | None = None
    ) -> None:
        config = method.config
        if config.fusion.gate == "per_cell":
            msg = (
                "Expected `config.fusion.gate` to be 'computed' or 'fixed' for mini-batches, found "
                "'per_cell'; change it, or raise `config.scale.full_cells`."
            )
            raise ValueError(msg)
        n = len(prepared.order)
        self._prepared, self._method, self._mesh = prepared, method, mesh
        # in a step, targets stay as they are: they are refreshed for all cells at once
        held = method.structure._replace(refresh=False)
        self._step_method = dataclasses.replace(method, structure=held)
        bare = prepared.without_counts()._replace(constraints=None)
        self.data = device_data(bare, mesh=mesh)
        n_batches = -(-n // config.scale.batch_cells)
        self._parts = graph_parts(
            prepared.features, links(F.normalize(self.data.graph), n), min(_PARTS * n_batches, n)
        )
        ends = prepared.receivers, prepared.senders
        self._links = sp.csr_matrix((prepared.weights, ends), shape=(n, n))
        self._n_rows = rows_over(mesh, F.bucket(_PARTS * max(map(len, self._parts))))
        self._kept = self._links  # until there is more to know
        shapes = self.data.graph.weights.shape[0], len(self.data.graph.owners)
        # what the whole graph has for as many cells: no induced graph is expected to have more
        self._sizes = tuple(
            -(-size * self._n_rows // self.data.features.shape[0]) for size in shapes
        )
        self._following: np.ndarray | None = None
        self._cells = self._one_ahead(self._draw(np.random.default_rng(seed)))
        self.drawn = 0
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

    def _one_ahead(self, draws: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield what is drawn, when the cells of the step after it are known."""
        self._following = next(draws)
        while True:
            cells, self._following = self._following, next(draws)
            yield cells

    def batch(self, cells: np.ndarray) -> F.CellData:
        """Return the cells [b] and the graph among them, padded like every other mini-batch."""
        own = self._prepared
        counts = own.counts[cells]
        if isinstance(own.counts, Selected) and self._following is not None:
            own.counts.fetch(self._following)  # while the device computes
        among = self._links[cells][:, cells].tocoo()
        part = own._replace(
            features=own.features[cells],
            counts=counts,
            size_factors=own.size_factors[cells],
            senders=among.col,
            receivers=among.row,
            weights=among.data,
            constraints=None,  # few would have both cells in one mini-batch
        )
        return device_data(part, n_rows=self._n_rows, sizes=self._sizes, mesh=self._mesh)

    def init(self, key: jax.Array) -> F.TrainState:
        """Initialise a state of all cells; see :meth:`scsiameseclu_jax.functional.Method.init`."""
        state = self._step_method.init(key, self.batch(self._parts[0]))
        n, k = self.data.features.shape[0], self._method.n_clusters
        return state._replace(
            edge_mask=jnp.ones_like(self.data.graph.weights),
            plan=F.empty_plan(n, k, self.data.features.dtype),
        )

    def begin(self, state: F.TrainState, stage: F.Stage) -> None:
        """Look up which links view 1 keeps."""
        if stage == "train":
            edges = self.data.graph.with_weights(1 + state.edge_mask)
            self._kept = links(edges, len(self._prepared.order))

    def skip(self, n_batches: int) -> None:
        """Leave out so many mini-batches: those that were drawn before a checkpoint."""
        for _ in range(n_batches):
            next(self._cells)
        self.drawn += n_batches

    def look(self, state: F.TrainState, stage: F.Stage) -> tuple[F.TrainState, F.StepInfo]:
        """Take a step, as :meth:`run` does, on the next mini-batch, and put that back."""
        cells, drawn = next(self._cells), self.drawn
        self._cells = chain([cells], self._cells)
        found = self.run(state, stage, 1)
        if self.drawn > drawn:
            self._cells, self.drawn = chain([cells], self._cells), drawn
        return found

    def run(
        self, state: F.TrainState, stage: F.Stage, n_steps: int
    ) -> tuple[F.TrainState, F.StepInfo]:
        """Take steps, each on the next mini-batch, and refresh targets when due.

        It ends with a step that is not finite, which leaves the state as it was.

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
        The last state, and the history: a :class:`StepInfo` of arrays [n_steps], or fewer.
        """
        if stage == "contrast":  # takes its own batches, from what of all cells is on the device
            return self._method.fit(state, self.data, n_steps=n_steps, stage=stage)
        infos = []
        for _ in range(n_steps):
            before = state
            state, info = self._step(state, stage)
            infos.append(jax.device_get(info))
            if state is before:
                break
        return state, jax.tree.map(lambda *values: np.stack(values), *infos)

    def _step(self, state: F.TrainState, stage: F.Stage) -> tuple[F.TrainState, F.StepInfo]:
        cells = next(self._cells)
        self.drawn += 1
        data = self.batch(cells)
        rows = np.pad(cells, (0, self._n_rows - len(cells)))
        kept = np.ones(data.graph.weights.shape, np.float32)
        if stage == "train":
            among = self._kept[cells][:, cells]
            among.sort_indices()
            kept[: among.nnz] = among.data - 1  # the same edges in the same order
        refreshed = self._refreshed(state, stage)
        target = state.plan.target[rows] * data.mask[:, None]
        part = state._replace(edge_mask=jnp.asarray(kept), plan=state.plan._replace(target=target))
        after, info = self._step_method.step(part, data, stage=stage)
        if int(after.step) == int(state.step):  # it is not finite
            return state, info
        state_after = after._replace(edge_mask=state.edge_mask, plan=refreshed)
        if refreshed is state.plan:
            return state_after, info
        return state_after, info._replace(
            changed=F.share_changed(state.plan.target, refreshed.target, self.data.mask),
            sinkhorn_error=refreshed.error,
            sinkhorn_iterations=refreshed.iterations,
        )

    def _refreshed(self, state: F.TrainState, stage: F.Stage) -> F.Plan:
        """Return the target of the next step, as a step on all cells does."""
        due = (int(state.step) + 1) % int(state.values["refresh_every"]) == 0
        if stage != "train" or not self._method.structure.refresh or not due:
            return state.plan
        z = self._method.embed(state, self.data)
        return self._method.update_target(state, self.data, z).plan

"""SiameseClu: the model that users hold. State and calls, no mathematics."""

from __future__ import annotations

import ctypes
import logging
import platform
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

import scsiameseclu_jax.functional as F
from scsiameseclu_jax import pp
from scsiameseclu_jax.config import Config
from scsiameseclu_jax.partition import (
    Choice,
    Representation,
    centers_of,
    first_partition,
    representation,
)
from scsiameseclu_jax.progress import Progress

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

_CHUNK = 10  # steps between two looks at the losses, at most
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "ott-jax", "jraph", "numpy", "scanpy", "anndata")


class SiameseClu:
    """Cluster cells with siamese fusion of a feature and a graph autoencoder.

    Parameters
    ----------
    n_clusters
        Number of clusters, 2 to the number of cells less 1.
    config
        All other settings; the defaults serve every data set.

    Attributes
    ----------
    labels
        [n] cluster of each cell, 0 the largest.
    proba
        [n, k] soft assignment, rows sum to 1.
    confidence
        [n] the largest soft assignment, between 1 / k and 1; not calibrated.
    history
        One array for each loss term and monitor, a value for each step; NaN where a stage has
        no such term. ``stage`` names the stage of each step.
    manifest
        What was run: versions, device, seed, settings and data fingerprints, warnings.

    Examples
    --------
    >>> import scsiameseclu_jax as scs
    >>> adata = scs.datasets.simulate(n_cells=200, n_genes=100, n_clusters=3, rng=0)
    >>> training = scs.Config.from_dict(
    ...     {"training": {"feature_steps": 10, "graph_steps": 2, "joint_steps": 2, "steps": 4}}
    ... )
    >>> model = scs.SiameseClu(n_clusters=3, config=training).fit(adata, rng=0, progress=False)
    >>> model.proba.shape
    (200, 3)
    """

    def __init__(self, n_clusters: int, *, config: Config | None = None) -> None:
        self.n_clusters = n_clusters
        self.config = Config() if config is None else config
        self._results: dict[str, Any] = {}

    def __repr__(self) -> str:
        fitted = f"{len(self.labels)} cells" if self.is_fitted else "not fitted"
        return f"SiameseClu(n_clusters={self.n_clusters}, {fitted})"

    @property
    def is_fitted(self) -> bool:
        """Whether :meth:`fit` has run to its end."""
        return bool(self._results)

    def fit(
        self,
        adata: AnnData,
        *,
        layer: str | None = "counts",
        use_rep: str | None = None,
        neighbors_key: str | None = None,
        rng: int | np.random.Generator = 0,
        progress: bool | None = None,
    ) -> Self:
        """Cluster the cells. `adata` is read, never changed, and its ``obs`` is not looked at.

        Parameters
        ----------
        adata
            Cells x genes with raw counts.
        layer
            Where the counts are: ``"counts"`` is that layer if there is one, else ``X``;
            another name must exist; None is ``X``.
        use_rep
            Key in ``obsm`` of features to use instead of principal components.
        neighbors_key
            Key in ``uns`` of a neighbour graph to use instead of building one.
        rng
            Seed, or a generator that the seed is drawn from.
        progress
            Show a bar (True), nothing (False), or a bar on a terminal and log lines elsewhere
            (None).

        Raises
        ------
        TypeError, ValueError, KeyError
            For bad input, before training starts.
        FloatingPointError
            If a loss term is not finite; it is named.
        """
        seed = _seed(rng)
        started = time.perf_counter()
        prepared = pp.prepare(
            adata,
            self.n_clusters,
            layer=layer,
            use_rep=use_rep,
            neighbors_key=neighbors_key,
            config=self.config,
        )
        data = device_data(prepared)
        n = len(prepared.order)
        n_features = data.features.shape[1]
        logger.info("%d cells, %d genes, %d features", n, len(prepared.genes), n_features)
        state, history, findings = self._train(data, prepared, seed, progress, started)
        prediction = jax.tree.map(np.asarray, F.predict(state, data, config=self.config))

        back = np.empty(n, int)
        back[prepared.order] = np.arange(n)
        labels, rank = _by_size(prediction.labels[:n], self.n_clusters)
        found = len(np.unique(labels))
        if found < self.n_clusters:
            note = (
                f"{found} of {self.n_clusters} clusters have cells: the others are no cell's most "
                "likely one; a smaller `n_clusters` may fit these data better."
            )
            findings["warnings"].append(note)
            logger.warning(note)
        proba = prediction.proba[:n][:, rank][back].astype(np.float32)
        self._results = {
            "labels": labels[back],
            "proba": proba,
            "confidence": proba.max(axis=1),
            "embedding": prediction.embedding[:n][back].astype(np.float32),
            "history": history,
            "manifest": {
                "seed": seed,
                "config": self.config.fingerprint(),
                "data": prepared.fingerprint,
                "n_cells": n,
                "n_genes": len(prepared.genes),
                "device": str(jax.devices()[0].device_kind),
                "backend": jax.default_backend(),
                "python": platform.python_version(),
                "versions": {name: version(name) for name in ("scsiameseclu-jax", *_PACKAGES)},
                "seconds": round(time.perf_counter() - started, 3),
                **findings,
            },
        }
        return self

    def _train(
        self,
        data: F.CellData,
        prepared: pp.Prepared,
        seed: int,
        progress: bool | None,  # noqa: FBT001
        started: float,
    ) -> tuple[F.TrainState, dict[str, np.ndarray], dict[str, Any]]:
        config = self.config
        steps = config.training
        plan: list[tuple[F.Stage, int]] = [
            ("features", steps.feature_steps),
            ("graph", steps.graph_steps),
            ("joint", steps.joint_steps),
            ("train", steps.steps),
        ]
        state = F.init(jax.random.key(seed), data, n_clusters=self.n_clusters, config=config)
        rows: list[dict[str, np.ndarray]] = []
        notes: list[str] = []
        first: float | None = None
        with Progress(sum(count for _, count in plan), show=progress) as bar:
            for stage, count in plan:
                if stage == "train":
                    state, choice = self._start_clustering(state, data, prepared, seed)
                state = F.start_stage(state, stage, config=config)
                chunks = _chunks(count)
                _compile(state, data, stage, chunks, config)
                for size in chunks:
                    begun_at = time.perf_counter()
                    state, info = F.fit(state, data, config=config, n_steps=size, stage=stage)
                    rows.append(_record(info, stage))
                    if first is None:
                        first = begun_at + (time.perf_counter() - begun_at) / size
                    bar.update(size, stage, rows[-1])
        if not bool(state.plan.converged):
            notes.append(_not_converged(state.plan, config))
            logger.warning(notes[-1])
        landmarks = F.landmarks(data.mask, config=config)
        findings: dict[str, Any] = {
            "first_partition": choice.name,
            "pairs": "all" if landmarks is None else f"{len(landmarks)} landmarks",
            "warnings": notes,
        }
        if first is not None:
            findings["seconds_to_first_step"] = round(first - started, 3)
        return state, _stack(rows), findings

    def _start_clustering(
        self, state: F.TrainState, data: F.CellData, prepared: pp.Prepared, seed: int
    ) -> tuple[F.TrainState, Choice]:
        """Remove edges, and take centres and proportions from a first partition."""
        state = F.remove_edges(state, data, config=self.config)
        n, n_neighbors = len(prepared.order), self.config.preprocessing.n_neighbors
        z = np.asarray(F.predict(state, data, config=self.config).embedding)[:n]
        spaces = [Representation(prepared.features, _links(data.graph, n))]
        spaces += [representation(other, n_neighbors) for other in prepared.others]
        choice = first_partition(z, spaces, self.n_clusters, seed=seed)
        logger.info("first partition: %s, of %d candidates", choice.name, len(choice.scores))
        centers = jnp.asarray(centers_of(z, choice.clusters, self.n_clusters), jnp.float32)
        sizes = jnp.asarray(np.bincount(choice.clusters), jnp.float32)
        state = F.start_clustering(state, data, centers, sizes, config=self.config)
        return state, choice

    def get_latent_representation(self) -> np.ndarray:
        """Return the fused embedding [n, d] of the fitted cells; rows have length sqrt(d)."""
        return self._result("embedding")

    @property
    def labels(self) -> np.ndarray:
        """[n] cluster of each fitted cell, 0 the largest."""
        return self._result("labels")

    @property
    def proba(self) -> np.ndarray:
        """[n, k] soft assignment of the fitted cells."""
        return self._result("proba")

    @property
    def confidence(self) -> np.ndarray:
        """[n] largest soft assignment of each fitted cell; not calibrated."""
        return self._result("confidence")

    @property
    def history(self) -> dict[str, np.ndarray]:
        """Loss terms and monitors, one array each, a value for each step."""
        return self._result("history")

    @property
    def manifest(self) -> dict[str, Any]:
        """What was run, in plain types."""
        return self._result("manifest")

    def _result(self, name: str) -> Any:
        if not self.is_fitted:
            msg = f"Expected a fitted model to read `{name}` from; call `fit` first."
            raise RuntimeError(msg)
        return self._results[name]


def device_data(prepared: pp.Prepared) -> F.CellData:
    """Pad prepared cells to their shape bucket and put them on the default device."""
    n, n_genes = prepared.counts.shape
    rows, columns = F.bucket(n), F.bucket(n_genes)

    def padded(a: np.ndarray, value: float = 0, more: int = 0) -> np.ndarray:
        pads = [(0, rows - n), (0, more)][: a.ndim]
        return np.pad(a, pads, constant_values=value)

    graph = F.cell_graph(
        prepared.senders, prepared.receivers, prepared.weights, n_cells=n, n_nodes=rows
    )
    return F.CellData(
        features=jnp.asarray(padded(prepared.features)),
        counts=jnp.asarray(padded(prepared.counts, more=columns - n_genes)),
        size_factors=jnp.asarray(padded(prepared.size_factors, 1)),
        graph=graph,
        n_cells=jnp.asarray(n, jnp.int32),
        n_genes=jnp.asarray(n_genes, jnp.int32),
    )


def _links(graph: F.CellGraph, n: int) -> sp.csr_matrix:
    """Return the normalised graph of the n cells as a scipy matrix."""
    g = graph.graph
    real = slice(int(g.n_edge[0]))
    ends = np.asarray(g.receivers)[real], np.asarray(g.senders)[real]
    return sp.csr_matrix((np.asarray(g.edges, np.float64)[real], ends), shape=(n, n))


def _seed(rng: int | np.random.Generator) -> int:
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(2**31))
    if isinstance(rng, bool) or not isinstance(rng, int | np.integer) or not 0 <= rng < 2**32:
        msg = f"Expected `rng` to be a numpy Generator or an integer in [0, 2^32), found {rng!r}."
        raise ValueError(msg)
    return int(rng)


def _chunks(count: int) -> list[int]:
    """Split steps into equal chunks, so that one compilation serves them all."""
    size = next((s for s in range(min(_CHUNK, count), 0, -1) if count % s == 0), 1)
    return [size] * (count // size)


def _compile(
    state: F.TrainState, data: F.CellData, stage: F.Stage, chunks: list[int], config: Config
) -> None:
    """Compile a stage ahead, and give back what that leaves.

    Compilers free hundreds of MB in small pieces, which glibc would keep through the first run.
    """
    for size in sorted(set(chunks)):
        F.fit.lower(state, data, config=config, n_steps=size, stage=stage).compile()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # not glibc
        logger.debug("no malloc_trim on this platform")


def _record(info: F.StepInfo, stage: F.Stage) -> dict[str, np.ndarray]:
    """Turn a chunk of steps into named arrays, and stop at the first that is not finite."""
    made = {"loss": info.loss, **info.terms, "gradient_norm": info.gradient_norm}
    if stage == "train":
        made |= {
            "sinkhorn_error": info.sinkhorn_error,
            "sinkhorn_iterations": info.sinkhorn_iterations,
            "changed": info.changed,
            "size_entropy": info.size_entropy,
        }
    values = {name: np.asarray(value, np.float64) for name, value in made.items()}
    for name in (*info.terms, "gradient_norm"):
        if not np.isfinite(values[name]).all():
            step = int(np.argmin(np.isfinite(values[name])))
            msg = (
                f"Expected finite losses, found `{name}` = {values[name][step]} in stage "
                f"{stage!r}; lower `config.training` learning rates or leave the term out."
            )
            raise FloatingPointError(msg)
    values["stage"] = np.full(len(values["loss"]), stage)
    return values


def _stack(rows: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {
        name: np.concatenate([row.get(name, np.full(len(row["stage"]), np.nan)) for row in rows])
        for name in names
    }


def _not_converged(plan: F.Plan, config: Config) -> str:
    return (
        f"Sinkhorn did not converge in {int(plan.iterations)} iterations (error "
        f"{float(plan.error):.2g}, threshold {config.transport.threshold:.2g}); raise "
        "config.transport.max_iterations or lower config.transport.sharpness."
    )


def _by_size(clusters: np.ndarray, n_clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Rename clusters so that 0 is the largest; return them and the old names in new order."""
    sizes = np.bincount(clusters, minlength=n_clusters)
    rank = np.argsort(-sizes, kind="stable")
    new = np.empty(n_clusters, int)
    new[rank] = np.arange(n_clusters)
    return new[clusters], rank

"""What of a fit serves new cells: kept by a model, saved and loaded, used to predict."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from anndata import AnnData

import scsiameseclu_jax.functional as F
from scsiameseclu_jax.certainty.novelty import Novelty, fit_novelty, novelty
from scsiameseclu_jax.config import Config
from scsiameseclu_jax.preprocessing import new_cells
from scsiameseclu_jax.preprocessing.batches import Batches
from scsiameseclu_jax.preprocessing.neighbors import nearest_neighbors
from scsiameseclu_jax.preprocessing.normalization import Projection
from scsiameseclu_jax.preprocessing.prepare import Prepared, Preprocessor
from scsiameseclu_jax.training.device import in_float32

logger = logging.getLogger(__name__)

_CELLS = 32768  # new cells on the device at a time

Arrays = dict[str, np.ndarray]


class Predicted(NamedTuple):
    """Clusters of new cells, a row for each in the order they came in."""

    labels: np.ndarray
    """[m] cluster of each cell, named as in the fit."""
    proba: np.ndarray
    """[m, k] soft assignment, rows sum to 1, float32."""
    confidence: np.ndarray
    """[m] chance that another plausible fit agrees; see `SiameseClu.confidence`."""
    embedding: np.ndarray
    """[m, d] fused embedding, rows of length sqrt(d), float32."""
    novelty: np.ndarray
    """[m] share of the fit's cells that are less surprising, 0 to 1."""
    is_novel: np.ndarray
    """[m] whether a cell is unlike those of the fit: its label then says little."""
    missing_genes: list[str]
    """Selected genes that the new cells lack, left out."""


class Fitted(NamedTuple):
    """A trained state, the cells it was trained on and how to prepare others."""

    state: F.TrainState
    """Without what only training needs."""
    data: F.CellData
    """Cells of the fit, without counts."""
    links: tuple[np.ndarray, np.ndarray, np.ndarray]
    """[m] neighbour, cell and weight of each link of the graph."""
    frame: Preprocessor
    """How to prepare new cells."""
    rank: np.ndarray
    """[k] cluster of the state that has each name."""
    novelty: Novelty
    """What the cells of the fit are like."""


def keep(
    state: F.TrainState,
    data: F.CellData,
    prepared: Prepared,
    clusters: np.ndarray,
    rank: np.ndarray,
    config: Config,
) -> Fitted:
    """Keep of a fit what serves new cells.

    Parameters
    ----------
    state, data
        The trained state and its cells.
    prepared
        The same cells before they were put on the device.
    clusters
        [n] cluster of each.
    rank
        [k] cluster of the state that has each name.
    config
        Settings of the fit.
    """
    n, k = len(prepared.order), config.preprocessing.n_neighbors
    if prepared.search == "given" or prepared.batch is not None:
        neighbors = nearest_neighbors(prepared.features, k)[0].reshape(n, -1)
    else:
        neighbors = prepared.senders.reshape(n, -1)
    fixed = prepared.preprocessor.projection is None or prepared.batch is not None
    return Fitted(
        state=_slim(state),
        data=data._replace(counts=jnp.zeros((len(data.features), 0), data.counts.dtype)),
        links=(prepared.senders, prepared.receivers, prepared.weights),
        frame=prepared.preprocessor,
        rank=rank,
        novelty=fit_novelty(
            prepared.features,
            prepared.counts,
            prepared.size_factors,
            neighbors,
            clusters,
            projection=None if fixed else prepared.preprocessor.projection,
            scale=config.preprocessing.scale,
        ),
    )


@in_float32
def predict(
    fitted: Fitted,
    adata: AnnData,
    *,
    layer: str | None,
    alpha: float,
    config: Config,
) -> Predicted:
    """Cluster cells that a fit has not seen; see :meth:`scsiameseclu_jax.SiameseClu.predict`."""
    if not 0 < alpha < 1:
        msg = f"Expected `alpha` to be between 0 and 1, found {alpha}."
        raise ValueError(msg)
    n = int(fitted.data.n_cells)
    features = np.asarray(fitted.data.features)[:n]
    n_neighbors = config.preprocessing.n_neighbors
    new = new_cells.new_cells(
        adata,
        fitted.frame,
        features,
        fitted.novelty.profiles.mean(axis=0),
        n_neighbors,
        layer=layer,
    )
    parts = []
    for start in range(0, len(new.features), _CELLS):
        rows = slice(start, start + _CELLS)
        x = new.features[rows]
        more = [(0, F.bucket(len(x)) - len(x)), (0, 0)]
        arrays = x, new.neighbors[rows], new.weights[rows]
        cells = F.NewCells(*(jnp.asarray(np.pad(a, more)) for a in arrays))
        made = F.extend(fitted.state, fitted.data, cells, config=config)
        parts.append([np.asarray(a)[: len(x)] for a in (made.proba, made.embedding)])
    proba, embedding = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    proba = proba[:, fitted.rank].astype(np.float32)
    surprise = novelty(
        fitted.novelty,
        features,
        new.features,
        new.counts,
        new.size_factors,
        new.nearest,
        new.present,
    )
    return Predicted(
        labels=np.argmax(proba, axis=1),
        proba=proba,
        confidence=proba.max(axis=1),
        embedding=embedding.astype(np.float32),
        novelty=surprise.astype(np.float32),
        is_novel=surprise > 1 - alpha,
        missing_genes=new.missing,
    )


def by_size(clusters: np.ndarray, n_clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Rename clusters so that 0 is the largest; return them and the old names in new order."""
    sizes = np.bincount(clusters, minlength=n_clusters)
    rank = np.argsort(-sizes, kind="stable")
    new = np.empty(n_clusters, int)
    new[rank] = np.arange(n_clusters)
    return new[clusters], rank


def check_sizes(clusters: np.ndarray, n_clusters: int, notes: list[str]) -> None:
    """Warn, and add a note, if a cluster has no cells."""
    found = len(np.unique(clusters))
    if found < n_clusters:
        note = (
            f"{found} of {n_clusters} clusters have cells: the others are no cell's most likely "
            "one; a smaller `n_clusters` may fit these data better."
        )
        notes.append(note)
        logger.warning(note)


def to_arrays(fitted: Fitted) -> tuple[dict[str, Any], Arrays]:
    """Return plain settings and named arrays that :func:`from_arrays` makes it from again."""
    n, frame, state = int(fitted.data.n_cells), fitted.frame, fitted.state
    settings = {
        "genes": frame.genes,
        "use_rep": frame.use_rep,
        "median_total": frame.median_total,
        "scale": frame.scale,
    }
    if frame.batches is not None:
        settings |= {"batch_key": frame.batches.key, "batches": frame.batches.names}
    arrays: Arrays = {
        "features": np.asarray(fitted.data.features)[:n],
        "selected": frame.selected,
        "mean": frame.mean,
        "rank": fitted.rank,
        "kept": np.asarray(state.kept),
        "proportions": np.asarray(state.proportions),
        "potential": np.asarray(state.plan.potential),
    }
    arrays |= dict(zip(("senders", "receivers", "weights"), fitted.links, strict=True))
    arrays |= {f"novelty/{name}": a for name, a in fitted.novelty._asdict().items()}
    if frame.batches is not None:
        arrays |= {"batch_means": frame.batches.means, "batch_codes": frame.batches.codes}
    if frame.projection is not None:
        arrays |= {f"projection/{name}": a for name, a in frame.projection._asdict().items()}
    arrays |= {f"params/{name}": np.asarray(a) for name, a in _flat(state.params).items()}
    return settings, arrays


@in_float32
def from_arrays(settings: dict[str, Any], arrays: Arrays) -> Fitted:
    """Return what :func:`to_arrays` was given."""
    features, projection = arrays["features"], group(arrays, "projection/")
    n, rows = len(features), F.bucket(len(features))
    links = arrays["senders"], arrays["receivers"], arrays["weights"]
    data = F.CellData(
        features=jnp.asarray(np.pad(features, [(0, rows - n), (0, 0)])),
        counts=jnp.zeros((rows, 0), jnp.uint16),
        size_factors=jnp.ones(rows),
        graph=F.cell_graph(*links, n_cells=n, n_nodes=rows),
        n_cells=jnp.asarray(n, jnp.int32),
        n_genes=jnp.asarray(0, jnp.int32),
    )
    potential = jnp.asarray(arrays["potential"])
    state = F.TrainState(
        params={"fusion": {}, **_nested(group(arrays, "params/"))},  # may have no arrays
        optimizer=None,
        key=jax.random.key(0),
        step=jnp.asarray(0, jnp.int32),
        weights={},
        kept=jnp.asarray(arrays["kept"]),
        proportions=jnp.asarray(arrays["proportions"]),
        plan=F.empty_plan(0, len(potential))._replace(potential=potential),
    )
    batches = None
    if "batch_key" in settings:
        means, codes = arrays["batch_means"], arrays["batch_codes"]
        batches = Batches(settings["batch_key"], settings["batches"], means, codes)
    frame = Preprocessor(
        genes=settings["genes"],
        selected=arrays["selected"],
        median_total=settings["median_total"],
        projection=Projection(**projection) if projection else None,
        use_rep=settings["use_rep"],
        mean=arrays["mean"],
        scale=settings["scale"],
        batches=batches,
    )
    known = Novelty(**group(arrays, "novelty/"))
    return Fitted(state, data, links, frame, arrays["rank"], known)


def group(arrays: Arrays, above: str) -> Arrays:
    """Return the arrays whose names begin with `above`, under the rest of their names."""
    return {name.removeprefix(above): a for name, a in arrays.items() if name.startswith(above)}


def _slim(state: F.TrainState) -> F.TrainState:
    plan = F.empty_plan(0, len(state.proportions))._replace(potential=state.plan.potential)
    return state._replace(optimizer=None, weights={}, plan=plan)


def _flat(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in tree.items():
        made |= (
            _flat(value, f"{above}{name}/") if isinstance(value, dict) else {above + name: value}
        )
    return made


def _nested(flat: Arrays) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for path, value in flat.items():
        *above, name = path.split("/")
        inner = made
        for step in above:
            inner = inner.setdefault(step, {})
        inner[name] = jnp.asarray(value)
    return made

"""What a fit keeps of its cells: new ones are assigned by it. To and from named arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from anndata import AnnData
from flax.traverse_util import flatten_dict, unflatten_dict

import scsiameseclu_jax.functional as F
from scsiameseclu_jax.certainty.novelty import Novelty, fit_novelty, novelty
from scsiameseclu_jax.preprocessing.batches import Batches
from scsiameseclu_jax.preprocessing.neighbors import nearest_neighbors
from scsiameseclu_jax.preprocessing.new_cells import new_cells
from scsiameseclu_jax.preprocessing.normalization import Projection
from scsiameseclu_jax.preprocessing.prepare import Prepared, Preprocessor
from scsiameseclu_jax.training.device import bound_programs, in_float32

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
    """[m, d] embedding as of the cells of the fit, float32."""
    novelty: np.ndarray
    """[m] share of the fit's cells that are less surprising, 0 to 1."""
    is_novel: np.ndarray
    """[m] whether a cell is unlike those of the fit: its label then says little."""
    missing_genes: list[str]
    """Selected genes that the new cells lack, left out."""
    n_missing: int = 0
    """How many of all genes of the fit they lack; size factors are of the others."""


class Reference(NamedTuple):
    """A trained state, the cells it was trained on and how to prepare others."""

    state: F.TrainState
    """Without what only training needs."""
    data: F.CellData
    """Cells of the fit, without counts."""
    links: tuple[np.ndarray, np.ndarray, np.ndarray]
    """[m] neighbour, cell and weight of each link of the graph."""
    preprocessor: Preprocessor
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
    method: F.Method,
) -> Reference:
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
    method
        The method of the fit.
    """
    setting = method.config.preprocessing
    n, k = len(prepared.order), setting.n_neighbors
    if prepared.search == "given" or prepared.batch is not None:
        neighbors = nearest_neighbors(prepared.features, k)[0].reshape(n, -1)
    else:
        neighbors = prepared.senders.reshape(n, -1)
    fixed = prepared.preprocessor.projection is None or prepared.batch is not None
    return Reference(
        state=state._replace(
            opt_state=None,
            weights={},
            plan=F.empty_plan(0, method.n_clusters)._replace(potential=state.plan.potential),
        ),
        data=data._replace(counts=data.counts[:, :0], constraints=None),
        links=(prepared.senders, prepared.receivers, prepared.weights),
        preprocessor=prepared.preprocessor,
        rank=rank,
        novelty=fit_novelty(
            prepared.features,
            prepared.counts,
            prepared.size_factors,
            neighbors,
            clusters,
            projection=None if fixed else prepared.preprocessor.projection,
            scale=setting.scale,
        ),
    )


def with_clusters(reference: Reference, clusters: F.TrainState, rank: np.ndarray) -> Reference:
    """Return what was kept with the clusters of another state, and the names [k] of those.

    How novel a cell is, is judged by the cells of the fit as before.
    """
    state = reference.state._replace(
        params={**reference.state.params, "centers": clusters.params["centers"]},
        proportions=clusters.proportions,
        plan=reference.state.plan._replace(potential=clusters.plan.potential),
    )
    return reference._replace(state=state, rank=rank)


@in_float32
def predict(
    reference: Reference,
    adata: AnnData,
    *,
    layer: str | None,
    alpha: float,
    method: F.Method,
) -> Predicted:
    """Cluster cells that a fit has not seen; see :meth:`scsiameseclu_jax.SiameseClu.predict`."""
    if not 0 < alpha < 1:
        msg = f"Expected `alpha` to be between 0 and 1, found {alpha}."
        raise ValueError(msg)
    n = int(reference.data.n_cells)
    features = np.asarray(reference.data.features)[:n]
    new = new_cells(
        adata,
        reference.preprocessor,
        features,
        method.config.preprocessing.n_neighbors,
        layer=layer,
    )
    parts = []
    for start in range(0, len(new.features), _CELLS):
        rows = slice(start, start + _CELLS)
        x, links, weights = new.features[rows], new.neighbors[rows], new.weights[rows]
        more = [(0, F.bucket(len(x)) - len(x)), (0, 0)]
        cells = F.NewCells(
            jnp.asarray(np.pad(x, more)),
            jnp.asarray(np.pad(links, more).astype(np.int32)),
            jnp.asarray(np.pad(weights, more).astype(np.float32)),
        )
        bound_programs(method, reference.data, cells)
        z = method.embed_new(reference.state, reference.data, cells)
        proba = method.assign(reference.state, z).proba
        z = method.represent(reference.state, cells.features, z)
        parts.append([np.asarray(a)[: len(x)] for a in (proba, z)])
    proba, embedding = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    proba = proba[:, reference.rank].astype(np.float32)
    surprise = novelty(
        reference.novelty,
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
        n_missing=new.n_missing,
    )


def to_arrays(reference: Reference) -> tuple[dict[str, Any], Arrays]:
    """Return plain settings and named arrays that :func:`from_arrays` makes it from again."""
    preprocessor, state = reference.preprocessor, reference.state
    n = int(reference.data.n_cells)
    settings = {
        "genes": preprocessor.genes,
        "use_rep": preprocessor.use_rep,
        "median_total": preprocessor.median_total,
        "scale": preprocessor.scale,
    }
    arrays: Arrays = {
        "features": np.asarray(reference.data.features)[:n],
        "selected": preprocessor.selected,
        "mean": preprocessor.mean,
        "rank": reference.rank,
        "edge_mask": np.asarray(state.edge_mask),
        "proportions": np.asarray(state.proportions),
        "potential": np.asarray(state.plan.potential),
    }
    if preprocessor.batches is not None:
        batches = preprocessor.batches
        settings |= {"batch_key": batches.key, "batches": batches.names}
        arrays |= {"batch_means": batches.means, "batch_codes": batches.codes}
    if preprocessor.expected is not None:
        arrays["expected"] = preprocessor.expected
    arrays |= dict(zip(("senders", "receivers", "weights"), reference.links, strict=True))
    groups: dict[str, Any] = {
        "novelty": reference.novelty._asdict(),
        "values": state.values,
        "params": flatten_dict(state.params, sep="/"),
    }
    if preprocessor.projection is not None:
        groups["projection"] = preprocessor.projection._asdict()
    for above, group in groups.items():
        arrays |= {f"{above}/{name}": np.asarray(a) for name, a in group.items()}
    return settings, arrays


@in_float32
def from_arrays(settings: dict[str, Any], arrays: Arrays) -> Reference:
    """Return what :func:`to_arrays` was given."""
    features, projection = arrays["features"], group(arrays, "projection/")
    links = arrays["senders"], arrays["receivers"], arrays["weights"]
    params = jax.tree.map(jnp.asarray, unflatten_dict(group(arrays, "params/"), sep="/"))
    potential = jnp.asarray(arrays["potential"])
    state = F.TrainState(
        params={"fusion": {}, "graph_encoder": {}, **params},  # may have no arrays
        opt_state=None,
        key=jax.random.key(0),
        step=jnp.asarray(0, jnp.int32),
        weights={},
        values={name: jnp.asarray(value) for name, value in group(arrays, "values/").items()},
        edge_mask=jnp.asarray(arrays["edge_mask"]),
        proportions=jnp.asarray(arrays["proportions"]),
        plan=F.empty_plan(0, len(potential))._replace(potential=potential),
    )
    batches = None
    if "batch_key" in settings:
        batches = Batches(
            settings["batch_key"],
            settings["batches"],
            arrays["batch_means"],
            arrays["batch_codes"],
        )
    preprocessor = Preprocessor(
        genes=settings["genes"],
        selected=arrays["selected"],
        median_total=settings["median_total"],
        expected=arrays.get("expected"),
        projection=Projection(**projection) if projection else None,
        use_rep=settings["use_rep"],
        mean=arrays["mean"],
        scale=settings["scale"],
        batches=batches,
    )
    data = F.cell_data(features, None, links)
    known = Novelty(**group(arrays, "novelty/"))
    return Reference(state, data, links, preprocessor, arrays["rank"], known)


def group(arrays: Arrays, above: str) -> Arrays:
    """Return the arrays whose names begin with `above`, under the rest of their names."""
    return {name.removeprefix(above): a for name, a in arrays.items() if name.startswith(above)}

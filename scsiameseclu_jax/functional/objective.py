"""The losses: one list of terms, each a function of one context; and what to watch beside them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import Array

from scsiameseclu_jax.functional import encoders, losses
from scsiameseclu_jax.functional.attention import DENSE_ROWS, landmarks, map_rows
from scsiameseclu_jax.functional.graph import CellGraph
from scsiameseclu_jax.functional.propagation import propagate
from scsiameseclu_jax.functional.settings import Structure
from scsiameseclu_jax.functional.transport import squared_distances
from scsiameseclu_jax.functional.types import CellData, Embeddings, Params, Views
from scsiameseclu_jax.functional.zinb import zinb_nll

_COUNT_ROWS = 128  # cells x genes at a time: what fits in a cache
_SMALL = 1024  # cells of a batch, whatever the number of cells

Stage = Literal["contrast", "features", "graph", "joint", "train"]
"""Projection alone, feature autoencoder alone, graph autoencoder alone, both fused, and both with
clustering."""
STAGES: tuple[Stage, ...] = get_args(Stage)


class Context(NamedTuple):
    """What a loss term sees of a step."""

    params: Params
    """All parameters; what it returns is differentiated by them."""
    data: CellData
    """The cells; in the stage ``"features"`` a batch of them, whose graph is of no use. In
    ``"contrast"`` 2b rows: a batch of cells, then a neighbour of each, with dropped features."""
    graph: CellGraph
    """The whole graph, normalised; of all cells, also where ``data`` is a batch."""
    views: Views | None
    """Both views; None before the stage ``"train"``."""
    embeddings: Embeddings
    """``fused`` is what the stage decodes, in ``"contrast"`` the projection; the rest is there in
    ``"train"``."""
    log_assignment: Array | None
    """[n, k] logarithm of the soft assignment in ``"train"``."""
    target: Array | None
    """[n, k] transport target in ``"train"``."""
    key: Array
    """Typed key of this term in this step."""
    structure: Structure
    """Static settings."""
    values: Mapping[str, Array]
    """Traced settings; see :func:`values_of`."""
    rows: Array | None = None
    """[b] or [2b] which cells ``data`` holds, in the stages that see a batch."""


@dataclass(frozen=True)
class Term:
    """A loss term.

    Equal terms that differ in weight only share compiled programs.

    Parameters
    ----------
    name
        Its name in history, config and report; an identifier.
    value
        ``value(context)`` returns a scalar, or None where the data have nothing for it.
    weight
        0 or more; 0 leaves it out. ``config.losses`` overrides it by name.
    stages
        Stages of training that have it.
    init
        ``init(key, data, structure)`` returns parameters of its own, found in
        ``context.params[name]``; None if it has none.

    Raises
    ------
    ValueError
        If the name is no identifier, a stage does not exist, or the weight is negative.
    """

    name: str
    value: Callable[[Context], Array | None]
    weight: float = field(default=1.0, compare=False)
    stages: tuple[Stage, ...] = ("train",)
    init: Callable[[Array, CellData, Structure], Params] | None = None

    def __repr__(self) -> str:
        return f"Term({self.name!r}, weight={self.weight:g})"

    def __post_init__(self) -> None:
        stages: object = self.stages
        stages = (stages,) if isinstance(stages, str) else tuple(self.stages)
        object.__setattr__(self, "stages", stages)
        if not self.name.isidentifier():
            msg = f"Expected `name` of a term to be an identifier, found {self.name!r}."
            raise ValueError(msg)
        if not set(self.stages) <= set(STAGES) or not self.stages:
            msg = f"Expected `stages` of a term among {STAGES}, found {self.stages}."
            raise ValueError(msg)
        if not 0 <= self.weight < float("inf"):
            msg = f"Expected `weight` of term {self.name!r} to be 0 or more, found {self.weight}."
            raise ValueError(msg)


def _contrast(context: Context) -> Array:
    """Contrast between neighbours."""
    head, z = context.params["contrast"], context.embeddings.fused
    z_1, z_2 = jnp.split(encoders.contrast_head(head, z, structure=context.structure), 2)
    cells_1, cells_2 = jnp.split(context.rows, 2)
    temperature = context.values["contrast_temperature"]
    return losses.neighbor_contrast(z_1, z_2, cells_1, cells_2, temperature=temperature)


def _init_contrast(key: Array, data: CellData, structure: Structure) -> Params:
    del data
    return encoders.init_contrast_head(key, structure=structure)


def _features(context: Context) -> Array:
    """Mean squared error of the decoded features."""
    decode = partial(encoders.decode_features, context.params, structure=context.structure)
    decoded = map_rows(lambda z: decode(z)[0], context.embeddings.fused, size=DENSE_ROWS)
    return losses.mean_squared_error(decoded, context.data.features, context.data.mask)


def _propagated_features(context: Context) -> Array:
    """Mean squared error of the graph decoder against the propagated features."""
    decoded = encoders.decode_graph(context.params, context.embeddings.fused, context.graph)
    smooth = propagate(context.graph, context.data.features)
    return losses.mean_squared_error(decoded, smooth, context.data.mask)


def _adjacency(context: Context) -> Array:
    """Mean squared error of the adjacency from inner products."""
    mask = context.data.mask
    rows = landmarks(mask, structure=context.structure)
    return losses.adjacency_error(context.embeddings.fused, context.graph, mask, rows)


def draw_cells(key: Array, data: CellData, size: int) -> Array:
    """Draw rows [size] of cells with replacement: a mean over them is unbiased.

    No more than :func:`batch_size` allows.
    """
    size = batch_size(size, len(data.features))
    return jax.random.randint(key, (size,), 0, data.n_cells)


def batch_size(wanted: int, n_rows: int) -> int:
    """Return how many of the cells a batch has: no more than there are, or 1,024 of fewer.

    A larger one would take memory, and say little more.
    """
    return min(wanted, max(_SMALL, n_rows))


def _zinb(context: Context) -> Array | None:
    """Zero-inflated negative binomial likelihood of the counts of a few cells, drawn anew."""
    params, data, structure = context.params, context.data, context.structure
    if not data.counts.shape[1]:
        return None
    rows = draw_cells(context.key, data, structure.zinb_batch)
    hidden = encoders.decode_features(params, context.embeddings.fused[rows], structure=structure)[
        1
    ]
    genes = (jnp.arange(data.counts.shape[1]) < data.n_genes).astype(hidden.dtype)

    def block(hidden: Array, rows: Array) -> Array:
        log_mean, log_dispersion, logit = encoders.decode_counts(params["zinb"], hidden)
        log_mean += jnp.log(data.size_factors[rows])[:, None]
        return zinb_nll(data.counts[rows], log_mean, log_dispersion, logit, genes)

    return jnp.mean(map_rows(block, hidden, rows, size=_COUNT_ROWS))


def _init_zinb(key: Array, data: CellData, structure: Structure) -> Params:
    n_genes = data.counts.shape[1]
    return encoders.init_count_heads(key, n_genes, structure) if n_genes else {}


def _cell_correlation_features(context: Context) -> Array:
    """Cell-level cross-correlation of the two views, feature encoder."""
    z = context.embeddings
    return losses.cell_correlation(z.features_1, z.features_2, context.data.mask)


def _cell_correlation_graph(context: Context) -> Array:
    """Cell-level cross-correlation of the two views, graph encoder."""
    z = context.embeddings
    return losses.cell_correlation(z.graph_1, z.graph_2, context.data.mask)


def _latent_correlation(context: Context) -> Array:
    """Latent-level cross-correlation after the read-out to clusters, both encoders."""
    z = context.embeddings
    read_out = jnp.exp(context.log_assignment) * context.data.mask[:, None]
    return losses.latent_correlation(
        z.features_1, z.features_2, read_out
    ) + losses.latent_correlation(z.graph_1, z.graph_2, read_out)


def _propagation(context: Context) -> Array:
    """Jensen-Shannon divergence of graph layers before and after one more propagation."""
    mask = context.data.mask
    layers = context.embeddings.layers
    return jnp.mean(
        jnp.stack([losses.propagation_divergence(once, twice, mask) for once, twice in layers])
    )


def _clustering(context: Context) -> Array:
    """KL divergence of the soft assignment from its transport target."""
    log_q, mask = context.log_assignment, context.data.mask
    return losses.assignment_divergence(context.target, log_q, mask)


def _constraints(context: Context) -> Array | None:
    """Likelihood of the pairs of cells that are known, if any are."""
    if context.data.constraints is None:
        return None
    return losses.constraint_nll(context.log_assignment, context.data.constraints)


TERMS: tuple[Term, ...] = (
    Term("contrast", _contrast, 1.0, ("contrast",), _init_contrast),
    Term("features", _features, 1.0, ("features", "joint", "train")),
    Term("propagated_features", _propagated_features, 1.0, ("graph", "joint", "train")),
    Term("adjacency", _adjacency, 0.0, ("graph", "joint", "train")),
    Term("zinb", _zinb, 1.0, ("features", "joint", "train"), _init_zinb),
    Term("cell_correlation_features", _cell_correlation_features, 0.0),
    Term("cell_correlation_graph", _cell_correlation_graph, 0.0),
    Term("latent_correlation", _latent_correlation, 0.0),
    Term("propagation", _propagation, 0.0),
    Term("clustering", _clustering, 1.0),
    Term("constraints", _constraints, 1.0),
)
"""Every loss of the method, with its default weight. Those of weight 0 did not help when measured
(``benchmarks/ablation.py``); :meth:`scsiameseclu_jax.Config.paper` has them."""


def evaluate(terms: Sequence[Term], context: Context, stage: Stage) -> dict[str, Array]:
    """Return the value of each term that a stage has, by name.

    Each draws from a key of its own, which does not depend on the other terms.
    """
    values = {}
    for term in terms:
        if stage not in term.stages:
            continue
        key = jax.random.fold_in(context.key, zlib.crc32(term.name.encode()))
        value = term.value(context._replace(key=key))
        if value is None:
            continue
        if jnp.shape(value) != ():
            msg = f"Expected term {term.name!r} to return a scalar, found {jnp.shape(value)}."
            raise ValueError(msg)
        values[term.name] = value
    return values


def mean_cosine(z: Array, mask: Array) -> Array:
    """Return the mean cosine between different cells: near 1, the embedding has collapsed.

    Parameters
    ----------
    z
        [n, d] embedding.
    mask
        [n] 1 for cells, 0 for padding.
    """
    length = jnp.sqrt(jnp.sum(z**2, axis=1, keepdims=True))
    unit = mask[:, None] * z / jnp.where(length > 0, length, 1)
    n = jnp.sum(mask)
    return (jnp.sum(jnp.sum(unit, axis=0) ** 2) - jnp.sum(unit**2)) / (n * (n - 1))


def silhouette(z: Array, centers: Array, mask: Array) -> Array:
    """Return the mean simplified silhouette of the cells, between 0 and 1.

    ``1 - a / b`` with the distances a and b from a cell to its nearest and next nearest centre.

    Parameters
    ----------
    z
        [n, d] embedding.
    centers
        [k, d] cluster centres, k at least 2.
    mask
        [n] 1 for cells, 0 for padding.

    References
    ----------
    Hruschka et al., Evolutionary algorithms for clustering gene-expression data, ICDM 2004.
    """
    distances = jnp.sqrt(squared_distances(z, centers))
    nearest = jnp.min(distances, axis=1)
    own = jnp.argmin(distances, axis=1)[:, None] == jnp.arange(len(centers))
    second = jnp.min(jnp.where(own, jnp.inf, distances), axis=1)
    return jnp.sum(mask * (1 - nearest / jnp.maximum(second, 1e-12))) / jnp.sum(mask)

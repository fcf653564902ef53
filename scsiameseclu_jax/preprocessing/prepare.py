"""From AnnData to what training sees: checks, features, neighbour graph. No labels enter here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from scsiameseclu_jax.checks import check_anndata, sorted_names
from scsiameseclu_jax.config import Config, shown
from scsiameseclu_jax.inputs import check_sparse
from scsiameseclu_jax.preprocessing.batches import Batches, balanced_neighbors, center, read_batches
from scsiameseclu_jax.preprocessing.blocks import Blocks, Selected, loaded, read_counts, settled
from scsiameseclu_jax.preprocessing.constraints import (
    Constraints,
    ConstraintsLike,
    find_constraints,
)
from scsiameseclu_jax.preprocessing.counts import check_cell_names, check_gene_names
from scsiameseclu_jax.preprocessing.measures import canonical_order, measure
from scsiameseclu_jax.preprocessing.neighbors import nearest_neighbors, search_of, suited
from scsiameseclu_jax.preprocessing.normalization import Projection

logger = logging.getLogger(__name__)

_EXTREME = 1e5  # values smaller by so much no longer tell cells apart in float32
_LARGEST = 1e15  # of given features; the squares of their sums fit into float32


class Preprocessor(NamedTuple):
    """What new cells need to be prepared as these were."""

    genes: list[str]
    """Names of the G genes with counts."""
    selected: np.ndarray
    """[g] which of them features are made from."""
    median_total: float
    """Median over cells of the total counts of all G genes."""
    expected: np.ndarray | None
    """[G] counts of each gene in a cell of size factor 1, the mean; they sum to the median total.
    None of a model of an earlier version."""
    projection: Projection | None
    """From logarithmic values to components; None with `use_rep`."""
    use_rep: str | None
    """Key in ``obsm`` of the features, if they were given."""
    mean: np.ndarray
    """[p] what was taken from given features."""
    scale: float
    """What components are multiplied by."""
    batches: Batches | None
    """Batches that the features were centred within, before they were scaled."""


class Prepared(NamedTuple):
    """Cells in canonical order, ready to be put on a device.

    The order is that of a hash of each cell's counts, so results do not depend on the order of
    the rows that came in: cell ``i`` here is row ``order[i]`` there.
    """

    features: np.ndarray
    """[n, p] float32, unit variance overall."""
    others: list[np.ndarray]
    """Further representations of the same cells, each [n, p] float32, for the first partition."""
    counts: sp.csr_matrix | Selected
    """[n, g] raw counts of the selected genes, uint16 or the unsigned integer type that fits; on
    disk, if all counts are."""
    size_factors: np.ndarray
    """[n] float32, total counts over their median."""
    senders: np.ndarray
    """[m] neighbour of each link."""
    receivers: np.ndarray
    """[m] cell of each link."""
    weights: np.ndarray
    """[m] positive weight of each link."""
    search: str
    """How the links were found: ``"exact"``, ``"approximate"`` or ``"given"``."""
    batch: np.ndarray | None
    """[n] batch of each cell, if there are several; the links are then balanced over them."""
    constraints: Constraints | None
    """Pairs of cells known to be of one cluster, or of two, if there are any."""
    order: np.ndarray
    """[n] row of the AnnData that each cell came from."""
    preprocessor: Preprocessor
    """How to prepare new cells."""
    fingerprint: str
    """16 hexadecimal digits of the counts, whatever the order of the cells."""

    def without_counts(self) -> Prepared:
        """Return the same cells with counts of no gene."""
        return self._replace(counts=sp.csr_matrix((len(self.order), 0), dtype=self.counts.dtype))


def check(adata: AnnData, *, layer: str | None, config: Config) -> sp.csr_matrix | Blocks:
    """Check everything that can be checked before anything long starts; return the counts.

    Raises
    ------
    TypeError, ValueError, KeyError
        With what was expected, what was found and what to do: the first of :func:`problems`.
    """
    raw, found = problems(adata, layer=layer, config=config)
    if raw is None or found:
        raise next(iter(found.values()))
    expressed = int((raw.getnnz(axis=0) > 0).sum())
    if expressed < adata.n_vars:
        logger.info("left out %d genes without counts", adata.n_vars - expressed)
    return raw


def problems(
    adata: AnnData,
    *,
    layer: str | None,
    config: Config,
    use_rep: str | None = None,
    neighbors_key: str | None = None,
    batch_key: str | None = None,
) -> tuple[sp.csr_matrix | Blocks | None, dict[str, Exception]]:
    """Return the counts, if they are counts, and every error that a fit would end with, by subject.

    Parameters
    ----------
    adata
        Cells x genes; not changed.
    layer, config, use_rep, neighbors_key, batch_key
        As of :func:`prepare`.

    Raises
    ------
    TypeError
        If it is no AnnData object.
    """
    check_anndata(adata)
    adata = settled(adata)
    found: dict[str, Exception] = {}

    def attempt(subject: str, step: Callable[..., Any], *given: Any, **named: Any) -> Any:
        try:
            return step(*given, **named)
        except (TypeError, ValueError, KeyError) as error:
            found[subject] = error
            return None

    attempt("cell names", check_cell_names, adata)
    attempt("gene names", check_gene_names, adata)
    raw = attempt("counts", read_counts, adata, layer=layer)
    if raw is not None:
        attempt("empty cells", _check_empty, adata, raw, layer)
        attempt("size", _check_size, adata, raw, config)
    if use_rep is not None:
        attempt("use_rep", _representation, adata, use_rep)
    if neighbors_key is not None:
        attempt("neighbors_key", _connectivities, adata, neighbors_key)
    if batch_key is not None:
        attempt("batch_key", read_batches, adata, batch_key)
    return raw, found


def _check_empty(adata: AnnData, raw: sp.csr_matrix | Blocks, layer: str | None) -> None:
    empty = np.flatnonzero(np.asarray(raw.sum(axis=1)).ravel() == 0)
    if empty.size:
        msg = (
            f"Expected every cell to have counts, found {empty.size} without, the first "
            f"{adata.obs_names[empty[0]]!r}; {_without_empty(adata, layer)}."
        )
        raise ValueError(msg)


def _check_size(adata: AnnData, raw: sp.csr_matrix | Blocks, config: Config) -> None:
    needed = config.network.n_latent + 1
    expressed = int((raw.getnnz(axis=0) > 0).sum())
    if min(expressed, adata.n_obs) < needed:
        msg = (
            f"Expected at least {needed} cells and genes with counts for {needed - 1} latent "
            f"dimensions, found {adata.n_obs} cells and {expressed} genes; lower "
            "`config.network.n_latent`."
        )
        raise ValueError(msg)


def _without_empty(adata: AnnData, layer: str | None) -> str:
    if layer is None or layer not in adata.layers:
        return "call `sc.pp.filter_cells(adata, min_counts=1)`"
    counted = f"np.asarray(adata.layers[{layer!r}].sum(axis=1)).ravel() > 0"
    return f"leave them out: `adata = adata[{counted}].copy()`"


def prepare(
    adata: AnnData,
    *,
    raw: sp.csr_matrix | Blocks | None = None,
    layer: str | None = "counts",
    use_rep: str | None = None,
    neighbors_key: str | None = None,
    batch_key: str | None = None,
    must_link: ConstraintsLike | None = None,
    cannot_link: ConstraintsLike | None = None,
    config: Config,
) -> Prepared:
    """Check the input and make features, counts and links.

    Parameters
    ----------
    adata
        Cells x genes; not changed.
    raw
        The counts, if :func:`check` has already been called.
    layer
        See :func:`counts`.
    use_rep
        Key in ``obsm`` [n, p] of features to use instead of the principal components.
    neighbors_key
        Key in ``uns`` of a neighbour graph to use (``"neighbors"`` for scanpy's default).
    batch_key
        Column in ``obs`` of batches to select genes in, to centre features within and to balance
        links over.
    must_link, cannot_link
        See :func:`scsiameseclu_jax.preprocessing.constraints.find_constraints`.
    config
        Static settings.

    Raises
    ------
    TypeError, ValueError, KeyError
        See :func:`check`.
    """
    raw = check(adata, layer=layer, config=config) if raw is None else raw
    if batch_key is not None and neighbors_key is not None:
        msg = "Expected `batch_key` or `neighbors_key`, found both: a given graph is used as it is."
        raise ValueError(msg)
    batch, names = (None, []) if batch_key is None else read_batches(adata, batch_key)
    constraints = find_constraints(adata, must_link, cannot_link)
    representation, mean = (
        (None, np.zeros(0)) if use_rep is None else _representation(adata, use_rep)
    )
    links = None if neighbors_key is None else _connectivities(adata, neighbors_key)
    measured = measure(raw, batch, representation, config=config)
    order = measured.order
    batch = None if batch is None else batch[order]
    if constraints is not None:
        constraints = constraints._replace(rows=np.argsort(order)[constraints.rows])
    x, *others = measured.components if representation is None else [representation[order]]
    batches = None
    if batch is not None and batch_key is not None:
        x, means = center(x, batch)
        others = [center(other, batch)[0] for other in others]
        batches = Batches(batch_key, names, means, batch)
    scale = 1 / float(x.std())
    x = _pad_columns(x * scale, config)
    if links is None:
        n_neighbors = config.preprocessing.n_neighbors
        senders, receivers = (
            nearest_neighbors(x, suited(n_neighbors, len(x)))
            if batch is None
            else balanced_neighbors(x, n_neighbors, batch)
        )
        weights = np.ones(len(senders))
        search = search_of(len(x))
    else:
        links = sp.coo_matrix(links[order][:, order])
        receivers, senders, weights = links.row, links.col, links.data
        search = "given"
    return Prepared(
        features=x.astype(np.float32),
        others=[other.astype(np.float32) for other in others],
        counts=measured.counts,
        size_factors=measured.size_factors.astype(np.float32),
        senders=senders,
        receivers=receivers,
        weights=weights,
        search=search,
        batch=batch,
        constraints=constraints,
        order=order,
        preprocessor=Preprocessor(
            genes=[str(name) for name in adata.var_names[measured.expressed]],
            selected=np.flatnonzero(measured.chosen),
            median_total=measured.median,
            expected=measured.gene_totals / measured.size_factors.sum(),
            projection=measured.projection,
            use_rep=use_rep,
            mean=mean,
            scale=scale,
            batches=batches,
        ),
        fingerprint=measured.fingerprint,
    )


def identify(
    adata: AnnData,
    *,
    layer: str | None,
    use_rep: str | None = None,
    neighbors_key: str | None = None,
    batch_key: str | None = None,
) -> tuple[np.ndarray, str]:
    """Return the canonical order [n] of cells and their fingerprint, as :func:`prepare` does.

    Parameters
    ----------
    adata, layer, use_rep, batch_key
        As there.
    neighbors_key
        Of no account: links do not tell cells apart.

    Raises
    ------
    TypeError, ValueError, KeyError
        If they cannot be read.
    """
    adata = settled(adata)
    batch = None if batch_key is None else read_batches(adata, batch_key)[0]
    representation = None if use_rep is None else _representation(adata, use_rep)[0]
    return canonical_order(read_counts(adata, layer=layer), batch, representation)


def _representation(adata: AnnData, key: str) -> tuple[np.ndarray, np.ndarray]:
    if key not in adata.obsm:
        msg = f"Expected `use_rep` to be one of {sorted_names(adata.obsm)}, found {key!r}."
        raise KeyError(msg)
    if sp.issparse(adata.obsm[key]):
        msg = f"Expected obsm[{key!r}] to be dense, found it sparse; store `.toarray()` of it."
        raise ValueError(msg)
    values = as_numbers(adata.obsm[key], f"obsm[{key!r}]")
    varies = values.ndim == 2 and values.size and np.isfinite(values).all() and np.ptp(values)
    if not varies:
        msg = f"Expected obsm[{key!r}] to be a finite, varying 2-D array, found {values.shape}."
        raise ValueError(msg)
    largest = np.abs(values).max()
    if largest > _LARGEST:
        msg = (
            f"Expected numbers up to {_LARGEST:g} in obsm[{key!r}], found {largest:.3g}; scale the "
            "array, or leave the cell out that has it."
        )
        raise ValueError(msg)
    mean = values.mean(axis=0)
    sizes = np.abs(values - mean)
    usual = np.median(sizes[sizes > 0])
    if sizes.max() > _EXTREME * usual:
        cell, column = np.unravel_index(sizes.argmax(), sizes.shape)
        msg = (
            f"Expected obsm[{key!r}] to hold numbers of like size, found "
            f"{values[cell, column]:.3g} for cell {adata.obs_names[cell]!r} where {usual:.3g} is "
            "usual: no other cells could be told apart; leave that cell out, or scale the array."
        )
        raise ValueError(msg)
    return values - mean, mean


def as_numbers(values: Any, name: str) -> np.ndarray:
    """Return values of any kind as float64.

    Raises
    ------
    ValueError
        If they are no numbers.
    """
    try:
        array = np.asarray(values)
        if array.dtype.kind in "cMmSU":
            raise TypeError
        return array.astype(np.float64)
    except (TypeError, ValueError):
        kind = getattr(values, "dtype", type(values).__name__)
        msg = f"Expected {name} to hold real numbers, found {kind}."
        raise ValueError(msg) from None


def _connectivities(adata: AnnData, key: str) -> sp.csr_matrix:
    if key not in adata.uns:
        msg = f"Expected `neighbors_key` in adata.uns, found no {key!r}; run `sc.pp.neighbors`."
        raise KeyError(msg)
    record = adata.uns[key]
    if not isinstance(record, Mapping):
        msg = (
            f"Expected uns[{key!r}] to describe a neighbour graph, found {shown(record)}; run "
            "`sc.pp.neighbors`."
        )
        raise TypeError(msg)
    name = str(record.get("connectivities_key", "connectivities"))
    if name not in adata.obsp:
        msg = f"Expected obsp[{name!r}], which uns[{key!r}] points to; run `sc.pp.neighbors`."
        raise KeyError(msg)
    whole = getattr(adata, "_adata_ref", None)
    for source in (adata if whole is None else whole, adata):  # the whole, before a view is cut
        graph = loaded(source.obsp[name])
        if sp.issparse(graph):
            check_sparse(graph, f"obsp[{name!r}]")
    if graph.dtype.kind not in "buif" or not np.isfinite(_values(graph)).all():
        msg = (
            f"Expected finite weights in obsp[{name!r}], found others, of type {graph.dtype}; run "
            "`sc.pp.neighbors`."
        )
        raise ValueError(msg)
    links = sp.csr_matrix(graph)
    links.eliminate_zeros()
    if links.nnz and links.data.min() < 0:
        msg = f"Expected positive weights in obsp[{name!r}], found {links.data.min():.3g}."
        raise ValueError(msg)
    return links


def _values(matrix: Any) -> np.ndarray:
    return matrix.data if sp.issparse(matrix) else np.asarray(matrix)


def _pad_columns(features: np.ndarray, config: Config) -> np.ndarray:
    """Fill up to as many columns as the latent has, which a short `use_rep` may lack."""
    missing = max(0, config.network.n_latent - features.shape[1])
    return np.pad(features, [(0, 0), (0, missing)])

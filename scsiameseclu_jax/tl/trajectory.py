"""From clusters to a trajectory: PAGA and diffusion pseudotime on the embedding."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scsiameseclu_jax.checks import check_key, sorted_names
from scsiameseclu_jax.preprocessing.expression import groups, log_expression
from scsiameseclu_jax.preprocessing.neighbors import search_of
from scsiameseclu_jax.tl.record import UNASSIGNED, layer_for, writable
from scsiameseclu_jax.tl.ties import tie

logger = logging.getLogger(__name__)

_STATIONARY = 0.9994  # eigenvalues from here on are 1 but for rounding, as in scanpy


def trajectory(
    adata: AnnData,
    groupby: str = "siameseclu",
    *,
    root: str | None = None,
    root_cluster: str | None = None,
    root_genes: Sequence[str] | None = None,
    layer: str | None = "counts",
    use_rep: str | None = None,
    n_neighbors: int = 15,
    n_components: int = 15,
    copy: bool = False,
) -> AnnData | None:
    """Order cells by diffusion pseudotime from a root, and link their clusters (PAGA).

    Both are scanpy's, on a neighbour graph of the embedding that is made for them alone. Where a
    trajectory begins cannot be seen in the data: name a cell, a cluster or genes.
    ``benchmarks/trajectory.py`` compares the order with a published one, beside that of principal
    components.

    Parameters
    ----------
    adata
        After :func:`siameseclu`.
    groupby
        Column of ``obs`` with the clusters; results are named after it.
    root
        Name of the cell that the trajectory begins with.
    root_cluster
        Cluster that it begins in, with the cell nearest to the median of the cluster's diffusion
        components: not an extreme one, which may be an outlier.
    root_genes
        Names of genes that are high where it begins: their mean standardised logarithmic
        expression is averaged over neighbours, twice, and the cell where it is largest taken.
    layer
        Where the raw counts are, as in :func:`markers`; read for `root_genes` only.
    use_rep
        Key in ``obsm`` to use instead of the embedding ``f"X_{groupby}"``, by Euclidean distance;
        the embedding is compared by cosine, for its rows have equal length.
    n_neighbors
        Neighbours of each cell, itself counted, as scanpy has it; at least 2.
    n_components
        Diffusion components, the first, which says nothing, counted; at least 3.
    copy
        Return a changed copy and leave `adata` as it is.

    Returns
    -------
    None, or the copy. Written are

    ``adata.obs[f"{groupby}_pseudotime"]``
        Diffusion pseudotime, float32: 0 at the root, 1 furthest from it; NaN for cells that no
        path of neighbours links to the root, with a warning, and for cells without an embedding.
    ``adata.obsm[f"X_{groupby}_diffmap"]``
        Diffusion components [n, c], float32, of the same cells; c is less for few cells.
    ``adata.uns[f"{groupby}_paga"]``
        ``groups`` [k], the clusters; ``connectivities`` [k, k] between 0 and 1, and those of them
        that span a ``tree``, symmetric, float32; ``pseudotime`` [k], mean of each cluster, NaN if
        none of it is reached; ``root``, the name of the cell; ``root_cluster``, its cluster; and
        ``params``. Cells without a cluster are left out here.
    ``adata.obsm[f"{groupby}_paga"]``
        Cluster of each cell [n, 1], a position in ``groups``, int32, -1 for none: so plots find the
        clusters again when they are renamed, and say so when they are others.

    Nothing else is changed: not ``uns["neighbors"]``, ``uns["iroot"]``, ``uns["paga"]`` nor
    ``obsm["X_diffmap"]``.

    Raises
    ------
    KeyError
        If there is no such clustering, embedding or layer.
    ValueError
        Without a root, or with several, or one that is unknown or has hardly any cells to reach.
    ImportError
        Without igraph, which PAGA needs.

    Warns
    -----
    UserWarning
        If cells cannot be reached from the root: how many, and in which clusters.

    References
    ----------
    Haghverdi, L. et al. (2016). Diffusion pseudotime robustly reconstructs lineage branching.
    Nature Methods 13, 845-848.

    Wolf, F. A. et al. (2019). PAGA: graph abstraction reconciles clustering with trajectory
    inference through a topology preserving map of single cells. Genome Biology 20, 59.
    """
    from scipy.sparse.csgraph import connected_components

    check_key(groupby, "groupby")
    clusters = groups(adata, groupby)
    z, cells = _embedded(adata, groupby, use_rep)
    _check_options(adata, clusters, cells, n_neighbors, n_components)
    _check_root(adata, clusters, cells, root, root_cluster, root_genes)
    layer = layer_for(adata, groupby, layer)
    start = None if root_genes is None else _marked(adata, root_genes, layer)[cells]

    names = clusters.astype(object)[cells]
    assigned = pd.notna(names) & (names != UNASSIGNED)
    _link(z, n_neighbors, "cosine" if use_rep is None else "euclidean")
    links = z.obsp["connectivities"]
    _, component = connected_components(links, directed=False)
    if root is not None:
        first = int(np.flatnonzero(adata.obs_names[cells] == root)[0])
        home = component[first]
    elif start is not None:
        first = int(np.argmax(_average(links, _average(links, start))))
        home = component[first]
    else:
        home = np.bincount(component[names == root_cluster]).argmax()
    reached = np.flatnonzero(component == home)
    _check_reached(reached, len(component))
    part = z[reached].copy()
    _diffuse(part, n_components)
    if root_cluster is not None:
        first = reached[_central(part, names[reached] == root_cluster)]
    pseudotime = _pseudotime(part, int(np.searchsorted(reached, first)))
    linked = _abstract(z[assigned].copy(), clusters[cells][assigned])

    whole = np.full(len(cells), np.nan, np.float32)
    whole[np.flatnonzero(cells)[reached]] = pseudotime
    components = np.full((len(cells), part.obsm["X_diffmap"].shape[1]), np.nan, np.float32)
    components[np.flatnonzero(cells)[reached]] = part.obsm["X_diffmap"]
    means = pd.Series(whole[cells]).groupby(names).mean().reindex(linked["groups"])
    adata = writable(adata, copy=copy)
    tie(adata, f"{groupby}_paga", clusters.set_categories(linked["groups"]).codes)
    adata.obs[f"{groupby}_pseudotime"] = whole
    adata.obsm[f"X_{groupby}_diffmap"] = components
    adata.uns[f"{groupby}_paga"] = linked | {
        "pseudotime": means.to_numpy(np.float32),
        "root": str(adata.obs_names[cells][first]),
        "root_cluster": str(names[first]) if pd.notna(names[first]) else UNASSIGNED,
        "params": {
            "use_rep": f"X_{groupby}" if use_rep is None else use_rep,
            "n_neighbors": int(n_neighbors),
            "n_components": int(n_components),
        },
    }
    _warn_unreached(np.delete(names, reached), len(names))
    logger.info(
        "root %r; added '%s_pseudotime' (adata.obs), 'X_%s_diffmap' (adata.obsm), '%s_paga' "
        "(adata.uns)",
        adata.uns[f"{groupby}_paga"]["root"],
        groupby,
        groupby,
        groupby,
    )
    return adata if copy else None


def _embedded(adata: AnnData, groupby: str, use_rep: str | None) -> tuple[AnnData, np.ndarray]:
    """Return the embedding in an object of its own, and which cells [n] have one."""
    name = f"X_{groupby}" if use_rep is None else use_rep
    if name not in adata.obsm:
        msg = f"Expected {name!r} in obsm, found {sorted_names(adata.obsm)}."
        if use_rep is None:
            msg += f" Run `scs.tl.siameseclu(adata, ..., key_added={groupby!r})` first."
        raise KeyError(msg)
    values = np.asarray(adata.obsm[name], np.float32)
    values = values.reshape(adata.n_obs, -1)
    cells = np.isfinite(values).all(axis=1)
    obs = pd.DataFrame(index=[str(i) for i in range(int(cells.sum()))])
    return AnnData(values[cells], obs=obs), cells


def _check_options(
    adata: AnnData,
    clusters: pd.Categorical,
    cells: np.ndarray,
    n_neighbors: int,
    n_components: int,
) -> None:
    n = int(cells.sum())
    if n < 5:
        msg = f"Expected five cells or more with an embedding, found {n} of {adata.n_obs}."
        raise ValueError(msg)
    for name, number, least in (("n_neighbors", n_neighbors, 2), ("n_components", n_components, 3)):
        if isinstance(number, bool) or number != int(number) or not least <= number < n:
            msg = f"Expected `{name}` to be between {least} and {n - 1}, found {number}."
            raise ValueError(msg)
    found = sorted({str(c) for c in clusters[cells] if pd.notna(c) and c != UNASSIGNED})
    if len(found) < 2:
        msg = f"Expected two clusters or more to link, found {found}."
        raise ValueError(msg)
    if find_spec("igraph") is None:
        msg = "Expected igraph, which scanpy's PAGA needs, found none; run `pip install igraph`."
        raise ImportError(msg)


def _check_root(
    adata: AnnData,
    clusters: pd.Categorical,
    cells: np.ndarray,
    root: str | None,
    root_cluster: str | None,
    root_genes: Sequence[str] | None,
) -> None:
    named = {"root": root, "root_cluster": root_cluster, "root_genes": root_genes}
    given = [name for name, value in named.items() if value is not None]
    if len(given) != 1:
        msg = (
            "Expected one of `root` (a cell), `root_cluster` and `root_genes`, found "
            f"{given or 'none'}; where a trajectory begins cannot be seen in the data."
        )
        raise ValueError(msg)
    if root is not None:
        places = np.flatnonzero(adata.obs_names == root)
        if len(places) != 1:
            msg = (
                f"Expected `root` to be the name of one cell, such as {adata.obs_names[0]!r}, "
                f"found {root!r}, the name of {len(places)}."
            )
            raise ValueError(msg)
        if not cells[places[0]]:
            msg = f"Expected a `root` with an embedding, found {root!r}, which has none."
            raise ValueError(msg)
    here = sorted({str(c) for c in clusters[cells] if pd.notna(c)} - {UNASSIGNED})
    if root_cluster is not None and root_cluster not in here:
        msg = f"Expected `root_cluster` to be one of {here}, found {root_cluster!r}."
        raise ValueError(msg)
    if isinstance(root_genes, str):
        msg = f"Expected `root_genes` to be a list of genes, found a single name {root_genes!r}."
        raise TypeError(msg)
    if root_genes is not None and not set(root_genes) & set(adata.var_names):
        msg = (
            f"Expected `root_genes` to be genes such as {adata.var_names[0]!r}, found none of "
            f"{list(root_genes)} in var_names."
        )
        raise ValueError(msg)


def _marked(adata: AnnData, genes: Sequence[str], layer: str | None) -> np.ndarray:
    """Return the mean standardised logarithmic expression [n] of some genes."""
    here = [gene for gene in dict.fromkeys(genes) if gene in adata.var_names]
    if len(here) < len(set(genes)):
        logger.info("root genes not found: %s", sorted(set(genes) - set(here)))
    values = log_expression(adata, layer=layer, genes=here).X.toarray().astype(np.float64)
    spread = values.std(axis=0)
    if not spread.any():
        msg = f"Expected `root_genes` that differ between cells, found {here}, which do not."
        raise ValueError(msg)
    return ((values - values.mean(axis=0)) / np.where(spread > 0, spread, 1)).mean(axis=1)


def _link(z: AnnData, n_neighbors: int, metric: str) -> None:
    import scanpy as sc

    search = "sklearn" if search_of(z.n_obs) == "exact" else None
    options = {"transformer": search, "metric": metric, "random_state": 0}
    sc.pp.neighbors(z, n_neighbors=n_neighbors, use_rep="X", **options)


def _average(links: sp.csr_matrix, values: np.ndarray) -> np.ndarray:
    """Return the mean [n] over a cell, with weight 1, and its neighbours, with theirs."""
    return (values + links @ values) / (1 + np.asarray(links.sum(axis=1)).ravel())


def _check_reached(reached: np.ndarray, n_cells: int) -> None:
    if len(reached) < 5:
        msg = (
            f"Expected a root from which cells can be reached, found one that is linked to "
            f"{len(reached) - 1} of {n_cells}; choose another, or raise `n_neighbors`."
        )
        raise ValueError(msg)


def _diffuse(part: AnnData, n_components: int) -> None:
    import scanpy as sc

    with np.printoptions():  # scanpy changes them
        sc.tl.diffmap(part, n_comps=min(n_components, part.n_obs - 1), random_state=0)


def _central(part: AnnData, inside: np.ndarray) -> int:
    """Return the cell of a cluster that is nearest to its median, in the space of DPT."""
    values = np.asarray(part.uns["diffmap_evals"], np.float64)
    moving = values < _STATIONARY
    scale = np.where(moving, values / np.where(moving, 1 - values, 1), 1)
    points = part.obsm["X_diffmap"][inside] * scale
    far = np.linalg.norm(points - np.median(points, axis=0), axis=1)
    return int(np.flatnonzero(inside)[np.argmin(far)])


def _pseudotime(part: AnnData, first: int) -> np.ndarray:
    import scanpy as sc

    part.uns["iroot"] = first
    with np.printoptions():
        sc.tl.dpt(part, n_dcs=part.obsm["X_diffmap"].shape[1])
    return part.obs["dpt_pseudotime"].to_numpy(np.float32)


def _abstract(z: AnnData, clusters: pd.Categorical) -> dict[str, np.ndarray]:
    """Return names [k], connectivities [k, k] and their tree [k, k] of the clusters."""
    import scanpy as sc

    clusters = clusters.remove_unused_categories()
    k = len(clusters.categories)
    z.obs["group"] = clusters
    links, tree = np.zeros((k, k)), np.zeros((k, k))
    rows, columns = z.obsp["distances"].nonzero()
    if (clusters.codes[rows] != clusters.codes[columns]).any():  # else scanpy stumbles
        sc.tl.paga(z, groups="group")
        links = z.uns["paga"]["connectivities"].toarray()
        tree = z.uns["paga"]["connectivities_tree"].toarray()
    return {
        "groups": np.array([str(name) for name in clusters.categories]),
        "connectivities": links.astype(np.float32),
        "tree": np.maximum(tree, tree.T).astype(np.float32),
    }


def _warn_unreached(names: np.ndarray, n_cells: int) -> None:
    if not len(names):
        return
    counts = pd.Series(names).fillna(UNASSIGNED).value_counts(sort=False)
    told = ", ".join(f"{name!r}: {count}" for name, count in counts.items())
    msg = (
        f"{len(names)} of {n_cells} cells are not linked to the root; their pseudotime is NaN "
        f"(cluster: cells: {told}). More `n_neighbors` may link them, if they belong together."
    )
    warnings.warn(msg, UserWarning, stacklevel=3)

"""What a report is about: one clustering of an AnnData, looked up once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scsiameseclu_jax.checks import check_anndata
from scsiameseclu_jax.preprocessing.blocks import Blocks, read_counts, settled
from scsiameseclu_jax.preprocessing.counts import layer_of, totals
from scsiameseclu_jax.preprocessing.expression import groups
from scsiameseclu_jax.reporting.markup import Html, tag
from scsiameseclu_jax.tl.record import UNASSIGNED, is_calibrated
from scsiameseclu_jax.tl.ties import Origin, origin
from scsiameseclu_jax.tl.umap import layout


@dataclass(frozen=True, eq=False)
class Result:
    """A clustering and what belongs to it."""

    adata: AnnData
    """The cells."""
    key: str
    """Name of the clustering."""
    clusters: pd.Series
    """[n] categorical, the clusters that cells have, in their order."""
    origin: Origin
    """What became of the clusters of the model."""
    drawn: np.ndarray
    """[n] which cells plots of the embedding show: those that were clustered."""
    colors: dict[str, str]
    """Colour of each group in the plots; grey of groups that none of those cells are in."""
    params: dict[str, Any]
    """What was asked for."""
    manifest: dict[str, Any]
    """What was run."""
    counts: sp.csr_matrix | Blocks | None
    """[n, g] raw counts, if the object holds them, in memory or on disk."""
    problem: str
    """Why it does not."""

    @property
    def record(self) -> dict[str, Any]:
        """What ``uns`` holds."""
        return self.adata.uns[self.key]

    @property
    def own(self) -> pd.Categorical:
        """[n] the most likely cluster, also of cells that are unassigned."""
        return self.origin.own

    @property
    def names(self) -> list[str]:
        """[k] names of the clusters of the model, whether cells have them or not."""
        return self.origin.names

    @property
    def replaced(self) -> bool:
        """Whether the groups are other ones than the model's clusters, or several of them."""
        return not self.origin.kept and not self.origin.joined

    @property
    def predicted(self) -> bool:
        """Whether the clusters are those of a model for cells it had not seen."""
        return "history" not in self.record

    @property
    def stability(self) -> dict[str, Any] | None:
        """How the clusters compare with refits, if there were any."""
        return self.record.get("stability")

    @property
    def calibrated(self) -> bool:
        """Whether confidence is the chance that another fit agrees."""
        return is_calibrated(self.record)

    @property
    def groups(self) -> list[str]:
        """Clusters that cells have, in their order."""
        return list(self.clusters.cat.categories)

    @property
    def n_clusters(self) -> int:
        """Number of clusters that cells have."""
        return sum(name != UNASSIGNED for name in self.groups)

    @property
    def totals(self) -> np.ndarray | None:
        """[n] counts of each cell, if they are known."""
        return None if self.counts is None else totals(self.counts)

    @property
    def n_resamples(self) -> int | None:
        """Number of refits, here or of the model; None without."""
        found = self.record.get("manifest", {}).get("n_resamples")
        return None if found is None else int(found)

    @cached_property
    def cells(self) -> AnnData | None:
        """The cells with a UMAP of their embedding, for plots; None without an embedding."""
        adata, names = self.adata, [f"X_{self.key}", f"X_{self.key}_umap"]
        if names[0] not in adata.obsm:
            return None
        paga = f"{self.key}_paga"
        cells = AnnData(
            obs=adata.obs.copy(),
            obsm={name: adata.obsm[name] for name in [*names, paga] if name in adata.obsm},
            uns={paga: adata.uns[paga]} if paga in adata.uns else {},
        )
        if names[1] not in cells.obsm:
            cells.obsm[names[1]] = layout(cells, self.key)
        return cells

    def column(self, name: str) -> pd.Series | None:
        """Return a column of ``obs`` that is named after the clustering, if there is one."""
        return self.adata.obs.get(f"{self.key}_{name}")

    def chip(self, cluster: object) -> Html:
        """Return a cluster's name beside its colour."""
        color = self.colors.get(str(cluster), "transparent")
        mark = tag("span", class_="chip", style=f"background:{color}", aria_hidden="true")
        return tag("span", mark, cluster, class_="cluster")

    def per_cluster(self, values: np.ndarray | pd.Series) -> dict[str, np.ndarray]:
        """Return the values [n] of each cluster's cells, without missing ones."""
        array, codes = np.asarray(values, dtype=np.float64), self.clusters.cat.codes.to_numpy()
        known = np.isfinite(array)
        return {name: array[known & (codes == i)] for i, name in enumerate(self.groups)}


def find(adata: AnnData, key: str) -> Result:
    """Look a clustering up.

    Raises
    ------
    TypeError
        If `adata` is no AnnData.
    KeyError
        If it has no such clustering; the message names those that there are.
    """
    check_anndata(adata)
    adata = settled(adata)
    there = [name for name in adata.uns if _is_clustering(adata, name)]
    if key not in there:
        found = f"those of the keys {there}" if there else "none"
        msg = (
            f"Expected a clustering under the key {key!r}, found {found}; run "
            f"`scs.tl.siameseclu(adata, key_added={key!r})` first."
        )
        raise KeyError(msg)
    record = adata.uns[key]
    params, manifest = dict(record["params"]), dict(record.get("manifest", {}))
    values = pd.Series(groups(adata, key), index=adata.obs_names)
    became = origin(values.array, adata.obsm.get(f"{key}_proba"), params)
    counts, problem = _counts(adata, params)
    embedding = adata.obsm.get(f"X_{key}")
    drawn = np.ones(adata.n_obs, bool)
    if embedding is not None:  # a clustering of part of the cells has it for those only
        drawn = np.isfinite(np.asarray(embedding)).all(axis=1)
    return Result(
        adata=adata,
        key=key,
        clusters=values,
        origin=became,
        drawn=drawn,
        colors=_colors(values, drawn),
        params=params,
        manifest=manifest,
        counts=counts,
        problem=problem,
    )


def _is_clustering(adata: AnnData, name: object) -> bool:
    record = adata.uns[name]
    held = isinstance(record, Mapping) and {"params", "manifest"} <= set(record)
    return held and isinstance(name, str) and name in adata.obs


def _counts(adata: AnnData, params: dict) -> tuple[sp.csr_matrix | Blocks | None, str]:
    layer = layer_of(adata, str(params.get("layer", "counts")))
    if adata.X is None and layer is None:
        return None, "there is no matrix"
    try:
        return read_counts(adata, layer=layer), ""
    except (KeyError, TypeError, ValueError) as error:
        return None, str(error.args[0])


def _colors(values: pd.Series, drawn: np.ndarray) -> dict[str, str]:
    """Return the colour of each group, as in plots of the cells that are drawn; grey of others."""
    from scsiameseclu_jax.pl.colors import MISSING, colors_of

    shown = list(values[drawn].cat.remove_unused_categories().cat.categories)
    colors = dict(zip(shown, colors_of(shown), strict=True))
    return {group: colors.get(group, MISSING) for group in values.cat.categories}


def listed(names: Iterable[str]) -> str:
    """Return names as in a sentence.

    Examples
    --------
    >>> listed(["0", "1", "2"]), listed(["0"])
    ('0, 1 and 2', '0')
    """
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def median(values: np.ndarray) -> float:
    """Return a median; NaN of nothing."""
    return float(np.median(values)) if len(values) else np.nan

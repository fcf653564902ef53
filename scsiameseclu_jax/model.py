"""SiameseClu: the model that users hold. State and calls, no mathematics."""

from __future__ import annotations

import logging
import platform
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Self

import jax
import numpy as np

import scsiameseclu_jax.functional as F
from scsiameseclu_jax import fitted, fitting, pp, storage
from scsiameseclu_jax.config import Config
from scsiameseclu_jax.fitted import Fitted, Predicted

if TYPE_CHECKING:
    import os

    from anndata import AnnData

logger = logging.getLogger(__name__)

_CELL_RESULTS = ("labels", "proba", "confidence", "embedding")
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
        self._fitted: Fitted | None = None

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
        MemoryError
            If there is too little memory, before any of it is taken; see
            :func:`scsiameseclu_jax.estimate_memory`.
        FloatingPointError
            If a loss term is not finite; it is named.
        """
        seed = _seed(rng)
        given = {"use_rep": use_rep, "neighbors_key": neighbors_key}
        given = {name: value for name, value in given.items() if value is not None}
        started = time.perf_counter()
        prepared = pp.prepare(
            adata,
            self.n_clusters,
            layer=layer,
            use_rep=use_rep,
            neighbors_key=neighbors_key,
            config=self.config,
        )
        n, n_features = prepared.features.shape
        logger.info("%d cells, %d genes, %d features", n, len(prepared.frame.selected), n_features)
        made = fitting.fit(
            prepared, self.n_clusters, config=self.config, seed=seed, progress=progress
        )
        findings = made.findings
        if made.first_step is not None:
            findings["seconds_to_first_step"] = round(made.first_step - started, 3)
        prediction = F.predict(made.state, made.data, config=self.config)
        prediction = jax.tree.map(np.asarray, prediction)

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
        kept = fitted.keep(made.state, made.data, prepared, labels, rank, self.config)
        self._results = {
            "labels": labels[back],
            "proba": proba,
            "confidence": proba.max(axis=1),
            "embedding": prediction.embedding[:n][back].astype(np.float32),
            "history": made.history,
            "manifest": {
                "input": {"layer": "X" if layer is None else layer} | given,
                "seed": seed,
                "config": self.config.fingerprint(),
                "data": prepared.fingerprint,
                "n_cells": n,
                "n_genes": len(prepared.frame.selected),
                "device": str(jax.devices()[0].device_kind),
                "backend": jax.default_backend(),
                "python": platform.python_version(),
                "versions": {name: version(name) for name in ("scsiameseclu-jax", *_PACKAGES)},
                "seconds": round(time.perf_counter() - started, 3),
                **findings,
            },
        }
        self._fitted = kept
        return self

    def predict(
        self, adata: AnnData, *, layer: str | None = "counts", false_flags: float = 0.05
    ) -> Predicted:
        """Cluster cells that the fit has not seen.

        Genes are found by name, whatever their order, case, or Ensembl version; the fit's gene
        selection, normalisation and components are applied, and each cell is linked to its
        nearest cells of the fit. Labels do not depend on which other cells are new.

        Parameters
        ----------
        adata
            New cells x genes with raw counts; not changed.
        layer
            Where the counts are, as in :meth:`fit`.
        false_flags
            Share of the cells like those of the fit that may be flagged as out of reference.

        Returns
        -------
        Predicted
            Labels, soft assignments, confidence, embedding, novelty and flag of each cell. From
            50 new cells on, novelty is pooled over the 10 most similar new cells.

        Raises
        ------
        RuntimeError
            If the model is not fitted.
        TypeError, KeyError, ValueError
            For bad input; if more than 20 % of the selected genes are missing; if
            ``config.fusion.gate`` is ``"per_cell"``, which no new cell has weights for.
        """
        return fitted.predict(
            self._kept("predict"),
            adata,
            layer=layer,
            false_flags=false_flags,
            config=self.config,
        )

    def save(self, directory: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Save the model to a folder: arrays and settings, no pickle, no AnnData.

        Parameters
        ----------
        directory
            Folder to make; written under a temporary name and renamed.
        overwrite
            Replace a model that is there.

        Raises
        ------
        RuntimeError
            If the model is not fitted.
        FileExistsError, FileNotFoundError
            If there is something already; if there is nowhere to put it.
        """
        settings, arrays = fitted.to_arrays(self._kept("save"))
        history = dict(self.history)
        settings |= {
            "n_clusters": int(self.n_clusters),
            "config": self.config.to_dict(),
            "manifest": self.manifest,
            "stage": history.pop("stage").tolist(),
        }
        arrays |= {f"history/{name}": values for name, values in history.items()}
        arrays |= {f"results/{name}": self._results[name] for name in _CELL_RESULTS}
        storage.write(directory, settings, arrays, overwrite=overwrite)

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Self:
        """Load a model that :meth:`save` saved; its predictions are bit for bit the same.

        Raises
        ------
        FileNotFoundError
            If there is none.
        ValueError
            If a file is truncated, changed, or saved by a newer version.
        """
        settings, arrays = storage.read(directory)
        made = cls(settings["n_clusters"], config=Config.from_dict(settings["config"]))
        history = {
            name.removeprefix("history/"): values
            for name, values in arrays.items()
            if name.startswith("history/")
        }
        made._results = {name: arrays[f"results/{name}"] for name in _CELL_RESULTS}
        made._results["history"] = history | {"stage": np.array(settings["stage"])}
        made._results["manifest"] = settings["manifest"]
        made._fitted = fitted.from_arrays(settings, arrays)
        return made

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

    def _kept(self, wanted: str) -> Fitted:
        if self._fitted is None:
            msg = f"Expected a fitted model to `{wanted}` with; call `fit` first."
            raise RuntimeError(msg)
        return self._fitted

    def _result(self, name: str) -> Any:
        if not self.is_fitted:
            msg = f"Expected a fitted model to read `{name}` from; call `fit` first."
            raise RuntimeError(msg)
        return self._results[name]


def _seed(rng: int | np.random.Generator) -> int:
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(2**31))
    if isinstance(rng, bool) or not isinstance(rng, int | np.integer) or not 0 <= rng < 2**32:
        msg = f"Expected `rng` to be a numpy Generator or an integer in [0, 2^32), found {rng!r}."
        raise ValueError(msg)
    return int(rng)


def _by_size(clusters: np.ndarray, n_clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Rename clusters so that 0 is the largest; return them and the old names in new order."""
    sizes = np.bincount(clusters, minlength=n_clusters)
    rank = np.argsort(-sizes, kind="stable")
    new = np.empty(n_clusters, int)
    new[rank] = np.arange(n_clusters)
    return new[clusters], rank

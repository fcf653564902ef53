"""SiameseClu: the model that users hold. State and calls, no mathematics."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Literal, Self

import jax
import numpy as np

import scsiameseclu_jax.functional as F
from scsiameseclu_jax import reference as fitted
from scsiameseclu_jax.certainty import stability
from scsiameseclu_jax.certainty.calibration import calibrate, confidence
from scsiameseclu_jax.certainty.stability import Stability
from scsiameseclu_jax.checks import as_seed
from scsiameseclu_jax.config import Config
from scsiameseclu_jax.files import read_model, write_model
from scsiameseclu_jax.manifest import as_given, check_cells, manifest
from scsiameseclu_jax.partition import n_clusters as estimation
from scsiameseclu_jax.partition.n_clusters import Estimate
from scsiameseclu_jax.preprocessing import constraints as pairs
from scsiameseclu_jax.preprocessing.batches import read_batches
from scsiameseclu_jax.preprocessing.constraints import ConstraintsLike
from scsiameseclu_jax.preprocessing.prepare import prepare
from scsiameseclu_jax.reference import Fitted, Predicted
from scsiameseclu_jax.training import stages as fitting
from scsiameseclu_jax.training.device import in_float32

if TYPE_CHECKING:
    import os

    from anndata import AnnData

logger = logging.getLogger(__name__)

_CELL_RESULTS = ("labels", "proba", "embedding")


class SiameseClu:
    """Cluster cells with siamese fusion of a feature and a graph autoencoder.

    Parameters
    ----------
    n_clusters
        Number of clusters, 2 to the number of cells less 1; or ``"auto"``, which chooses one from
        2 to 30 without labels (:func:`scsiameseclu_jax.tl.estimate_n_clusters`).
    config
        All other settings; the defaults serve every data set.

    Attributes
    ----------
    labels
        [n] cluster of each cell, 0 the largest.
    proba
        [n, k] soft assignment, rows sum to 1.
    confidence
        [n] chance that another plausible fit puts a cell into the same cluster, 0 to 1.
    history
        One array for each loss term and monitor, a value for each step; NaN where a stage has
        no such term. ``stage`` names the stage of each step.
    estimate
        Evidence for the number of clusters, if it was chosen here; else None.
    stability
        How the clusters compare with those of refits, after :meth:`assess`; else None.
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

    def __init__(self, n_clusters: int | Literal["auto"], *, config: Config | None = None) -> None:
        self.n_clusters = n_clusters
        self.config = Config() if config is None else config
        self._results: dict[str, Any] = {}
        self._fitted: Fitted | None = None

    def __repr__(self) -> str:
        fitted = f"{len(self.labels)} cells" if self.is_fitted else "not fitted"
        return f"SiameseClu(n_clusters={self.n_clusters!r}, {fitted})"

    @property
    def is_fitted(self) -> bool:
        """Whether :meth:`fit` has run to its end."""
        return bool(self._results)

    @in_float32
    def fit(
        self,
        adata: AnnData,
        *,
        layer: str | None = "counts",
        use_rep: str | None = None,
        neighbors_key: str | None = None,
        batch_key: str | None = None,
        must_link: ConstraintsLike | None = None,
        cannot_link: ConstraintsLike | None = None,
        rng: int | np.random.Generator = 0,
        progress: bool | None = None,
    ) -> Self:
        """Cluster the cells. `adata` is read, never changed; of ``obs`` only `batch_key` is seen.

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
        batch_key
            Column in ``obs`` of batches: features are centred within each, and each cell is
            linked to cells of all of them. For batches that hold very different cells, an
            embedding of Harmony or scVI as `use_rep` can do better.
        must_link, cannot_link
            [m, 2] pairs of names in ``obs_names``, of cells that belong to one cluster, or to two.
            They hold, if they can, for these cells, and guide the choice for all others; the
            manifest says how many were kept.
        rng
            Seed, or a generator that the seed is drawn from.
        progress
            Show a bar (True), nothing (False), or a bar on a terminal, else log lines (None).

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
        seed = as_seed(rng)
        keys = {"use_rep": use_rep, "neighbors_key": neighbors_key, "batch_key": batch_key}
        given = {"layer": layer or "X"} | {key: name for key, name in keys.items() if name}
        links: dict[str, Any] = {"must_link": must_link, "cannot_link": cannot_link}
        given |= pairs.plain(**links)
        started = time.perf_counter()
        prepared = prepare(adata, layer=layer, **keys, **links, config=self.config)
        n, n_features = prepared.features.shape
        logger.info(
            "%d cells, %d genes, %d features", n, len(prepared.preprocessor.selected), n_features
        )
        chosen, k = None, self.n_clusters
        if isinstance(k, str):
            x, near = prepared.features, self.config.preprocessing.n_neighbors
            chosen = estimation.estimate(x, near, batch=prepared.batch, seed=seed)
            k = chosen.n_clusters
            logger.info("%d clusters: %s", k, chosen.why)
        made = fitting.fit(prepared, k, config=self.config, seed=seed, progress=progress)
        findings, votes = made.findings, made.votes
        if made.first_step is not None:
            findings["seconds_to_first_step"] = round(made.first_step - started, 3)
        prediction = F.predict(made.state, made.data, config=self.config)
        prediction = jax.tree.map(np.asarray, prediction)

        back = np.argsort(prepared.order)
        proba = pairs.constrain(prediction.proba[:n], prepared.constraints)
        labels, rank = fitted.by_size(proba.argmax(axis=1), k)
        fitted.check_sizes(labels, k, findings["warnings"])
        findings |= pairs.kept(labels, prepared.constraints)
        proba = proba[:, rank][back].astype(np.float32)
        votes = None if votes is None else votes[:, rank][back]
        self._fitted = fitted.keep(made.state, made.data, prepared, labels, rank, self.config)
        self._results = {
            "labels": labels[back],
            "proba": proba,
            "embedding": prediction.embedding[:n][back].astype(np.float32),
            "history": made.history,
            "estimate": chosen,
            "votes": votes,
            "calibration": None if votes is None else calibrate(proba, votes),
            "stability": None,
            "manifest": manifest(
                prepared,
                k,
                given=given,
                seed=seed,
                seconds=time.perf_counter() - started,
                findings=findings,
                config=self.config,
            ),
        }
        return self

    def assess(
        self,
        adata: AnnData,
        *,
        n_resamples: int = 10,
        rng: int | np.random.Generator = 0,
        progress: bool | None = None,
    ) -> Self:
        """Measure how stable the clusters are, and calibrate their confidence by that.

        Fits 80 % of the cells from another plausible first partition, predicts the others, and
        compares, `n_resamples` times: each takes about as long as :meth:`fit`. Then
        :attr:`confidence`, also that of :meth:`predict`, is calibrated by these refits, too.

        Parameters
        ----------
        adata
            The cells of the fit, in the same order.
        n_resamples
            How many, at least two.
        rng
            Seed, or a generator that the seed is drawn from.
        progress
            As in :meth:`fit`, of each refit.

        Raises
        ------
        RuntimeError
            If the model is not fitted.
        TypeError, ValueError
            For bad input, before any refit: other cells, or the same in another order; fewer than
            two refits, or too few cells for them.
        """
        k, seed = self.proba.shape[1], as_seed(rng)
        stability.check(n_resamples, adata.n_obs, k, self.config)
        check_cells(adata, self.manifest, counts=True)
        given = as_given(self.manifest, adata)
        known = {name: self.manifest["input"].get(name) for name in pairs.OPTIONS}
        pairs.find_constraints(adata, **known)

        def again(part: AnnData, seed: int) -> SiameseClu:
            other = SiameseClu(k, config=stability.refit_config(self.config))
            options = given | pairs.among(known, part)
            return other.fit(part, rng=seed, progress=progress, **options)

        key, layer = given.get("batch_key"), given["layer"]
        batch = None if key is None else read_batches(adata, key)[0]
        refits = stability.refit(adata, n_resamples, again, layer=layer, batch=batch, seed=seed)
        found, calibration = stability.compare(self.proba, self._result("votes"), refits)
        self._results |= {"stability": found, "calibration": calibration}
        done = {"n_resamples": int(n_resamples), "confidence": "calibrated by refits, too"}
        self._results["manifest"] = self.manifest | done
        return self

    def check_cells(self, adata: AnnData) -> None:
        """Raise ValueError for more or fewer cells than the fit had, or its own reordered."""
        check_cells(adata, self.manifest, counts=False)

    def predict(
        self, adata: AnnData, *, layer: str | None = "counts", alpha: float = 0.05
    ) -> Predicted:
        """Cluster cells that the fit has not seen.

        Genes are found by name, whatever their order, case, or Ensembl version; the fit's gene
        selection, normalisation and components are applied, and each cell is linked to its
        nearest cells of the fit. Labels do not depend on which other cells are new, but for
        batches that the fit does not know, each of which is centred by its own cells.

        Parameters
        ----------
        adata
            New cells x genes with raw counts; not changed.
        layer
            Where the counts are, as in :meth:`fit`.
        alpha
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
        made = fitted.predict(
            self._kept("predict"),
            adata,
            layer=layer,
            alpha=alpha,
            config=self.config,
        )
        return made._replace(confidence=confidence(self._result("calibration"), made.proba))

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
            "n_clusters": self.n_clusters if self.n_clusters == "auto" else int(self.n_clusters),
            "config": self.config.to_dict(),
            "manifest": self.manifest,
            "stage": history.pop("stage").tolist(),
        }
        if self.estimate is not None:
            settings["estimate"] = estimation.to_plain(self.estimate)
        arrays |= {f"history/{name}": values for name, values in history.items()}
        arrays |= {f"results/{name}": self._results[name] for name in _CELL_RESULTS}
        arrays |= stability.to_arrays(self._results)
        write_model(directory, settings, arrays, overwrite=overwrite)

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Self:
        """Load a model that :meth:`save` saved; its predictions are bit for bit the same.

        Raises
        ------
        FileNotFoundError
            If there is none.
        ValueError
            If a file is truncated, changed, or saved by another version.
        """
        settings, arrays = read_model(directory)
        made = cls(settings["n_clusters"], config=Config.from_dict(settings["config"]))
        history = fitted.group(arrays, "history/")
        made._results = {name: arrays[f"results/{name}"] for name in _CELL_RESULTS}
        made._results["history"] = history | {"stage": np.array(settings["stage"])}
        made._results["manifest"] = settings["manifest"]
        made._results |= stability.from_arrays(arrays)
        chosen = settings.get("estimate")
        made._results["estimate"] = None if chosen is None else estimation.from_plain(chosen)
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
        """[n] chance that another plausible fit puts a cell into the same cluster.

        Learned from the votes for the first partition; after :meth:`assess`, also from refits.
        """
        return confidence(self._result("calibration"), self.proba)

    @property
    def stability(self) -> Stability | None:
        """What :meth:`assess` found, or None."""
        return self._result("stability")

    @property
    def estimate(self) -> Estimate | None:
        """Evidence for the number of clusters, if the fit chose it."""
        return self._result("estimate")

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

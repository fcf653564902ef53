"""SiameseClu: the model that users hold. State and calls, no mathematics."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

import scsiameseclu_jax.functional as F
from scsiameseclu_jax import files, reference
from scsiameseclu_jax.answers import cluster_by_answers
from scsiameseclu_jax.certainty import stability
from scsiameseclu_jax.certainty.calibration import calibrate, confidence
from scsiameseclu_jax.certainty.questions import question_table
from scsiameseclu_jax.certainty.stability import Stability
from scsiameseclu_jax.checks import as_seed, check_n_clusters
from scsiameseclu_jax.config import CHECKPOINT_EVERY, Config, Weights
from scsiameseclu_jax.manifest import as_given, check_cells, manifest
from scsiameseclu_jax.partition import n_clusters as estimation
from scsiameseclu_jax.partition.n_clusters import K_MAX, Estimate, k_range
from scsiameseclu_jax.partition.questions import Pool
from scsiameseclu_jax.partition.voting import by_size, check_sizes
from scsiameseclu_jax.preprocessing import constraints
from scsiameseclu_jax.preprocessing.batches import read_batches
from scsiameseclu_jax.preprocessing.blocks import Blocks, settled
from scsiameseclu_jax.preprocessing.constraints import ConstraintsLike
from scsiameseclu_jax.preprocessing.prepare import Prepared, check, prepare
from scsiameseclu_jax.reference import Predicted, Reference
from scsiameseclu_jax.training import stages
from scsiameseclu_jax.training.checkpoint import Checkpoint
from scsiameseclu_jax.training.device import device_data, in_float32
from scsiameseclu_jax.training.fingerprint import fingerprint
from scsiameseclu_jax.training.memory import check_memory
from scsiameseclu_jax.training.mesh import check_mesh, on_mesh
from scsiameseclu_jax.training.progress import Progress

if TYPE_CHECKING:
    import os

    import optax
    from anndata import AnnData
    from jax.sharding import Mesh

logger = logging.getLogger(__name__)

_CELL_RESULTS = ("labels", "proba", "embedding", "fused")
_USUAL = {
    "encoder": F.graph_convolutions,
    "augment": F.dual_views,
    "transport": F.sinkhorn_target,
    "optimizer": None,
}


class PreparedCells(NamedTuple):
    """Cells of an AnnData as a fit sees them, from :meth:`SiameseClu.prepare`."""

    data: F.CellData
    """The cells on the device, for an own loop."""
    prepared: Prepared
    """The same on the host, in the order of a fit: cell i is row ``order[i]`` of the AnnData."""
    given: dict[str, Any]
    """Where counts, features, links, batches and known pairs came from."""


class SiameseClu:
    """Cluster cells with siamese fusion of a feature and a graph autoencoder.

    Parameters
    ----------
    n_clusters
        Number of clusters, 2 to the number of cells less 1; or ``"auto"``, which chooses one from
        2 to 30 without labels (:func:`scsiameseclu_jax.tl.estimate_n_clusters`).
    config
        All other settings; the defaults serve every data set.
    terms, encoder, augment, transport, optimizer
        Choices of the method that can be handed in: loss terms, graph encoder, augmentation,
        transport of the target, optax optimiser; see
        :func:`scsiameseclu_jax.functional.siameseclu`.

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
    >>> model = scs.SiameseClu(3, config=scs.Config.short()).fit(adata, progress=False)
    >>> model.proba.shape
    (200, 3)
    """

    def __init__(
        self,
        n_clusters: int | Literal["auto"],
        *,
        config: Config | None = None,
        terms: Sequence[F.Term] = F.TERMS,
        encoder: F.Encoder = F.graph_convolutions,
        augment: F.Augment = F.dual_views,
        transport: F.Transport = F.sinkhorn_target,
        optimizer: optax.GradientTransformation | None = None,
    ) -> None:
        self._n_clusters = n_clusters
        self._choices: dict[str, Any] = {
            "terms": tuple(terms),
            "encoder": encoder,
            "augment": augment,
            "transport": transport,
            "optimizer": optimizer,
        }
        self._config = Config() if config is None else config
        self._method(2)  # says what does not fit together
        self._missing: dict[str, str] = {}  # of a loaded model: what was not handed in
        self._results: dict[str, Any] = {}
        self._reference: Reference | None = None

    def __repr__(self) -> str:
        fitted = f"{len(self.labels)} cells" if self.is_fitted else "not fitted"
        return f"SiameseClu(n_clusters={self.n_clusters!r}, {fitted})"

    @property
    def n_clusters(self) -> int | str:
        """Number of clusters that was asked for."""
        return self._n_clusters

    @property
    def config(self) -> Config:
        """All settings, fixed from the start: make another model to change them."""
        return self._config

    @property
    def is_fitted(self) -> bool:
        """Whether :meth:`fit` has run to its end."""
        return bool(self._results)

    def method(self) -> F.Method:
        """Return the method with all its choices, for an own loop.

        Raises
        ------
        ValueError
            If the number of clusters is "auto", and no fit has chosen one.
        """
        k = self.proba.shape[1] if self.is_fitted else self.n_clusters
        if isinstance(k, str):
            msg = "Expected a number of clusters for an own loop, found 'auto'; give the number."
            raise ValueError(msg)
        return self._method(k)

    def _method(self, n_clusters: int) -> F.Method:
        return F.siameseclu(n_clusters, config=self._config, **self._choices)

    def prepare(
        self,
        adata: AnnData,
        *,
        layer: str | None = "counts",
        use_rep: str | None = None,
        neighbors_key: str | None = None,
        batch_key: str | None = None,
        must_link: ConstraintsLike | None = None,
        cannot_link: ConstraintsLike | None = None,
    ) -> PreparedCells:
        """Check the input and return what a fit would see, for an own loop.

        Parameters and errors are those of :meth:`fit`; :meth:`from_state` is the way back. Numbers
        on the device are of jax's default precision.
        """
        keys = {"use_rep": use_rep, "neighbors_key": neighbors_key, "batch_key": batch_key}
        links = {"must_link": must_link, "cannot_link": cannot_link}
        prepared, given = self._prepare(adata, layer, keys, links)
        return PreparedCells(device_data(prepared), prepared, given)

    def _prepare(
        self,
        adata: AnnData,
        layer: str | None,
        keys: dict[str, str | None],
        links: dict[str, Any],
    ) -> tuple[Prepared, dict[str, Any]]:
        """Check and prepare the cells; say where everything came from."""
        adata = settled(adata)
        raw = check(adata, layer=layer, config=self.config)
        check_n_clusters(self.n_clusters, adata.n_obs)
        if self.n_clusters == "auto":
            k_range(adata.n_obs, 2, K_MAX)
        n, n_genes = raw.shape
        check_memory(n, n_genes, raw.nnz, self.config, lazy=isinstance(raw, Blocks))
        prepared = prepare(adata, raw=raw, layer=layer, **keys, **links, config=self.config)
        given = {"layer": layer or "X"} | {key: name for key, name in keys.items() if name}
        n, n_features = prepared.features.shape
        n_genes = len(prepared.preprocessor.selected)
        logger.info("%d cells, %d genes, %d features", n, n_genes, n_features)
        return prepared, given | constraints.plain(**links)

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
        mesh: Mesh | None = None,
        progress: bool | None = None,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        every: int = CHECKPOINT_EVERY,
    ) -> Self:
        """Cluster the cells. `adata` is read, never changed; of ``obs`` only `batch_key` is seen.

        A stage of training that diverges (a loss that is not finite or rises far above its start,
        an embedding that collapses, clusters that lose their cells) goes back to its last good
        state, with half its rate; after three such tries it ends with that state: ``warnings`` of
        the manifest say so, and ``diverged``. The history shows steps that were taken back as well.

        Parameters
        ----------
        adata
            Cells x genes with raw counts, which may be on disk: see
            :func:`scsiameseclu_jax.tl.siameseclu`.
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
        mesh
            Devices to split the cells over, from :func:`scsiameseclu_jax.cell_mesh`; those of
            several processes, if each of them calls this with the same arguments. Training,
            embedding and transport are; neighbours and candidates are made on the host.
        progress
            Show a bar (True), nothing (False), or a bar on a terminal and in a notebook, else log
            lines (None).
        checkpoint_dir
            Folder, of its own, to keep in what there is so far: a fit that is called again with the
            same cells, settings, seed and versions goes on from there, and its result is the same
            to the last bit on one device; any other, or one that finds the file damaged, begins
            anew and says why. It stays after the fit, which can then be called again at no cost.
        every
            Steps of training between two checkpoints; what took long, the number of clusters and
            the first partition, and the end of each stage, are kept at once.

        Raises
        ------
        TypeError, ValueError, KeyError
            For bad input, before training starts; for own terms, an own encoder or optimiser
            without any steps of training in the config.
        FileExistsError, FileNotFoundError, PermissionError
            If `checkpoint_dir` has other files in it; if it cannot be made or written to.
        MemoryError
            If there is too little memory, before any of it is taken; see
            :func:`scsiameseclu_jax.estimate_memory`.
        FloatingPointError
            If the embedding is not finite before any training: of an own encoder, say.
        """
        self._check_complete()
        self._check_trained()
        if mesh is not None:
            check_mesh(mesh)
        seed = as_seed(rng)
        keys = {"use_rep": use_rep, "neighbors_key": neighbors_key, "batch_key": batch_key}
        links = {"must_link": must_link, "cannot_link": cannot_link}
        checkpoint = None if checkpoint_dir is None else Checkpoint(checkpoint_dir, every)
        with Progress("preprocessing", show=progress) as bar:
            prepared, given = self._prepare(adata, layer, keys, links)
            if checkpoint is not None:
                checkpoint.open(fingerprint(prepared, self._method(2), self.n_clusters, seed))
            estimate, k = None, self.n_clusters
            if isinstance(k, str):
                bar.stage("number_of_clusters")
                estimate = None if checkpoint is None else checkpoint.saved.estimate
                if estimate is None:
                    x, near = prepared.features, self.config.preprocessing.n_neighbors
                    estimate = estimation.estimate(x, near, batch=prepared.batch, seed=seed)
                    if checkpoint is not None:
                        checkpoint.save(estimate=estimate)
                k = estimate.n_clusters
                logger.info("%d clusters: %s", k, estimate.why)
            method = self._method(k)
            with on_mesh(mesh):
                fit = stages.fit(
                    prepared, method, seed=seed, bar=bar, checkpoint=checkpoint, mesh=mesh
                )
            bar.stage("results")
            self._keep(method, fit, prepared, given, estimate, seed=seed, bar=bar)
        return self

    @classmethod
    def from_state(
        cls,
        method: F.Method,
        state: F.TrainState,
        prepared: PreparedCells,
        *,
        history: Mapping[str, np.ndarray] | F.StepInfo | None = None,
        rng: int | np.random.Generator = 0,
    ) -> Self:
        """Make a model of a state that an own loop trained: it predicts, saves and reports.

        Its confidence is that of the soft assignment until :meth:`assess` calibrates it, which fits
        by :meth:`fit`, not by the own loop.

        Parameters
        ----------
        method
            The method of the loop.
        state
            The trained state, after :meth:`Method.start_clustering`.
        prepared
            From :meth:`prepare`; the loop ran on ``prepared.data``.
        history
            That of :meth:`Method.fit`, or arrays [n_steps] by name.
        rng
            Seed of the loop, for the record.

        Raises
        ------
        ValueError
            If the state is of other cells, has no target yet, or numbers that are not finite; if
            arrays of the history differ in length.
        """
        n_edges, n_rows = prepared.data.graph.weights.shape[0], prepared.data.features.shape[0]
        if state.edge_mask.shape[0] != n_edges or state.plan.target.shape[0] != n_rows:
            msg = (
                f"Expected a state of the prepared cells ({n_rows} rows, {n_edges} edges), found "
                f"one of {state.plan.target.shape[0]} and {state.edge_mask.shape[0]}; start it by "
                "`method.init(key, prepared.data)`."
            )
            raise ValueError(msg)
        learned = {**state.params, "transport potential": state.plan.potential}
        broken = [
            name
            for name, leaves in learned.items()
            if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(leaves))
        ]
        if broken:
            msg = (
                f"Expected a state of finite numbers, found others in {broken}; go back to an "
                "earlier state, with a lower rate."
            )
            raise ValueError(msg)
        if not np.asarray(state.plan.target).any():
            msg = "Expected a state with a target, found none; call `method.start_clustering`."
            raise ValueError(msg)
        choices = {name: getattr(method, name) for name in ("encoder", "augment", "transport")}
        weights = {term.name: float(state.weights.get(term.name, 0.0)) for term in F.TERMS}
        model = cls(
            method.n_clusters,
            config=_with_losses(weights, method.config),
            terms=(*F.TERMS, *(term for term in method.terms if term.name not in weights)),
            optimizer=method.optimizer,
            **choices,
        )
        findings = {
            "first_partition": "own",
            "confidence": "not calibrated",
            "neighbors": prepared.prepared.search,
            "warnings": [],
        }
        steps = _as_history(history)
        with jax.enable_x64(new_val=False), Progress("results", show=False) as bar:
            data = device_data(prepared.prepared)
            state = jax.tree.map(_in_single, state)
            fit = stages.Fit(state, data, steps, None, None, findings)
            seed, given = as_seed(rng), prepared.given
            model._keep(method, fit, prepared.prepared, given, None, seed=seed, bar=bar)
        return model

    def _keep(
        self,
        method: F.Method,
        fit: stages.Fit,
        prepared: Prepared,
        given: dict[str, Any],
        estimate: Estimate | None,
        *,
        seed: int,
        bar: Progress,
    ) -> None:
        """Assign the cells and keep what the model answers with."""
        findings, k = fit.findings, method.n_clusters
        n = len(prepared.order)
        z = method.embed(fit.state, fit.data)
        state = method.fill_empty_clusters(fit.state, fit.data, z)
        learned = method.represent(state, fit.data.features, z)
        arrays = (method.assign(state, z).proba, learned, z)
        proba, embedding, fused = (np.asarray(array)[:n] for array in arrays)
        back = np.argsort(prepared.order)
        n_filled = len(np.unique(proba.argmax(axis=1)))
        proba = constraints.constrain(proba, prepared.constraints)
        labels, rank = by_size(proba.argmax(axis=1), k)
        by_pairs = n_filled == k and "the known pairs have moved their cells: look at those again"
        check_sizes(labels, k, findings["warnings"], by_pairs or fit.remedy)
        findings |= constraints.kept(labels, prepared.constraints)
        findings["losses"] = {name: float(weight) for name, weight in fit.state.weights.items()}
        own = self._own_choices()
        findings |= {"choices": own} if own else {}
        proba = proba[:, rank][back].astype(np.float32)
        votes = None if fit.votes is None else fit.votes[:, rank][back]
        self._reference = reference.keep(state, fit.data, prepared, labels, rank, method)
        self._results = {
            "labels": labels[back],
            "proba": proba,
            "embedding": embedding[back].astype(np.float32),
            "fused": fused[back].astype(np.float32),
            "history": fit.history,
            "estimate": estimate,
            "votes": votes,
            "calibration": None if votes is None else calibrate(proba, votes),
            "stability": None,
            "pool": None if fit.pool is None else fit.pool.of_cells(back),
            "answers": [],
            "manifest": manifest(
                prepared,
                k,
                given=given,
                seed=seed,
                seconds=bar.seconds(),
                findings=findings,
                config=self.config,
            ),
        }

    def assess(
        self,
        adata: AnnData,
        *,
        n_resamples: int = 10,
        rng: int | np.random.Generator = 0,
        mesh: Mesh | None = None,
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
        mesh
            Devices, of which each of this process's makes one refit at a time.
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
        self._check_complete()
        adata = settled(adata)
        k, seed = self.proba.shape[1], as_seed(rng)
        stability.check(n_resamples, adata.n_obs, k, self.config)
        check_cells(adata, self.manifest, counts=True)
        given = as_given(self.manifest, adata)
        known = {name: self.manifest["input"].get(name) for name in constraints.OPTIONS}
        constraints.find_constraints(adata, **known)

        if mesh is not None:
            check_mesh(mesh)
        devices = [] if mesh is None else list(mesh.local_devices)
        if len(devices) > 1:
            progress = False  # several bars at once cannot be read

        def again(part: AnnData, seed: int) -> SiameseClu:
            config = stability.refit_config(self.config)
            other = SiameseClu(k, config=config, **self._choices)
            options = given | constraints.among(known, part)
            return other.fit(part, rng=seed, progress=progress, **options)

        key, layer = given.get("batch_key"), given["layer"]
        batch = None if key is None else read_batches(adata, key)[0]
        refits = stability.refit(
            adata, n_resamples, again, layer=layer, batch=batch, seed=seed, devices=devices
        )
        found, calibration = stability.compare(self.proba, self._result("votes"), refits)
        self._results |= {"stability": found, "calibration": calibration}
        done = {"n_resamples": int(n_resamples), "confidence": "calibrated by refits, too"}
        self._results["manifest"] = self.manifest | done
        return self

    def questions(self, adata: AnnData, n: int = 5) -> pd.DataFrame:
        """Return the questions whose answers would say most about which partition is right.

        Of the candidates of a fit the counts do not say which is the right one; a user who looks
        at the genes of two groups of cells may. Each question is whether two groups are of one
        type. Fill in the column ``answer`` with yes, no or unsure, and hand the table to
        :meth:`answer`. Asked one at a time, each question heeds the answers before.

        Parameters
        ----------
        adata
            The cells of the fit, in the same order, with raw counts, for the genes.
        n
            How many questions. There are fewer, or none, if the candidates agree.

        Returns
        -------
        A row for each question, the one that says most first:

        ``cells_a``, ``cells_b``
            Names of the cells of each group; of more than 100, those nearest to its centre.
        ``n_a``, ``n_b``
            How many cells it has.
        ``clusters_a``, ``clusters_b``
            Clusters that they are in now.
        ``genes_a``, ``genes_b``
            Genes that are higher there, with the shares of cells of this and of the other group
            that express them.
        ``together``
            Share of the candidates, by weight, that put both into one cluster, 0 to 1.
        ``n_hinge``, ``if_yes``, ``if_no``
            Number of cells whose cluster depends on the answer; that would move if it is yes, and
            if it is no.
        ``answer``
            Empty.

        Raises
        ------
        RuntimeError
            If the model is not fitted, or has no candidates: of a model that was loaded from an
            older version, or made by :meth:`from_state`.
        ValueError, KeyError, TypeError
            If the cells are not those of the fit, or have no raw counts.
        """
        pool = self._pool()
        check_cells(adata, self.manifest, counts=True)
        given = as_given(self.manifest, adata)
        names = self.labels.astype(str)
        embedding, answers = self.get_latent_representation(fused=True), self.answers
        layer = given["layer"]
        return question_table(adata, pool, embedding, names, answers, layer=layer, n=n)

    def answer(self, adata: AnnData, answers: pd.DataFrame | None, *, keep: bool = True) -> Self:
        """Choose again among the candidates of the fit, by what the user knows.

        Takes about a second: networks, embedding, and how novel cells are judged, stay as they
        are. Centres start anew from the chosen partition; those that training has moved
        (``config.training.steps``, none by default) come back by another fit only. Clusters are
        numbered anew by size, what :meth:`assess` found is forgotten, and :meth:`predict` and
        :meth:`save` follow.

        Parameters
        ----------
        adata
            The cells of the fit, in the same order, with raw counts, by which they are known.
        answers
            A table of :meth:`questions`, answered; rows without an answer do not count.
        keep
            Whether earlier answers count as well; of a question that is answered again, the last
            answer does. ``answer(adata, None, keep=False)`` takes all of them back.

        Raises
        ------
        RuntimeError
            See :meth:`questions`; if the model was loaded without its own transport.
        TypeError, KeyError, ValueError
            If this is no such table, names other cells, or has other answers; if the cells are not
            those of the fit.
        """
        pool = self._pool()
        if "transport" in self._missing:
            msg = (
                f"Expected the transport {self._missing['transport']!r} that the model was made "
                "with; hand it in: `SiameseClu.load(..., transport=...)`."
            )
            raise RuntimeError(msg)
        order = check_cells(adata, self.manifest, counts=True)
        tables = [self.answers] if keep else []
        tables += [] if answers is None else [answers]
        embedding, method = self.get_latent_representation(fused=True), self.method()
        options: dict[str, Any] = {"order": order, "manifest": self.manifest}
        again = cluster_by_answers(adata, pool, embedding, method, tables, **options)
        kept = reference.with_clusters(self._kept("answer"), again.state, again.rank)
        results = {
            "labels": again.clusters,
            "proba": again.proba,
            "votes": again.votes,
            "calibration": again.calibration,
            "stability": None,
            "answers": again.answers.to_dict("records"),
            "manifest": again.manifest,
        }
        self._reference = kept
        self._results |= results
        return self

    @property
    def answers(self) -> pd.DataFrame:
        """Answers that the clusters heed: ``cells_a`` and ``cells_b`` (JSON text), ``answer``."""
        columns = ["cells_a", "cells_b", "answer"]
        return pd.DataFrame(self._result("answers"), columns=columns, dtype=object)

    @property
    def candidates(self) -> Pool | None:
        """Candidate partitions of the cells that the clusters were chosen from, or None."""
        return self._result("pool")

    def _pool(self) -> Pool:
        """Return the candidates of the fit, which there have to be."""
        pool = self.candidates
        if pool is None:
            msg = (
                "Expected the candidate partitions of a fit to ask about, found none: the model "
                "came from an own loop, an older version, or cells of too few kinds; call `fit`."
            )
            raise RuntimeError(msg)
        return pool

    def check_cells(self, adata: AnnData) -> None:
        """Raise ValueError for more or fewer cells than the fit had, or its own reordered."""
        check_cells(adata, self.manifest, counts=False)

    def predict(
        self, adata: AnnData, *, layer: str | None = "counts", alpha: float = 0.05
    ) -> Predicted:
        """Cluster cells that the fit has not seen.

        Genes are found by name, whatever their order, case, or Ensembl version; the fit's gene
        selection, normalisation and components are applied, and each cell is linked to its
        nearest cells of the fit. Genes that are missing are told, and left out: counts per cell are
        compared over those that both have. Labels do not depend on which other cells are new, but
        for batches that the fit does not know, each of which is centred by its own cells.

        Parameters
        ----------
        adata
            New cells x genes with raw counts, on disk or not; not changed.
        layer
            Where the counts are, as in :meth:`fit`.
        alpha
            Share of the cells like those of the fit that may be flagged as out of reference.

        Returns
        -------
        Predicted
            Labels, soft assignments, confidence, embedding, novelty and flag of each cell. From
            50 new cells on, novelty is pooled over the 10 most similar new cells. Cells of the fit
            itself have 0.

        Raises
        ------
        RuntimeError
            If the model is not fitted.
        TypeError, KeyError, ValueError
            For bad input; if more than 20 % of the selected genes are missing, or most of the
            counts; if a batch that the fit does not know has fewer than four cells; if
            ``config.fusion.gate`` is ``"per_cell"``, which no new cell has weights for.
        """
        kept = self._kept("predict")
        found = reference.predict(kept, adata, layer=layer, alpha=alpha, method=self.method())
        return found._replace(confidence=confidence(self._result("calibration"), found.proba))

    def save(self, directory: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Save the model to a folder: arrays and settings, no pickle, no AnnData.

        Parameters
        ----------
        directory
            Folder to make, whole or not at all; a link to one is followed. One that is replaced is
            there until the new one is, where the system can exchange them.
        overwrite
            Replace a model that is there.

        Raises
        ------
        RuntimeError
            If the model is not fitted.
        FileExistsError, FileNotFoundError, OSError
            If there is something already; if there is nowhere to put it.
        scsiameseclu_jax.files.WriteError
            If it could not be written; what was there still is.
        """
        settings, arrays = reference.to_arrays(self._kept("save"))
        history = dict(self.history)
        settings |= {
            "n_clusters": self.n_clusters if self.n_clusters == "auto" else int(self.n_clusters),
            "config": self.config.to_dict(),
            "manifest": self.manifest,
            "stage": history.pop("stage").tolist(),
            "choices": self._own_choices(),
        }
        settings["answers"] = self._results["answers"]
        pool: Pool | None = self._results["pool"]
        if pool is not None:
            settings["candidates"] = pool.names
        if self.estimate is not None:
            settings["estimate"] = estimation.to_plain(self.estimate)
        arrays |= {f"history/{name}": values for name, values in history.items()}
        arrays |= {f"results/{name}": self._results[name] for name in _CELL_RESULTS}
        arrays |= stability.to_arrays(self._results)
        if pool is not None:
            fields = {name: np.asarray(value) for name, value in pool._asdict().items()}
            fields.pop("names")
            arrays |= {f"candidates/{name}": value for name, value in fields.items()}
        files.write_model(directory, settings, arrays, overwrite=overwrite)

    def _own_choices(self) -> dict[str, str]:
        """Return the names of what was handed in."""
        own = {
            name: _name(self._choices[name])
            for name, usual in _USUAL.items()
            if self._choices[name] != usual
        }
        terms = [term.name for term in self._choices["terms"] if term not in F.TERMS]
        return own | ({"terms": ", ".join(terms)} if terms else {})

    @classmethod
    def load(
        cls,
        directory: str | os.PathLike[str],
        *,
        terms: Sequence[F.Term] | None = None,
        encoder: F.Encoder | None = None,
        augment: F.Augment | None = None,
        transport: F.Transport | None = None,
        optimizer: optax.GradientTransformation | None = None,
    ) -> Self:
        """Load a model that :meth:`save` saved; its predictions are bit for bit the same.

        Parameters
        ----------
        directory
            Folder of the model.
        terms, encoder, augment, transport, optimizer
            Those that the model was made with, if they were handed in: code is not saved. Without
            `encoder` and `augment` it cannot predict, without `transport` not heed answers; without
            the others it cannot be fitted or assessed again.

        Raises
        ------
        FileNotFoundError
            If there is none.
        ValueError
            If a file is truncated, changed, or saved by another version; if the model was made with
            an own encoder or augmentation that is not given here, or without one that is.
        """
        from safetensors import SafetensorError

        given: dict[str, Any] = {"terms": terms, "encoder": encoder, "augment": augment}
        given |= {"transport": transport, "optimizer": optimizer}
        unlike = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError)
        try:
            return cls._load(directory, given)
        except (*unlike, SafetensorError) as error:
            msg = (
                f"Expected a whole model in {str(directory)!r}, found parts missing or of another "
                f"kind ({type(error).__name__}: {error}); copy or save it again."
            )
            raise ValueError(msg) from error

    @classmethod
    def _load(cls, directory: str | os.PathLike[str], given: dict[str, Any]) -> Self:
        settings, arrays = files.read_model(directory)
        saved = settings["choices"]
        for name, choice in given.items():
            if choice is None and name in saved and name in ("encoder", "augment"):
                msg = (
                    f"Expected `{name}`, for the model in {str(directory)!r} was made with "
                    f"{saved[name]!r}; hand it in: `SiameseClu.load(..., {name}=...)`."
                )
                raise ValueError(msg)
            if choice is not None and name not in saved:
                msg = f"Expected no `{name}`: the model in {str(directory)!r} has the usual."
                raise ValueError(msg)
        choices = {name: choice for name, choice in given.items() if choice is not None}
        config = Config.from_dict(settings["config"])
        if given["terms"] is None:
            losses = settings["manifest"]["losses"]
            config = _with_losses({t.name: losses.get(t.name, 0.0) for t in F.TERMS}, config)
        model = cls(settings["n_clusters"], config=config, **choices)
        model._missing = {name: own for name, own in saved.items() if name not in choices}
        history = reference.group(arrays, "history/")
        arrays.setdefault("results/fused", arrays["results/embedding"])  # of an older version
        model._results = {name: arrays[f"results/{name}"] for name in _CELL_RESULTS}
        model._results["history"] = history | {"stage": np.array(settings["stage"])}
        model._results["manifest"] = settings["manifest"]
        model._results |= stability.from_arrays(arrays)
        model._results["answers"] = settings.get("answers", [])
        found = reference.group(arrays, "candidates/")
        if found:
            found["lead"] = found["lead"].item()
            found["names"] = settings["candidates"]
        model._results["pool"] = Pool(**found) if found else None
        plain = settings.get("estimate")
        model._results["estimate"] = None if plain is None else estimation.from_plain(plain)
        model._reference = reference.from_arrays(settings, arrays)
        return model

    def _check_complete(self) -> None:
        """Raise RuntimeError if what the model was made with is not at hand."""
        if self._missing:
            msg = (
                f"Expected {self._missing}, which the saved model was made with, to fit or assess "
                "it; hand them to `SiameseClu.load`."
            )
            raise RuntimeError(msg)

    def _check_trained(self) -> None:
        """Raise ValueError if what only training uses was handed in, and nothing is trained."""
        taken = {stage for stage, count in self.config.training.steps_of().items() if count}
        own = [term for term in self._choices["terms"] if term not in F.TERMS]
        trained = {
            "encoder": bool(taken - {"contrast"}),
            "optimizer": bool(taken),
            "terms": any(taken & {*term.stages} for term in own),
        }
        used = sorted(name for name in self._own_choices() if not trained.get(name, True))
        if used:
            msg = (
                f"Expected steps of training for your {' and '.join(used)}, found none: by default "
                "contrast alone is trained; set `config.training`, for example "
                "`Config.from_dict({'training': {'steps': 200}})`."
            )
            raise ValueError(msg)

    def get_latent_representation(self, *, fused: bool = False) -> np.ndarray:
        """Return the embedding [n, d] of the fitted cells.

        It is the projection that contrast between neighbours taught; without it
        (:meth:`Config.fast`) the fused embedding, in which cells are clustered in any case, and
        whose rows have length sqrt(d).

        Parameters
        ----------
        fused
            Return the fused embedding.
        """
        return self._result("fused" if fused else "embedding")

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

    def _kept(self, wanted: str) -> Reference:
        if self._reference is None:
            msg = f"Expected a fitted model to `{wanted}` with; call `fit` first."
            raise RuntimeError(msg)
        return self._reference

    def _result(self, name: str) -> Any:
        if not self.is_fitted:
            msg = f"Expected a fitted model to read `{name}` from; call `fit` first."
            raise RuntimeError(msg)
        return self._results[name]


def _with_losses(weights: Mapping[str, float], config: Config) -> Config:
    """Return a config with the weights of the method's own terms that differ from the usual."""
    usual = {term.name: term.weight for term in F.TERMS}
    changed = {name: weight for name, weight in weights.items() if weight != usual[name]}
    return replace(config, losses=Weights(changed))


def _in_single(leaf: Any) -> Any:
    """Return an array in the precision that models have."""
    wide = jnp.issubdtype(leaf.dtype, jnp.floating)
    return jnp.asarray(np.asarray(leaf), jnp.float32) if wide else leaf


def _as_history(history: Mapping[str, np.ndarray] | F.StepInfo | None) -> dict[str, np.ndarray]:
    """Return arrays by name, and the stage of each step."""
    columns: dict[str, Any] = {}
    if isinstance(history, F.StepInfo):
        columns = history._asdict()
        columns |= columns.pop("terms")
    elif history is not None:
        columns = dict(history)
    steps = {name: np.asarray(values, np.float64) for name, values in columns.items()}
    lengths = {values.shape for values in steps.values()}
    if len(lengths) > 1 or any(len(shape) != 1 for shape in lengths):
        msg = f"Expected arrays [n_steps] in `history`, found shapes {sorted(lengths)}."
        raise ValueError(msg)
    return steps | {"stage": np.full(lengths.pop() if lengths else 0, "train")}


def _name(choice: Any) -> str:
    """Return what a function, or a pair of them, is called."""
    function = choice.apply if isinstance(choice, F.Encoder) else choice
    function = getattr(function, "func", function)  # of a partial
    return f"{function.__module__}.{getattr(function, '__qualname__', type(function).__name__)}"

"""One fit: the stages in order, in chunks of steps with a look at the losses between them."""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

import scsiameseclu_jax.functional as F
from scsiameseclu_jax.config import Config, Weights
from scsiameseclu_jax.partition.candidates import centers_of
from scsiameseclu_jax.partition.consensus import first_partition
from scsiameseclu_jax.partition.questions import Pool
from scsiameseclu_jax.partition.voting import FEWER
from scsiameseclu_jax.preprocessing.blocks import Selected
from scsiameseclu_jax.preprocessing.prepare import Prepared
from scsiameseclu_jax.training import divergence
from scsiameseclu_jax.training.checkpoint import Checkpoint, Saved, leaves_of, with_leaves
from scsiameseclu_jax.training.device import (
    bound_programs,
    device_data,
    give_back_memory,
    in_float32,
)
from scsiameseclu_jax.training.mesh import (
    agreed,
    check_agreed,
    cut,
    fitted_to,
    on_host,
    spread_state,
)
from scsiameseclu_jax.training.minibatches import MiniBatches
from scsiameseclu_jax.training.progress import Progress

logger = logging.getLogger(__name__)

_EVEN = 0.9  # what is left of the entropy of cluster sizes, if training empties no cluster
# What comes after a stage.
_NEXT: dict[str, str] = dict(pairwise((*F.STAGES[:-1], "first_partition", "train", "results")))


class Fit(NamedTuple):
    """What a fit leaves."""

    state: F.TrainState
    """The trained state."""
    data: F.CellData
    """The cells, padded."""
    history: dict[str, np.ndarray]
    """Loss terms and monitors, a value for each step."""
    votes: np.ndarray | None
    """[n, k] share of the votes for each cluster that the first partition came from, if it did."""
    pool: Pool | None
    """The candidates that it was chosen from, if there were several."""
    findings: dict[str, Any]
    """What was decided on the way, and warnings; plain types."""
    remedy: str = FEWER
    """What to do if a cluster has no cells."""


class _Whole:
    """Steps that see all cells."""

    cells_per_step = "all"
    drawn = 0

    def __init__(self, prepared: Prepared, method: F.Method, *, mesh: Mesh | None = None) -> None:
        self.data, self._method = device_data(prepared, mesh=mesh), method

    def init(self, key: jax.Array) -> F.TrainState:
        return self._method.init(key, self.data)

    def begin(self, state: F.TrainState, stage: F.Stage) -> None:
        """Nothing to look up before a stage."""

    def skip(self, n_batches: int) -> None:
        """Nothing is drawn."""

    def run(
        self, state: F.TrainState, stage: F.Stage, n_steps: int
    ) -> tuple[F.TrainState, F.StepInfo]:
        return self._method.fit(state, self.data, n_steps=n_steps, stage=stage)

    def look(self, state: F.TrainState, stage: F.Stage) -> tuple[F.TrainState, F.StepInfo]:
        return self.run(state, stage, 1)


class _Place(NamedTuple):
    """How far a stage is."""

    state: F.TrainState
    done: int
    """Steps taken, without those taken back."""
    tries: int
    """How often the rate was halved."""
    drawn: int
    """Mini-batches drawn in the fit."""
    n_rows: int
    """Chunks in the history of the fit."""


class _Run:
    """The stages of one fit, with its progress, its history and its checkpoint."""

    def __init__(
        self,
        prepared: Prepared,
        method: F.Method,
        *,
        seed: int,
        bar: Progress,
        checkpoint: Checkpoint | None = None,
        mesh: Mesh | None = None,
    ) -> None:
        saved = Saved() if checkpoint is None else checkpoint.saved
        check_agreed(
            mesh,
            cells=(prepared.features.shape, len(prepared.senders)),
            settings=(method.n_clusters, method.config.fingerprint(), seed),
            checkpoint=(saved.stage, saved.done),
        )
        self.source: _Whole | MiniBatches
        if isinstance(prepared.counts, Selected) and not method.config.training.sees_counts():
            prepared = prepared.without_counts()  # which would have to be read
        if len(prepared.order) <= method.config.scale.full_cells:
            self.source = _Whole(prepared, method, mesh=mesh)
        else:
            self.source = MiniBatches(prepared, method, seed=seed, mesh=mesh)
        bound_programs(method, self.source.data)
        self.method, self.config, self.bar = method, method.config, bar
        self._mesh = mesh
        self.initial = spread_state(self.source.init(jax.random.key(seed)), mesh)
        self.checkpoint = checkpoint
        self.saved = None if saved.stage is None else saved  # until it is taken up
        self.rows, self.kept = list(saved.rows), list(saved.kept)
        self.diverged: dict[str, Any] = dict(saved.diverged)
        self.source.skip(saved.drawn)

    def arrive(self, state: F.TrainState, name: str) -> F.TrainState:
        """Return the state that a stage begins with: the saved one, if it was saved there."""
        saved = self.saved
        if saved is None or saved.stage != name or saved.done is not None:
            return state
        self.saved = None
        logger.info("took up the checkpoint: on to %s", name.replace("_", " "))
        return self._taken_up(self._like(saved)._replace(opt_state=()), saved)

    def _like(self, saved: Saved) -> F.TrainState:
        """Return a state with the same parameters as the saved one."""
        if saved.has_projection:
            return self.method.start_stage(self.initial, "contrast")
        return self.initial

    def _taken_up(self, like: F.TrainState, saved: Saved) -> F.TrainState:
        """Return the saved state, which may be of another number of devices."""
        data = self.source.data
        return fitted_to(with_leaves(cut(like, data), saved.leaves), data, self._mesh)

    def save(self, name: str, state: F.TrainState) -> None:
        """Save the state that a stage begins with."""
        state = state._replace(opt_state=())
        self._save(name, _Place(state, 0, 0, self.source.drawn, len(self.rows)), None)

    def _save(self, name: str, here: _Place, done: int | None) -> None:
        if self.checkpoint is None:
            return
        self.checkpoint.save(
            stage=name,
            done=done,
            tries=here.tries,
            drawn=here.drawn,
            rows=tuple(self.rows[: here.n_rows]),
            kept=tuple(self.kept[: here.n_rows]),
            diverged=dict(self.diverged),
            has_projection="projection" in here.state.params,
            leaves=leaves_of(cut(here.state, self.source.data)),
        )

    def _begin(self, state: F.TrainState, stage: F.Stage) -> _Place:
        """Begin a stage, or take it up where it was saved."""
        saved, self.saved = self.saved, None
        done, tries = 0, 0
        if saved is not None and saved.done is not None:
            done, tries = saved.done, saved.tries
            like = self.method.start_stage(self._like(saved), stage)
            state = self._taken_up(like, saved)
            logger.info("took up the checkpoint: on to %s, step %d", stage, done + 1)
            self.bar.update(done, {})
        else:
            state = self.method.start_stage(state, stage)
        self.source.begin(state, stage)
        return _Place(state, done, tries, self.source.drawn, len(self.rows))

    def stage(self, state: F.TrainState, stage: F.Stage, count: int) -> F.TrainState:
        """Take the steps of one stage; of training fewer, if it settles.

        Where it diverges, it goes on from the last state that was good, with half the rate; after
        some such tries it ends with that state.
        """
        state = self.arrive(state, stage)
        if self.saved is not None and self.saved.stage != stage:
            return state  # that of a later stage was saved
        if not count or not any(stage in term.stages for term in self.method.terms):
            return state
        self.bar.stage(stage, count)
        good = here = self._begin(state, stage)
        first = next((row for row in self.rows if row["stage"][0] == stage), None)
        written = here.done
        while True:
            size = min(F.CHUNK, count - here.done)
            over = not size or (stage == "train" and self._settled())
            if over:  # what the last step led to is seen by one more, which is not kept
                after, info = self.source.look(here.state, stage)
            else:
                after, info = self.source.run(here.state, stage, size)
            n_taken = int(after.step) - int(here.state.step)
            row = divergence.record(info, stage, n_taken)
            if first is None:
                first = row
                give_back_memory()
            trouble = divergence.find(row, first, self.method, n_taken)
            if over and trouble is None:
                kept = [old for old in self.counted() if old["stage"][0] == stage]
                trouble = divergence.find_at_end([*kept, row], first, self.method)
                if trouble is None:
                    break
            self.rows.append(row)
            self.kept.append(trouble is None)
            if n_taken and not over and divergence.is_good(row, first, self.method):
                good = here  # as a step from it has shown
            if trouble is None:
                self.bar.update(size, row)
                n_rows, done = len(self.rows), here.done + size
                here = _Place(after, done, here.tries, self.source.drawn, n_rows)
            else:
                self.kept[good.n_rows :] = [False] * (len(self.rows) - good.n_rows)
                self.bar.update(good.done - here.done, row)
                self._found(stage, trouble, here.done + len(row["loss"]), good)
                if good.tries == divergence.MAX_TRIES:
                    here = good
                    break
                slower = self.method.slow_down(good.state, stage)
                tries, n_rows = good.tries + 1, len(self.rows)
                good = here = _Place(slower, good.done, tries, self.source.drawn, n_rows)
            if self.checkpoint is not None and good.done - written >= self.checkpoint.every:
                self._save(stage, good, good.done)
                written = good.done
        if here.done < count and stage not in self.diverged:
            logger.info("stopped early: no cell's target has changed for a while")
        state = here.state._replace(values=self.initial.values)  # with the rates of the settings
        if stage == "contrast" and not here.done:
            params = {name: own for name, own in state.params.items() if name != "projection"}
            state = state._replace(params=params)
        if stage in self.diverged:
            found = self.diverged[stage]
            found["warning"] = divergence.warning(stage, found, self.method, here.done, count)
            logger.warning(found["warning"])
        self.save(_NEXT[stage], state)
        return state

    def _found(self, stage: F.Stage, trouble: divergence.Trouble, step: int, good: _Place) -> None:
        """Keep what went wrong first in a stage, and how often."""
        logger.info("%s, step %d: %s; back to step %d", stage, step, trouble.cause, good.done)
        found = self.diverged.get(stage, trouble._asdict() | {"step": step})
        ended = good.tries == divergence.MAX_TRIES
        self.diverged[stage] = found | {"tries": good.tries + (not ended), "ended": ended}

    def counted(self) -> list[divergence.Row]:
        """Return the history without what was taken back."""
        return [row for row, kept in zip(self.rows, self.kept, strict=True) if kept]

    def _settled(self) -> bool:
        patience = self.config.training.patience
        return bool(patience) and _settled(self.counted(), patience)

    def pretrain(self) -> tuple[F.TrainState, jax.Array]:
        """Take the stages before clusters and choose view 1's edges; return state and embedding."""
        steps, data, method = self.config.training.steps_of(), self.source.data, self.method
        state = self.initial
        for stage in F.STAGES[:-1]:
            state = self.stage(state, stage, steps[stage])
        state = self.arrive(state, "first_partition")
        self.bar.stage("embedding")
        if method.structure.edge_removal:
            state = method.prune_graph(state, data, method.embed(state, data))
        z = method.embed(state, data)
        if not bool(jnp.isfinite(z).all()):
            msg = (
                "Expected a finite embedding of the cells, found values that are not; look at your "
                "own encoder or augmentation."
            )
            raise FloatingPointError(msg)
        return state, z


def fit(
    prepared: Prepared,
    method: F.Method,
    *,
    seed: int,
    bar: Progress,
    checkpoint: Checkpoint | None = None,
    mesh: Mesh | None = None,
) -> Fit:
    """Run all stages on prepared cells.

    A stage that diverges, by :func:`scsiameseclu_jax.training.divergence.find`, goes back to its
    last good state, with half the rate, and ends there after three such tries: a warning says what
    diverged, and ``findings["diverged"]``, by stage, what is known of it.

    Parameters
    ----------
    prepared
        From :func:`scsiameseclu_jax.preprocessing.prepare.prepare`.
    method
        The method, with all settings.
    seed
        Of the networks, the noise and the first partition.
    bar
        Is told of the stages.
    checkpoint
        Where to keep what there is so far, and to take it up from, if anywhere.
    mesh
        Devices that training and transport are split over; what is returned is whole, on one.

    Raises
    ------
    FloatingPointError
        If the embedding, or the first transport plan, is not finite, whatever is trained.
    """
    config, n, k = method.config, len(prepared.order), method.n_clusters
    bar.stage("setup")
    run = _Run(prepared, method, seed=seed, bar=bar, checkpoint=checkpoint, mesh=mesh)
    data, state = run.source.data, run.initial
    partition = None if checkpoint is None else checkpoint.saved.partition
    if partition is None:
        state, z = run.pretrain()
        embedding = on_host(z)[:n]
        bar.stage("first_partition")
        partition = first_partition(
            embedding,
            [prepared.features, *prepared.others],
            k,
            n_neighbors=config.preprocessing.n_neighbors,
            batch=prepared.batch,
            constraints=prepared.constraints,
            how=config.training.first_partition,
            seed=seed,
        )
        logger.info("first partition: %s", partition.name)
        clusters = agreed(partition.clusters, mesh)
        centers = centers_of(embedding, clusters, k).astype(np.float32)
        sizes = np.bincount(clusters, minlength=k).astype(np.float32)
        state = method.start_clustering(state, data, z, centers, sizes)
        if not bool(jnp.isfinite(state.plan.potential).all()):
            msg = (
                "Expected a finite transport plan, found one that is not; raise "
                f"`config.transport.epsilon` ({config.transport.epsilon:g}), or look at your own "
                "transport."
            )
            raise FloatingPointError(msg)
        if checkpoint is not None:
            checkpoint.saved = replace(checkpoint.saved, partition=partition)
        run.save("train", state)
    state = run.stage(state, "train", config.training.steps)
    state = run.arrive(state, "results")
    steps = [row for row in run.counted() if row["stage"][0] == "train"]
    notes = [] if checkpoint is None else checkpoint.notes
    notes = [*notes, *(found["warning"] for found in run.diverged.values())]
    if not bool(state.plan.converged):
        notes.append(_not_converged(state.plan, steps, config))
        logger.warning(notes[-1])
    votes = partition.votes
    findings: dict[str, Any] = {
        "first_partition": partition.name,
        "confidence": "not calibrated" if votes is None else "calibrated by its votes",
        "attention_over": _attention_over(data, method),
        "cells_per_step": run.source.cells_per_step,
        "neighbors": prepared.search,
        "training_steps": sum(len(row["loss"]) for row in steps),
        "warnings": notes,
    }
    if run.diverged:
        findings["diverged"] = run.diverged
    if votes is not None:
        findings["votes_agree"] = round(float(votes.max(axis=1).mean()), 4)
    if mesh is not None:
        findings["devices"] = {"mesh": mesh.size, "processes": jax.process_count()}
        host = cut(state, data)
        data = device_data(prepared.without_counts())
        state = fitted_to(host, data, None)
    history = _stack(run.rows)
    return Fit(state, data, history, votes, partition.pool, findings, _remedy(steps, config))


@in_float32
def cluster_again(
    method: F.Method, embedding: np.ndarray, clusters: np.ndarray
) -> tuple[F.TrainState, np.ndarray]:
    """Transport cells to clusters that start elsewhere; the networks are not touched.

    Parameters
    ----------
    method
        The method; its networks are of no account.
    embedding
        [n, d] fused embedding.
    clusters
        [n] the partition to start from, 0 to k - 1, none empty.

    Returns
    -------
    A state, whose centres, proportions and potential are those of the clusters, and the soft
    assignments [n, k].
    """
    k, n = method.n_clusters, len(embedding)
    data = F.cell_data(embedding, None, np.arange(n)[:, None])
    z = data.features
    centers = centers_of(embedding, clusters, k).astype(np.float32)
    sizes = np.bincount(clusters, minlength=k).astype(np.float32)
    config = replace(method.config, losses=Weights())  # may name terms that are not here
    plain = F.siameseclu(k, config=config, transport=method.transport)
    state = plain.init(jax.random.key(0), data)
    state = plain.start_clustering(state, data, z, centers, sizes)
    state = plain.fill_empty_clusters(state, data, z)
    return state, np.asarray(plain.assign(state, z).proba)[:n]


@in_float32
def fit_embedding(prepared: Prepared, *, config: Config, seed: int, bar: Progress) -> np.ndarray:
    """Return the embedding [n, d] that users get: without clusters, or their number.

    For the parameters see :func:`fit`; the rows are in the order of `prepared`.
    """
    method = F.siameseclu(2, config=config)  # centres that nothing uses
    run = _Run(prepared, method, seed=seed, bar=bar)
    state, z = run.pretrain()
    z = method.represent(state, run.source.data.features, z)
    return np.asarray(z)[: len(prepared.order)]


def _attention_over(data: F.CellData, method: F.Method) -> str:
    """Say which pairs of cells are compared."""
    names = {term.name for term in method.terms}
    if not method.structure.fusion.global_attention and "adjacency" not in names:
        return "none"
    landmarks = F.landmarks(data.mask, structure=method.structure)
    return "all" if landmarks is None else f"{len(landmarks)} landmarks"


def _settled(rows: list[dict[str, np.ndarray]], patience: int) -> bool:
    """Whether no target's largest entry moved in the last `patience` training steps."""
    changed = [row["changed"] for row in rows if row["stage"][0] == "train"]
    if not patience or sum(map(len, changed)) < patience:
        return False
    return not np.concatenate(changed)[-patience:].any()


def _stack(rows: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not rows:
        return {"stage": np.zeros(0, str)}
    return {
        name: np.concatenate([row.get(name, np.full(len(row["stage"]), np.nan)) for row in rows])
        for name in names
    }


def _remedy(steps: list[divergence.Row], config: Config) -> str:
    """Say what to do about clusters without cells, by the steps of training."""
    if not steps or steps[-1]["size_entropy"][-1] > _EVEN * steps[0]["size_entropy"][0]:
        return FEWER
    rate = f"`config.training.rate` ({config.training.rate:g})"
    return f"training has emptied them: lower {rate}, or take fewer `config.training.steps`"


def _not_converged(plan: F.Plan, steps: list[divergence.Row], config: Config) -> str:
    limit, training = config.transport.threshold, config.training
    did = bool(steps) and steps[0]["sinkhorn_error"][0] <= limit
    remedy = "raise config.transport.max_iterations or config.transport.epsilon."
    if did:
        remedy = (
            f"before training it did: lower config.training.rate ({training.rate:g}), or {remedy}"
        )
    return (
        f"Sinkhorn did not converge in {int(plan.iterations)} iterations: clusters miss their "
        f"sizes by {float(plan.error):.2g} of the cells (threshold {limit:.2g}); {remedy}"
    )

"""The method as one object: init, step, fit, embed, assign. One traced step, one forward pass."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from scsiameseclu_jax.config import Config
from scsiameseclu_jax.functional import augmentation, transport
from scsiameseclu_jax.functional.attention import DENSE_ROWS, map_rows
from scsiameseclu_jax.functional.encoders import (
    Encoder,
    encode_features,
    graph_convolutions,
    init_params,
    init_projection,
    project,
)
from scsiameseclu_jax.functional.fusion import embed, fuse
from scsiameseclu_jax.functional.graph import draw_neighbors, normalize
from scsiameseclu_jax.functional.objective import (
    STAGES,
    TERMS,
    Context,
    Stage,
    Term,
    draw_cells,
    evaluate,
    mean_cosine,
    silhouette,
)
from scsiameseclu_jax.functional.prediction import append_cells
from scsiameseclu_jax.functional.propagation import ViewGraph
from scsiameseclu_jax.functional.settings import Structure, structure_of, values_of
from scsiameseclu_jax.functional.types import (
    Assignment,
    CellData,
    Embeddings,
    NewCells,
    Params,
    Plan,
    StepInfo,
    TrainState,
    Views,
)

CHUNK = 10  # steps that one call of the compiled loop takes, at most
_WARM_UP = 0.05  # share of the steps of contrast in which the rate rises
_RATES: dict[Stage, str] = {"contrast": "contrast_rate", "train": "rate"}


class Augment(Protocol):
    """Draws both views; see :func:`dual_views`."""

    def __call__(
        self, key: Array | None, state: TrainState, data: CellData, *, structure: Structure
    ) -> Views:
        """Return both views; without a key, without anything random."""
        ...


class Transport(Protocol):
    """Makes the target; see :func:`sinkhorn_target`."""

    def __call__(
        self,
        log_q: Array,
        proportions: Array,
        mask: Array,
        potential: Array,
        *,
        epsilon: Array,
        threshold: Array,
        max_iterations: int,
    ) -> Plan:
        """Return the plan."""
        ...


class _Bound(NamedTuple):
    """A ``functools.partial`` that is equal to another of the same function and arguments."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.func(*self.args, *args, **dict(self.keywords), **kwargs)


def _comparable(function: Any) -> Any:
    """Return a function that equals another of the same making, if it is a partial."""
    if not isinstance(function, functools.partial):
        return function
    bound = _Bound(function.func, function.args, tuple(sorted(function.keywords.items())))
    try:
        hash(bound)
    except TypeError:  # arrays among the arguments: it is equal to itself only
        return function
    return bound


@dataclass(frozen=True)
class Method:
    """The method with all its choices, from :func:`siameseclu`: pure functions of a state and data.

    It holds nothing that a fit changes. Equal methods share compiled programs; methods whose
    settings differ in weights, rates, thresholds or numbers of steps only are equal.
    """

    n_clusters: int
    """Number of clusters k."""
    terms: tuple[Term, ...]
    """Loss terms with a weight above 0."""
    encoder: Encoder
    """Graph encoder."""
    augment: Augment
    """Draws the two views."""
    transport: Transport
    """Makes the target."""
    optimizer: optax.GradientTransformation | None
    """An own optimiser; None is Adam with the rates of the config, gradients clipped."""
    structure: Structure
    """Static settings."""
    config: Config = field(compare=False, repr=False)
    """All settings. No program reads values of it, for it may come from an equal method:
    :meth:`init` copies them into the state."""

    def init(self, key: Array, data: CellData) -> TrainState:
        """Initialise a state: networks, optimiser, an empty plan.

        Parameters
        ----------
        key
            Typed random key; the state keeps a fold of it for the noise of its steps.
        data
            The cells, for the shapes.
        """
        n, n_features = data.features.shape
        dtype, k, structure = data.features.dtype, self.n_clusters, self.structure
        params = _init_params(
            jax.random.fold_in(key, 0),
            n_features=n_features,
            n_clusters=k,
            # of no account otherwise: data of all sizes share the program
            n_cells=n if structure.fusion.gate == "per_cell" else 0,
            encoder=self.encoder,
            structure=structure,
        )
        for term in self.terms:
            if term.init is not None:
                own = jax.random.fold_in(key, zlib.crc32(term.name.encode()))
                params[term.name] = term.init(own, data, structure)
        # of one type with the data, whatever the default is
        params = jax.tree.map(lambda p: jnp.asarray(p, dtype), params)
        _check_names(params)
        values = values_of(self.config, dtype)
        if self.optimizer is not None:
            values["update_scale"] = jnp.asarray(1, dtype)
        return TrainState(
            params=params,
            opt_state=_init_optimizer(self, params, values, stage="features"),
            key=jax.random.fold_in(key, 1),
            step=jnp.asarray(0, jnp.int32),
            weights={term.name: jnp.asarray(term.weight, dtype) for term in self.terms},
            values=values,
            edge_mask=jnp.asarray(np.ones(data.graph.weights.shape), dtype),
            proportions=jnp.asarray(np.full(k, 1 / k), dtype),
            plan=transport.empty_plan(n, k, dtype),
        )

    def start_stage(self, state: TrainState, stage: Stage) -> TrainState:
        """Begin a stage with a fresh optimiser, ``"contrast"`` with a projection if there is none.

        From there on the projection is a part of the state, and what :meth:`represent` returns.
        """
        _check_stage(stage)
        params = state.params
        if stage == "contrast" and "projection" not in params:
            key = jax.random.fold_in(state.key, zlib.crc32(b"projection"))
            n_features = params["feature_decoder"]["output"]["kernel"].shape[1]
            begun = _init_projection(key, n_features=n_features, structure=self.structure)
            dtype = params["centers"].dtype
            params = params | {"projection": jax.tree.map(lambda p: p.astype(dtype), begun)}
        fresh = _init_optimizer(self, params, state.values, stage=stage)
        return state._replace(params=params, opt_state=fresh)

    def rate_name(self, stage: Stage) -> str:
        """Return which of a state's ``values`` the steps of a stage are proportional to.

        The rate of Adam; of an own optimiser ``update_scale``, 1 at first, which multiplies its
        updates.
        """
        _check_stage(stage)
        if self.optimizer is not None:
            return "update_scale"
        return _RATES.get(stage, "pretrain_rate")

    def slow_down(self, state: TrainState, stage: Stage) -> TrainState:
        """Halve the steps of a stage, from this state on."""
        name = self.rate_name(stage)
        return state._replace(values=state.values | {name: state.values[name] / 2})

    def step(
        self, state: TrainState, data: CellData, *, stage: Stage = "train"
    ) -> tuple[TrainState, StepInfo]:
        """Take one step: augment, encode, fuse, transport, update.

        Where the loss, its gradient, the updated parameters or the new target are not finite, the
        state stays as it was, ``state.step`` included: the terms of the info say why.

        Parameters
        ----------
        state
            From :meth:`init`, :meth:`start_stage` and, for ``"train"``, :meth:`start_clustering`.
        data
            The cells.
        stage
            ``"contrast"`` trains the projection and what its terms bring along, nothing else;
            ``"features"`` and ``"graph"`` one autoencoder each, ``"joint"`` both through the
            fusion, ``"train"`` all with clustering.
        """
        _check_stage(stage, state)
        return _step(self, state, data, stage=stage)

    def fit(
        self, state: TrainState, data: CellData, *, n_steps: int, stage: Stage = "train"
    ) -> tuple[TrainState, StepInfo]:
        """Take many steps in a compiled loop, which any number of steps shares.

        It ends, in effect, at a step that is not finite: see :meth:`step`. The rest of the history
        repeats that step.

        Parameters
        ----------
        state
            Where to start; to resume, pass the state that an earlier call returned.
        data
            The cells.
        n_steps
            Number of steps, at least 1.
        stage
            See :meth:`step`.

        Returns
        -------
        The last state, and the history: a :class:`StepInfo` of arrays [n_steps].
        """
        _check_stage(stage, state)
        if n_steps < 1:
            msg = f"Expected `n_steps` to be at least 1, found {n_steps}."
            raise ValueError(msg)
        infos = []
        for start in range(0, n_steps, CHUNK):
            size = min(CHUNK, n_steps - start)
            state, info = _loop(self, state, data, jnp.asarray(size), stage=stage)
            infos.append(info if size == CHUNK else jax.tree.map(itemgetter(slice(size)), info))
        if len(infos) == 1:
            return state, infos[0]
        return state, jax.tree.map(lambda *parts: jnp.concatenate(parts), *infos)

    def embed(self, state: TrainState, data: CellData) -> Array:
        """Return the fused embedding [n, d] of the cells, without noise.

        The only forward pass outside of a step; all below are functions of it.
        """
        return _embed(self, _slim(state), _bare(data))

    def embed_new(self, state: TrainState, data: CellData, new: NewCells) -> Array:
        """Return the fused embedding [m, d] of cells that training has not seen.

        Each sees its neighbours among the cells of the fit, which do not see it: no cell's result
        depends on which others are new.

        Raises
        ------
        ValueError
            If the fit learned weights of each cell (``fusion.gate = "per_cell"``), which new cells
            have not.
        """
        if self.structure.fusion.gate == "per_cell":
            msg = (
                "Expected `config.fusion.gate` to be 'computed' or 'fixed' to predict new cells, "
                "found 'per_cell'; fit with another."
            )
            raise ValueError(msg)
        return _embed_new(self, _slim(state), _bare(data), new)

    def represent(self, state: TrainState, features: Array, z: Array) -> Array:
        """Return the embedding that users get [n, d]: of features what contrast has learned.

        Clusters are made in the fused embedding, whatever this returns: contrast spreads cells
        evenly, which tells neighbours apart and hides clusters.

        Parameters
        ----------
        state
            Any state.
        features
            [n, p] features of cells, seen or not: each is projected by itself.
        z
            [n, d] their fused embedding: what is returned where contrast has learned nothing.
        """
        if "projection" not in state.params:
            return z
        projection = {"projection": state.params["projection"]}
        return _project(projection, features, structure=self.structure)

    def assign(self, state: TrainState, z: Array) -> Assignment:
        """Return the clusters of cells with embeddings z [n, d], seen or not."""
        return _assign(state.params["centers"], state.plan.potential, state.values["epsilon"], z)

    def prune_graph(self, state: TrainState, data: CellData, z: Array) -> TrainState:
        """Choose the edges that view 1 loses, by the similarity of the cells in z [n, d]."""
        fraction = state.values["edge_removal"]
        return state._replace(edge_mask=_edge_mask(data.graph, z, fraction))

    def start_clustering(
        self, state: TrainState, data: CellData, z: Array, centers: Array, proportions: Array
    ) -> TrainState:
        """Set cluster centres and proportions, and compute the first target.

        Parameters
        ----------
        state
            Pre-trained state.
        data
            The cells.
        z
            [n, d] their embedding.
        centers
            [k, d] centres in it.
        proportions
            [k] share or number of cells of each cluster, positive; scaled to sum to 1 and held
            from here on.

        Raises
        ------
        ValueError
            If shapes do not fit, or numbers are not finite, or a proportion is not positive.
        """
        dtype = data.features.dtype
        shapes = np.shape(centers), np.shape(proportions)
        expected = (self.n_clusters, self.structure.network.n_latent), (self.n_clusters,)
        if shapes != expected:
            msg = f"Expected centers and proportions of shapes {expected}, found {shapes}."
            raise ValueError(msg)
        for name, numbers in (("centers", centers), ("proportions", proportions)):
            if isinstance(numbers, jax.core.Tracer):
                continue
            numbers = np.asarray(numbers)
            if not np.isfinite(numbers).all() or (name == "proportions" and numbers.min() <= 0):
                msg = f"Expected finite centers and positive proportions, found {name} {numbers}."
                raise ValueError(msg)
        shares = jnp.asarray(proportions, dtype)
        shares = shares / jnp.sum(shares)
        plan = state.plan._replace(potential=jnp.zeros_like(shares))
        params = {**state.params, "centers": jnp.asarray(centers, dtype)}
        started = state._replace(params=params, proportions=shares, plan=plan)
        return self.update_target(started, data, z)

    def update_target(self, state: TrainState, data: CellData, z: Array) -> TrainState:
        """Compute the transport target anew, from the embedding z [n, d] of all cells."""
        plan = _target(
            self,
            z,
            state.params["centers"],
            state.proportions,
            data.mask,
            state.plan.potential,
            state.values,
        )
        return state._replace(plan=plan)

    def fill_empty_clusters(self, state: TrainState, data: CellData, z: Array) -> TrainState:
        """Raise potentials until no cluster is without cells, if that can be."""
        potential = _filled(
            z, state.params["centers"], state.plan.potential, state.proportions, data.mask
        )
        return state._replace(plan=state.plan._replace(potential=potential))


def siameseclu(
    n_clusters: int,
    *,
    config: Config | None = None,
    terms: Sequence[Term] = TERMS,
    encoder: Encoder = graph_convolutions,
    augment: Augment = augmentation.dual_views,
    transport: Transport = transport.sinkhorn_target,
    optimizer: optax.GradientTransformation | None = None,
) -> Method:
    """Put the method together; every choice of it is an argument.

    Parameters
    ----------
    n_clusters
        Number of clusters, at least 2.
    config
        All settings; the defaults, if not given.
    terms
        Loss terms, :data:`TERMS` and own ones. ``config.losses`` overrides their weights by name.
    encoder
        Graph encoder, a pair of functions.
    augment
        Draws the two views; see :func:`dual_views`.
    transport
        Makes the target; see :func:`sinkhorn_target`.
    optimizer
        From optax; None is Adam with the rates of the config, gradients clipped. Programs are
        shared between methods that are handed the same object.

    Raises
    ------
    ValueError
        If there are fewer than two clusters, two terms have one name, or ``config.losses`` names a
        term that is not there.
    TypeError
        If an argument is not of the kind it has to be.

    Examples
    --------
    >>> import scsiameseclu_jax.functional as F
    >>> small = F.Term("small", lambda context: (context.embeddings.fused**2).mean(), weight=0.1)
    >>> method = F.siameseclu(8, terms=(*F.TERMS, small))
    >>> [term.name for term in method.terms][-2:]
    ['constraints', 'small']
    """
    config = Config() if config is None else config
    _check_kinds(n_clusters, terms, encoder, augment, transport, optimizer)
    names = [term.name for term in terms]
    if len(set(names)) < len(names) or _TAKEN & set(names):
        msg = f"Expected terms of different names, none of {sorted(_TAKEN)}, found {names}."
        raise ValueError(msg)
    unknown = sorted(set(config.losses) - set(names))
    if unknown:
        msg = f"Expected `config.losses` to name terms among {names}, found {unknown}."
        raise ValueError(msg)
    weighted = [
        replace(
            term,
            weight=config.losses.get(term.name, term.weight),
            value=_comparable(term.value),
            init=_comparable(term.init),
        )
        for term in terms
    ]
    return Method(
        n_clusters=int(n_clusters),
        terms=tuple(term for term in weighted if term.weight > 0),
        encoder=Encoder(*map(_comparable, encoder)),
        augment=_comparable(augment),
        transport=_comparable(transport),
        optimizer=optimizer,
        structure=structure_of(config),
        config=config,
    )


# Parameters of the networks, and columns of the history.
_TAKEN = {"feature_encoder", "feature_decoder", "graph_encoder", "graph_decoder", "fusion"}
_TAKEN |= {"projection", "centers", "stage", *StepInfo._fields}


def _check_kinds(
    n_clusters: Any, terms: Any, encoder: Any, augment: Any, transport: Any, optimizer: Any
) -> None:
    """Check that the choices of a method are of the kinds they have to be."""
    if isinstance(n_clusters, bool) or not isinstance(n_clusters, int | np.integer):
        msg = f"Expected `n_clusters` to be an integer, found {n_clusters!r}."
        raise TypeError(msg)
    if n_clusters < 2:
        msg = f"Expected `n_clusters` to be at least 2, found {n_clusters}."
        raise ValueError(msg)
    if not isinstance(terms, list | tuple) or not all(isinstance(term, Term) for term in terms):
        kinds = type(terms).__name__
        if isinstance(terms, list | tuple):
            kinds = ", ".join(sorted({type(term).__name__ for term in terms}))
        msg = f"Expected `terms` to be a sequence made of F.Term, found {kinds}."
        raise TypeError(msg)
    if not isinstance(encoder, Encoder):
        msg = f"Expected `encoder` to be an F.Encoder(init, apply), found {type(encoder).__name__}."
        raise TypeError(msg)
    for name, choice in (("augment", augment), ("transport", transport)):
        if not callable(choice):
            msg = f"Expected `{name}` to be a function, found {choice!r}."
            raise TypeError(msg)
    passed = {"epsilon", "threshold", "max_iterations"} & set(getattr(transport, "keywords", ()))
    if passed:
        msg = f"Expected {sorted(passed)} in `config.transport`, found it bound to `transport`."
        raise ValueError(msg)
    if optimizer is not None and not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        msg = f"Expected `optimizer` to be from optax, found {optimizer!r}."
        raise TypeError(msg)


def _check_stage(stage: str, state: TrainState | None = None) -> None:
    if stage not in STAGES:
        msg = f"Expected `stage` to be one of {STAGES}, found {stage!r}."
        raise ValueError(msg)
    if stage == "contrast" and state is not None and "projection" not in state.params:
        msg = (
            "Expected a state with a projection for the stage 'contrast', found none; call "
            "`method.start_stage(state, 'contrast')`."
        )
        raise ValueError(msg)


def _slim(state: TrainState) -> TrainState:
    """Return what the embedding depends on, so that states of all stages share one program."""
    plan = transport.empty_plan(0, 0)
    params = {name: own for name, own in state.params.items() if name != "projection"}
    slim = state._replace(params=params, opt_state=None, weights={})
    return slim._replace(proportions=plan.potential, plan=plan)


def _bare(data: CellData) -> CellData:
    return data._replace(counts=data.counts[:, :0], constraints=None)


_init_params = jax.jit(
    init_params,
    static_argnames=("n_features", "n_clusters", "n_cells", "encoder", "structure"),
)


_init_projection = jax.jit(init_projection, static_argnames=("n_features", "structure"))


def _check_names(params: Any) -> None:
    """Check that parameters are nested dicts of arrays, whose names files can hold."""
    for path, _ in jax.tree_util.tree_leaves_with_path(params):
        for step in path:
            name = getattr(step, "key", None)
            if not isinstance(name, str) or "/" in name:
                where = jax.tree_util.keystr(path)
                msg = f"Expected parameters in nested dicts, names without '/', found {where}."
                raise ValueError(msg)


def _optimizer(
    method: Method, stage: Stage, values: Mapping[str, Array]
) -> optax.GradientTransformation:
    if method.optimizer is not None:
        return method.optimizer
    clip = optax.clip_by_global_norm(values["gradient_norm"])
    if stage == "contrast":
        scale = optax.scale_by_learning_rate(partial(_contrast_rate, values))
    else:
        scale = optax.scale(-values["rate" if stage == "train" else "pretrain_rate"])
    # one kernel to compile and run, not a few for each array
    return optax.flatten(optax.chain(clip, optax.scale_by_adam(), scale))


def _contrast_rate(values: Mapping[str, Array], step: Array) -> Array:
    """Return the learning rate of contrast: a short linear rise, then a cosine to 0.

    It ends with ``contrast_steps``; if those are 0, as an own loop may have it, it stays.
    """
    steps = values["contrast_steps"]
    done = jnp.minimum(step / jnp.maximum(steps, 1), 1) * (steps > 0)
    rise = jnp.minimum((done + 1 / jnp.maximum(steps, 1)) / _WARM_UP, 1)
    return values["contrast_rate"] * rise * (1 + jnp.cos(jnp.pi * done)) / 2


def _learned(method: Method, params: Params, stage: Stage) -> Params:
    """Return the parameters that a stage may change: contrast the projection, others the rest.

    An optimiser changes parameters also where a gradient is 0, by their decay, say; and it takes
    its time over each.
    """
    if stage != "contrast":
        return {name: own for name, own in params.items() if name != "projection"}
    terms = {term.name for term in method.terms if stage in term.stages}
    return {name: own for name, own in params.items() if name in {"projection", *terms}}


@partial(jax.jit, static_argnums=0, static_argnames="stage")
def _init_optimizer(
    method: Method, params: Params, values: Mapping[str, Array], *, stage: Stage
) -> Any:
    return _optimizer(method, stage, values).init(_learned(method, params, stage))


def _context(
    method: Method, params: Params, key: Array, state: TrainState, data: CellData, stage: Stage
) -> Context:
    """Run the forward pass of a stage."""
    structure = method.structure
    graph = normalize(data.graph)
    views = log_q = target = rows = None
    if stage == "contrast":
        key, key_rows, key_neighbors, key_drop = jax.random.split(key, 4)
        cells = draw_cells(key_rows, data, structure.contrast_batch)
        rows = jnp.concatenate([cells, draw_neighbors(key_neighbors, data.graph, cells)])
        data = _batch(data, rows)
        rate = state.values["contrast_dropout"]
        dropped = augmentation.feature_dropout(key_drop, data.features, rate=rate)
        data = data._replace(features=dropped)
        fused = Embeddings(project(params, dropped, structure=structure))
    elif stage == "features":
        key, key_rows = jax.random.split(key)
        rows = draw_cells(key_rows, data, structure.feature_batch)
        data = _batch(data, rows)
        fused = Embeddings(encode_features(params, data.features, structure=structure))
    elif stage == "train":
        key, key_views = jax.random.split(key)
        views = method.augment(key_views, state, data, structure=structure)
        fused = embed(params, views, data.mask, encoder=method.encoder, structure=structure)
        log_q = transport.log_assignment(fused.fused, params["centers"])
        target = state.plan.target
    else:
        plain = ViewGraph(graph, None)
        z = method.encoder(params["graph_encoder"], data.features, plain)[-1][0]
        if stage == "joint":
            z_features = encode_features(params, data.features, structure=structure)
            z = fuse(params, z_features, z, plain, data.mask, structure=structure)
        fused = Embeddings(z)
    return Context(
        params, data, graph, views, fused, log_q, target, key, structure, state.values, rows
    )


def _batch(data: CellData, rows: Array) -> CellData:
    """Return the cells of some rows, without their links."""
    return data._replace(
        features=data.features[rows],
        counts=data.counts[rows],
        size_factors=data.size_factors[rows],
        mask=jnp.ones(len(rows), data.mask.dtype),
        constraints=None,
    )


def _take_step(
    method: Method, state: TrainState, data: CellData, stage: Stage
) -> tuple[TrainState, StepInfo]:
    key = jax.random.fold_in(state.key, state.step)
    learned = _learned(method, state.params, stage)

    def loss(learned: Params) -> tuple[Array, tuple[dict[str, Array], Array]]:
        context = _context(method, state.params | learned, key, state, data, stage)
        terms = evaluate(method.terms, context, stage)
        total = sum((state.weights[name] * value for name, value in terms.items()), jnp.zeros(()))
        return total, (terms, context.embeddings.fused)

    with jax.default_matmul_precision(method.structure.precision):
        (total, (terms, z)), gradient = jax.value_and_grad(loss, has_aux=True)(learned)
    optimizer = _optimizer(method, stage, state.values)
    change, opt_state = optimizer.update(gradient, state.opt_state, learned)
    if "update_scale" in state.values:  # of a method with an own optimiser
        change = optax.tree.scale(state.values["update_scale"], change)
    updated = optax.apply_updates(learned, change)
    params = state.params | updated
    new = state._replace(params=params, opt_state=opt_state, step=state.step + 1)
    zero = jnp.zeros((), data.features.dtype)
    info = StepInfo(
        total,
        terms,
        optax.tree.norm(gradient),
        state.plan.error,
        state.plan.iterations,
        zero,
        zero,
        zero,
        zero,
    )
    if stage != "train":
        return _where_finite(new, state, info, updated), info
    centers, mask = state.params["centers"], data.mask
    plan = _refreshed(method, state, data, z)
    sizes = jnp.exp(transport.log_assignment(z, centers)) * mask[:, None]
    shares = jnp.sum(sizes, axis=0) / jnp.sum(mask)
    info = info._replace(
        sinkhorn_error=plan.error,
        sinkhorn_iterations=plan.iterations,
        changed=share_changed(state.plan.target, plan.target, mask),
        size_entropy=-jnp.sum(shares * jnp.log(shares)) / jnp.log(shares.shape[0]),
        mean_cosine=mean_cosine(z, mask),
        silhouette=silhouette(z, centers, mask),
    )
    return _where_finite(new._replace(plan=plan), state, info, updated), info


def _where_finite(
    new: TrainState, state: TrainState, info: StepInfo, updated: Params
) -> TrainState:
    """Return the new state, or the one before if anything that it depends on is not finite."""
    parts = [info.loss, info.gradient_norm, jnp.sum(new.plan.potential)]
    parts += [jnp.sum(leaf) for leaf in jax.tree.leaves(updated)]
    finite = jnp.all(jnp.isfinite(jnp.stack(parts)))
    changed = ("params", "opt_state", "step", "plan")
    return state._replace(
        **{
            name: jax.tree.map(partial(jnp.where, finite), getattr(new, name), getattr(state, name))
            for name in changed
        }
    )


def _refreshed(method: Method, state: TrainState, data: CellData, z: Array) -> Plan:
    """Return the target of the next step: of the embedding without noise, when it is due.

    The embedding is that of the parameters that this step began with, as it is for mini-batches.
    """
    structure = method.structure
    if not structure.refresh:
        return state.plan
    clean = method.augment is augmentation.dual_views and not structure.feature_noise

    def refresh() -> Plan:
        embedding = z if clean else _embedding(method, state, data)
        return _plan(
            method,
            embedding,
            state.params["centers"],
            state.proportions,
            data.mask,
            state.plan.potential,
            state.values,
        )

    due = (state.step + 1) % state.values["refresh_every"] == 0
    return jax.lax.cond(due, refresh, lambda: state.plan)


def share_changed(before: Array, after: Array, mask: Array) -> Array:
    """Return the share of cells whose largest entry moved between two targets [n, k]."""
    moved = jnp.argmax(before, axis=1) != jnp.argmax(after, axis=1)
    return jnp.sum(moved * mask) / jnp.sum(mask)


def _plan(
    method: Method,
    z: Array,
    centers: Array,
    proportions: Array,
    mask: Array,
    potential: Array,
    values: Mapping[str, Array],
) -> Plan:
    return method.transport(
        transport.log_assignment(z, centers),
        proportions,
        mask,
        potential,
        epsilon=values["epsilon"],
        threshold=values["threshold"],
        max_iterations=method.structure.max_iterations,
    )


_target = jax.jit(_plan, static_argnums=0)


@partial(jax.jit, static_argnums=0, static_argnames="stage")
def _step(
    method: Method, state: TrainState, data: CellData, *, stage: Stage
) -> tuple[TrainState, StepInfo]:
    return _take_step(method, state, data, stage)


@partial(jax.jit, static_argnums=0, static_argnames="stage")
def _loop(
    method: Method, state: TrainState, data: CellData, n_steps: Array, *, stage: Stage
) -> tuple[TrainState, StepInfo]:
    """Take up to ``CHUNK`` steps; rows of the history beyond are 0."""
    _, shapes = jax.eval_shape(lambda: _take_step(method, state, data, stage))
    history = jax.tree.map(lambda a: jnp.zeros((CHUNK, *a.shape), a.dtype), shapes)

    def step(i: Array, carry: tuple[TrainState, StepInfo]) -> tuple[TrainState, StepInfo]:
        state, history = carry
        state, info = _take_step(method, state, data, stage)
        return state, jax.tree.map(lambda rows, row: rows.at[i].set(row), history, info)

    return jax.lax.fori_loop(0, n_steps, step, (state, history))


def _embedding(method: Method, state: TrainState, data: CellData, n_new: int = 0) -> Array:
    structure = method.structure
    views = method.augment(None, state, data, structure=structure)
    choices: dict[str, Any] = {"encoder": method.encoder, "structure": structure}
    with jax.default_matmul_precision(structure.precision):
        return embed(state.params, views, data.mask, n_new=n_new, **choices).fused


@partial(jax.jit, static_argnums=0)
def _embed(method: Method, state: TrainState, data: CellData) -> Array:
    return _embedding(method, state, data)


@partial(jax.jit, static_argnums=0)
def _embed_new(method: Method, state: TrainState, data: CellData, new: NewCells) -> Array:
    state, data = append_cells(state, data, new)
    m = len(new.features)
    return _embedding(method, state, data, n_new=m)[len(data.features) - m :]


@partial(jax.jit, static_argnames="structure")
def _project(params: Params, features: Array, *, structure: Structure) -> Array:
    with jax.default_matmul_precision(structure.precision):
        return map_rows(partial(project, params, structure=structure), features, size=DENSE_ROWS)


@jax.jit
def _assign(centers: Array, potential: Array, epsilon: Array, z: Array) -> Assignment:
    log_q = transport.log_assignment(z, centers)
    proba = transport.assign(log_q, potential, epsilon=epsilon)
    return Assignment(jnp.argmax(proba, axis=1), proba)


@jax.jit
def _edge_mask(graph: Any, z: Array, fraction: Array) -> Array:
    return augmentation.edge_mask(graph, z, fraction=fraction)


@jax.jit
def _filled(z: Array, centers: Array, potential: Array, proportions: Array, mask: Array) -> Array:
    log_q = transport.log_assignment(z, centers)
    return transport.fill_empty_clusters(log_q, potential, proportions, mask)


PROGRAMS = (
    _init_params,
    _init_projection,
    _init_optimizer,
    _step,
    _loop,
    _embed,
    _embed_new,
    _project,
    _assign,
    _edge_mask,
    _filled,
    _target,
)
"""Every jitted function of the method: what a test counts, and what can be forgotten."""


def clear_programs() -> None:
    """Forget the compiled programs of the method, which hold memory for each size of data."""
    for program in PROGRAMS:
        program.clear_cache()

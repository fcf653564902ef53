"""What of a config a program depends on: its structure, static to jit, and its values, traced."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from scsiameseclu_jax.config import Config, Fusion, Network
from scsiameseclu_jax.functional.propagation import pagerank_series

Values = dict[str, Array]
"""Numbers that steps use, by name; see :func:`values_of`."""


class Structure(NamedTuple):
    """What shapes a program. Configs with equal structures share compiled programs."""

    network: Network
    """Widths of the networks."""
    fusion: Fusion
    """Parts of the fusion."""
    feature_noise: bool
    """Whether the views of the features differ."""
    edge_removal: bool
    """Whether view 1 loses edges."""
    diffusion: bool
    """Whether view 2 diffuses; else it propagates one step."""
    refresh: bool
    """Whether steps refresh the target."""
    max_iterations: int
    """Sinkhorn iterations at most."""
    contrast_batch: int
    """Cells in a batch of the stage ``"contrast"``, each with a neighbour."""
    feature_batch: int
    """Cells in a batch of the stage ``"features"``."""
    zinb_batch: int
    """Cells whose counts enter the ZINB term."""
    exact_cells: int
    """Cells up to which all pairs are compared."""
    landmarks: int
    """Cells that stand for all others beyond that."""
    precision: str
    """Precision of matrix products."""


def structure_of(config: Config) -> Structure:
    """Return what of a config shapes a program."""
    augmentation, training, scale = config.augmentation, config.training, config.scale
    return Structure(
        network=config.network,
        fusion=config.fusion,
        feature_noise=augmentation.feature_noise > 0,
        edge_removal=augmentation.edge_removal > 0,
        diffusion=augmentation.diffusion,
        refresh=config.transport.refresh_every > 0,
        max_iterations=config.transport.max_iterations,
        contrast_batch=training.contrast_batch,
        feature_batch=training.feature_batch,
        zinb_batch=training.zinb_batch,
        exact_cells=scale.exact_cells,
        landmarks=scale.landmarks,
        precision=scale.precision,
    )


def values_of(config: Config, dtype: DTypeLike = float) -> Values:
    """Return the numbers that steps use, as arrays.

    ``feature_noise``, ``edge_removal``, ``epsilon``, ``threshold``, ``refresh_every``,
    ``contrast_steps``, ``contrast_rate``, ``contrast_temperature``, ``contrast_dropout``,
    ``pretrain_rate``, ``rate``, ``gradient_norm``, and ``series`` [2, t] of the diffusion. All are
    parts of the state, so they can be swept with :func:`jax.vmap`; ``feature_noise`` where the
    config has some (0 leaves it out of the program), ``edge_removal`` before the graph is pruned.
    """
    augmentation, transport, training = config.augmentation, config.transport, config.training
    numbers = {
        "feature_noise": augmentation.feature_noise,
        "edge_removal": augmentation.edge_removal,
        "epsilon": transport.epsilon,
        "threshold": transport.threshold,
        "contrast_steps": training.contrast_steps,
        "contrast_rate": training.contrast_rate,
        "contrast_temperature": training.contrast_temperature,
        "contrast_dropout": training.contrast_dropout,
        "pretrain_rate": training.pretrain_rate,
        "rate": training.rate,
        "gradient_norm": training.gradient_norm,
        "series": pagerank_series(augmentation.alpha, augmentation.diffusion_tolerance),
    }
    values = {name: jnp.asarray(number, dtype) for name, number in numbers.items()}
    return values | {"refresh_every": jnp.asarray(max(transport.refresh_every, 1), jnp.int32)}

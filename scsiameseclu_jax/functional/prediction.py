"""Embed and assign cells."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from scsiameseclu_jax.config import Config
from scsiameseclu_jax.functional.fusion import embedding
from scsiameseclu_jax.functional.transport import assign, log_assignment
from scsiameseclu_jax.functional.types import CellData, Prediction, TrainState


@partial(jax.jit, static_argnames="config")
def predict(state: TrainState, data: CellData, *, config: Config) -> Prediction:
    """Cluster the cells of `data` with a trained state.

    Parameters
    ----------
    state
        Trained state: parameters, removed edges and transport potential.
    data
        The cells, padded like those the state was made with.
    config
        Static settings.

    Returns
    -------
    Labels [n], soft assignments [n, k] and embedding [n, d], padding rows included.
    """
    z = embedding(state, data, config=config)
    log_q = log_assignment(z, state.params["centers"])
    proba = assign(log_q, state.plan.potential, config=config.transport)
    return Prediction(jnp.argmax(proba, axis=1), proba, z)

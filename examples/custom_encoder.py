"""A graph encoder of your own: attention over edges. ``python examples/custom_encoder.py``.

An encoder is a pair of functions. It gets the graph of a view, so each edge can have a weight that
is learned; gradients reach the weights and the rows. New cells are encoded by the same code, over
links that go one way.
"""

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import jraph

import scsiameseclu_jax as scs
import scsiameseclu_jax.functional as F

WIDTH = 32


def init(key, n_features, network):
    keys = jax.random.split(key, 2)
    normal = jax.nn.initializers.glorot_normal()
    layers = {}
    for i, (own, width) in enumerate(zip(keys, (WIDTH, network.n_latent), strict=True)):
        below = n_features if i == 0 else WIDTH
        attention = 0.1 * jax.random.normal(own, (2, width))
        layers[f"layer_{i}"] = {"kernel": normal(own, (below, width)), "attention": attention}
    return layers


def attend(params, h, edges):
    """One layer of graph attention (Velickovic et al., ICLR 2018)."""
    h = h @ params["kernel"]
    sent, received = h @ params["attention"].T[:, 0], h @ params["attention"].T[:, 1]
    logits = jax.nn.leaky_relu(sent[edges.senders] + received[edges.receivers], 0.2)
    there = edges.weights > 0  # the last edges only pad
    logits = jnp.where(there, logits, -1e9)
    weights = jraph.segment_softmax(logits, edges.receivers, edges.n_rows, indices_are_sorted=True)
    return F.propagate(edges.with_weights(jnp.where(there, weights, 0)), h)


def apply(params, x, graph):
    hidden = jax.nn.elu(attend(params["layer_0"], x, graph.edges))
    return [hidden, attend(params["layer_1"], hidden, graph.edges)]


encoder = F.Encoder(init, apply)
adata = scs.datasets.pbmc68k_reduced()
model = scs.SiameseClu(8, config=scs.Config.short(), encoder=encoder)
model.fit(adata[:500].copy(), progress=False)

with tempfile.TemporaryDirectory() as folder:
    model.save(Path(folder) / "model")  # parameters, not code: the encoder is handed to `load`
    model = scs.SiameseClu.load(Path(folder) / "model", encoder=encoder)
new = model.predict(adata[500:].copy())
print(f"{len(new.labels)} new cells in {len(set(new.labels.tolist()))} clusters")

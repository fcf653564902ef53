"""A loss of your own, beside those of the method: ``python examples/custom_loss.py``.

A term is a function of a context: parameters, cells, both views, embeddings, soft assignment,
target, random key. This one asks that cells which are linked lie closer than cells drawn at random.
It has a learned scale of its own, to show how.
"""

import jax
import jax.numpy as jnp

import scsiameseclu_jax as scs
import scsiameseclu_jax.functional as F

N_LINKS = 512


def init(key, data, structure):
    """Parameters that only this loss has: ``context.params["linked"]``."""
    return {"log_scale": jnp.zeros(())}


def linked(context):
    z, graph = context.embeddings.fused, context.graph
    key_links, key_others = jax.random.split(context.key)  # anew in every step
    links = jax.random.randint(key_links, (N_LINKS,), 0, graph.graph.n_edge[0])
    others = jax.random.randint(key_others, (N_LINKS,), 0, context.data.n_cells)
    one, two = z[graph.senders[links]], z[graph.receivers[links]]
    scale = jnp.exp(context.params["linked"]["log_scale"])
    near = scale * jnp.mean(one * two, axis=1)
    far = scale * jnp.mean(one * z[others], axis=1)
    return jnp.mean(jax.nn.softplus(far - near))


term = F.Term("linked", linked, weight=0.5, stages=("graph", "joint", "train"), init=init)

adata = scs.datasets.pbmc68k_reduced()
model = scs.SiameseClu(10, config=scs.Config.short(), terms=(*F.TERMS, term))
model.fit(adata, progress=False)
history = model.history["linked"]
steps = history[history == history]  # NaN in the stage that has no such term
print(f"linked: {steps[0]:.3f} at first, {steps[-1]:.3f} at last")
print("weights:", {name: f"{weight:g}" for name, weight in model.manifest["losses"].items()})

# It is in the history, the plots and the report like any other loss.
scs.tl.add_clusters(adata, model)
scs.pl.history(adata).figure.savefig("custom_loss.png", bbox_inches="tight")
scs.report(adata, "custom_loss.html", overwrite=True)

"""An optimiser and a training loop of your own, and the way back: ``python examples/own_loop.py``.

`prepare` gives what a fit sees, `method` its pure functions; `from_state` makes a model again,
which predicts, saves and reports.
"""

import jax
import numpy as np
import optax
from sklearn.cluster import KMeans

import scsiameseclu_jax as scs

K = 8
adata = scs.datasets.pbmc68k_reduced()
schedule = optax.cosine_decay_schedule(1e-3, 200)
optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-4))
start = scs.SiameseClu(K, optimizer=optimizer)
cells, method = start.prepare(adata[:600].copy()), start.method()
data, n = cells.data, len(cells.prepared.order)

state = method.init(jax.random.key(0), data)
for stage, n_steps in (("features", 40), ("graph", 10), ("joint", 10)):
    state = method.start_stage(state, stage)
    state, history = method.fit(state, data, n_steps=n_steps, stage=stage)
    print(f"{stage}: loss {history.loss[0]:.3f} -> {history.loss[-1]:.3f}")

z = method.embed(state, data)
state = method.prune_graph(state, data, z)  # the links that view 1 loses
z = method.embed(state, data)
first = KMeans(K, n_init=10, random_state=0).fit(np.asarray(z)[:n])
sizes = np.bincount(first.labels_)
state = method.start_clustering(state, data, z, first.cluster_centers_, sizes)

state = method.start_stage(state, "train")
losses = []
for step in range(20):
    state, info = method.step(state, data)
    losses.append(float(info.loss))
    if step and abs(losses[-1] - losses[-2]) < 1e-5:  # an own rule to stop
        break

model = scs.SiameseClu.from_state(method, state, cells, history={"loss": np.array(losses)})
model.save("own_loop_model", overwrite=True)
new = scs.SiameseClu.load("own_loop_model").predict(adata[600:].copy())
print(f"{len(set(model.labels.tolist()))} clusters, {new.is_novel.mean():.0%} of new cells novel")

fitted = adata[:600].copy()
scs.tl.add_clusters(fitted, model)
scs.report(fitted, "own_loop.html", overwrite=True)

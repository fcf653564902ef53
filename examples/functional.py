"""The method stage by stage on arrays: what `SiameseClu.fit` does, spelled out."""

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.cluster import KMeans

import scsiameseclu_jax as scs
import scsiameseclu_jax.functional as F
from scsiameseclu_jax.preprocessing.prepare import prepare
from scsiameseclu_jax.training.device import device_data

K = 5
config = scs.Config.paper()  # the default leaves out what did not help
adata = scs.datasets.simulate(n_cells=500, n_genes=300, n_clusters=K, rng=0)
prepared = prepare(adata, config=config)
data = device_data(prepared)  # padded to a shape bucket, on the default device
n = int(data.n_cells)

state = F.init(jax.random.key(0), data, n_clusters=K, config=config)
for stage, n_steps in [("features", 100), ("graph", 10), ("joint", 10)]:
    state = F.start_stage(state, stage, config=config)
    state, history = F.fit(state, data, config=config, n_steps=n_steps, stage=stage)
    print(f"{stage}: loss {history.loss[0]:.3f} -> {history.loss[-1]:.3f}")

state = F.remove_edges(state, data, config=config)
embedding = np.asarray(F.embedding(state, data, config=config))[:n]
start = KMeans(K, n_init=10, random_state=0).fit(embedding)
centers, sizes = jnp.asarray(start.cluster_centers_), jnp.asarray(np.bincount(start.labels_))
state = F.start_clustering(state, data, centers, sizes, config=config)
state = F.start_stage(state, "train", config=config)
state, history = F.fit(state, data, config=config, n_steps=20)
print(f"train: Sinkhorn error {history.sinkhorn_error[-1]:.1e}")

prediction = F.predict(state, data, config=config)
truth = adata.obs["cell_type"].astype(str).to_numpy()[prepared.order]
print(scs.metrics.scores(truth, np.asarray(prediction.labels)[:n]))

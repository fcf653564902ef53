"""Fit the same cells on the devices that this process, or several, have; print what was found.

Run by ``test_mesh.py``, which tells jax of how many devices there are.
"""

import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np

import scsiameseclu_jax as scs
import scsiameseclu_jax.functional as F
from scsiameseclu_jax.functional import graph
from scsiameseclu_jax.functional.training import _step
from scsiameseclu_jax.training.mesh import on_host, on_mesh, spread_data, spread_state

STEPS = {"contrast_steps": 20, "feature_steps": 0, "graph_steps": 0, "joint_steps": 0, "steps": 20}
graph._TABLE_WIDTH = 2  # less to compile, and many hubs


def fit(mesh):
    """Fit simulated cells with every term of the paper, in narrow networks."""
    adata = scs.datasets.simulate(n_cells=690, n_genes=150, n_clusters=4, rng=0, difficulty=0.2)
    values = scs.Config.paper().to_dict() | {"network": scs.Config().to_dict()["network"]}
    values["training"] |= STEPS
    model = scs.SiameseClu(4, config=scs.Config.from_dict(values))
    model.fit(adata, mesh=mesh, progress=False)
    history = {
        name: values[np.isfinite(values)].tolist()
        for name, values in model.history.items()
        if name in {term.name for term in F.TERMS}
    }
    fused = model.get_latent_representation(fused=True)[::23].tolist()
    return {"history": history, "fused": fused, "clusters": model.labels.tolist()}


def steps(mesh):
    """Take 20 steps of training with every term of the paper, and global attention."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(4, 10))
    member = rng.integers(4, size=690)  # the last device has padding, too
    x = centers[member] + 0.5 * rng.normal(size=(690, 10))
    counts = rng.poisson(np.exp(x))
    near = np.argsort(((x[:, None] - x) ** 2).sum(axis=2), axis=1, kind="stable")[:, 1:6]
    values = scs.Config.paper().to_dict() | {"network": scs.Config().to_dict()["network"]}
    values["fusion"]["global_attention"] = True
    method = F.siameseclu(4, config=scs.Config.from_dict(values))

    data = F.cell_data(x, counts, near, n_rows=704)
    state = method.start_stage(method.init(jax.random.key(0), data), "train")
    z = jnp.asarray(data.features @ jnp.eye(10, 20))
    state = method.start_clustering(state, data, z, centers @ np.eye(10, 20), np.ones(4))
    state = spread_state(state, mesh)
    with on_mesh(mesh):
        state, info = method.fit(state, spread_data(data, mesh), n_steps=20)
    history = {name: on_host(value).tolist() for name, value in info.terms.items()}
    history["loss"] = on_host(info.loss).tolist()
    target = on_host(state.plan.target)[:690]
    clusters = target.argmax(axis=1).tolist()
    return {"history": history, "fused": target[::23].tolist(), "clusters": clusters}


def few():
    """Return the largest difference that eight devices make to a step of five cells."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 4))
    config = scs.Config.from_dict(
        {"network": {"n_latent": 3}, "fusion": {"global_attention": True}}
    )
    method = F.siameseclu(2, config=config)
    losses = []
    for mesh in (None, scs.cell_mesh()):
        data = F.cell_data(x, None, np.array([[1], [2], [3], [4], [0]]), n_rows=16)
        state = spread_state(method.init(jax.random.key(0), data), mesh)
        cells = spread_data(data, mesh)
        with on_mesh(mesh):
            z = method.embed(state, cells)
            state = method.start_clustering(state, cells, z, on_host(z)[:2], np.ones(2))
            state = method.start_stage(state, "train")
            state, info = method.fit(state, cells, n_steps=3)
        losses.append([*np.asarray(info.loss), *on_host(state.plan.target)[0]])
    return float(np.max(np.abs(np.subtract(*losses)) / np.abs(losses[0])))


def channels():
    """Return the channel of each collective of a step: two of one channel could be mixed up."""
    x = np.random.default_rng(0).normal(size=(40, 6))
    near = np.argsort(((x[:, None] - x) ** 2).sum(axis=2), axis=1, kind="stable")[:, 1:4]
    method = F.siameseclu(2, config=scs.Config.from_dict({"network": {"n_latent": 4}}))
    data = F.cell_data(x, None, near, n_rows=48)
    mesh = scs.cell_mesh(3)
    state = method.start_stage(method.init(jax.random.key(0), data), "train")
    with on_mesh(mesh):
        words = method, spread_state(state, mesh), spread_data(data, mesh)
        program = _step.lower(*words, stage="train").compile().as_text()
    return re.findall(r"channel_id=(\d+)", program)


def refits():
    """Return what refits say, made one by one and on several devices at once."""
    adata = scs.datasets.simulate(n_cells=120, n_genes=60, n_clusters=3, rng=0)
    model = scs.SiameseClu(3, config=scs.Config.fast()).fit(adata, progress=False)
    found = []
    for mesh in (None, scs.cell_mesh(2)):
        model.assess(adata, n_resamples=3, mesh=mesh, progress=False)
        found.append([model.confidence.tolist(), model.stability.agreement.tolist()])
    return found


def seeds():
    """Return the last losses of four seeds, one after the other and over four devices."""
    x = np.random.default_rng(0).normal(size=(40, 6))
    near = np.argsort(((x[:, None] - x) ** 2).sum(axis=2), axis=1, kind="stable")[:, 1:4]
    values = {"network": {"n_latent": 4}, "augmentation": {"feature_noise": 0.1}}
    method = F.siameseclu(2, config=scs.Config.from_dict(values))
    data = F.cell_data(x, None, near)
    state = method.init(jax.random.key(0), data)
    z = method.embed(state, data)
    state = method.start_clustering(state, data, z, np.asarray(z)[:2], np.ones(2))
    state = method.start_stage(state, "train")

    def run(seed):
        return method.fit(state._replace(key=jax.random.key(seed)), data, n_steps=3)[1].loss[-1]

    split = jax.P("seeds")
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("seeds",))
    spread = jax.shard_map(
        jax.vmap(run), mesh=mesh, in_specs=split, out_specs=split, check_vma=False
    )
    all_ = jax.numpy.arange(4)
    return [[float(run(seed)) for seed in all_], jax.jit(spread)(all_).tolist()]


def main(words):
    run = {"fit": fit, "steps": steps}[words[0]]
    if len(words) > 1:
        jax.distributed.initialize(words[1], 2, int(words[2]))
        found = {str(jax.device_count()): run(scs.cell_mesh())}
    elif run is fit:
        found = {str(n): fit(scs.cell_mesh(n)) for n in (1, 8, 3)} | {"plain": fit(None)}
        found |= {"few": few(), "refits": refits(), "seeds": seeds(), "channels": channels()}
    else:
        found = {"8": steps(scs.cell_mesh()), "plain": steps(None)}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])

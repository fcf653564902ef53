"""The model and the AnnData floor: labels, order, resumption, round trips."""

from functools import partial

import anndata as ad
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.metrics import adjusted_rand_score

import scsiameseclu_jax as scs
import scsiameseclu_jax.functional as F
from scsiameseclu_jax.partition import candidates, consensus
from scsiameseclu_jax.preprocessing.prepare import prepare
from scsiameseclu_jax.training import device, stages
from scsiameseclu_jax.training.progress import Progress
from tests import stored

SHORT = scs.Config.from_dict(
    {"training": {"contrast_steps": 0, "feature_steps": 10, "graph_steps": 4, "steps": 10}}
)


@pytest.fixture(scope="module")
def adata():
    return scs.datasets.simulate(n_cells=240, n_genes=150, n_clusters=4, difficulty=0.2, rng=0)


def fit(adata, n_clusters=4, **options):
    model = scs.SiameseClu(n_clusters, config=SHORT)
    return model.fit(adata, progress=False, **options)


@pytest.fixture(scope="module")
def model(adata):
    return fit(adata)


def same(one, two):
    for name in ("labels", "proba", "confidence"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    np.testing.assert_array_equal(one.get_latent_representation(), two.get_latent_representation())
    for name, values in one.history.items():
        np.testing.assert_array_equal(values, two.history[name])


def test_finds_the_simulated_clusters(adata, model):
    # far below what it reaches; chance is 0
    assert adjusted_rand_score(adata.obs["cell_type"], model.labels) > 0.8


@pytest.mark.parametrize("change", ["permute", "delete"])
def test_labels_change_not_one_bit(adata, model, change):
    other = adata.copy()
    if change == "permute":
        shuffled = np.random.default_rng(0).permutation(other.obs["cell_type"].astype(str))
        other.obs["cell_type"] = pd.Categorical(shuffled)
    else:
        del other.obs["cell_type"]
    same(model, fit(other))


def test_order_of_cells_changes_not_one_bit(adata, model):
    rows = np.random.default_rng(3).permutation(adata.n_obs)
    other = fit(adata[rows])
    np.testing.assert_array_equal(other.labels, model.labels[rows])
    np.testing.assert_array_equal(other.proba, model.proba[rows])


def test_same_seed_same_result_other_seed_other_noise(adata, model):
    same(model, fit(adata, rng=0))
    other = fit(adata, rng=1)
    assert not np.array_equal(other.history["loss"], model.history["loss"])
    generator = fit(adata, rng=np.random.default_rng(5))
    assert generator.manifest["seed"] == fit(adata, rng=np.random.default_rng(5)).manifest["seed"]


def test_other_data_and_settings_in_the_bucket_compile_nothing(adata, model):
    sizes = [program._cache_size() for program in F.training.PROGRAMS]
    # 238 and 240 cells share a bucket, and links share one because the graph is as dense
    fit(adata[:238], rng=7)
    changed = SHORT.to_dict() | {"losses": {"clustering": 3.0}, "transport": {"epsilon": 0.3}}
    changed["training"] |= {"steps": 3, "rate": 1e-3}
    scs.SiameseClu(4, config=scs.Config.from_dict(changed)).fit(adata, progress=False)
    assert [program._cache_size() for program in F.training.PROGRAMS] == sizes


def test_programs_of_many_shapes_are_not_kept(monkeypatch):
    """Each holds memory maps, of which the kernel has 65,530 for a process."""
    cleared = []
    monkeypatch.setattr(device, "_kept", set())
    monkeypatch.setattr(F, "clear_programs", lambda: cleared.append(1))
    for rows, k in [(8, 3), (16, 3), (8, 3), (16, 3), (16, 4), (16, 5), (24, 5), (8, 3)]:
        padded = F.cell_data(np.ones((8, 2)), None, np.arange(8)[::-1, None], n_rows=rows)
        device.bound_programs(F.siameseclu(k), padded)
        assert len(device._kept) <= 4
    assert len(cleared) == 1
    assert len(device._kept) == 2


def test_results_are_ordered_and_normalised(adata, model):
    sizes = np.bincount(model.labels)
    assert (np.diff(sizes) <= 0).all()
    np.testing.assert_allclose(model.proba.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(model.proba.argmax(axis=1), model.labels)
    length = np.linalg.norm(model.get_latent_representation(), axis=1)
    np.testing.assert_allclose(length, np.sqrt(20), rtol=1e-4)


def test_history_and_manifest(model):
    total = sum(SHORT.training.steps_of().values())
    assert {len(v) for v in model.history.values()} == {total}
    assert np.isnan(model.history["clustering"][model.history["stage"] != "train"]).all()
    assert np.isfinite(model.history["clustering"][model.history["stage"] == "train"]).all()
    assert model.manifest["config"] == SHORT.fingerprint()
    assert model.manifest["versions"]["jax"] == jax.__version__
    seconds = model.manifest["seconds"]
    wanted = [
        "preprocessing",
        "setup",
        "features",
        "graph",
        "embedding",
        "first_partition",
        "train",
    ]
    assert list(seconds) == [*wanted, "results", "compilation", "total"]
    assert min(seconds[name] for name in wanted) > 0


def test_not_fitted_and_bad_seed(adata):
    model = scs.SiameseClu(4)
    assert "not fitted" in repr(model)
    with pytest.raises(RuntimeError, match="call `fit` first"):
        _ = model.labels
    with pytest.raises(ValueError, match="rng"):
        model.fit(adata, rng=-1)


@pytest.mark.slow
def test_sinkhorn_that_does_not_converge_is_said(adata):
    config = scs.Config.from_dict({**SHORT.to_dict(), "transport": {"max_iterations": 10}})
    model = scs.SiameseClu(4, config=config).fit(adata, progress=False)
    assert "did not converge" in model.manifest["warnings"][0]


@pytest.fixture(scope="module")
def written(adata):
    made = adata.copy()
    made.uns["siameseclu_colors"] = ["red"]
    made.uns["neighbors"] = {"mine": 1}
    assert scs.tl.siameseclu(made, 4, config=SHORT, progress=False) is None
    return made


def test_what_is_written(adata, written, model):
    column = written.obs["siameseclu"]
    assert isinstance(column.dtype, pd.CategoricalDtype)
    assert list(column.cat.categories) == ["0", "1", "2", "3"]
    np.testing.assert_array_equal(column.astype(str), model.labels.astype(str))
    assert written.obs["siameseclu_confidence"].dtype == np.float32
    assert written.obsm["X_siameseclu"].shape == (240, 20)
    assert written.obsm["siameseclu_proba"].shape == (240, 4)
    assert set(written.uns["siameseclu"]) == {"params", "history", "manifest", "candidates"}
    assert "siameseclu_colors" not in written.uns
    assert written.uns["neighbors"] == {"mine": 1}
    assert (written.X != adata.X).nnz == 0
    assert list(written.obsp) == []


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_round_trip(written, tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    getattr(written, f"write_{kind}")(path)
    back = getattr(ad, f"read_{kind}")(path)
    pd.testing.assert_series_equal(back.obs["siameseclu"], written.obs["siameseclu"])
    np.testing.assert_array_equal(back.obsm["X_siameseclu"], written.obsm["X_siameseclu"])
    assert scs.Config.from_dict(back.uns["siameseclu"]["params"]["config"]) == SHORT
    stored.same(dict(written.uns), dict(back.uns))
    history = back.uns["siameseclu"]["history"]
    np.testing.assert_array_equal(history["loss"], written.uns["siameseclu"]["history"]["loss"])


def test_copy_view_and_key(adata, written):
    before = adata.copy()
    view = adata[:, :]
    made = scs.tl.siameseclu(view, 4, config=SHORT, key_added="mine", copy=True, progress=False)
    assert made.obs["mine"].astype(str).tolist() == written.obs["siameseclu"].astype(str).tolist()
    assert list(adata.obs) == list(before.obs)
    assert list(adata.uns) == list(before.uns)
    view = adata[:, :]
    scs.tl.siameseclu(view, 4, config=SHORT, progress=False)
    assert "siameseclu" in view.obs
    assert "siameseclu" not in adata.obs
    with pytest.raises(ValueError, match="key_added"):
        scs.tl.siameseclu(adata, 4, key_added="a/b")


def test_bad_input_leaves_the_object_as_it_was(adata):
    made = adata.copy()
    made.X = sp.csr_matrix(np.log1p(made.X.toarray()))
    with pytest.raises(ValueError, match="log-normalised"):
        scs.tl.siameseclu(made, 4)
    assert list(made.obs) == ["cell_type"]
    assert list(made.uns) == []


def test_float64_mode_is_left_alone():
    assert not jax.config.jax_enable_x64


def test_float64_mode_of_others_changes_not_one_bit(adata, model, tmp_path, x64):
    found = fit(adata)
    assert jax.config.jax_enable_x64
    same(model, found)
    found.save(tmp_path / "model")
    loaded = scs.SiameseClu.load(tmp_path / "model")
    for one, two in zip(loaded.predict(adata), model.predict(adata), strict=True):
        np.testing.assert_array_equal(one, two)


def test_an_embedding_without_clusters_is_in_single_precision_too(adata, x64):
    prepared = prepare(adata, config=SHORT)
    with Progress("embedding", show=False) as bar:
        assert stages.fit_embedding(prepared, config=SHORT, seed=0, bar=bar).dtype == np.float32


def test_a_fixed_gate_is_saved(adata, tmp_path):
    """It has no parameters, and files have no empty groups."""
    config = SHORT.to_dict()
    config["fusion"]["gate"] = "fixed"
    config["training"] |= {"graph_steps": 0, "steps": 0}
    made = scs.SiameseClu(4, config=scs.Config.from_dict(config)).fit(adata, progress=False)
    made.save(tmp_path / "model")
    loaded = scs.SiameseClu.load(tmp_path / "model")
    for one, two in zip(loaded.predict(adata), made.predict(adata), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"training": {"patience": 3}}, "with a refresh of the target among them"),
        ({"training": {"patience": 3}, "transport": {"refresh_every": 0}}, "refresh of the target"),
        ({"augmentation": {"alpha": 1e-4}}, "`augmentation.alpha`"),
        ({"network": {"feature_layers": [16.5]}}, "positive widths"),
        ({"scale": {"landmarks": 50_000}}, "at most 46340"),
    ],
)
def test_settings_that_would_fail_later(values, wanted):
    with pytest.raises(ValueError, match=wanted):
        scs.Config.from_dict(values)


def test_settings_that_a_file_gives_back():
    plain = scs.Config.from_dict({"losses": {"zinb": 0.5}}).to_dict()
    given = {
        part: {
            name: np.array(value)[()] if not isinstance(value, list) else np.array(value)
            for name, value in settings.items()
        }
        for part, settings in plain.items()
    }
    assert isinstance(given["network"]["feature_layers"], np.ndarray)
    assert isinstance(given["fusion"]["local"], np.bool_)
    found = scs.Config.from_dict(given)
    assert found == scs.Config.from_dict(plain)
    assert found.fingerprint() == scs.Config.from_dict(plain).fingerprint()
    with pytest.raises(ValueError, match="positive widths"):
        scs.Config.from_dict({"network": {"feature_layers": np.array([1.5])}})


def test_equal_settings_have_equal_fingerprints(tmp_path):
    (tmp_path / "a.toml").write_text("\ufeff[losses]\nzinb = 2\n", encoding="utf-8")
    config = scs.Config.from_toml(tmp_path / "a.toml")
    assert config.fingerprint() == scs.Config(losses={"zinb": 2.0}).fingerprint()
    assert config == scs.Config(losses={"zinb": 2.0}) != scs.Config()
    assert hash(config) == hash(scs.Config(losses={"zinb": 2.0}))


@pytest.mark.parametrize(
    ("losses", "error"),
    [({"zinb": -1.0}, ValueError), ({"zinb": "much"}, ValueError), ({"zinb": np.nan}, ValueError)],
)
def test_bad_weights_are_refused(losses, error):
    with pytest.raises(error, match=r"`losses\.zinb`"):
        scs.Config.from_dict({"losses": losses})


def test_settings_of_a_model_are_fixed(model):
    """What a fit used is what predictions use."""
    for name in ("config", "n_clusters"):
        with pytest.raises(AttributeError):
            setattr(model, name, getattr(model, name))
    assert model.config == SHORT


def test_without_any_step(adata, tmp_path):
    made = scs.SiameseClu(4, config=scs.Config.fast()).fit(adata, progress=False)
    assert adjusted_rand_score(adata.obs["cell_type"], made.labels) > 0.8
    made.save(tmp_path / "model")
    assert len(scs.SiameseClu.load(tmp_path / "model").history["stage"]) == 0
    found = scs.tl.add_clusters(adata, made, copy=True)
    found.write_h5ad(tmp_path / "out.h5ad")
    found.write_zarr(tmp_path / "out.zarr")
    seconds = found.uns["siameseclu"]["manifest"]["seconds"]
    stages_ = ["preprocessing", "setup", "embedding", "first_partition", "results"]
    assert list(seconds) == [*stages_, "compilation", "total"]
    for back in (ad.read_h5ad(tmp_path / "out.h5ad"), ad.read_zarr(tmp_path / "out.zarr")):
        assert back.uns["siameseclu"]["manifest"]["seconds"] == seconds


def test_other_seeds_and_data_of_like_shape_compile_nothing(adata, model):
    started = []

    def listen(event, seconds, **_):
        if "backend_compile" in event:
            started.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    fit(adata, rng=0)  # whatever is left to compile
    del started[:]
    fit(adata, rng=1)
    other = scs.datasets.simulate(n_cells=236, n_genes=150, n_clusters=4, difficulty=0.2, rng=5)
    fit(other)
    assert not started
    jax.jit(lambda x: 3 * x)(np.ones(7))
    assert started  # the listener does hear


def test_a_cluster_without_cells_is_said(adata, monkeypatch):
    assign = F.Method.assign

    def emptied(self, state, z):
        assignment = assign(self, state, z)
        return assignment._replace(proba=assignment.proba.at[:, 0].set(0))

    monkeypatch.setattr(F.Method, "assign", emptied)
    model = fit(adata)
    assert set(model.labels) == {0, 1, 2}
    assert "3 of 4 clusters have cells" in model.manifest["warnings"][-1]


def test_a_model_of_an_own_loop_is_a_model(adata, model, tmp_path):
    """The stages of a fit by hand, from the same first partition, give the same model."""
    blank = scs.SiameseClu(4, config=SHORT)
    cells, method = blank.prepare(adata), blank.method()
    data, steps = cells.data, SHORT.training
    state = method.init(jax.random.key(0), data)
    for stage, n_steps in (("features", steps.feature_steps), ("graph", steps.graph_steps)):
        state, _ = method.fit(method.start_stage(state, stage), data, n_steps=n_steps, stage=stage)
    state = method.prune_graph(state, data, method.embed(state, data))
    z = method.embed(state, data)
    with pytest.raises(ValueError, match=r"found none; call `method\.start_clustering`"):
        scs.SiameseClu.from_state(method, state, cells)
    partition = consensus.first_partition(
        np.asarray(z)[:240],
        [cells.prepared.features, *cells.prepared.others],
        4,
        n_neighbors=SHORT.preprocessing.n_neighbors,
        seed=0,
    )
    centers = candidates.centers_of(np.asarray(z)[:240], partition.clusters, 4)
    state = method.start_clustering(state, data, z, centers, np.bincount(partition.clusters))
    state, history = method.fit(method.start_stage(state, "train"), data, n_steps=steps.steps)
    state = state._replace(weights=state.weights | {"zinb": jnp.asarray(0.5)})  # as a loop may
    made = scs.SiameseClu.from_state(method, state, cells, history=history)
    assert made.manifest["losses"] == model.manifest["losses"] | {"zinb": 0.5}
    assert dict(made.config.losses) == {"zinb": 0.5}
    np.testing.assert_allclose(made.history["zinb"], history.terms["zinb"], rtol=1e-6)
    potential = state.plan.potential.at[0].set(jnp.nan)
    with pytest.raises(ValueError, match=r"finite numbers, found others in \['transport potential"):
        broken = state._replace(plan=state.plan._replace(potential=potential))
        scs.SiameseClu.from_state(method, broken, cells)
    with pytest.raises(ValueError, match=r"arrays \[n_steps\]"):
        scs.SiameseClu.from_state(method, state, cells, history={"a": [1.0], "b": [1.0, 2.0]})
    np.testing.assert_array_equal(made.labels, model.labels)
    np.testing.assert_allclose(made.proba, model.proba, rtol=1e-4, atol=1e-6)
    assert made.manifest["confidence"] == "not calibrated"
    made.save(tmp_path / "own")
    loaded = scs.SiameseClu.load(tmp_path / "own")
    for one, two in zip(loaded.predict(adata), made.predict(adata), strict=True):
        np.testing.assert_array_equal(one, two)
    written = scs.tl.add_clusters(adata, made, copy=True)
    assert scs.pl.history(written) is not None
    few = blank.prepare(adata[:100].copy())
    with pytest.raises(ValueError, match="a state of the prepared cells"):
        scs.SiameseClu.from_state(method, state, few)


def test_an_own_encoder_is_handed_to_load(adata, tmp_path):
    usual = F.graph_convolutions
    own = F.Encoder(usual.init, lambda params, x, graph: usual.apply(params, 2 * x, graph))
    one_step = {"steps": 1}
    config = scs.Config.from_dict({"training": one_step, "losses": {"own": 2.0, "zinb": 0.5}})
    terms = (*F.TERMS, F.Term("own", lambda context: (context.embeddings.fused**2).mean()))
    made = scs.SiameseClu(4, config=config, encoder=own, terms=terms).fit(adata, progress=False)
    assert made.manifest["losses"]["own"] == 2
    made.save(tmp_path / "own")
    with pytest.raises(ValueError, match=r"`encoder`, for the model .* hand it in"):
        scs.SiameseClu.load(tmp_path / "own")
    loaded = scs.SiameseClu.load(tmp_path / "own", encoder=own)
    for one, two in zip(loaded.predict(adata), made.predict(adata), strict=True):
        np.testing.assert_array_equal(one, two)
    assert dict(loaded.config.losses) == {"zinb": 0.5}
    with pytest.raises(RuntimeError, match=r"'terms': 'own'.* to fit or assess it"):
        loaded.assess(adata, n_resamples=2)
    whole = scs.SiameseClu.load(tmp_path / "own", encoder=own, terms=terms)
    assert {term.name for term in whole.method().terms} == set(made.manifest["losses"])
    with pytest.raises(ValueError, match="Expected no `augment`"):
        scs.SiameseClu.load(tmp_path / "own", encoder=own, augment=F.dual_views)
    written = scs.tl.add_clusters(adata, made, copy=True)
    assert "encoder" in written.uns["siameseclu"]["manifest"]["choices"]


def test_own_choices_that_only_training_uses_need_steps(adata):
    term = F.Term("small", lambda context: (context.embeddings.fused**2).mean())
    usual, nothing = scs.Config(), scs.Config.fast()
    own = {"terms": (*F.TERMS, term), "encoder": F.Encoder(*map(partial, F.graph_convolutions))}
    own["optimizer"] = optax.adam(1e-3)
    for name, config in (("terms", usual), ("encoder", usual), ("optimizer", nothing)):
        with pytest.raises(ValueError, match=f"steps of training for your {name}"):
            scs.SiameseClu(4, config=config, **{name: own[name]}).fit(adata, progress=False)


@pytest.mark.slow  # quick tests have another default
def test_by_default_contrast_alone_is_trained(adata):
    model = scs.SiameseClu(4).fit(adata, progress=False)
    steps = scs.Config().training.steps_of()
    assert {stage for stage, count in steps.items() if count} == {"contrast"}
    assert len(model.history["contrast"]) == steps["contrast"]
    assert set(model.history["stage"]) == {"contrast"}


LONGER = scs.Config.from_dict(
    {"training": {"contrast_steps": 0, "feature_steps": 24, "graph_steps": 4, "steps": 25}}
)


class Cut(BaseException):
    """What ends a fit at any place, as a signal or an error may."""


def cut_at(monkeypatch, number):
    """End fits at a chunk of steps, by its number; return a list of the stages of all chunks."""
    said, update = [], Progress.update

    def heard(self, n_steps, losses):
        if losses:
            said.append(self._stage)
            if len(said) == number:
                raise Cut
        update(self, n_steps, losses)

    monkeypatch.setattr(Progress, "update", heard)
    return said


def test_a_fit_that_is_cut_off_again_and_again_is_as_one_that_was_not(
    adata, tmp_path, monkeypatch, caplog
):
    fit = partial(scs.SiameseClu(4, config=LONGER).fit, adata, progress=False)
    wanted = fit()
    kept = {"checkpoint_dir": tmp_path / "kept", "every": 1}
    where, ended = [], False
    while not ended:
        with monkeypatch.context() as patch:
            said = cut_at(patch, 3)
            try:
                found, ended = fit(**kept), True
            except Cut:
                where.append(said[-1])
    same(found, wanted)
    assert where == ["features", "graph", "train", "train"]
    for name in ("clusters", "voters", "groups", "distances"):
        np.testing.assert_array_equal(*(getattr(m.candidates, name) for m in (found, wanted)))
    records = [{**m.manifest, "seconds": None} for m in (found, wanted)]
    assert records[0] == records[1]
    with caplog.at_level("INFO"):
        monkeypatch.setattr(stages, "first_partition", None)  # nothing is done again
        cut_at(monkeypatch, 1)
        same(fit(**kept), wanted)
    assert "took up the checkpoint: on to results" in caplog.text
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["fit.checkpoint"]


def test_a_fit_that_begins_anew_says_so_in_its_result(adata, tmp_path, monkeypatch):
    fit = partial(scs.SiameseClu("auto", config=scs.Config.fast()).fit, adata, progress=False)
    fit(checkpoint_dir=tmp_path)
    found = fit(checkpoint_dir=tmp_path, rng=1)
    assert found.manifest["warnings"] == [
        f"The fit began anew, not from the checkpoint {str(tmp_path / 'fit.checkpoint')!r}: it is "
        "of a fit that differs in seed."
    ]
    for name in ("partition.n_clusters.estimate", "training.stages.first_partition"):
        monkeypatch.setattr(f"scsiameseclu_jax.{name}", None)  # they take long, and are kept
    again = fit(checkpoint_dir=tmp_path, rng=1)
    assert not again.manifest["warnings"]
    assert again.estimate.why == found.estimate.why
    np.testing.assert_array_equal(again.proba, found.proba)
    np.testing.assert_array_equal(again.candidates.clusters, found.candidates.clusters)


def at_rate(rate, name="rate", **steps):
    training = SHORT.to_dict()["training"] | {name: rate} | steps
    return scs.Config.from_dict({"training": training})


def test_a_rate_that_is_far_too_large_costs_the_training_only(adata, tmp_path):
    """As if there was no training: not one cluster is worse for it."""
    model = scs.SiameseClu(4, config=at_rate(1e3)).fit(adata, progress=False)
    plain = scs.SiameseClu(4, config=at_rate(1e-4, steps=0)).fit(adata, progress=False)
    np.testing.assert_array_equal(model.proba, plain.proba)
    np.testing.assert_array_equal(
        *(m.get_latent_representation(fused=True) for m in (model, plain))
    )
    (note,) = model.manifest["warnings"]
    assert note.startswith("Stage 'train' diverged by step 10: the loss rose from ")
    assert note.endswith("ended as if it had not begun; lower `config.training.rate` (1000).")
    found = model.manifest["diverged"]["train"]
    assert found["ended"] and found["tries"] == 3
    assert model.manifest["training_steps"] == 0
    loss = model.history["loss"][model.history["stage"] == "train"]
    assert len(loss) == 40  # what was taken back is shown
    written = scs.tl.add_clusters(adata, model, copy=True)
    written.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad").uns["siameseclu"]["manifest"]
    assert list(back["warnings"]) == [note]
    assert back["diverged"]["train"]["ended"]
    assert note in model.answer(adata, None).manifest["warnings"]


@pytest.mark.slow
def test_a_rate_that_is_too_large_is_halved(adata, tmp_path, monkeypatch):
    fit = partial(scs.SiameseClu(4, config=at_rate(0.2, steps=25)).fit, adata, progress=False)
    model = fit()
    (note,) = model.manifest["warnings"]
    found = model.manifest["diverged"]["train"]
    assert not found["ended"] and 1 <= found["tries"] <= 3
    wanted = (
        f"It went on with `config.training.rate` (0.2) divided by {2 ** found['tries']}; lower it."
    )
    assert note.endswith(wanted)
    assert model.manifest["training_steps"] == 25
    kept = {"checkpoint_dir": tmp_path, "every": 1}
    for number in (2, 4):
        with monkeypatch.context() as patch, pytest.raises(Cut):
            cut_at(patch, number)
            fit(**kept)
    resumed = fit(**kept)
    same(resumed, model)
    assert resumed.manifest["diverged"] == model.manifest["diverged"]


def test_training_that_is_not_finite_names_the_term(adata):
    model = scs.SiameseClu(4, config=at_rate(1e30, "pretrain_rate")).fit(adata, progress=False)
    notes = model.manifest["warnings"]
    assert "Stage 'features' diverged" in notes[0]
    assert notes[0].endswith("lower `config.training.pretrain_rate` (1e+30).")
    assert adjusted_rand_score(adata.obs["cell_type"], model.labels) > 0.8


def test_a_term_that_is_not_finite(adata):
    """At the first step no rate helps; at a later one what was learned before stays."""

    def broken(context):
        always, drawn = context.values["pretrain_rate"] > 1e-3, jax.random.uniform(context.key)
        return jnp.where(always | (abs(drawn - 0.0775) < 0.0025), jnp.nan, 0.0)

    mine = F.Term("mine", broken, stages=("features",))
    for rate, wanted in (
        (1.0, "step 1: `mine` was nan before anything"),
        (1e-4, "step 37: `mine`"),
    ):
        config = at_rate(rate, "pretrain_rate", feature_steps=60, graph_steps=0, steps=0)
        model = scs.SiameseClu(4, config=config, terms=(*F.TERMS, mine))
        model.fit(adata, progress=False)
        (note,) = model.manifest["warnings"]
        assert f"Stage 'features' diverged by {wanted}" in note
        assert "ended as if it had not begun; mend that term" in note or rate < 1
        assert "ended after 30 of 60 steps; lower `config" in note or rate == 1
        assert np.isfinite(model.proba).all()


def test_a_cluster_that_training_has_emptied_is_not_blamed_on_their_number():
    rows = [{"size_entropy": np.array([0.9, 0.5])}]
    config = at_rate(0.01)
    assert stages._remedy([], config).startswith("a smaller `n_clusters`")
    assert stages._remedy([{"size_entropy": np.array([0.9, 0.89])}], config).startswith("a smaller")
    assert "lower `config.training.rate` (0.01)" in stages._remedy(rows, config)

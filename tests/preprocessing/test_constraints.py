"""Pairs of cells that belong together, or apart: what they change and what they cannot."""

import anndata as ad
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

import scsiameseclu_jax as scs
import scsiameseclu_jax.functional as F
from scsiameseclu_jax.cli import parser as cli
from scsiameseclu_jax.partition import consensus
from scsiameseclu_jax.preprocessing import constraints as pairs
from scsiameseclu_jax.reporting import repeat
from scsiameseclu_jax.reporting.result import find
from tests import oracles
from tests.problems import PAIRS, close, same_value_and_gradient

CONFIG = scs.Config.from_dict(
    {
        "training": {"contrast_steps": 0, "feature_steps": 5, "steps": 4},
        "network": {"feature_layers": [16], "graph_layers": [16]},
        "augmentation": {"diffusion": False},
    }
)
N = 240


@pytest.fixture(scope="module")
def adata():
    return scs.datasets.simulate(n_cells=N, n_genes=100, n_clusters=4, difficulty=0.8, rng=0)


@pytest.fixture(scope="module")
def known(adata):
    """150 pairs of 60 cells, by their type."""
    types, rng = adata.obs["cell_type"].astype(str).to_numpy(), np.random.default_rng(0)
    rows = np.array([rng.choice(60, 2, replace=False) for _ in range(150)])
    same = types[rows[:, 0]] == types[rows[:, 1]]
    names = adata.obs_names.to_numpy()[rows]
    return {"must_link": names[same], "cannot_link": names[~same]}


@pytest.fixture(scope="module")
def model(adata, known):
    return fitted(adata, **known)


def fitted(adata, **options):
    return scs.SiameseClu(4, config=CONFIG).fit(adata, rng=0, progress=False, **options)


def constraints_of(must_link, cannot_link):
    """Return pairs of six cells as training sees them, padded."""
    cells = np.ones((6, 2)), None, np.arange(6)[::-1, None]
    return F.cell_data(*cells, must_link=must_link, cannot_link=cannot_link).constraints


def test_likelihood_is_that_of_independent_cells(x64):
    made = constraints_of(PAIRS[0][:1], PAIRS[0][1:])

    def oracle(logits):
        return oracles.constraint_nll(jax.nn.softmax(logits), *PAIRS)

    logits = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)))
    same_value_and_gradient(
        lambda logits: F.constraint_nll(jax.nn.log_softmax(logits), made), oracle, logits
    )


@pytest.mark.parametrize("linked", [True, False])
def test_certain_assignments_have_finite_likelihoods(linked):
    log_q = jax.nn.log_softmax(jnp.array([[200.0, 0, 0], [200.0, 0, 0], [0, 200.0, 0]]))
    rows = [[0, 1], [0, 2]]
    made = constraints_of(rows, None) if linked else constraints_of(None, rows)
    value, gradient = jax.value_and_grad(F.constraint_nll)(log_q, made)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_a_state_without_pairs_knows_nothing_of_them(adata, model):
    plain = fitted(adata)
    assert "constraints" not in plain.history
    assert not {"must_link", "cannot_link"} & set(plain.manifest)
    held = model.history["constraints"][model.history["stage"] == "train"]
    assert np.isfinite(held).all()


@pytest.mark.slow
def test_the_loss_is_lower_after_steps_with_it(adata, known):
    training = {"steps": 40, "rate": 1e-2}
    values = CONFIG.to_dict() | {"training": CONFIG.to_dict()["training"] | training}
    config = scs.Config.from_dict(values)
    made = scs.SiameseClu(4, config=config).fit(adata, rng=0, progress=False, **known)
    held = made.history["constraints"][made.history["stage"] == "train"]
    assert held[-1] < held[0]
    values["losses"] = values["losses"] | {"constraints": 0.0}
    config = scs.Config.from_dict(values)
    other = scs.SiameseClu(4, config=config).fit(adata, rng=0, progress=False, **known)
    assert "constraints" not in other.history
    assert not np.array_equal(made.proba, other.proba)


def test_pairs_hold(adata, known, model):
    for name, given in known.items():
        different = len({frozenset(pair) for pair in given})
        assert model.manifest[name] == {"given": different, "kept": different}
    found = pd.Series(model.labels, adata.obs_names)
    together = [found[one] == found[two] for one, two in known["must_link"]]
    apart = [found[one] != found[two] for one, two in known["cannot_link"]]
    assert all(together)
    assert all(apart)
    np.testing.assert_array_equal(model.proba.argmax(axis=1), model.labels)
    np.testing.assert_allclose(model.proba.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.slow
def test_mini_batches_leave_out_the_loss_but_keep_the_pairs(adata, known):
    values = CONFIG.to_dict() | {"scale": {"full_cells": 100, "batch_cells": 64}}
    config = scs.Config.from_dict(values)
    made = scs.SiameseClu(4, config=config).fit(adata, rng=0, progress=False, **known)
    assert "constraints" not in made.history
    for name in known:
        assert made.manifest[name]["kept"] == made.manifest[name]["given"]


def test_order_of_cells_and_of_pairs_does_not_matter(adata, known, model):
    order = np.random.default_rng(1).permutation(N)
    turned = {name: pd.DataFrame(value[::-1, ::-1]) for name, value in known.items()}
    again = fitted(adata[order].copy(), **turned)
    np.testing.assert_array_equal(again.labels, model.labels[order])
    close(again.proba, model.proba[order], rtol=1e-5)


def test_candidates_that_break_fewer_pairs_come_first(adata, known):
    x = np.asarray(np.log1p(adata.X.toarray()), float)
    x -= x.mean(axis=0)
    given = pairs.find_constraints(adata, **known)
    found = [
        consensus.first_partition(x, [x], 4, n_neighbors=10, constraints=one, seed=0).clusters
        for one in (None, given)
    ]
    without, having = (pairs.broken(clusters, given).sum() for clusters in found)
    assert having < without


def test_a_type_of_two_distant_parts_is_found_by_a_few_pairs():
    rng = np.random.default_rng(0)
    parts = np.repeat(np.arange(4), 60)
    x = 3 * np.eye(4, 8)[parts] + 0.3 * rng.normal(size=(240, 8))
    x[parts == 1] += 1.5 * np.eye(8)[2]  # part 1 lies nearer to part 2 than to part 0
    types = np.array([0, 0, 1, 2])[parts]
    rows = np.array([[i, 60 + i] for i in range(6)] + [[60 + i, 120 + i] for i in range(6)])
    given = pairs.Constraints(rows, types[rows[:, 0]] == types[rows[:, 1]])

    def score(known):
        found = consensus.first_partition(x, [x], 3, n_neighbors=10, constraints=known, seed=0)
        return adjusted_rand_score(types, found.clusters)

    assert score(None) < 0.7
    assert score(given) > 0.95


def test_constrain_keeps_what_it_can():
    proba = np.array([[0.6, 0.4, 0], [0.1, 0.2, 0.7], [0.5, 0.3, 0.2], [0.9, 0.1, 0.0]])
    given = pairs.Constraints(np.array([[0, 1], [0, 2]]), np.array([True, False]))
    made = pairs.constrain(proba, given)
    np.testing.assert_array_equal(made[0], made[1])
    assert not pairs.broken(made.argmax(axis=1), given).any()
    np.testing.assert_array_equal(made[3], proba[3])
    np.testing.assert_allclose(made.sum(axis=1), 1)
    # four cells, each to be apart from all others, in three clusters
    rows = np.array([[i, j] for i in range(4) for j in range(i)])
    crowd = pairs.Constraints(rows, np.zeros(6, bool))
    made = pairs.constrain(np.full((4, 3), 1 / 3), crowd)
    assert pairs.broken(made.argmax(axis=1), crowd).sum() == 1
    assert np.isfinite(made).all()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"must_link": [("cell 0", "ghost")]}, KeyError, r"found 1 others: \['ghost'\]"),
        ({"must_link": ["cell 0", "cell 1"]}, ValueError, r"\[m, 2\], found shape \(2,\)"),
        ({"cannot_link": [("cell 0",) * 3]}, ValueError, r"\[m, 2\], found shape \(1, 3\)"),
        ({"cannot_link": [("cell 0", "cell 0")]}, ValueError, "found 'cell 0' with itself"),
        (
            {
                "must_link": [("cell 0", "cell 1"), ("cell 1", "cell 2")],
                "cannot_link": [("cell 2", "cell 0")],
            },
            ValueError,
            "do not contradict each other, found 'cell 0' and 'cell 2'",
        ),
    ],
)
def test_bad_pairs_are_refused_before_anything_runs(given, error, message):
    cells = ad.AnnData(np.ones((30, 5), np.float32))
    cells.obs_names = [f"cell {i}" for i in range(30)]
    with pytest.raises(error, match=message):
        pairs.find_constraints(cells, **given)


def test_names_have_to_be_unique():
    cells = ad.AnnData(np.ones((3, 2), np.float32), obs=pd.DataFrame(index=["a", "b", "c"]))
    cells.obs_names = ["a", "a", "b"]
    with pytest.raises(ValueError, match="obs_names_make_unique"):
        pairs.find_constraints(cells, [("a", "b")])
    assert pairs.find_constraints(cells, [], None) is None


@pytest.mark.slow
def test_refits_and_saved_models_know_the_pairs(adata, known, model, tmp_path, monkeypatch):
    model.save(tmp_path / "model")
    loaded = scs.SiameseClu.load(tmp_path / "model")
    seen, fit = [], scs.SiameseClu.fit

    def noted(self, part, **options):
        seen.append((set(part.obs_names), options))
        return fit(self, part, **options)

    monkeypatch.setattr(scs.SiameseClu, "fit", noted)
    loaded.assess(adata, n_resamples=2, progress=False)
    for names, options in seen:
        for name, value in known.items():
            there = {tuple(p) for p in value if names.issuperset(p)}
            assert {tuple(p) for p in options[name]} == there
    assert model.manifest["must_link"] == loaded.manifest["must_link"]
    renamed = adata.copy()
    renamed.obs_names = [f"other {i}" for i in range(N)]
    with pytest.raises(KeyError, match="obs_names"):
        loaded.assess(renamed, n_resamples=2)


def test_the_record_survives_a_file_and_says_how_to_repeat_it(adata, known, tmp_path):
    made = adata.copy()
    scs.tl.siameseclu(made, 4, config=CONFIG, progress=False, **known)
    made.write_h5ad(tmp_path / "made.h5ad")
    back = ad.read_h5ad(tmp_path / "made.h5ad")
    params = back.uns["siameseclu"]["params"]
    for name, value in known.items():
        np.testing.assert_array_equal(params[name].astype(str), value)
    assert int(back.uns["siameseclu"]["manifest"]["must_link"]["kept"]) > 0
    scs.report(back, tmp_path / "report.html")
    assert "must_link" in (tmp_path / "report.html").read_text(encoding="utf-8")
    result = find(back, "siameseclu")
    assert "--must-link must_link.csv --cannot-link cannot_link.csv" in repeat.shell(result)
    code = repeat.python(result)
    compile(code, "repeat", "exec")
    assert 'must_link = scs.datasets.read_pairs("must_link.csv")' in code
    assert "cannot_link=cannot_link" in code


@pytest.mark.parametrize("separator", [",", "\t", ";"])
def test_files_of_pairs(tmp_path, separator):
    file = tmp_path / "pairs.csv"
    file.write_text(f"a{separator}b\n\nb{separator}c\n")
    assert scs.datasets.read_pairs(file) == [("a", "b"), ("b", "c")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a,b\na,b,c\n", r"found \['a', 'b', 'c'\] in row 2"),
        (b"a\n", r"found \['a'\] in row 1"),
        (b"a,\n", r"found \['a', ''\] in row 1"),
        (b"\n", "found none"),
        (b"\xff\xfe\x00", "to be text"),
    ],
)
def test_bad_files_of_pairs(tmp_path, text, message):
    file = tmp_path / "pairs.csv"
    file.write_bytes(text)
    with pytest.raises(ValueError, match=message):
        scs.datasets.read_pairs(file)


def test_from_the_shell(adata, known, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    adata.write_h5ad("in.h5ad")
    words = ["cluster", "in.h5ad", "out.h5ad", "--n-clusters", "4", "--must-link"]
    assert cli.main([*words, "none.csv"]) == 2
    assert "found nothing at 'none.csv'" in capsys.readouterr().err
    (tmp_path / "settings.toml").write_text(
        "[training]\ncontrast_steps = 0\nfeature_steps = 5\n"
        "graph_steps = 2\njoint_steps = 2\nsteps = 4\n"
    )
    pd.DataFrame(known["must_link"]).to_csv("pairs.csv", header=False, index=False)
    assert cli.main([*words, "pairs.csv", "--config", "settings.toml", "--quiet"]) == 0
    made = ad.read_h5ad("out.h5ad")
    told = made.uns["siameseclu"]["manifest"]["must_link"]
    assert int(told["kept"]) == int(told["given"]) > 0

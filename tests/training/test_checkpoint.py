"""What is kept of a fit: read whole or not at all, and only for the same fit."""

import os
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

import scsiameseclu_jax as scs
import scsiameseclu_jax.functional as F
from scsiameseclu_jax.files import WriteError
from scsiameseclu_jax.preprocessing.prepare import prepare
from scsiameseclu_jax.training import checkpoint
from scsiameseclu_jax.training.checkpoint import Checkpoint, Saved
from scsiameseclu_jax.training.fingerprint import _digest, fingerprint


class Cut(BaseException):
    """What ends a run at any place, as a signal does."""


def cut(*_, **__):
    raise Cut


@pytest.fixture(scope="module")
def adata():
    return scs.datasets.simulate(n_cells=120, n_genes=60, n_clusters=3, difficulty=0.2, rng=0)


@pytest.fixture
def cells(adata):
    return prepare(adata, config=scs.Config())


def my_loss(context, *, scale=1.0):
    return scale * jnp.mean(context.embeddings.fused**2)


def made_by(scale):
    return lambda context: scale * jnp.mean(context.embeddings.fused**2)


def test_only_the_same_fit_has_the_same_fingerprint(cells):
    def of(cells=cells, k=3, seed=0, config=None, **choices):
        return fingerprint(cells, F.siameseclu(3, config=config, **choices), k, seed)

    def differs(other):
        return {name for name, value in of().items() if other[name] != value}

    assert not differs(of())
    assert differs(of(k="auto")) == {"n_clusters"}
    assert differs(of(seed=1)) == {"seed"}
    assert differs(of(config=scs.Config.short())) == {"config"}
    counts = cells.counts.copy()
    counts.data[7] += 1
    assert differs(of(cells._replace(counts=counts))) == {"cells"}
    assert differs(of(cells._replace(senders=cells.senders[::-1]))) == {"links"}
    assert differs(of(optimizer=optax.adam(1e-3))) == {"optimizer"}
    assert differs(of(transport=partial(F.sinkhorn_target, tau=0.9))) == {"transport"}
    assert differs(of(terms=F.TERMS[1:])) == {"terms"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (my_loss, made_by(1.0)),
        (made_by(1.0), made_by(2.0)),
        (partial(my_loss, scale=1.0), partial(my_loss, scale=2.0)),
        (lambda c: c + 1, lambda c: c + 2),
        (optax.adam(1e-3), optax.adam(1e-2)),
        (optax.adam(1e-3), optax.adamw(1e-3)),
        (made_by(np.ones(3)), made_by(np.zeros(3))),
        (F.Term("a", my_loss), F.Term("a", my_loss, weight=2.0)),
        (np.float32, np.float64),
    ],
)
def test_choices_are_told_apart_by_what_they_compute(one, other):
    assert _digest(one) != _digest(other)


@pytest.mark.parametrize(
    "make",
    [
        lambda: made_by(np.ones(3)),
        lambda: optax.chain(optax.clip(1.0), optax.adam(1e-3)),
        lambda: F.Encoder(my_loss, partial(my_loss, scale=2.0)),
        lambda: {"a": {1, 2}, "b": [None, jnp.ones(2)]},
    ],
)
def test_choices_that_are_made_alike_are_alike(make):
    assert _digest(make()) == _digest(make())


def test_a_compiled_function_stays_what_it_was():
    inner = made_by(2.0)
    compiled = jax.jit(lambda x: x + 1)
    both = partial(inner), compiled
    before = _digest(both)
    compiled(1)
    assert _digest(both) == before == _digest((partial(made_by(2.0)), jax.jit(lambda x: x + 1)))
    assert _digest(jax.jit(lambda x: x + 2)) != _digest(compiled)


def test_a_function_that_knows_itself_has_an_end():
    def recursive(n):
        return recursive(n - 1) if n else 0

    assert _digest(recursive) == _digest(recursive)


FINGERPRINT = {"seed": "1", "config": "2", "device": "cpu"}
LEAVES = (
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.array(7, np.int32),
    np.zeros((0, 4), np.float32),
    np.ones(3, ml_dtypes.bfloat16),
    np.array([True, False]),
)
ROWS = (
    {"loss": np.array([1.0, np.nan]), "a": np.zeros(2), "stage": np.full(2, "graph")},
    {"loss": np.array([0.1]), "a": np.ones(1), "stage": np.full(1, "graph")},
    {"loss": np.array([1 / 3, np.inf]), "stage": np.full(2, "train")},
)


def kept_in(folder, **changes):
    made = Checkpoint(folder, 1)
    made.open(FINGERPRINT | changes)
    return made


def test_what_is_saved_comes_back(tmp_path):
    kept_in(tmp_path).save(
        stage="train", done=3, tries=1, drawn=5, leaves=LEAVES, rows=ROWS, kept=(True, False, True)
    )
    found = kept_in(tmp_path)
    assert not found.notes
    assert (found.saved.stage, found.saved.done, found.saved.drawn) == ("train", 3, 5)
    assert found.saved.kept == (True, False, True)
    for one, other in zip(found.saved.leaves, LEAVES, strict=True):
        np.testing.assert_array_equal(one, other)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
    for one, other in zip(found.saved.rows, ROWS, strict=True):
        assert list(one) == list(other)
        for name, values in other.items():
            np.testing.assert_array_equal(one[name], values)


def test_another_fit_begins_anew_and_says_why(tmp_path):
    kept_in(tmp_path).save(stage="train", leaves=LEAVES)
    found = kept_in(tmp_path, seed="3", config="4")
    assert found.saved == Saved()
    assert "it is of a fit that differs in seed, config" in found.notes[0]
    other = kept_in(tmp_path, device="gpu")
    assert other.saved.stage == "train"
    assert "begun on cpu and taken up on gpu" in other.notes[0]


def test_every_damage_is_seen(tmp_path):
    kept_in(tmp_path).save(stage="train", leaves=LEAVES, rows=ROWS, kept=(True,) * 3)
    path = tmp_path / "fit.checkpoint"
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for i in range(200):
        damaged = bytearray(content)
        place = int(rng.integers(len(content)))
        if i % 4 == 0:
            damaged = damaged[:place]
        else:
            damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        found = kept_in(tmp_path)
        assert found.saved == Saved()
        assert "is damaged" in found.notes[0]


def test_a_folder_of_other_things_is_refused_before_anything_starts(adata, tmp_path, monkeypatch):
    monkeypatch.setattr(scs.SiameseClu, "_prepare", cut)
    fit = partial(scs.SiameseClu(3).fit, adata, progress=False)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"alone in .* found 'notes.txt'; name an empty one"):
        fit(checkpoint_dir=tmp_path / "full")
    with pytest.raises(FileExistsError, match="found something else"):
        fit(checkpoint_dir=tmp_path / "full" / "notes.txt")
    with pytest.raises(FileNotFoundError, match="create it first"):
        fit(checkpoint_dir=tmp_path / "no" / "where")
    for every, error in ((0, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="`every`"):
            fit(checkpoint_dir=tmp_path / "new", every=every)
    assert not (tmp_path / "new").exists()
    with pytest.raises(Cut):
        fit(checkpoint_dir=tmp_path / "new")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_checkpoint_that_is_being_written_when_all_ends(tmp_path, monkeypatch, step):
    """The one before stays, and what is left of the new one is removed by the next run."""
    kept_in(tmp_path).save(stage="train", done=10)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *_, **__: None)  # nobody tidies up after a kill
        patch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[step], cut)
        with pytest.raises(Cut):
            kept_in(tmp_path).save(done=20)
    assert len(list(tmp_path.iterdir())) == 2
    found = kept_in(tmp_path)
    assert found.saved.done == 10
    found.save(done=30)
    assert [path.name for path in tmp_path.iterdir()] == ["fit.checkpoint"]


def test_a_checkpoint_that_cannot_be_written_costs_nothing_else(tmp_path, monkeypatch):
    kept = kept_in(tmp_path)
    kept.save(done=10)

    def full(path, writer):
        raise WriteError("no space left")

    monkeypatch.setattr(checkpoint, "write_whole", full)
    kept.save(done=20)
    kept.save(done=30)
    assert kept.notes == ["The fit goes on without a newer checkpoint: no space left"]
    assert kept_in(tmp_path).saved.done == 10

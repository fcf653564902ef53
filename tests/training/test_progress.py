"""What a fit says of itself while it runs, and the seconds of its stages."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scsiameseclu_jax.training import progress
from scsiameseclu_jax.training.progress import Progress


def compile_something(times=30):
    """Compile what no other test has: jax keeps programs by their functions."""

    def function(x):
        for _ in range(times):
            x = jnp.sin(x) @ x
        return x

    jax.block_until_ready(jax.jit(function)(np.ones((3, 3), np.float32)))


def test_seconds_of_stages_add_up():
    with Progress("first", show=False) as bar:
        start = time.perf_counter()
        time.sleep(0.05)
        bar.stage("second")
        compile_something()
        bar.stage("first")
        time.sleep(0.05)
        bar.stage("third")
        seconds = bar.seconds()
        taken = time.perf_counter() - start
    assert list(seconds) == ["first", "second", "third", "compilation", "total"]
    assert 0.1 <= seconds["first"] < taken - seconds["compilation"]
    assert 0.01 < seconds["compilation"] < taken
    total = seconds.pop("total")
    assert total == pytest.approx(sum(seconds.values()), abs=1e-6)
    assert total == pytest.approx(taken, abs=0.01)


def test_a_program_that_is_at_hand_is_no_compilation():
    program = jax.jit(lambda x: x + 11)
    program(1)
    with Progress("first", show=False) as bar:
        program(1)
        assert bar.seconds()["compilation"] == 0


def test_nothing_is_heard_after_the_end():
    with pytest.raises(RuntimeError), Progress("first", show=False) as bar:
        raise RuntimeError
    compile_something()
    assert bar.seconds()["compilation"] == 0


def test_spans_in_one_another_count_once():
    assert progress._covered([(5, 6), (1, 3), (2, 2.5), (2, 4)]) == 4
    assert progress._covered([]) == 0


def test_compilation_is_said_while_it_goes_on(monkeypatch):
    monkeypatch.setattr(progress, "_MOMENT", -1)  # however short it is
    heard = []

    class Listening(Progress):
        def _begins(self, event, *more, **options):
            super()._begins(event, *more, **options)
            heard.append(self._name())

    with Listening("first_partition", show=False) as bar:
        assert bar._name() == "first partition"
        compile_something()
        assert bar._name() == "first partition"
    assert "first partition, compiling (first run of this size)" in heard
    assert "first partition" in heard  # while it is traced


def test_a_short_compilation_is_not_said():
    with Progress("train", show=False) as bar:
        bar._begins(progress._COMPILER, time.time())
        assert bar._name() == "train"
        bar._begins(progress._COMPILER, time.time() - 1)
        assert bar._name().startswith("train, compiling")


def test_log_lines_one_for_each_stage(caplog):
    losses = {"loss": np.array([3.0, 2.0]), "other": np.ones(2), "zinb": np.array([1.0, 0.5])}
    with caplog.at_level("INFO"), Progress("preprocessing") as bar:
        bar.stage("train", 4)
        bar.update(2, losses)
        bar.stage("results")
    lines = [record.message for record in caplog.records]
    assert len(lines) == 3
    assert lines[0].startswith("preprocessing, 0.")
    assert lines[1].endswith(" s, step 2 of 4: loss 2, zinb 0.5")
    assert lines[2].startswith("results, ")


def test_log_lines_of_a_long_stage(caplog, monkeypatch):
    monkeypatch.setattr(progress, "_MOMENT", 0.01)
    monkeypatch.setattr(progress, "_SECONDS", 0.05)
    with caplog.at_level("INFO"), Progress("train") as bar:
        start = time.perf_counter()
        while len(caplog.records) < 3 and time.perf_counter() - start < 30:
            time.sleep(0.01)
        lines, taken = len(caplog.records), time.perf_counter() - start
        bar.stage("results")
    assert 3 <= lines <= taken / 0.05
    said = [record.message for record in caplog.records if record.message.startswith("train")]
    assert [" s so far" in text for text in said] == [True] * (len(said) - 1) + [False]


def test_a_notebook_has_a_bar(capsys, caplog, monkeypatch):
    monkeypatch.setattr(progress, "in_ipython", lambda: True)
    with caplog.at_level("INFO"), Progress("train") as bar:
        bar.stage("results")
    assert "train" in capsys.readouterr().err
    assert not caplog.records


def test_nothing_is_logged_of_a_stage_that_failed(caplog):
    with caplog.at_level("INFO"), pytest.raises(RuntimeError), Progress("train"):
        raise RuntimeError
    assert not caplog.records


def test_bar(capsys, caplog, monkeypatch):
    monkeypatch.setattr(progress, "_MOMENT", 0.01)
    with caplog.at_level("INFO"), Progress("number_of_clusters", show=True) as bar:
        time.sleep(0.1)
        bar.stage("train", 4)
        bar.update(2, {"loss": np.array([2.0])})
        time.sleep(0.2)
        bar.update(2, {"loss": np.array([1.0])})
    said = capsys.readouterr().err
    assert "number of clusters [00:00]" in said
    assert "train:" in said
    assert "2/4" in said
    assert "loss 2" in said
    assert "step/s" in said
    assert not caplog.records


def test_nothing_is_shown_if_nothing_is_to_be(capsys, caplog):
    with caplog.at_level("INFO"), Progress("train", show=False) as bar:
        bar.update(2, {"loss": np.array([2.0])})
    assert capsys.readouterr().err == ""
    assert not caplog.records

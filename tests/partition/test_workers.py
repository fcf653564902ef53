"""Workers: what they do to threads is felt by no other thread, and they hide nothing."""

import threading

import numpy as np
import pytest
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_info

from scsiameseclu_jax.partition import workers


@pytest.fixture
def eight(monkeypatch):
    monkeypatch.setattr(workers, "_n_threads", lambda: 8)


def limits(api):
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == api]


def test_results_come_in_their_order(eight):
    together = threading.Barrier(8, timeout=60)  # passed only if all eight run at once

    def square(x):
        together.wait()
        return x**2

    assert workers.in_workers(square, range(16)) == [x**2 for x in range(16)]


def test_other_threads_feel_no_limit(eight):
    x = np.random.default_rng(0).normal(size=(2000, 20)).astype(np.float32)
    before = limits("openmp"), limits("blas")

    def cluster(seed):
        inside = set(limits("openmp"))
        KMeans(8, n_init=2, random_state=seed).fit(x)
        return inside

    def watch():
        while not done.is_set():
            outside.append(limits("openmp"))

    outside, done = [], threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    assert workers.in_workers(cluster, range(24)) == [{1}] * 24
    done.set()
    watcher.join()
    assert all(found == before[0] for found in outside)
    assert (limits("openmp"), limits("blas")) == before


def test_an_error_in_a_worker_surfaces():
    def fail(x):
        raise ArithmeticError(x)

    with pytest.raises(ArithmeticError, match="3"):
        workers.in_workers(fail, [3])

"""Many small problems at once: a thread for each, and one thread of OpenMP in each of those."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

_THREADS = 8  # at most: each has its copy of the features of its cells

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_workers(call: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Call for each item in a thread of its own pool; return the results in their order.

    k-means adds up in the order in which the threads of OpenMP end: with one, results repeat. The
    limit of OpenMP is one of the calling thread, so no other thread of the process feels it.
    """
    from threadpoolctl import threadpool_limits

    limit = partial(threadpool_limits, limits=1, user_api="openmp")
    # each k-means of scikit-learn limits BLAS for a moment, but those of several threads put back
    # what they found of each other; this limits nothing and puts back what was
    with threadpool_limits(), ThreadPoolExecutor(_n_threads(), initializer=limit) as pool:
        return list(pool.map(call, items))


def _n_threads() -> int:
    from joblib import cpu_count

    return min(cpu_count(), _THREADS)

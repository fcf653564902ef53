"""What this machine has, what is missing, and whether each stage computes what it should."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit, gammaln, log_softmax, logsumexp, softmax

import scsiameseclu_jax.functional as F
from scsiameseclu_jax.checks import default_device
from scsiameseclu_jax.config import Config
from scsiameseclu_jax.files import message
from scsiameseclu_jax.inputs import free_memory
from scsiameseclu_jax.manifest import PACKAGES
from scsiameseclu_jax.training.device import in_float32

_MORE = ("scipy", "scikit-learn", "pandas", "igraph", "pynndescent", "zarr", "dask", "distributed")
_WORST = 1e-4  # relative error that a stage may have in float32
_N, _D, _K = 60, 5, 4  # cells, dimensions and clusters of the self-test


def doctor(*, test: bool = True) -> dict[str, Any]:
    """Look at this machine: versions, devices, memory, and whether each stage computes rightly.

    Parameters
    ----------
    test
        Compare each stage, on a few cells, with its plain dense form in float64; some ten
        seconds, nearly all of it compilation.

    Returns
    -------
    Plain types, as ``scsiameseclu doctor --json`` prints them:

    ``versions``
        Of Python and of the packages that a result depends on; None for those that are not there.
    ``machine``
        Platform, processors, free memory in bytes, where compiled programs are kept; whether an
        NVIDIA card was seen, and which CUDA build of jax is installed, or None.
    ``devices``
        Each with its kind, and its memory and what of it is in use, in bytes, where it says so;
        none if jax cannot start those that ``JAX_PLATFORMS`` asks for.
    ``precision``
        Of matrix products, and whether jax's default is 64 bits; fits compute in 32.
    ``stages``
        For each its largest relative error (None: not finite), seconds, and whether it is right.
    ``advice``
        What to install or to mend, a sentence each.
    ``ok``
        Whether jax starts, and every stage is right.

    Examples
    --------
    >>> import scsiameseclu_jax as scs
    >>> found = scs.doctor(test=False)
    >>> sorted(found)
    ['advice', 'devices', 'machine', 'ok', 'precision', 'stages', 'versions']
    """
    trouble = device_trouble()
    devices = [] if trouble else [_device(device) for device in jax.devices()]
    stages = in_float32(lambda: dict(_stages()))() if test and not trouble else {}
    bad = [name for name, found in stages.items() if not found["right"]]
    advice = [f"{trouble}."] if trouble else []
    advice += _advice(devices)
    if bad:
        kind = default_device().device_kind
        advice.append(
            f"Results on this machine ({kind}) cannot be relied on: {', '.join(bad)} differ from "
            "their plain form. Reinstall jax and jaxlib, and report it with this output."
        )
    return {
        "versions": {name: _version(name) for name in ("scsiameseclu-jax", *PACKAGES, *_MORE)}
        | {"python": platform.python_version()},
        "machine": {
            "platform": platform.platform(),
            "processors": os.cpu_count(),
            "free_memory": free_memory(),
            "programs": jax.config.jax_compilation_cache_dir,
            "nvidia_card": _sees_nvidia(),
            "cuda_build": _cuda_build(),
        },
        "devices": devices,
        "precision": {
            "matrix_products": Config().scale.precision,
            "64_bits_by_default": jax.dtypes.canonicalize_dtype(float) == np.float64,
        },
        "stages": stages,
        "advice": advice,
        "ok": not bad and not trouble,
    }


def device_trouble() -> str | None:
    """Return what is wrong, and what to do, if jax cannot start its devices; None if it can."""
    try:
        jax.devices()
    except (AssertionError, RuntimeError) as error:  # the first without a CUDA build
        asked = jax.config.jax_platforms
        if not asked:
            return f"jax cannot start: {message(error)}"
        text = f"JAX_PLATFORMS asks for {asked!r}, which jax cannot start here"
        if {"cuda", "gpu"} & set(asked.split(",")):
            if _cuda_build() is not None:
                return f"{text} ({message(error)}): see what `nvidia-smi` says, or unset it"
            install = "install '.[cuda12]' or '.[cuda13]' on a machine with an NVIDIA driver"
        elif "tpu" in asked.split(","):
            install = "install '.[tpu]' on a machine with a TPU"
        else:
            return f"{text}: unset it"
        return f"{text}: {install}, or unset it"
    return None


def check_devices() -> None:
    """Check, before anything long starts, that jax can start its devices.

    Raises
    ------
    ValueError
        If not.
    """
    trouble = device_trouble()
    if trouble is not None:
        msg = f"Expected a device to compute on, found none: {trouble}."
        raise ValueError(msg)


def _sees_nvidia() -> bool:
    """Whether there is an NVIDIA card, as far as that can be told without its driver."""
    cards = [*Path("/dev").glob("nvidia[0-9]*"), Path("/proc/driver/nvidia/version")]
    return any(card.exists() for card in cards) or shutil.which("nvidia-smi") is not None


def _cuda_build() -> str | None:
    """Return the CUDA build of jax that is installed, and its version."""
    for name in ("jax-cuda12-plugin", "jax-cuda13-plugin"):
        if _version(name) is not None:
            return f"{name} {_version(name)}"
    return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _device(device: jax.Device) -> dict[str, Any]:
    memory = device.memory_stats() or {}
    return {
        "id": device.id,
        "platform": device.platform,
        "kind": device.device_kind,
        "process": device.process_index,
        "memory": memory.get("bytes_limit"),
        "memory_in_use": memory.get("bytes_in_use"),
    }


def _advice(devices: list[dict[str, Any]]) -> Iterator[str]:
    if {device["platform"] for device in devices} == {"cpu"}:
        card, tpu = _sees_nvidia(), Path("/dev/accel0").exists() or "TPU_NAME" in os.environ
        if (card or tpu) and os.environ.get("JAX_PLATFORMS", "") == "cpu":
            yield "JAX_PLATFORMS=cpu keeps jax from other devices; unset it to use them."
        elif card and _cuda_build() is not None:
            yield (
                f"There is an NVIDIA card, and jax sees no GPU though {_cuda_build()} is there: "
                "see what `nvidia-smi` says; the driver may be too old for it."
            )
        elif card:
            yield (
                "There is an NVIDIA card, and no CUDA build of jax: install `.[cuda12]` or "
                "`.[cuda13]`, whichever the driver supports."
            )
        elif tpu:
            yield "There is a TPU, and jax does not see it: install `.[tpu]`. Untested on TPU."
    if _version("jax") != _version("jaxlib"):
        yield (
            f"jax is {_version('jax')} and jaxlib {_version('jaxlib')}: install the same version "
            "of both."
        )
    free = free_memory()
    if free is not None and free < 2 * 2**30:
        yield f"Only {free / 2**30:.1f} GiB of memory are free; a small fit takes about 1 GiB."
    if sys.platform == "win32":
        yield "jax on Windows computes on the CPU only; WSL 2 has GPUs."


# Self-test: each stage beside its plain form, in float64 and dense.

_Stage = tuple[
    Callable[..., Any], tuple[Any, ...], Any
]  # what to compile, its inputs, plain result


def _stages() -> Iterator[tuple[str, dict[str, Any]]]:
    rng = np.random.default_rng(0)
    z, centers = rng.normal(size=(_N, _D)), rng.normal(size=(_K, _D))
    near = np.argsort(((z[:, None] - z) ** 2).sum(axis=2), axis=1)[:, 1:6]
    graph = F.normalize(F.cell_graph(near.ravel(), np.repeat(np.arange(_N), 5), n_cells=_N))
    links = np.zeros((_N, _N))
    links[np.repeat(np.arange(_N), 5), near.ravel()] = 1
    links = np.maximum(np.maximum(links, links.T), np.eye(_N))
    scale = links.sum(axis=1) ** -0.5
    links = scale[:, None] * links * scale
    single = jnp.asarray(z, jnp.float32)
    mask = jnp.ones(_N)

    def propagation() -> _Stage:
        return F.propagate, (graph, single), links @ z

    def diffusion() -> _Stage:
        alpha = 0.2
        diffuse = partial(F.diffuse, series=F.pagerank_series(alpha, 1e-7))
        plain = alpha * np.linalg.inv(np.eye(_N) - (1 - alpha) * links)
        return diffuse, (graph, single), (plain @ z, plain @ plain @ z)

    def gradient() -> _Stage:
        def loss(h: Any, graph: Any) -> Any:
            return jnp.sum(F.diffuse(graph, h, series=F.pagerank_series(0.2, 1e-7))[0] ** 2)

        plain = 0.2 * np.linalg.inv(np.eye(_N) - 0.8 * links)
        return jax.grad(loss), (single, graph), 2 * plain.T @ plain @ z

    def attention() -> _Stage:
        return F.attention, (single, mask), softmax(z @ z.T, axis=1) @ z

    def cross_correlation() -> _Stage:
        other = z + 0.1 * rng.normal(size=z.shape)
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (z, other))
        s = a @ b.T
        off = s[~np.eye(_N, dtype=bool)]
        plain = ((np.diag(s) - 1) ** 2).mean() + (off**2).mean()
        return F.cell_correlation, (single, jnp.asarray(other, jnp.float32), mask), plain

    def adjacency() -> _Stage:
        plain = ((expit(z @ z.T) - links) ** 2).mean()
        return F.adjacency_error, (single, graph, mask), plain

    def counts() -> _Stage:
        shape = (_N, 8)
        x = rng.poisson(2, shape)
        log_mean, log_theta, logit = rng.normal(size=(3, *shape))
        given = [jnp.asarray(a, jnp.float32) for a in (log_mean, log_theta, logit)]
        mean, theta, zero = np.exp(log_mean), np.exp(log_theta), expit(logit)
        log_nb = gammaln(x + theta) - gammaln(theta) - gammaln(x + 1)
        log_nb += theta * np.log(theta / (theta + mean)) + x * np.log(mean / (theta + mean))
        likelihood = zero * (x == 0) + (1 - zero) * np.exp(log_nb)
        plain = -np.log(likelihood).mean(axis=1)
        return F.zinb_nll, (jnp.asarray(x), *given, jnp.ones(shape[1])), plain

    def assignment() -> _Stage:
        squared = ((z[:, None] - centers) ** 2).sum(axis=2)
        plain = log_softmax(-np.log1p(squared), axis=1)
        return F.log_assignment, (single, jnp.asarray(centers, jnp.float32)), plain

    def transport() -> _Stage:
        shares, epsilon = np.full(_K, 1 / _K), 0.5
        log_q = -np.log1p(((z[:, None] - centers) ** 2).sum(axis=2))
        f, g = np.zeros(_N), np.zeros(_K)
        for _ in range(2000):
            f = epsilon * (np.log(1 / _N) - logsumexp((log_q + g) / epsilon, axis=1))
            g = epsilon * (np.log(shares) - logsumexp((log_q + f[:, None]) / epsilon, axis=0))
        plain = _N * np.exp((log_q + f[:, None] + g) / epsilon)

        def target(*inputs: Any) -> Any:
            return F.sinkhorn_target(*inputs, epsilon=epsilon, threshold=1e-6).target

        given = [jnp.asarray(a, jnp.float32) for a in (log_q, shares, mask, np.zeros(_K))]
        return target, tuple(given), plain

    for name, stage in {
        "propagation over the graph": propagation,
        "diffusion": diffusion,
        "gradient of the diffusion": gradient,
        "attention": attention,
        "cross-correlation": cross_correlation,
        "reconstruction of the adjacency": adjacency,
        "count likelihood": counts,
        "soft assignment": assignment,
        "optimal transport": transport,
    }.items():
        yield name, _compared(stage)
    yield "training step", _compared(_step)


def _compared(stage: Callable[[], _Stage]) -> dict[str, Any]:
    """Return the largest error over the largest value, and how long it took."""
    start = time.perf_counter()
    function, inputs, plain = stage()
    found = jax.jit(function)(*inputs)  # one program: operations one by one compile for long
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(plain), strict=True)
    gaps = [
        np.max(np.abs(np.asarray(one, np.float64) - other)) / np.max(np.abs(other))
        for one, other in pairs
    ]
    error = float(np.max(gaps))
    return {
        "error": error if np.isfinite(error) else None,
        "seconds": round(time.perf_counter() - start, 2),
        "right": error <= _WORST,
    }


def _step() -> _Stage:
    """Take the same step on cells in two orders: the loss is the same."""
    rng = np.random.default_rng(0)
    x = 3 * rng.normal(size=(3, 30))[rng.integers(3, size=_N)] + rng.normal(size=(_N, 30))
    near = np.argsort(((x[:, None] - x) ** 2).sum(axis=2), axis=1, kind="stable")[:, 1:6]
    method = F.siameseclu(3, config=Config.from_dict({"augmentation": {"feature_noise": 0.0}}))

    def loss(data: F.CellData, first: jax.Array) -> Any:
        state = method.start_stage(method.init(jax.random.key(0), data), "train")
        z = method.embed(state, data)
        state = method.start_clustering(state, data, z, z[first], np.ones(3))
        return method.step(state, data)[1].loss

    found = []
    program = jax.jit(loss)
    for order in (np.arange(_N), np.random.default_rng(1).permutation(_N)):
        place = np.argsort(order)
        data = F.cell_data(x[order], None, place[near[order]])
        found.append(program(data, jnp.asarray(place[:3])))
    return jnp.asarray, (found[1],), np.asarray(found[0], np.float64)

"""How much memory a fit needs, before it allocates any of it."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import scsiameseclu_jax.functional as F
from scsiameseclu_jax.checks import default_device
from scsiameseclu_jax.config import Config
from scsiameseclu_jax.functional.objective import batch_size
from scsiameseclu_jax.inputs import free_memory

# Bytes, measured on CPU with `benchmarks/steps.py`, which compares the estimate with each peak.
_LIBRARIES = 0.45e9  # Python with everything imported
_COMPILER = 1.0e9  # on top, while the largest step is compiled
_PROGRAMS = 0.63e9  # on top, once all steps are compiled
_CANDIDATES = 100  # of a cell: some 90 partitions, a byte each
_EDGES = 24  # of a cell in a symmetrised 15-neighbour graph, as padded
_COPIES = 6  # of a weight: itself, its gradient, two moments, its update, all once more in a row
_BLOCKS = 0.5e9  # blocks of counts on disk, while they are read
_DENSITY = 0.1  # share of counts that are not zero, if nothing is known


class Memory(NamedTuple):
    """Bytes that a fit needs at its peak."""

    total: int
    """Of the whole process where it computes on the CPU, input and libraries included."""
    device: int
    """Of that, arrays of the computation: what a GPU or TPU has to hold."""


def estimate_memory(
    n_cells: int,
    n_genes: int,
    config: Config | None = None,
    *,
    n_values: int | None = None,
    lazy: bool = False,
) -> Memory:
    """Estimate the peak memory of a fit, linear in the number of cells.

    Parameters
    ----------
    n_cells, n_genes
        Shape of the counts, positive.
    config
        All settings; the defaults, if not given.
    n_values
        Counts that are not zero; a tenth of all, if not given.
    lazy
        Whether counts stay on disk.

    Raises
    ------
    ValueError
        If a size is not positive.

    Examples
    --------
    >>> import scsiameseclu_jax as scs
    >>> small, large = (scs.estimate_memory(n, 2000).total for n in (10_000, 100_000))
    >>> small < large < 10 * small
    True
    """
    if min(n_cells, n_genes) < 1:
        msg = f"Expected positive numbers of cells and genes, found {n_cells} and {n_genes}."
        raise ValueError(msg)
    config = Config() if config is None else config
    values = (_DENSITY * n_genes * n_cells if n_values is None else n_values) / n_cells
    read = 0 if lazy else values
    on_device = not lazy or config.training.sees_counts()
    kept = min(n_genes, config.preprocessing.n_top_genes)
    p = config.preprocessing.n_components
    # of each cell: the input, its components in three normalisations, counts of the kept genes,
    # candidate partitions
    kept_values = 6 * values * kept / n_genes if on_device else 0
    held = 8 * read + 3 * 4 * p + kept_values + _CANDIDATES
    prepared = 45 * read + 10 * 8 * p
    graph = _EDGES * (12 + 1.5 * 8 + 4) + 4 * p
    counts = 2 * F.bucket(kept) if on_device else 0
    network = config.network
    widths, d = sum(network.graph_layers), network.n_latent
    wide = 2 * (sum(network.feature_layers) + sum(network.projection_layers))
    step = 4 * (34 * widths + wide + 150 * d + 13 * p + 40)
    inference = 4 * (9 * widths + wide + 16 * d) + 800
    if not on_device:  # nor is there a step on all cells
        step = inference
    learned = _learned(n_cells, p, kept, config)
    if n_cells <= config.scale.full_cells:
        device = n_cells * (graph + counts + step)
        resident = n_cells * (held + graph + counts)
    else:
        batch = config.scale.batch_cells
        links = 3 * 12 * _EDGES  # as sparse matrices that mini-batches are cut from
        device = n_cells * graph + max(n_cells * inference, batch * (graph + counts + step))
        resident = n_cells * (held + graph + links) + batch * counts
    total = _LIBRARIES + max(
        n_cells * prepared + (_BLOCKS + 3 * 8 * 8 * kept**2 if lazy else 0),
        _COMPILER + resident,
        _PROGRAMS + resident + device - n_cells * graph,
    )
    return Memory(round(total + learned), round(device + learned))


def _learned(n_cells: int, p: int, n_genes: int, config: Config) -> float:
    """Bytes of the weights, with what an optimiser keeps of each, and of the largest batch."""
    network, training, d = config.network, config.training, config.network.n_latent
    features, graph = network.feature_layers, network.graph_layers
    stacks = [(p, *features, d), (p, *graph, d)] * 2
    stacks += [(p, *network.projection_layers, d), (d, *network.contrast_layers, d)]
    stacks += [(p, 5 * d), (features[0], 3 * n_genes)]  # linear paths; heads of the counts
    weights = sum(a * b for sizes in stacks for a, b in pairwise(sizes))
    batches = [0.0]
    if training.contrast_steps:
        rows = batch_size(training.contrast_batch, n_cells)
        hidden = sum(network.projection_layers) + sum(network.contrast_layers)
        batches.append(3 * rows * rows + 6 * rows * (hidden + p))
    if training.feature_steps:
        rows = batch_size(training.feature_batch, n_cells)
        batches.append(6 * rows * (sum(features) + p))
    if training.steps_of()["train"] + training.joint_steps:
        batches.append(6 * batch_size(training.zinb_batch, n_cells) * sum(features))
    return 4 * (_COPIES * weights + max(batches))


def check_memory(
    n_cells: int, n_genes: int, n_values: int, config: Config, *, lazy: bool = False
) -> None:
    """Refuse what does not fit into the memory that is free.

    Raises
    ------
    MemoryError
        With the estimate, what is free, and what to do.
    """
    need = estimate_memory(n_cells, n_genes, config, n_values=n_values, lazy=lazy)
    size = f"{n_cells} cells and {n_genes} genes"
    remedy = "lower `config.scale.full_cells`, so that steps see a mini-batch of cells each"
    if n_cells > config.scale.full_cells:
        remedy = "lower `config.scale.batch_cells`, take fewer cells or a larger machine"
    host = need.total
    device = default_device()
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        limit = stats.get("bytes_limit")
        free = None if limit is None else limit - stats.get("bytes_in_use", 0)
        _refuse(need.device, free, f"memory of {device.device_kind} for {size}", remedy)
        host -= need.device
    if not lazy:
        remedy += "; or leave the counts on disk: `scs.datasets.read_lazy(path)`"
    _refuse(host - _resident(), free_memory(), f"memory for {size}", remedy)


def _refuse(need: int, free: int | None, what: str, remedy: str) -> None:
    if free is None or need <= free:
        return
    msg = (
        f"Expected about {need / 2**30:.1f} GiB more {what}, found {free / 2**30:.1f} GiB free; "
        f"{remedy}."
    )
    raise MemoryError(msg)


def _resident() -> int:
    """Bytes that this process has already; 0 where that cannot be told."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")

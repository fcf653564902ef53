"""What a fit has so far, in one file, from which it is taken up again after it was cut off."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import scsiameseclu_jax.functional as F
from scsiameseclu_jax.files import WriteError, write_whole
from scsiameseclu_jax.partition import n_clusters as estimation
from scsiameseclu_jax.partition.consensus import Consensus
from scsiameseclu_jax.partition.n_clusters import Estimate
from scsiameseclu_jax.partition.questions import Pool
from scsiameseclu_jax.training.fingerprint import plain

logger = logging.getLogger(__name__)

_FILE = "fit.checkpoint"


@dataclass(frozen=True)
class Saved:
    """What a fit has so far."""

    estimate: Estimate | None = None
    """The number of clusters, if it was chosen."""
    partition: Consensus | None = None
    """The first partition, once there is one."""
    stage: str | None = None
    """The stage to go on with, or "results"; None before the first."""
    done: int | None = None
    """Its steps that were taken; None if it has not begun."""
    tries: int = 0
    """How often it was slowed down."""
    drawn: int = 0
    """Mini-batches that were drawn."""
    rows: tuple[dict[str, np.ndarray], ...] = ()
    """The history, in chunks of steps."""
    kept: tuple[bool, ...] = ()
    """Whether the steps of a chunk count: they were not taken back."""
    diverged: dict[str, Any] = field(default_factory=dict)
    """Stages that diverged; see :func:`scsiameseclu_jax.training.stages.fit`."""
    has_projection: bool = False
    """Whether the state has a projection."""
    leaves: tuple[np.ndarray, ...] = ()
    """The arrays of the state; without those of the optimiser where the stage has not begun."""


class Checkpoint:
    """A file in a folder of its own: replaced whole, checked when read, without pickle.

    Parameters
    ----------
    directory
        The folder; made if its parent exists.
    every
        Steps between two saves, at least 1. What took long, the number of clusters and the first
        partition, is saved at once, and so is the end of each stage.

    Raises
    ------
    TypeError, ValueError
        If `every` is no positive integer.
    FileExistsError, FileNotFoundError, PermissionError
        If there is something else in the folder; if it cannot be made or written to.
    """

    def __init__(self, directory: str | os.PathLike[str], every: int) -> None:
        if isinstance(every, bool) or not isinstance(every, int | np.integer):
            msg = f"Expected `every` to be a number of steps, found {every!r}."
            raise TypeError(msg)
        if every < 1:
            msg = f"Expected `every` to be at least 1, found {every}."
            raise ValueError(msg)
        self.every, self._path = int(every), Path(directory) / _FILE
        self.saved, self.notes = Saved(), list[str]()
        self._fingerprint: dict[str, str] = {}
        self._failed = False
        check_folder(self._path.parent)
        self._path.parent.mkdir(exist_ok=True)

    def open(self, fingerprint: dict[str, str]) -> None:
        """Read what was saved of the same fit; of another, or damaged, it is as if none were there.

        Parameters
        ----------
        fingerprint
            From :func:`scsiameseclu_jax.training.fingerprint.fingerprint`.
        """
        self._fingerprint = fingerprint
        if not self._path.exists():
            return
        try:
            known, saved = _from_bytes(self._path.read_bytes())
        except (ValueError, KeyError, TypeError, IndexError, OSError) as error:
            self._note(f"it is damaged ({' '.join(str(error).split())})")
            return
        device = known.pop("device"), fingerprint["device"]
        names = [name for name in fingerprint if name != "device"]
        different = [name for name in names if known.get(name) != fingerprint[name]]
        if different:
            self._note(f"it is of a fit that differs in {', '.join(different)}")
            return
        self.saved = saved
        if device[0] != device[1]:
            note = (
                f"The checkpoint was begun on {device[0]} and taken up on {device[1]}: the result "
                "equals that of one device up to rounding only."
            )
            self.notes.append(note)
            logger.warning(note)

    def _note(self, why: str) -> None:
        note = f"The fit began anew, not from the checkpoint {str(self._path)!r}: {why}."
        self.notes.append(note)
        logger.warning(note)

    def save(self, **changes: Any) -> None:
        """Replace what was saved by the same with changes; say once if that cannot be done."""
        self.saved = replace(self.saved, **changes)
        if jax.process_index():  # the first of several writes
            return
        content = _to_bytes(self._fingerprint, self.saved)
        try:
            write_whole(self._path, lambda path: _write(path, content))
        except WriteError as error:
            if not self._failed:
                self._failed = True
                self.notes.append(f"The fit goes on without a newer checkpoint: {error}")
                logger.warning(self.notes[-1])


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def check_folder(folder: Path) -> None:
    """Check that checkpoints may be kept in a folder.

    Raises
    ------
    FileExistsError, FileNotFoundError, PermissionError
        If it has other files, or is none; if it cannot be made, or written to.
    """
    if not folder.exists() and not folder.is_symlink():
        parent = folder.resolve().parent
        if not parent.is_dir():
            msg = f"Expected the folder of {str(folder)!r} to exist, found none; create it first."
            raise FileNotFoundError(msg)
        folder = parent
    elif not folder.is_dir():
        msg = f"Expected {str(folder)!r} to be a folder for checkpoints, found something else."
        raise FileExistsError(msg)
    else:
        others = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
        others = [name for name in others if name != _FILE]
        if others:
            some = ", ".join(map(repr, others[:3])) + (", ..." if len(others) > 3 else "")
            msg = (
                f"Expected a folder for checkpoints alone in {str(folder)!r}, found {some}; name "
                "an empty one, or one that is to be made."
            )
            raise FileExistsError(msg)
    if not os.access(folder, os.W_OK | os.X_OK):
        msg = f"Expected {str(folder)!r} to be writable, found it read-only."
        raise PermissionError(msg)


def leaves_of(state: F.TrainState) -> tuple[np.ndarray, ...]:
    """Return the arrays of a state on the host."""
    return tuple(map(plain, jax.tree.leaves(state)))


def with_leaves(state: F.TrainState, leaves: tuple[np.ndarray, ...]) -> F.TrainState:
    """Return a state of the same structure with saved arrays.

    Raises
    ------
    ValueError
        If they are of another number, or of other shapes.
    """
    old, structure = jax.tree.flatten(state)
    kinds = [[(a.dtype, a.shape) for a in group] for group in (map(plain, old), leaves)]
    if kinds[0] != kinds[1]:
        msg = "Expected a checkpoint of the same state, found another; delete it."
        raise ValueError(msg)
    new = [
        jax.random.wrap_key_data(jnp.asarray(b), impl=jax.random.key_impl(a))
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key)
        else jnp.asarray(b)
        for a, b in zip(old, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, new)


def _to_bytes(fingerprint: dict[str, str], saved: Saved) -> bytes:
    from safetensors.numpy import save

    arrays: dict[str, np.ndarray] = {}
    settings = dict(vars(saved))
    # As bytes, for optimisers may have types that numpy has not.
    arrays |= {f"state/{i}": _as_bytes(leaf) for i, leaf in enumerate(saved.leaves)}
    settings["leaves"] = [[str(leaf.dtype), leaf.shape] for leaf in saved.leaves]
    columns = {str(row["stage"][0]): list(row) for row in saved.rows}
    settings["columns"] = columns
    settings["rows"] = [[str(row["stage"][0]), len(row["stage"])] for row in saved.rows]
    for stage, names in columns.items():
        own = [row for row in saved.rows if row["stage"][0] == stage]
        joined = {name: np.concatenate([row[name] for row in own]) for name in names}
        joined.pop("stage")
        arrays |= {f"history/{stage}/{name}": column for name, column in joined.items()}
    if saved.estimate is not None:
        settings["estimate"] = estimation.to_plain(saved.estimate)
    if saved.partition is not None:
        partition = saved.partition._asdict()
        pool = partition.pop("pool")
        settings["partition"] = {"name": partition.pop("name"), "pool": None}
        if pool is not None:
            fields = pool._asdict()
            settings["partition"]["pool"] = {name: fields.pop(name) for name in ("names", "lead")}
            arrays |= {f"pool/{name}": np.asarray(value) for name, value in fields.items()}
        arrays |= {f"partition/{name}": a for name, a in partition.items() if a is not None}
    content = json.dumps({"fingerprint": fingerprint, "saved": settings})
    arrays["settings"] = np.frombuffer(content.encode(), np.uint8)
    stored = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return hashlib.sha256(stored).hexdigest().encode() + stored


def _as_bytes(leaf: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)


def _from_bytes(content: bytes) -> tuple[dict[str, str], Saved]:
    """Return the fingerprint and what was saved; ValueError if it is not as it was saved."""
    from safetensors.numpy import load

    digest, stored = content[:64], content[64:]
    if hashlib.sha256(stored).hexdigest().encode() != digest:
        msg = "its checksum is another"
        raise ValueError(msg)
    arrays = load(stored)
    whole = json.loads(arrays["settings"].tobytes())
    settings = whole["saved"]
    columns = settings.pop("columns")
    ends = dict.fromkeys(columns, 0)
    rows = []
    for stage, size in settings["rows"]:
        part = slice(ends[stage], ends[stage] + size)
        ends[stage] += size
        row = {
            name: np.full(size, stage) if name == "stage" else arrays[f"history/{stage}/{name}"]
            for name in columns[stage]
        }
        rows.append({name: a if name == "stage" else a[part] for name, a in row.items()})
    leaves = [
        np.frombuffer(arrays[f"state/{i}"].tobytes(), jnp.dtype(kind)).reshape(shape)
        for i, (kind, shape) in enumerate(settings["leaves"])
    ]
    estimate, partition = settings["estimate"], settings["partition"]
    if estimate is not None:
        settings["estimate"] = estimation.from_plain(estimate)
    if partition is not None:
        own = {name: arrays.get(f"partition/{name}") for name in ("clusters", "votes")}
        pool = partition["pool"]
        if pool is not None:
            names = [name for name in Pool._fields if name not in pool]
            pool = Pool(**pool, **{name: arrays[f"pool/{name}"] for name in names})
        settings["partition"] = Consensus(name=partition["name"], pool=pool, **own)
    settings |= {"rows": tuple(rows), "leaves": tuple(leaves), "kept": tuple(settings["kept"])}
    return whole["fingerprint"], Saved(**settings)

"""Stores of others, checked before they are read: where data lie, and how large they are.

A file of a few kB can name other files to read, declare more values than any memory holds, or lead
round in circles. Nothing here reads values.
"""

from __future__ import annotations

import gzip
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import zarr

from scsiameseclu_jax.inputs import check_room

__all__ = [
    "StoreError",
    "check_hdf5",
    "check_links",
    "check_rows",
    "check_size",
    "check_whole",
    "check_zarr",
    "open_bounded",
]

# The best that deflate can do; what is stored can hold so many times its bytes.
_RATIO = 1032
# Bytes that may be declared without being stored, in all: chunks of zeros need not be.
_SLACK = 2**30
# Objects of a file, those that can be reached in two ways counted twice.
_OBJECTS = 1_000_000
_DEPTH = 100


class StoreError(ValueError):
    """A store that is not read, for where its data lie or for what it declares."""


def check_whole(path: Path) -> None:
    """Check that an HDF5 file is not cut off.

    Raises
    ------
    StoreError
        If it is. What else HDF5 says of it is for those who read it.
    """
    try:
        h5py.File(path, "r").close()
    except OSError as error:
        sizes = re.search(r"\beof = (\d+).*stored_eof = (\d+)", str(error))
        if sizes is not None:
            there, all_ = map(int, sizes.groups())
            msg = (
                f"Expected a whole file, found {str(path)!r} truncated: {there:,} of {all_:,} "
                "bytes are there; copy or download it again."
            )
            raise StoreError(msg) from error


def check_links(file: h5py.File) -> None:
    """Check that all data of an HDF5 file lie in it.

    Raises
    ------
    StoreError
        If there are links to other files, or datasets whose values are in other files.
    """
    known: set[int] = set()
    groups = [file["/"]]
    while groups:
        group = groups.pop()
        address = _address(group)
        if address in known:
            continue
        known.add(address)
        for name, kind in _links(group):
            place = f"{group.name.rstrip('/')}/{name.decode('utf-8', 'replace')}"
            if kind == h5py.h5l.TYPE_SOFT:  # to what lies here by another name, if anywhere
                continue
            if kind != h5py.h5l.TYPE_HARD:
                raise _outside(f"a link to another file at {place!r}")
            item = group[name]
            if isinstance(item, h5py.Group):
                groups.append(item)
            elif isinstance(item, h5py.Dataset):
                if item.is_virtual:
                    raise _outside(f"a virtual dataset of values in other files at {place!r}")
                if item.external:
                    raise _outside(f"values that are stored in another file at {place!r}")


def check_hdf5(file: h5py.File, *, to_memory: bool = True) -> None:
    """Check all that a reader who reads everything would come across, after :func:`check_links`.

    Parameters
    ----------
    file
        What is to be read.
    to_memory
        Whether all of it will be in memory.

    Raises
    ------
    StoreError
        If there are more values declared than what is stored can hold, links that lead round in
        circles, or sparse matrices whose parts are not as long as their shape says.
    MemoryError
        If there is less memory than they need.
    """
    sizes = _Sizes()
    known: dict[int, tuple[int, int]] = {}

    def look(item: Any, above: tuple[int, ...]) -> tuple[int, int]:
        """Return how many objects a reader finds from here on, and their bytes."""
        if item is None or isinstance(item, h5py.Datatype):  # a link to nothing; a type
            return 1, 0
        address = _address(item)
        if address in above or len(above) > _DEPTH:
            msg = f"Expected up to {_DEPTH} groups within groups, found {item.name!r} within more."
            raise StoreError(msg)
        if address in known:
            return known[address]
        if isinstance(item, h5py.Dataset):
            found = 1, sizes.add(item.name, *_bytes_of(item))
        else:
            _check_parts(item)
            parts = [look(item.get(name), (*above, address)) for name, _ in _links(item)]
            found = 1 + sum(n for n, _ in parts), sum(n_bytes for _, n_bytes in parts)
        known[address] = found
        return found

    n_objects, n_bytes = look(file["/"], ())
    if n_objects > _OBJECTS:
        msg = f"Expected up to {_OBJECTS} groups and datasets in the file, found {n_objects}."
        raise StoreError(msg)
    if to_memory:
        check_room(n_bytes, "what is in the file")


def check_size(dataset: h5py.Dataset) -> None:
    """Check that a dataset does not declare more values than what is stored can hold.

    Raises
    ------
    StoreError
        If it does.
    """
    _Sizes().add(dataset.name, *_bytes_of(dataset))


def check_zarr(path: Path, *, to_memory: bool = True) -> None:
    """Check a zarr store in a folder, as :func:`check_links` and :func:`check_hdf5` do a file.

    Parameters
    ----------
    path, to_memory
        As there.

    Raises
    ------
    StoreError
        If there is anything but folders and files in it; if arrays declare more values than what
        is stored can hold, or are stored by pickle, which runs what it holds.
    MemoryError
        If there is less memory than they need.
    """
    stored = _stored_in(path)
    sizes, n_bytes = _Sizes(), 0
    for array in _arrays(zarr.open_group(str(path), mode="r")):
        place = str(array.path)
        if ".." in place.split("/"):
            msg = f"Expected all data of the store in it, found an array at {place!r}."
            raise StoreError(msg)
        more = array.compressors if hasattr(array, "compressors") else [array.compressor]
        codecs = [*(array.filters or ()), *more]
        if any(getattr(codec, "codec_id", "") == "pickle" for codec in codecs):
            msg = f"Expected values that are no programs, found {place!r} stored by pickle."
            raise StoreError(msg)
        declared = _product(array.shape) * array.dtype.itemsize
        n_bytes += sizes.add(place, declared, stored.get(place, 0))
    if to_memory:
        check_room(n_bytes, "what is in the store")


class _Sizes:
    """What datasets declare, against what is stored of them."""

    def __init__(self) -> None:
        self._excess = 0

    def add(self, name: str, declared: int, stored: int) -> int:
        """Return the bytes that a dataset declares, if they can be there."""
        self._excess += max(0, declared - _RATIO * stored)
        if self._excess > _SLACK:
            msg = (
                f"Expected the values of {name!r} in the file, found {declared:,} bytes of them "
                f"declared and {stored:,} stored: it is damaged or was never filled."
            )
            raise StoreError(msg)
        return declared


class _Bounded(io.RawIOBase):
    """Bytes of a file, up to some number of them."""

    def __init__(self, raw: Any, name: str, most: int) -> None:
        self._raw, self._name, self._most, self._read = raw, name, most, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        n = self._raw.readinto(buffer)
        self._read += n
        if self._read > self._most:
            msg = f"Expected up to {self._most:,} bytes of text in {self._name!r}, found more."
            raise StoreError(msg)
        return n

    def close(self) -> None:
        self._raw.close()
        super().close()


def check_rows(file: Path, n: int, least: int) -> None:
    """Check that a text, compressed or not, can hold so many rows of at least so many bytes.

    Raises
    ------
    StoreError
        If it cannot.
    """
    n_bytes = file.stat().st_size
    if least * n > (_RATIO if file.suffix == ".gz" else 1) * n_bytes + 1:  # no end of the last
        msg = f"Expected {n} rows in {file.name!r}, as is declared, found {n_bytes} bytes."
        raise StoreError(msg)


def open_bounded(file: Path, most: int) -> io.BufferedReader:
    """Open a file, gzip-compressed if it ends in .gz, to read up to so many bytes of what it holds.

    A few kB of compressed zeros are a few MB of them.

    Parameters
    ----------
    file
        What to open.
    most
        Bytes, uncompressed; whoever reads more gets a StoreError.
    """
    raw: Any = gzip.GzipFile(file) if file.suffix == ".gz" else io.FileIO(file)
    return io.BufferedReader(_Bounded(raw, file.name, most))


def _outside(found: str) -> StoreError:
    return StoreError(
        f"Expected all data of the file in it, found {found}; copy the data into one file."
    )


def _links(group: h5py.Group) -> list[tuple[bytes, int]]:
    """Return the name and kind of each link in a group; none is followed."""
    found: list[tuple[bytes, int]] = []

    def add(name: bytes, info: Any) -> None:
        found.append((name, info.type))

    group.id.links.iterate(add, info=True)
    return found


def _address(group: h5py.Group) -> int:
    return h5py.h5o.get_info(group.id).addr


def _bytes_of(dataset: h5py.Dataset) -> tuple[int, int]:
    """Return the bytes that a dataset takes in memory at least, and those that are stored."""
    # By type and space: not every type has one of numpy.
    size = dataset.id.get_type().get_size()
    chunk = _product(dataset.chunks or (0,))
    n_values = max(dataset.id.get_space().get_simple_extent_npoints(), chunk)
    file_size = dataset.file.id.get_filesize()
    return n_values * size, min(dataset.id.get_storage_size(), file_size)


def _check_parts(group: h5py.Group) -> None:
    """Check the lengths of the parts of a sparse matrix, if a group is one."""
    kind = group.attrs.get("encoding-type", group.attrs.get("h5sparse_format"))
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    if kind[:3] not in ("csr", "csc"):
        return
    parts = [group.get(name) for name in ("data", "indices", "indptr")]
    shape = group.attrs.get("shape", group.attrs.get("h5sparse_shape"))
    sizes = [part.shape for part in parts if isinstance(part, h5py.Dataset)]
    rows = None if shape is None or len(shape) != 2 else shape[0 if kind[:3] == "csr" else 1]
    if len(sizes) < 3 or rows is None or sizes[0] != sizes[1] or sizes[2] != (rows + 1,):
        msg = (
            f"Expected a sparse matrix in {group.name!r}, found a shape of {shape} and parts of "
            f"{sizes}: it is damaged; write or download it again."
        )
        raise StoreError(msg)


def _stored_in(path: Path) -> dict[str, int]:
    """Return the bytes of the files in each folder below a path, those of its folders included."""
    found: dict[str, int] = {}
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(path / folder) as entries:
            inside = list(entries)
        for entry in inside:
            place = f"{folder}/{entry.name}".lstrip("/")
            if entry.is_dir(follow_symlinks=False):
                folders.append(place)
            elif entry.is_file(follow_symlinks=False):
                size = entry.stat(follow_symlinks=False).st_size
                above = folder
                while above:
                    found[above] = found.get(above, 0) + size
                    above = above.rpartition("/")[0]
            else:
                msg = (
                    f"Expected files and folders alone in the zarr store, found a link, pipe or "
                    f"device at {place!r}; copy the data into the store."
                )
                raise StoreError(msg)
    return found


def _arrays(group: Any) -> Iterator[Any]:
    for _, array in group.arrays():
        yield array
    for _, inside in group.groups():
        yield from _arrays(inside)


def _product(sizes: tuple[int, ...]) -> int:
    """Return the product of Python's numbers, which do not overflow."""
    product = 1
    for size in sizes:
        product *= int(size)
    return product

"""One reader for the field's file formats, told apart by what is in them, not by their names."""

import logging
import os
import zlib
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scsiameseclu_jax.datasets import hdf5
from scsiameseclu_jax.datasets.matrix_market import read_header, read_matrix_market
from scsiameseclu_jax.datasets.safety import (
    StoreError,
    check_hdf5,
    check_links,
    check_rows,
    check_whole,
    check_zarr,
    open_bounded,
)
from scsiameseclu_jax.inputs import check_file, check_room, check_sparse

__all__ = ["read"]

_FORMATS = "an .h5ad, zarr, 10x .h5, 10x matrix folder, or an .h5 file with `X` or `exprs`"
_TENX_V2 = {"barcodes", "gene_names", "genes", "shape"} | hdf5.SPARSE_KEYS
_MATRIX, _BARCODES = ("matrix.mtx",), ("barcodes.tsv",)
_FEATURES = ("features.tsv", "genes.tsv")
_OTHER_FEATURES = {"Antibody Capture", "Antigen Capture", "CRISPR Guide Capture", "Custom", "Peaks"}
_OTHER_FEATURES |= {"Multiplexing Capture", "Gene Expression Probe", "VDJ", "VDJ-B", "VDJ-T"}
# What programs write for genes without a symbol; a single gene may be called NA.
_NO_SYMBOL = ["NA", "N/A", "nan", "NaN", "None", "NULL", "-", "."]

logger = logging.getLogger(__name__)
# Of a cell or feature: bytes in memory at least, and of its line of text at most.
_NAME, _LINE = 100, 10_000


def read(path: str | os.PathLike[str]) -> AnnData:
    """Read cells x genes counts from any of the field's common formats.

    The format is found from the content; the name and its extension do not matter.

    Parameters
    ----------
    path
        One of

        - an AnnData file (.h5ad) or zarr store;
        - a 10x HDF5 file of Cell Ranger 2 or later, or a folder with ``matrix.mtx``,
          ``barcodes.tsv`` and ``features.tsv`` or ``genes.tsv``, each gzip-compressed or not. Only
          the features of type "Gene Expression" are kept. Symbols that repeat get a suffix, and
          genes without a symbol are called by their identifier;
        - an HDF5 file with a dataset ``X`` [cells x genes] and, optionally, labels ``Y`` [cells];
          anything else in it is ignored. Cells and genes are named by number;
        - an HDF5 file with ``exprs`` [cells x genes], dense or in CSR parts, and, optionally,
          ``obs``, ``var``, ``obs_names`` and ``var_names``. Columns stay as they are.

    Returns
    -------
    ``X`` ``[n, g]`` as it stands in the file, CSR: integers of the type that they have there,
    anything else float32, or float64 where values are too large for that. ``Y`` becomes
    ``obs['cell_type']``, categorical; the gene identifiers of 10x become ``var['gene_ids']``. Names
    are unique only where the file has them unique. Nothing checks here that the values are counts.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    ValueError
        If the format is none of these, or the content is damaged or does not fit together; if
        parts of it lie elsewhere (links to other files, external or virtual datasets), or if it
        declares much more than it holds.
    MemoryError
        If there is less memory than it needs.

    References
    ----------
    The two plain HDF5 layouts are those of the data published with scDCC (Tian, T. et al., 2021,
    Nature Communications 12, 1873) and scziDesk (Chen, L. et al., 2020, NAR Genomics and
    Bioinformatics 2, lqaa039).

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> name = f"{folder.name}/cells.h5"
    >>> with h5py.File(name, "w") as file:
    ...     file["X"] = np.array([[0, 3], [1, 0], [2, 2]])
    ...     file["Y"] = np.array([1, 1, 2])
    >>> adata = read(name)
    >>> adata.shape, adata.obs["cell_type"].tolist()
    ((3, 2), ['1', '1', '2'])
    >>> folder.cleanup()
    """
    path = Path(path)
    if not path.exists():
        msg = f"Expected a file or folder of cells, found nothing at {str(path)!r}."
        raise FileNotFoundError(msg)
    if path.is_dir():
        return _read_folder(path)
    check_file(path, "a file or folder of cells")
    return _read_file(path)


# Folders.


def _read_folder(path: Path) -> AnnData:
    entries = sorted(entry.name for entry in path.iterdir())
    if {".zgroup", ".zattrs", "zarr.json"} & set(entries):
        if not {"obs", "var"} <= set(entries):
            raise _unexpected(path, f"a zarr store of another kind, with {entries[:8]}")
        return _read_anndata(path, ad.read_zarr, check_zarr)
    if not entries:
        raise _unexpected(path, "an empty folder")
    parts = {_wanted(names): _find(path, names) for names in (_MATRIX, _BARCODES, _FEATURES)}
    missing = [wanted for wanted, file in parts.items() if file is None]
    if len(missing) == len(parts):
        raise _unexpected(
            path, f"a folder with {entries[:8]}", "Give the file or folder inside it."
        )
    if missing:
        raise _unexpected(path, f"a 10x matrix folder without {' and without '.join(missing)}")
    return _read_matrix_folder(*(file for file in parts.values() if file is not None))


def _wanted(names: tuple[str, ...]) -> str:
    return f"{' or '.join(names)} (or .gz)"


def _find(folder: Path, names: tuple[str, ...]) -> Path | None:
    candidates = [folder / f"{name}{suffix}" for name in names for suffix in ("", ".gz")]
    files = [file for file in candidates if file.is_file()]
    if len(files) > 1:
        logger.warning(
            "found %s in %s; only the first is read: remove the others if they differ",
            ", ".join(file.name for file in files),
            folder,
        )
    return files[0] if files else None


def _read_matrix_folder(matrix: Path, barcodes: Path, features: Path) -> AnnData:
    """Read Matrix Market files; `scanpy.read_10x_mtx` knows only some of the compressed ones."""
    # A gene may be called NA, and a name hold a quotation mark.
    options: dict[str, Any] = {"header": None, "dtype": str, "keep_default_na": False, "quoting": 3}
    _, n_features, n_cells, _ = _text(matrix, read_header)

    def rows(file: Path, n: int) -> pd.DataFrame:
        check_rows(file, n, 2)
        check_room(_NAME * n, f"the {n} rows of {file.name!r}")
        with open_bounded(file, _LINE * (n + 1)) as lines:
            return pd.read_csv(lines, sep="\t", nrows=n + 1, **options)

    cells = _text(barcodes, lambda file: rows(file, n_cells))[0].to_numpy()
    table = _text(features, lambda file: rows(file, n_features))
    _check_fit((n_cells, n_features), len(cells), len(table))
    counts = sparse.csr_matrix(_text(matrix, read_matrix_market).T)
    if counts.dtype.kind in "iu" and counts.data.max(initial=0) < 2**31:
        # The text has no width; mmread takes the widest.
        counts = counts.astype(np.int32)
    var = pd.DataFrame({"gene_ids": table[0]})
    if table.shape[1] > 2:
        var["feature_types"] = table[2]
    return _tenx(counts, cells, var, table[min(1, table.shape[1] - 1)].to_numpy())


def _text(file: Path, reader: Callable[[Path], Any]) -> Any:
    try:
        return reader(file)
    except StoreError:
        raise
    except (ArithmeticError, EOFError, OSError, ValueError, zlib.error) as error:
        msg = f"Expected {file.name!r} to be a text file of 10x, found it unreadable: {error}"
        raise ValueError(msg) from error


def _tenx(
    counts: sparse.csr_matrix, cells: np.ndarray, var: pd.DataFrame, symbols: np.ndarray
) -> AnnData:
    _check_fit(counts.shape, len(cells), len(var))
    if "feature_types" in var:
        of_genes = (var["feature_types"] == "Gene Expression").to_numpy()
        genes, others = np.flatnonzero(of_genes), var["feature_types"][~of_genes].value_counts()
        if not genes.size:
            kinds = sorted(map(str, others.index))
            msg = f"Expected 10x features of type 'Gene Expression', found only {kinds}."
            raise StoreError(msg)
        if len(others):
            known = set(others.index) <= _OTHER_FEATURES
            logger.log(
                logging.INFO if known else logging.WARNING,
                "left out features that are not of type 'Gene Expression'%s: %s",
                "" if known else ", some of a type that 10x does not know",
                ", ".join(f"{n} {kind!r}" for kind, n in others.items()),
            )
        counts, var, symbols = counts[:, genes], var.iloc[genes].copy(), symbols[genes]
    # Some genes share a symbol by design, hence before AnnData warns of it.
    var.index = ad.utils.make_index_unique(pd.Index(_named(symbols, var["gene_ids"].to_numpy())))
    return AnnData(hdf5.csr(counts), obs=pd.DataFrame(index=pd.Index(cells)), var=var)


def _check_fit(shape: tuple[int, ...], n_cells: int, n_features: int) -> None:
    if tuple(shape) != (n_cells, n_features):
        msg = (
            f"Expected a 10x matrix of {n_cells} barcodes and {n_features} features, found "
            f"{shape[0]} and {shape[1]}."
        )
        raise StoreError(msg)


def _named(symbols: np.ndarray, identifiers: np.ndarray) -> np.ndarray:
    """Return the symbols of genes, and the identifiers of those that have none.

    Numbered by their place, as symbols that repeat are, they would be other genes in each file.
    """
    names = pd.Series(symbols, dtype=object).astype(str).str.strip()
    repeats = names.duplicated(keep=False)
    nameless = ((names == "") | (repeats & names.isin(_NO_SYMBOL))).to_numpy()
    if nameless.any():
        logger.info("%d genes have no symbol: their identifiers name them", nameless.sum())
    return np.where(nameless, identifiers, symbols)


# Files.


def _read_file(path: Path) -> AnnData:
    with path.open("rb") as file:
        start = file.read(14)
    if not start:
        raise _unexpected(path, "an empty file")
    if not h5py.is_hdf5(path):
        if start.startswith(b"\x1f\x8b"):
            raise _unexpected(path, "a gzip-compressed file", "Decompress it, or give its folder.")
        if start == b"%%MatrixMarket":
            raise _unexpected(path, "a Matrix Market file", "Give the folder that it is in.")
        remedy = "Tables of text are read by `scanpy.read_csv` and `scanpy.read_text`."
        raise _unexpected(path, "a file that is not HDF5", remedy)
    check_whole(path)
    try:
        with h5py.File(path, "r") as tree:
            check_links(tree)
            return _read_hdf5(path, tree)
    except BlockingIOError:  # Another program is writing it.
        raise
    except (KeyError, OSError, RuntimeError, TypeError) as error:  # the last: a type of no numbers
        found = f"a truncated, corrupt or incomplete HDF5 file ({error})"
        raise _unexpected(path, found, "Copy or download it again.") from error


def _read_hdf5(path: Path, file: h5py.File) -> AnnData:
    keys = sorted(file)
    if _is_anndata(file):
        check_hdf5(file)
        return _read_anndata(path, ad.read_h5ad)
    if hdf5.holds(file.get("matrix"), {"barcodes", "features", "shape"} | hdf5.SPARSE_KEYS):
        return _read_tenx_v3(file["matrix"])
    if "exprs" in keys:
        return _read_exprs(file)
    if "X" in keys:
        return _read_plain(file)
    genomes = [key for key in keys if hdf5.holds(file.get(key), _TENX_V2)]
    if len(genomes) == 1:
        return _read_tenx_v2(file[genomes[0]])
    if genomes:
        remedy = "Choose one: `scanpy.read_10x_h5(path, genome=...)`."
        raise _unexpected(path, f"a 10x .h5 file of several genomes, {genomes}", remedy)
    raise _unexpected(path, f"an HDF5 file with top-level keys {keys}")


def _is_anndata(file: h5py.File) -> bool:
    if hdf5.decoded(file.attrs.get("encoding-type")) == "anndata":
        return True
    if "exprs" in file:
        return False
    # Before anndata 0.8 the file did not say so; its tables were compound, or had an index.
    tables = [file.get("obs"), file.get("var")]
    return all(
        (isinstance(table, h5py.Dataset) and table.dtype.names is not None)
        or (isinstance(table, h5py.Group) and "_index" in table.attrs)
        for table in tables
    )


def _read_anndata(
    path: Path,
    reader: Callable[[Path], AnnData],
    check: Callable[[Path], None] | None = None,
) -> AnnData:
    try:
        if check is not None:
            check(path)
        adata = reader(path)
    except (MemoryError, StoreError):
        raise
    # Of a newer encoding anndata raises an error of its own, whose class is private.
    except Exception as error:
        msg = f"an AnnData file that anndata {version('anndata')} cannot read ({error})"
        raise _unexpected(path, msg) from error
    _check_matrices(adata)
    # Counts may be in a layer alone.
    if adata.X is not None:
        adata.X = hdf5.csr(adata.X, "X")
    return adata


def _check_matrices(adata: AnnData) -> None:
    """Check all sparse matrices of an object that was read: anndata takes them as they are."""
    parts = {"X": adata.X} if adata.raw is None else {"X": adata.X, "raw.X": adata.raw.X}
    for name in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
        parts |= {f"{name}[{key!r}]": value for key, value in getattr(adata, name).items()}
    while parts:
        name, value = parts.popitem()
        if isinstance(value, Mapping):
            parts |= {f"{name}[{key!r}]": inside for key, inside in value.items()}
        elif sparse.issparse(value):
            check_sparse(value, name)


def _read_tenx_v3(group: h5py.Group) -> AnnData:
    features = group["features"]
    var = pd.DataFrame({"gene_ids": hdf5.vector(features["id"])})
    for key, column in (("feature_type", "feature_types"), ("genome", "genome")):
        if key in features:
            var[column] = hdf5.vector(features[key], len(var))
    return _tenx(
        hdf5.sparse_parts(group, by_gene=True),
        hdf5.vector(group["barcodes"]),
        var,
        hdf5.vector(features["name"], len(var)),
    )


def _read_tenx_v2(group: h5py.Group) -> AnnData:
    var = pd.DataFrame({"gene_ids": hdf5.vector(group["genes"])})
    counts = hdf5.sparse_parts(group, by_gene=True)
    symbols = hdf5.vector(group["gene_names"], len(var))
    return _tenx(counts, hdf5.vector(group["barcodes"]), var, symbols)


def _read_plain(file: h5py.File) -> AnnData:
    counts = hdf5.matrix(file["X"])
    n_cells, n_genes = counts.shape
    obs = pd.DataFrame(index=hdf5.numbered("cell", n_cells))
    if "Y" in file:
        obs["cell_type"] = hdf5.labels(hdf5.vector(file["Y"], n_cells))
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=hdf5.numbered("gene", n_genes)))


def _read_exprs(file: h5py.File) -> AnnData:
    counts = hdf5.matrix(file["exprs"])
    obs = hdf5.table(file, "obs", "cell", counts.shape[0])
    return AnnData(counts, obs=obs, var=hdf5.table(file, "var", "gene", counts.shape[1]))


def _unexpected(path: Path, found: str, remedy: str = "") -> ValueError:
    msg = f"Expected {str(path)!r} to be {_FORMATS}, found {found}. {remedy}"
    return ValueError(msg.rstrip())

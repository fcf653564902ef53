"""Small files written by hand, and what must come back from them."""

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scsiameseclu_jax import datasets

COUNTS = np.array([[0, 3, 0, 1], [2, 0, 0, 0], [0, 0, 5, 1]])
CELLS = ["AAA-1", "CCC-1", "GGG-1"]
IDS = ["ENS1", "ENS2", "ENS3", "ENS4"]
# A symbol that repeats, and one that pandas takes for a missing value.
SYMBOLS = ["A", "NA", "A", "CD3"]
UNIQUE = ["A", "NA", "A-1", "CD3"]
KINDS = ["Gene Expression", "Gene Expression", "Gene Expression", "Antibody Capture"]


def checked(adata, counts=COUNTS, dtype=np.float32):
    assert isinstance(adata, ad.AnnData)
    assert isinstance(adata.X, sparse.csr_matrix)
    assert adata.X.dtype == dtype
    np.testing.assert_array_equal(adata.X.toarray(), counts)
    return adata


def found(path, *, match, error=ValueError):
    with pytest.raises(error, match=match) as caught:
        datasets.read(path)
    assert str(caught.value).startswith("Expected ")
    return str(caught.value)


def annotated(matrix=COUNTS):
    obs = pd.DataFrame({"cell_type": pd.Categorical(["B", "T", "B"])}, index=CELLS)
    return ad.AnnData(np.array(matrix), obs=obs, var=pd.DataFrame(index=UNIQUE))


def write(path, **items):
    """Values and, as nested dicts, groups."""

    def fill(group, items):
        for key, value in items.items():
            if isinstance(value, dict):
                fill(group.create_group(key), value)
            else:
                group[key] = value

    with h5py.File(path, "w") as file:
        fill(file, items)
    return path


def parts(matrix, *, by_gene=False):
    """The three arrays and the shape, as 10x has them or as CSR."""
    matrix = sparse.csr_matrix(matrix)
    shape = matrix.shape[::-1] if by_gene else matrix.shape
    return {
        "data": matrix.data,
        "indices": matrix.indices,
        "indptr": matrix.indptr,
        "shape": np.array(shape),
    }


def text(values):
    return np.array(values, dtype="S")

"""What is stored, beside what a file gives back."""

import numpy as np
import pandas as pd


def same(one, other):
    """Compare what is stored with what a file gives back, in which lists have become arrays."""
    if isinstance(one, dict):
        assert sorted(one) == sorted(other)
        for name, value in one.items():
            same(value, other[name])
    elif isinstance(one, pd.DataFrame):
        assert list(one) == list(other)
        assert one.index.tolist() == other.index.tolist()
        for name in one:
            same(one[name].to_numpy(), other[name].to_numpy())
    elif getattr(one, "dtype", None) is not None and one.dtype.names:
        assert one.dtype.names == other.dtype.names
        for name in one.dtype.names:
            same(np.asarray(one[name]), np.asarray(other[name]))
    elif isinstance(one, list | tuple | np.ndarray):
        one, other = np.asarray(one), np.asarray(other)
        assert one.shape == other.shape
        if one.dtype.kind == "f":
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        else:
            assert one.tolist() == other.tolist()
    else:
        assert one == other, (one, other)

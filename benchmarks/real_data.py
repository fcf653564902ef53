"""Which labelled data sets are at hand?

They are looked for in the folder named by the environment variable SCSIAMESECLU_DATA; without it
in ``../shared/data`` beside the repository. They are never committed. The labels come apart from
the AnnData, so that no method can see them.
"""

import os
from pathlib import Path

import numpy as np
from anndata import AnnData

from scsiameseclu_jax.datasets import read

VARIABLE = "SCSIAMESECLU_DATA"
BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"

FILES = {
    "kidney": "human_kidney_counts_top2000.h5",
    "cite_cbmc": "CITE_CBMC_counts_top2000.h5",
    "pbmc4k": "10X_PBMC_top2000.h5",
    "worm": "worm_neuron_cell_top2000.h5",
    "baron_mouse1": "baron_mouse1.h5ad",
    "pbmc3k": "pbmc3k.h5ad",
    "kang": "kang_ctrl_stim_pair.h5ad",
    "paul15": "paul15.h5ad",
    "mouse_gut": "mouse_gut_22types.h5ad",
    "pbmc_sorted": "pbmc_sorted_9types.h5ad",
    "worm_embryo": "worm_embryo_amphid.h5ad",
    "zeisel": "zeisel_550_11types.h5ad",
    "segerstolpe": "segerstolpe_6types.h5ad",
    "ifnb_stim": "ifnb_stim_13types.h5ad",
    "endocrinogenesis": "endocrinogenesis_739.h5ad",
    "rnamix": "rnamix_celseq2_7mix.h5ad",
    "radial_glia": "radial_glia_pollen2015.h5ad",
    "predc": "predc_facs_4types.h5ad",
    "ipsc": "ipsc.h5ad",
}
# Those that long benchmarks take unless told otherwise.
MAIN = tuple(FILES)[:8]
LABELS = "cell_type"
# Every other column of obs is a label, was made from labels, or is not needed.
KEPT = ["batch"]


def available() -> dict[str, Path]:
    """Short name and file of each data set that is there, always in the same order."""
    where = folder()
    if where is None:
        return {}
    paths = {name: where / file for name, file in FILES.items()}
    return {name: path for name, path in paths.items() if path.is_file()}


def main_sets() -> list[str]:
    """Return the names of `MAIN` that are there."""
    here = available()
    return [name for name in MAIN if name in here]


def load(name: str) -> tuple[AnnData, np.ndarray]:
    """Cells without their labels, and the labels ``[n]`` as an array of strings."""
    if name not in FILES:
        msg = f"Expected `name` to be one of {list(FILES)}, found {name!r}."
        raise ValueError(msg)
    paths = available()
    if name not in paths:
        msg = (
            f"Expected a folder with {FILES[name]!r}, found none in {str(folder() or BESIDE)!r}. "
            f"Name the folder in the environment variable {VARIABLE}."
        )
        raise FileNotFoundError(msg)
    adata = read(paths[name])
    labels = adata.obs[LABELS].to_numpy().astype(str)
    adata.obs = adata.obs[[column for column in KEPT if column in adata.obs]].copy()
    return adata, labels


def folder() -> Path | None:
    """Where the data are, or None."""
    named = os.environ.get(VARIABLE)
    if not named:
        return BESIDE if BESIDE.is_dir() else None
    if not Path(named).is_dir():
        msg = f"Expected the environment variable {VARIABLE} to name a folder, found {named!r}."
        raise NotADirectoryError(msg)
    return Path(named)

"""The seven data sets of the paper's Table 1: what they are, where they come from, reading them."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

from anndata import AnnData

from scsiameseclu_jax.datasets.readers import read

_LABELS = "cell_type"
# What the `exprs` layout of the field's papers calls the labels.
_OTHER_LABELS = ("cell_type1", "cell_ontology_class")
_SCDCC = "https://github.com/ttgump/scDCC"
_AUTHORS = "https://github.com/XPgogogo/scSGC"  # where the paper's authors keep its files


@dataclass(frozen=True)
class PaperDataset:
    """A data set of the paper.

    Attributes
    ----------
    key
        Short name.
    name
        Name in the paper.
    n_cells, n_genes, n_clusters
        Cells, genes and types, as those list them who publish the file.
    citation
        Where the cells were first described.
    accession
        Of the original data.
    source
        Who publishes the prepared file, counts with labels.
    files
        Names under which the file is known, the first one the usual one.
    """

    key: str
    name: str
    n_cells: int
    n_genes: int
    n_clusters: int
    citation: str
    accession: str
    source: str
    files: tuple[str, ...]

    def find(self, folder: str | os.PathLike[str]) -> Path | None:
        """Return the file in a folder, or None if there is none."""
        paths = (Path(folder) / name for name in self.files)
        return next((path for path in paths if path.is_file()), None)

    def read(self, folder: str | os.PathLike[str]) -> AnnData:
        """Read the data set from a folder of the user's. Nothing is downloaded.

        Parameters
        ----------
        folder
            Holds one of `files`, in either ``.h5`` layout or as ``.h5ad``.

        Returns
        -------
        AnnData
            Counts in `X`, labels in ``obs["cell_type"]``: for scoring only.

        Raises
        ------
        FileNotFoundError
            Without the file; says where to get it.
        ValueError
            If the file is not what its name says, or has no labels.

        Warns
        -----
        UserWarning
            If cells or types are not as many as listed: scores then are not those of the paper.
        """
        path = self.find(folder)
        if path is None:
            msg = (
                f"Expected {self.name} as one of {', '.join(self.files)} in {str(folder)!r}, "
                f"found none. Get it from {self.source} (original data: {self.accession}) and put "
                "it there."
            )
            raise FileNotFoundError(msg)
        adata = read(path)
        if _LABELS not in adata.obs:
            named = [name for name in _OTHER_LABELS if name in adata.obs]
            if not named:
                msg = (
                    f"Expected labels in {str(path)!r}, as `Y` or as one of the columns "
                    f"{[_LABELS, *_OTHER_LABELS]} of `obs`, found the columns {list(adata.obs)}."
                )
                raise ValueError(msg)
            adata.obs[_LABELS] = adata.obs[named[0]].astype("category")
        found = adata.n_obs, adata.obs[_LABELS].nunique()
        if found != (self.n_cells, self.n_clusters):
            warnings.warn(
                f"Expected {self.name} to have {self.n_cells} cells of {self.n_clusters} types, "
                f"found {found[0]} of {found[1]} in {str(path)!r}. Scores on it do not compare "
                "with the paper's.",
                stacklevel=2,
            )
        return adata


_PAPER = (
    PaperDataset(
        "shekhar_retina",
        "Shekhar mouse retina",
        27499,
        13166,
        19,
        "Shekhar et al., Cell 2016",
        "GSE81904",
        _AUTHORS,
        ("Shekhar_mouse_retina.h5",),
    ),
    PaperDataset(
        "macosko_retina",
        "Macosko mouse retina",
        14653,
        11422,
        39,
        "Macosko et al., Cell 2015",
        "GSE63473",
        _AUTHORS,
        ("Macosko_mouse_retina.h5",),
    ),
    PaperDataset(
        "qs_lung",
        "QS mouse lung",
        1676,
        23341,
        11,
        "Tabula Muris Consortium, Nature 2018",
        "GSE109774",
        _AUTHORS,
        ("Tabula_Qs_Lung.h5", "Quake_Smart-seq2_Lung.h5"),
    ),
    PaperDataset(
        "cite_cbmc",
        "CITE-CBMC",
        8617,
        2000,
        15,
        "Stoeckius et al., Nature Methods 2017",
        "GSE100866",
        _SCDCC,
        ("CITE_CBMC_counts_top2000.h5",),
    ),
    PaperDataset(
        "human_liver",
        "Human liver",
        8444,
        4999,
        11,
        "MacParland et al., Nature Communications 2018",
        "GSE115469",
        _AUTHORS,
        ("Sonya_HumanLiver_counts_top5000.h5",),
    ),
    PaperDataset(
        "human_kidney",
        "Human kidney",
        5685,
        25215,
        11,
        "Young et al., Science 2018",
        "EGAS00001002325",
        _SCDCC,
        ("Young_human_kidney_counts.h5", "human_kidney_counts_top2000.h5"),
    ),
    PaperDataset(
        "human_pancreas",
        "Human pancreas",
        2122,
        19046,
        9,
        "Muraro et al., Cell Systems 2016",
        "GSE85241",
        _AUTHORS,
        ("Meuro_human_Pancreas_cell.h5", "Muraro_human_pancreas.h5"),
    ),
)


def paper() -> tuple[PaperDataset, ...]:
    """Return the seven data sets of the paper's Table 1.

    Each says its size, its number of types, its source and the file that is expected, and reads
    the file from a folder in which the user has put it: ``paper()[3].read("data")``. Nothing is
    downloaded. Of the kidney, two files are about, with all genes and with the 2,000 most
    variable; the paper took all.

    Examples
    --------
    >>> for dataset in paper():
    ...     print(dataset.key, dataset.n_cells, dataset.n_clusters)
    shekhar_retina 27499 19
    macosko_retina 14653 39
    qs_lung 1676 11
    cite_cbmc 8617 15
    human_liver 8444 11
    human_kidney 5685 11
    human_pancreas 2122 9

    References
    ----------
    Paper, Table 1.
    """
    return _PAPER

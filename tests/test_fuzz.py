"""Whatever a file holds, reading it ends in a result or a sentence, soon, without much memory.

Files that are whole are damaged at random: bytes of them are changed, cut out or repeated, parts of
their trees are replaced by others. The quick form looks at some hundred files, the slow one at ten
thousand; both look at the same ones every time.
"""

import json
import resource
import shutil
import time
import warnings
from datetime import timedelta
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from scipy import sparse

import scsiameseclu_jax as scs
from scsiameseclu_jax import files
from scsiameseclu_jax.cli.asking import read_answers
from tests.files import COUNTS, parts, text, write

# What the command line answers with a line. A reader may only say that the file is wrong, that it
# cannot be opened, or that memory is short.
REFUSALS = (ValueError, OSError, MemoryError)
SECONDS = 20  # of one file, on a machine that has much to do
MIB = 700  # more than before, at most

FEW, MANY = 100, 10_000


def examples(n):
    return settings(
        max_examples=n,
        derandomize=True,
        database=None,
        deadline=timedelta(seconds=SECONDS),
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],  # the first that fails, as it is
        report_multiple_bugs=False,
    )


def small():
    """An object with something in every place, as small as can be."""
    adata = scs.datasets.simulate(n_cells=24, n_genes=30, n_clusters=2, rng=0)
    adata.layers["counts"] = adata.X.tocsc()
    adata.raw = adata
    adata.obs["text"] = [f"a{i}" for i in range(24)]
    adata.obsm["X_pca"] = np.ones((24, 3), np.float32)
    adata.obsp["connectivities"] = sparse.csr_matrix(np.eye(24, dtype=np.float32))
    adata.uns["neighbors"] = {"params": {"n": 5, "names": np.array(["a", "b"])}}
    return adata


def made_h5ad(path):
    small().write_h5ad(path)


def made_plain(path):
    write(path, X=COUNTS, Y=np.array([1, 1, 2]))


def made_exprs(path):
    obs = {"n": np.arange(3), "t": {"codes": np.array([0, 1, -1]), "categories": text(["a", "b"])}}
    write(path, exprs=parts(COUNTS), obs=obs, var_names=text(["a", "b", "c", "d"]))


def made_tenx(path):
    names = text(["a", "b", "c", "d"])
    kinds = text(["Gene Expression"] * 4)
    features = {"id": names, "name": names, "feature_type": kinds, "genome": names}
    write(path, matrix=parts(COUNTS, by_gene=True) | {"barcodes": names[:3], "features": features})


HDF5 = {"h5ad": made_h5ad, "plain": made_plain, "exprs": made_exprs, "10x": made_tenx}
TEXTS = {
    "c.toml": b"[training]\nsteps = 5\nrate = 1e-3\n[network]\nfeature_layers = [16, 8]\n"
    b"[losses]\nzinb = 0.5\n",
    "pairs.csv": b'cell_1,cell_2\n"cell_3",cell_4\ncell_5,cell_6\n',
    "markers.csv": b'type,gene\nB,MS4A1\n"T, cell",CD3D\n',
    "markers.gmt": b"B\tof blood\tMS4A1\tCD79A\nT\t\tCD3D\n",
    "answers.csv": b'answer,cells_a,cells_b\nyes,"[""cell_1"", ""cell_2""]","[""cell_3""]"\n'
    b"no,\"['cell_4']\",cell_5\n",
    "tenx/matrix.mtx": b"%%MatrixMarket matrix coordinate integer general\n4 3 2\n1 1 5\n2 3 7\n",
    "tenx/genes.tsv": b"E1\tA\nE2\tB\nE3\tC\nE4\tD\n",
    "tenx/barcodes.tsv": b"AAA\nCCC\nGGG\n",
}
READERS = {
    "c.toml": scs.Config.from_toml,
    "pairs.csv": scs.datasets.read_pairs,
    "markers.csv": scs.datasets.read_markers,
    "markers.gmt": scs.datasets.read_markers,
}
# Pieces that mean something to one reader or another.
PIECES = [
    b"\x00",
    b"\xff",
    b'"',
    b"'",
    b"\n",
    b"\r",
    b",",
    b"\t",
    b";",
    b"[",
    b"{",
    b"]",
    b"=",
    b"-",
]
PIECES += [b"1e400", b"9" * 30, b"nan", b"inf", b"\xe2\x80\xa8", b"'''", b"#", b"%", b"\\u", b"."]
PIECES += [b"[" * 300, b"{a=" * 300, b'"' + b"a" * 200_000, b"-" * 2000 + b"1"]


def damaged(draw, content):
    """Return content with a few changes of its bytes."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        kind = draw(st.sampled_from(["bit", "byte", "cut", "end", "piece", "repeat"]))
        if kind == "bit" and content:
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte" and content:
            content[place] = draw(st.integers(0, 255))
        elif kind == "cut":
            del content[place : place + draw(st.integers(1, 64))]
        elif kind == "end":
            del content[place:]
        elif kind == "piece":
            content[place:place] = draw(st.sampled_from(PIECES))
        elif kind == "repeat":
            content[place:place] = content[place : place + draw(st.integers(1, 200))] * 3
    return bytes(content)


def refused_or_read(read, *given):
    """Return what is read, or None: then a sentence has said why not."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read(*given)
    except REFUSALS as error:
        assert str(error), type(error)
        assert len(str(error)) < 3000
        return None
    finally:
        more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert more < 1024 * MIB, f"{more / 1024:.0f} MiB"


def looked_at(path):
    """Read a file of counts and look at what it holds."""
    adata = refused_or_read(scs.datasets.read, path)
    if adata is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert scs.pp.check(adata)
            refused_or_read(scs.pp.counts, adata)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("fuzz")
    for name, make in HDF5.items():
        make(made / name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for version in (2, 3):
            with ad.settings.override(zarr_write_format=version):
                small().write_zarr(made / f"{version}.zarr")
    return made


FORMS = [pytest.param(FEW, id="quick"), pytest.param(MANY, id="all", marks=pytest.mark.slow)]


def sized(n, share):
    return max(5, n // share)


@pytest.mark.parametrize("n", FORMS)
@pytest.mark.parametrize("name", HDF5)
def test_bytes_of_hdf5(folder, tmp_path, name, n):
    whole = (folder / name).read_bytes()
    path = tmp_path / name

    @examples(sized(n, 10))
    @given(st.data())
    def run(data):
        path.write_bytes(damaged(data.draw, whole))
        looked_at(path)

    run()


REPLACEMENTS = [
    np.dtype("f8"),
    {},
    5,
    "text",
    np.nan,
    np.array([1.5, -1, np.inf]),
    np.array([2**62, -1]),
    np.zeros((0,)),
    np.zeros((2, 2, 2)),
    np.array([b"a", b"\xff"]),
    np.zeros(3, [("a", "f4"), ("b", "S3")]),
    h5py.Empty("f4"),
    np.ones(3, bool),
    np.array([1 + 2j]),
]
ATTRIBUTES = ["encoding-type", "encoding-version", "shape", "_index", "column-order", "ordered"]
VALUES = ["csr_matrix", "csc_matrix", "array", "dict", "dataframe", "categorical", "anndata", ""]
VALUES += ["9.9.9", 5, np.array([2, 3]), np.array([10**15, 3]), np.array([-1, 2]), np.nan]
VALUES += ["nullable-integer", "string-array", "awkward-array", np.array(["a", "b"], "S")]


@pytest.mark.parametrize("n", FORMS)
@pytest.mark.parametrize("name", HDF5)
def test_trees_of_hdf5(folder, tmp_path, name, n):
    path = tmp_path / name

    @examples(sized(n, 7))
    @given(st.data())
    def run(data):
        shutil.copy(folder / name, path)
        with h5py.File(path, "a") as file:
            for _ in range(data.draw(st.integers(1, 3))):
                change_tree(data.draw, file)
        looked_at(path)

    run()


def change_tree(draw, file):
    places: list[str] = []
    file.visit(places.append)
    if not places:
        return
    place = draw(st.sampled_from(places))
    kind = draw(st.sampled_from(["value", "replace", "remove", "attribute", "link", "move"]))
    item = file[place]
    if (
        kind == "value"
        and isinstance(item, h5py.Dataset)
        and item.size
        and item.dtype.kind in "iuf"
    ):
        values = item[...].ravel()
        values[draw(st.integers(0, values.size - 1))] = draw(
            st.sampled_from([0, 1, 2**31 - 1, 127])
        ) % (np.iinfo(values.dtype).max if values.dtype.kind in "iu" else 2**30)
        item[...] = values.reshape(item.shape)
    elif kind == "attribute":
        item.attrs[draw(st.sampled_from(ATTRIBUTES))] = draw(st.sampled_from(VALUES))
    elif kind == "move":
        other = draw(st.sampled_from(places))
        if other not in file or other == place or other.startswith(f"{place}/"):
            return
        del file[other]
        if place in file:
            file[other] = file[place]
    elif kind == "link":
        del file[place]
        file[place] = h5py.SoftLink(f"/{draw(st.sampled_from(places))}")
    else:
        del file[place]
        if kind == "replace":
            value = draw(st.sampled_from(REPLACEMENTS))
            if isinstance(value, dict):
                file.create_group(place)
            else:
                file[place] = value


@pytest.mark.parametrize("n", FORMS)
@pytest.mark.parametrize("version", [2, 3])
def test_bytes_of_zarr(folder, tmp_path, version, n):
    source, path = folder / f"{version}.zarr", tmp_path / "a.zarr"
    names = sorted(str(p.relative_to(source)) for p in source.rglob("*") if p.is_file())
    metadata = [name for name in names if Path(name).name.startswith((".z", "zarr"))]
    shutil.copytree(source, path)

    @examples(sized(n, 10))
    @given(st.data())
    def run(data):
        name = data.draw(st.sampled_from(metadata) | st.sampled_from(names))
        try:
            (path / name).write_bytes(damaged(data.draw, (source / name).read_bytes()))
            looked_at(path)
        finally:
            shutil.copy(source / name, path / name)

    run()


@pytest.mark.parametrize("n", FORMS)
@pytest.mark.parametrize("name", TEXTS)
def test_texts(tmp_path, name, n):
    (tmp_path / "tenx").mkdir()
    for other, content in TEXTS.items():
        (tmp_path / other).write_bytes(content)
    adata = small()

    def read(path):
        if name == "answers.csv":
            return read_answers([path], adata)
        return READERS[name](path) if name in READERS else looked_at(path.parent)

    def known(path):
        try:
            return read(path)
        except KeyError as error:  # of cells that there are not, or columns
            raise ValueError(error.args[0]) from error

    @examples(sized(n, 10))
    @given(st.data())
    def run(data):
        path = tmp_path / name
        path.write_bytes(damaged(data.draw, TEXTS[name]))
        refused_or_read(known, path)

    run()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model"
    adata = scs.datasets.simulate(n_cells=60, n_genes=40, n_clusters=2, rng=0)
    config = scs.Config.fast()
    scs.SiameseClu(2, config=config).fit(adata, progress=False).save(path)
    assert scs.SiameseClu.load(path).proba.shape == (60, 2)
    return path


@pytest.mark.parametrize("n", FORMS)
def test_bytes_of_a_model(model, tmp_path, n):
    path = tmp_path / "model"
    shutil.copytree(model, path)

    @examples(sized(n, 10))
    @given(st.data())
    def run(data):
        name = data.draw(st.sampled_from(["model.json", "arrays.safetensors"]))
        try:
            content = (model / name).read_bytes()
            changed = damaged(data.draw, content)
            (path / name).write_bytes(changed)
            found = refused_or_read(scs.SiameseClu.load, path)
            assert found is None or changed == content or name == "model.json"
        finally:
            shutil.copy(model / name, path / name)

    run()


@pytest.mark.parametrize("n", FORMS)
def test_settings_of_a_model_that_are_signed_again(model, tmp_path, n):
    """Whoever changes a model can make its checksum anew."""
    stored, arrays = files.read_model(model)
    kinds = st.none() | st.integers(-5, 10**15) | st.floats() | st.text(max_size=3)
    kinds = kinds | st.lists(st.integers(), max_size=2) | st.just({})

    @examples(sized(n, 20))
    @given(st.data())
    def run(data):
        path = tmp_path / "model"
        changed, names = json.loads(json.dumps(stored)), dict(arrays)
        for _ in range(data.draw(st.integers(1, 3))):
            if data.draw(st.booleans()):
                table = changed
                while True:
                    key = data.draw(st.sampled_from(sorted(table)))
                    if (
                        not isinstance(table[key], dict)
                        or not table[key]
                        or data.draw(kinds) is None
                    ):
                        break
                    table = table[key]
                if data.draw(st.booleans()):
                    table[key] = data.draw(kinds)
                else:
                    del table[key]
                if not changed:
                    break
            else:
                name = data.draw(st.sampled_from(sorted(names)))
                array = names.pop(name)
                if data.draw(st.booleans()):
                    names[name] = data.draw(
                        st.sampled_from([array.ravel(), array[..., None], np.ones(3), np.ones(0)])
                    )
        files.write_model(path, changed, names, overwrite=path.exists())
        refused_or_read(scs.SiameseClu.load, path)

    run()


def test_it_would_be_noticed(tmp_path):
    """The harness itself: what is no sentence, takes memory, or is wrong, fails."""
    with pytest.raises(ZeroDivisionError):
        refused_or_read(lambda: 1 / 0)
    with pytest.raises(AssertionError):
        refused_or_read(lambda: (_ for _ in ()).throw(ValueError()))
    started = time.perf_counter()
    (tmp_path / "a").write_bytes(b"x")
    assert refused_or_read(scs.datasets.read, tmp_path / "a") is None
    assert time.perf_counter() - started < SECONDS
    assert pd.__version__

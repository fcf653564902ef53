"""Do known types predict the others, within a data set and between two?

``python -m benchmarks.classification`` measures on the labelled data at hand (`real_data.py`).
Within each set: ``tl.classify`` in five stratified folds, beside its head on the embedding alone
and on the components alone, and logistic regression on 50 principal components, with
scikit-learn's regularisation and with one that an inner cross-validation chooses. Between control
and stimulated cells of Kang et al., both ways: ``tl.transfer_labels``, with a fit of all cells and
with a model of the reference, with each head, beside k nearest neighbours and logistic regression
on 50 principal components, of all cells and of the reference; and ``tl.classify`` with one batch
known. Then each type of at least 50 cells is left out of the reference in turn: how many of its
cells, and of the others, are flagged? There also halves of the Baron cells, which no treatment
sets apart.

The embedding never sees types. It resumes; ``--fresh`` repeats all, ``--quick`` takes the two
smallest sets and one seed, and leaves no type out. Writes
``benchmarks/results/classification.json`` and ``.md``.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from anndata import AnnData

import scsiameseclu_jax as scs
from benchmarks import real_data
from benchmarks.classification_table import BARS, table
from benchmarks.records import FIT, Run, code_fingerprint, on_record, save
from scsiameseclu_jax.certainty.calibration import expected_error
from scsiameseclu_jax.metrics import classification_scores, rejection_curve
from scsiameseclu_jax.tl.classification import FOLDS, STRENGTH, components_of, prepare_cells
from scsiameseclu_jax.tl.heads import features_of, predict_types

OUT = Path(__file__).resolve().parent / "results" / "classification.json"
QUICK_SETS = ["baron_mouse1", "kang"]
PAIR, HALVES = "kang", "baron_mouse1"
REFERENCES = ["ctrl", "stim"]
SEEDS = 2
LEAST = 50  # cells of a type that is left out
N_COMPONENTS, N_NEIGHBORS = 50, 15
STRENGTHS = [0.03, 0.1, 0.3, 1.0]
# what is measured beside a fit
TOOLS = tuple(f"scsiameseclu_jax.tl.{name}" for name in ("classification", "transfer"))


# Baselines.


def components(adata: AnnData, fitted: np.ndarray | None = None) -> np.ndarray:
    """Return principal components [n, 50] by scanpy's recipe, of all cells or of those `fitted`."""
    import scanpy as sc
    from sklearn.decomposition import PCA

    logged = AnnData(adata.X.astype(np.float32), obs=adata.obs[[]], var=adata.var[[]])
    sc.pp.normalize_total(logged, target_sum=1e4)
    sc.pp.log1p(logged)
    if logged.n_vars > 2000:
        sc.pp.highly_variable_genes(logged, n_top_genes=2000, subset=True)
    values = np.asarray(logged.X.toarray(), np.float64)
    rows = np.ones(len(values), bool) if fitted is None else fitted
    deviation = values[rows].std(axis=0)
    values -= values[rows].mean(axis=0)
    values = np.clip(values / np.where(deviation > 0, deviation, 1), -10, 10)
    return PCA(N_COMPONENTS, random_state=0).fit(values[rows]).transform(values)


def models() -> dict[str, Any]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.neighbors import KNeighborsClassifier

    plain = LogisticRegression(max_iter=1000)
    return {
        "logistic": plain,
        "logistic, tuned": GridSearchCV(plain, {"C": STRENGTHS}, cv=3),
        "k-nearest": KNeighborsClassifier(N_NEIGHBORS),
    }


def baseline(name: str, x: np.ndarray, known: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return [m, 2]: predicted type and its probability of each cell that is not known."""
    model = models()[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # types of fewer cells than folds
        proba = model.fit(x[known], labels[known]).predict_proba(x[~known])
    return _best(model.classes_, proba)


# Ours.


def classified(
    adata: AnnData, labels: np.ndarray, known: np.ndarray, *, key: str | None
) -> np.ndarray:
    """Return the same of ``tl.classify``, with an embedding that is there or with a fit."""
    cells = adata.copy()
    cells.obs["type"] = np.where(known, labels, "Unknown")
    scs.tl.classify(cells, "type", key=key, progress=False)
    return _columns(cells, "classified")[~known]


def called(x: np.ndarray, labels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the same of its head on other features [n, p]."""
    types = np.where(known, labels, None)
    options = {"strength": STRENGTH, "shifted": False, "n_folds": FOLDS, "seed": 0}
    answer = predict_types(x, types, method="logistic", **options)
    return _best(answer.types, answer.proba[~known])


def run_within(name: str) -> Iterator[Run]:
    """Predict each fold of a data set from the others, in every way."""
    from sklearn.model_selection import StratifiedKFold

    adata, labels = real_data.load(name)
    start = time.perf_counter()
    model = scs.SiameseClu("auto").fit(adata, rng=0, progress=False)
    seconds = time.perf_counter() - start
    adata.obsm["X_siameseclu"] = model.get_latent_representation()
    embedding = features_of([adata.obsm["X_siameseclu"]])
    others = features_of(components_of(prepare_cells(adata, "counts", None, model.config)))
    pca = components(adata)
    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "classify": lambda known: classified(adata, labels, known, key="siameseclu"),
        "embedding alone": lambda known: called(embedding, labels, known),
        "components alone": lambda known: called(others, labels, known),
        "logistic, PCA": lambda known: baseline("logistic", pca, known, labels),
        "logistic, tuned, PCA": lambda known: baseline("logistic, tuned", pca, known, labels),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # types of fewer cells than folds
        split = StratifiedKFold(5, shuffle=True, random_state=0)
        folds = [out for _, out in split.split(labels, labels)]
    for way, predict in ways.items():
        calls = np.empty((len(labels), 2), dtype=object)
        each = []
        for out in folds:
            known = np.ones(len(labels), bool)
            known[out] = False
            calls[out] = predict(known)
            each.append(float(np.mean(calls[out, 0] == labels[out])))
        record = {"way": way, "accuracies": each, "fit_seconds": round(seconds, 1)}
        yield record | scored(labels, calls)


def run_between(reference: str, seed: int) -> Iterator[Run]:
    """Predict one batch from the other, in every way; what has no seed, once."""
    adata, labels = real_data.load(PAIR)
    known = adata.obs["batch"].astype(str).to_numpy() == reference
    old, new = _pair(adata, labels, known)
    truth = labels[~known]

    def transferred(way: str, **options: Any) -> Run:
        options |= {"rng": seed, "copy": True, "progress": False}
        cells = scs.tl.transfer_labels(new, old, "type", **options)
        flagged = float(cells.obs["transferred_is_novel"].mean())
        return {"way": way, "flagged": flagged} | scored(truth, _columns(cells, "transferred"))

    yield transferred("transfer_labels")
    model = scs.SiameseClu("auto").fit(old, rng=seed, progress=False)
    for method in ("logistic", "prototype", "knn"):
        way = f"transfer_labels, model of the reference, {method}"
        yield transferred(way.removesuffix(", logistic"), model=model, method=method)
    if seed:
        return
    calls = classified(adata, labels, known, key=None)
    yield {"way": "classify, one batch known"} | scored(truth, calls)
    for of, rows in (("all cells", None), ("the reference", known)):
        x = components(adata, rows)
        centered = x.copy()
        for part in (known, ~known):
            centered[part] -= centered[part].mean(axis=0)
        for how, y in (("", x), (", centred in each", centered)):
            for name in ("k-nearest", "logistic", "logistic, tuned"):
                calls = baseline(name, y, known, labels)
                yield {"way": f"{name}, PCA of {of}{how}"} | scored(truth, calls)


def run_left_out(name: str, reference: str, kind: str) -> Iterator[Run]:
    """Predict one batch, or half of the cells, from the other, which lacks a type."""
    adata, labels = real_data.load(name)
    if reference == "half":
        known = np.random.default_rng(0).random(len(labels)) < 0.5
    else:
        known = adata.obs["batch"].astype(str).to_numpy() == reference
    old, new = _pair(adata, labels, known)
    old = old[(old.obs["type"] != kind).to_numpy()].copy()
    apart = reference != "half"
    scs.tl.transfer_labels(new, old, "type", correct_shift=apart, progress=False)
    flagged = new.obs["transferred_is_novel"].to_numpy()
    of_kind = labels[~known] == kind
    shares = {"flagged": flagged[of_kind].mean(), "false_flags": flagged[~of_kind].mean()}
    yield {"way": "transfer_labels"} | {key: float(share) for key, share in shares.items()}


def scored(truth: np.ndarray, calls: np.ndarray) -> Run:
    """Return scores of predicted types and probabilities [m, 2]."""
    predicted, confidence = calls[:, 0].astype(str), calls[:, 1].astype(float)
    curve = rejection_curve(truth, predicted, confidence)
    scores: Run = {"scores": classification_scores(truth, predicted)}
    for share in (0.9, 0.8):
        wide = curve.loc[curve["coverage"] >= share, "accuracy"]
        scores[f"surest {share:.0%}"] = float(wide.iloc[-1])
    return scores | {"calibration_error": expected_error(confidence, predicted == truth)}


def _best(types: np.ndarray, proba: np.ndarray) -> np.ndarray:
    return np.array([types[proba.argmax(axis=1)], proba.max(axis=1)], dtype=object).T


def _columns(adata: AnnData, key: str) -> np.ndarray:
    return adata.obs[[key, f"{key}_confidence"]].astype(object).to_numpy()


def _pair(adata: AnnData, labels: np.ndarray, known: np.ndarray) -> tuple[AnnData, AnnData]:
    """Return the known cells with their types, and the others without."""
    old, new = adata[known].copy(), adata[~known].copy()
    old.obs["type"] = labels[known]
    return old, new


# The record and the command line.


def plan(sets: list[str], seeds: int, *, left_out: bool) -> list[Run]:
    """Return what is to be measured."""
    wanted: list[Run] = [{"kind": "within", "set": name} for name in sets]
    if PAIR in sets:
        wanted += [
            {"kind": "between", "set": PAIR, "reference": reference, "seed": seed}
            for seed in range(seeds)
            for reference in REFERENCES
        ]
    for name, references in ((PAIR, REFERENCES), (HALVES, ["half"])):
        if left_out and name in sets:
            types, sizes = np.unique(real_data.load(name)[1], return_counts=True)
            wanted += [
                {"kind": "left out", "set": name, "reference": reference, "type": str(kind)}
                for reference in references
                for kind in types[sizes >= LEAST]
            ]
    return wanted


def measure(key: Run) -> Iterator[Run]:
    """Run one entry of the plan."""
    if key["kind"] == "within":
        return run_within(key["set"])
    if key["kind"] == "between":
        return run_between(key["reference"], key["seed"])
    return run_left_out(key["set"], key["reference"], key["type"])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.classification", description=__doc__
    )
    parser.add_argument("--sets", nargs="+", choices=list(real_data.FILES))
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--quick", action="store_true", help="two sets, one seed")
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args(argv)
    named = arguments.sets or (QUICK_SETS if arguments.quick else real_data.MAIN)
    sets = [name for name in named if name in real_data.available()]
    if not sets:
        parser.error(f"no data found; name their folder in {real_data.VARIABLE}")
    mark = code_fingerprint({}, *FIT, *TOOLS)
    runs = on_record(arguments.out, {mark}, fresh=arguments.fresh)
    seeds = arguments.seeds or (1 if arguments.quick else SEEDS)
    for key in plan(sets, seeds, left_out=not arguments.quick):
        if any(key.items() <= run.items() for run in runs):
            continue
        for run in measure(key):
            print(key, run, flush=True)
            runs.append(key | run | {"fingerprint": mark})
        jax.clear_caches()  # programs of all fits together would be too many mappings of memory
        save(arguments.out, table(runs), bars=BARS, runs=runs)
    print(table(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())

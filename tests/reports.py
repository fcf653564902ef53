"""A clustered AnnData made by hand, with all that a report shows, and a reader of pages."""

from html.parser import HTMLParser

import numpy as np
import pandas as pd
from anndata import AnnData

import scsiameseclu_jax as scs

VOID = ("br", "img", "link", "meta")


def clustered(n=90, k=3, *, n_genes=40, key="siameseclu", names=None, seed=0):
    """AnnData as `tl.siameseclu` leaves it: counts in which each cluster has genes of its own."""
    rng = np.random.default_rng(seed)
    names = [str(i) for i in range(k)] if names is None else names
    codes = np.sort(rng.integers(0, k, n))
    codes[:k] = np.arange(k)
    rates = np.full((k, n_genes), 0.5)
    for i in range(k):
        rates[i, i % n_genes :: k] = 4
    adata = AnnData(rng.poisson(rates[codes]).astype(np.float32))
    adata.var_names = [f"Gene{i}" for i in range(n_genes)]
    adata.obs["cell_type"] = pd.Categorical([f"type {c}" for c in codes])
    adata.obs[key] = pd.Categorical.from_codes(codes, names)
    proba = 0.1 * rng.dirichlet(np.ones(k), n) + 0.9 * np.eye(k)[codes]
    adata.obs[f"{key}_confidence"] = proba.max(axis=1).astype(np.float32)
    adata.obsm[f"{key}_proba"] = proba.astype(np.float32)
    z = 6 * rng.normal(size=(k, 8))[codes] + rng.normal(size=(n, 8))
    adata.obsm[f"X_{key}"] = z.astype(np.float32)
    adata.obsm[f"X_{key}_umap"] = z[:, :2].astype(np.float32)
    stage = np.repeat(["features", "graph", "joint", "train"], [6, 2, 2, 4])
    loss = np.linspace(2, 1, len(stage))
    late = np.where(stage == "train", loss, np.nan)
    adata.uns[key] = {
        "params": {"n_clusters": k, "layer": "counts", "config": scs.Config().to_dict()},
        "history": {"loss": loss, "zinb": loss / 3, "silhouette": late, "stage": stage},
        "manifest": {
            "seed": 7,
            "config": scs.Config().fingerprint(),
            "data": "0123456789abcdef",
            "n_clusters": k,
            "n_cells": n,
            "n_genes": n_genes,
            "device": "cpu",
            "seconds": {"results": 0.4, "embedding": 2.2, "compilation": 1.1, "total": 3.7},
            "versions": {"jax": "0.10.0"},
            "pairs": "all",
        },
    }
    return adata


def assessed(adata, key="siameseclu"):
    """Add what refits would have found: the first two clusters are one, the last is two."""
    k = adata.obsm[f"{key}_proba"].shape[1]
    together = 0.9 * np.eye(k)
    together[0, 1] = together[1, 0] = 0.8
    together[-1, -1] = 0.3
    adata.uns[key]["stability"] = {
        "jaccard": np.linspace(0.9, 0.3, k),
        "together": together,
        "calibration_error": 0.021,
        "merge": np.array(["0 + 1"]),
        "split": np.array([str(k - 1)]),
    }
    adata.uns[key]["manifest"] |= {
        "n_resamples": 3,
        "confidence": "calibrated by refits, too",
    }
    adata.obs[f"{key}_agreement"] = np.resize([0, 1 / 3, 2 / 3, 1], adata.n_obs).astype(np.float32)
    return adata


def marked(adata, key="siameseclu", n_genes=4):
    """Add marker genes and what they say of the clusters."""
    names = list(adata.obs[key].cat.categories)
    scs.tl.markers(adata, key, n_top=n_genes)
    table = {"cluster": names, "type": [f"kind {name}" for name in names], "score": 0.8}
    table |= {"margin": 0.5, "second": "B cell", "n_markers": 5}
    scores = pd.DataFrame(0.5, names, ["B cell", "T cell"])
    record = {"params": {}, "table": pd.DataFrame(table), "scores": scores}
    adata.uns[f"{key}_annotation"] = record
    adata.obs[f"{key}_annotation"] = adata.obs[key].map(lambda name: f"kind {name}")
    return adata


def typed(adata, key="siameseclu"):
    """Add types from a reference, and a trajectory that begins in the first cluster."""
    kinds = adata.obs["cell_type"].astype(str).to_numpy(object, copy=True)
    kinds[::10] = "Unassigned"
    adata.obs["transferred"] = pd.Categorical(kinds)
    adata.obs["transferred_confidence"] = np.float32(0.75)
    adata.obs["transferred_is_novel"] = np.arange(adata.n_obs) % 10 == 0
    scores = {"accuracy": 0.951, "balanced_accuracy": 0.9, "macro_f1": 0.91}
    adata.uns["transferred"] = {"params": {}, "scores": scores, "calibration_error": 0.031}
    names = list(adata.obs[key].cat.categories)
    links = (0.5 * (1 - np.eye(len(names)))).astype(np.float32)
    adata.obs[f"{key}_pseudotime"] = np.linspace(0, 1, adata.n_obs, dtype=np.float32)
    adata.uns[f"{key}_paga"] = {
        "groups": np.array(names),
        "connectivities": links,
        "tree": np.triu(np.tril(links, 1), -1),
        "pseudotime": np.linspace(0.1, 0.9, len(names)),
        "root": adata.obs_names[0],
        "root_cluster": names[0],
        "params": {},
    }
    return adata


class Page(HTMLParser):
    """What is in a page; elements that are not closed, or closed twice, are an error."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.words = [], [], {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append((name, dict(attributes)))

    def handle_endtag(self, name):
        assert self.open.pop()[0] == name

    def handle_data(self, data):
        ids = [a["id"] for name, a in self.open if name == "section"]
        places = [name for name, _ in self.open]
        place = next((name for name in ("title", "style", "script") if name in places), None)
        for where in (place or (ids[-1] if ids else "top"), *(("all",) if place is None else ())):
            self.words[where] = self.words.get(where, "") + " " + data

    def named(self, name):
        """Return the attributes of all elements of a name."""
        return [attributes for found, attributes in self.elements if found == name]

    def text(self, where="all"):
        """Return the words of a section, in one line."""
        return " ".join(self.words.get(where, "").split())

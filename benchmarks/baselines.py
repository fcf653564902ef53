"""What the method is compared with: the clusterings that a careful analyst would try first.

Each is ``name -> function(adata, n_clusters, seed) -> clusters [n]``, reads the raw counts
alone, leaves `adata` as it is, and is given the same number of clusters as the method. None sees
a label.
"""

from collections.abc import Callable

import anndata as ad
import numpy as np
import scanpy as sc
from scipy import sparse
from scipy.stats import rankdata
from sklearn.cluster import AgglomerativeClustering, KMeans, SpectralClustering
from sklearn.metrics import silhouette_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import kneighbors_graph
from sklearn.preprocessing import normalize

from scsiameseclu_jax.partition.candidates import modularity
from scsiameseclu_jax.preprocessing.counts import counts

N_GENES = 2000
N_COMPONENTS = 50
N_NEIGHBORS = 15
N_SMOOTHING = 16
N_INIT = 10
N_GROUPS = 60
SILHOUETTE_CELLS = 2000
RESOLUTIONS = (1e-3, 10.0)
N_BISECTIONS = 20

Baseline = Callable[[ad.AnnData, int, int], np.ndarray]


def principal_components(adata: ad.AnnData, seed: int) -> np.ndarray:
    """Return ``[n, c]``: PCA scores of the scaled log-normalised counts of variable genes."""
    work = ad.AnnData(counts(adata).astype(np.float32))
    sc.pp.filter_genes(work, min_cells=1)
    sc.pp.normalize_total(work)
    sc.pp.log1p(work)
    if work.n_vars > N_GENES:
        sc.pp.highly_variable_genes(work, n_top_genes=N_GENES, subset=True)
    if sparse.issparse(work.X):
        work.X = work.X.toarray()
    sc.pp.scale(work, max_value=10)
    n_components = min(N_COMPONENTS, min(work.shape) - 1)
    sc.pp.pca(work, n_comps=n_components, random_state=seed)
    return work.obsm["X_pca"]


def kmeans(adata: ad.AnnData, n_clusters: int, seed: int) -> np.ndarray:
    """K-means on the principal components."""
    return _kmeans(principal_components(adata, seed), n_clusters, seed)


def smoothing(adata: ad.AnnData, n_clusters: int, seed: int) -> np.ndarray:
    """K-means after graph smoothing, with nothing trained: what any graph network has to beat."""
    features = normalize(principal_components(adata, seed))
    return _kmeans(_smoothed(features, _operator(features), N_SMOOTHING), n_clusters, seed)


def choice(adata: ad.AnnData, n_clusters: int, seed: int) -> np.ndarray:
    """Choose without labels among recipes that train nothing: what training has to beat.

    Seventeen candidates, ranked by modularity at resolution 0.5 on the cosine neighbour graph and
    by cosine silhouette on the principal components; the best sum of ranks.
    """
    plain = principal_components(adata, seed)
    unit = normalize(plain)
    operator = _operator(unit)
    spaces = [plain, unit, *(_smoothed(unit, operator, times) for times in (4, N_SMOOTHING))]
    pool = [leiden_tuned(adata, n_clusters, seed)]
    for space in spaces:
        pool += [
            _kmeans(space, n_clusters, seed),
            _mixture(space, n_clusters, seed, "tied"),
            AgglomerativeClustering(n_clusters).fit_predict(space),
            _merged(space, n_clusters, seed),
        ]
    size = min(SILHOUETTE_CELLS, len(unit))
    criteria = [
        (
            modularity(operator, clusters),
            silhouette_score(unit, clusters, metric="cosine", sample_size=size, random_state=seed),
        )
        for clusters in pool
    ]
    return pool[int(np.argmax(rankdata(criteria, axis=0).sum(axis=1)))]


def leiden_tuned(adata: ad.AnnData, n_clusters: int, seed: int) -> np.ndarray:
    """Leiden at the resolution that gives `n_clusters`, or as near as bisection comes."""
    graph = _neighbors(adata, seed)
    low, high = np.log(RESOLUTIONS)
    best, best_gap = None, np.inf
    for _ in range(N_BISECTIONS):
        middle = (low + high) / 2
        clusters = _leiden(graph, float(np.exp(middle)), seed)
        gap = len(np.unique(clusters)) - n_clusters
        if abs(gap) < best_gap:
            best, best_gap = clusters, abs(gap)
        if gap == 0:
            break
        low, high = (middle, high) if gap < 0 else (low, middle)
    return best


def leiden_default(adata: ad.AnnData, n_clusters: int, seed: int) -> np.ndarray:
    """Leiden at scanpy's default resolution, 1: it chooses its own number of clusters."""
    return _leiden(_neighbors(adata, seed), 1.0, seed)


def gmm_tied(adata: ad.AnnData, n_clusters: int, seed: int) -> np.ndarray:
    """Gaussian mixture with one covariance for all clusters."""
    return _gaussian_mixture(adata, n_clusters, seed, "tied")


def gmm_full(adata: ad.AnnData, n_clusters: int, seed: int) -> np.ndarray:
    """Gaussian mixture with a covariance for each cluster."""
    return _gaussian_mixture(adata, n_clusters, seed, "full")


def spectral(adata: ad.AnnData, n_clusters: int, seed: int) -> np.ndarray:
    """Spectral clustering of the nearest-neighbour graph."""
    model = SpectralClustering(
        n_clusters,
        affinity="nearest_neighbors",
        n_neighbors=min(N_NEIGHBORS, adata.n_obs),
        n_init=N_INIT,
        random_state=seed,
    )
    return model.fit_predict(principal_components(adata, seed))


BASELINES: dict[str, Baseline] = {
    "kmeans": kmeans,
    "smoothing": smoothing,
    "choice": choice,
    "leiden_tuned": leiden_tuned,
    "leiden_default": leiden_default,
    "gmm_tied": gmm_tied,
    "gmm_full": gmm_full,
    "spectral": spectral,
}


def _kmeans(features: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    return KMeans(n_clusters, n_init=N_INIT, random_state=seed).fit_predict(features)


def _operator(features: np.ndarray) -> sparse.csr_matrix:
    """Return the symmetric, normalised cosine neighbour graph with self loops, [n, n]."""
    n_neighbors = min(N_NEIGHBORS, len(features) - 1)
    graph = sparse.csr_matrix(kneighbors_graph(features, n_neighbors, metric="cosine"))
    graph = graph.maximum(graph.T) + sparse.identity(len(features), format="csr")
    scale = sparse.diags(1 / np.sqrt(np.asarray(graph.sum(axis=1)).ravel()))
    return sparse.csr_matrix(scale @ graph @ scale)


def _smoothed(features: np.ndarray, operator: sparse.csr_matrix, times: int) -> np.ndarray:
    for _ in range(times):
        features = operator @ features
    return normalize(features)


def _merged(features: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    """Merge small groups by average linkage: serves unequal sizes."""
    groups = _kmeans(features, min(N_GROUPS, len(features) // 3), seed)
    centers = np.array([features[groups == g].mean(axis=0) for g in range(groups.max() + 1)])
    merged = AgglomerativeClustering(n_clusters, metric="cosine", linkage="average")
    return merged.fit_predict(centers)[groups]


def _gaussian_mixture(adata: ad.AnnData, n_clusters: int, seed: int, covariance: str) -> np.ndarray:
    return _mixture(principal_components(adata, seed), n_clusters, seed, covariance)


def _mixture(features: np.ndarray, n_clusters: int, seed: int, covariance: str) -> np.ndarray:
    # The ridge keeps the covariance of a cluster with fewer cells than components invertible.
    model = GaussianMixture(
        n_clusters, covariance_type=covariance, reg_covar=1e-3, random_state=seed
    )
    return model.fit_predict(features.astype(np.float64))


def _neighbors(adata: ad.AnnData, seed: int) -> ad.AnnData:
    work = ad.AnnData(principal_components(adata, seed))
    # Exact neighbours; scanpy's choice above 8191 cells fails with pynndescent 0.7.
    sc.pp.neighbors(
        work,
        n_neighbors=min(N_NEIGHBORS, work.n_obs - 1),
        use_rep="X",
        transformer="sklearn",
        random_state=seed,
    )
    return work


def _leiden(graph: ad.AnnData, resolution: float, seed: int) -> np.ndarray:
    sc.tl.leiden(
        graph,
        resolution=resolution,
        flavor="igraph",
        n_iterations=2,
        directed=False,
        random_state=seed,
    )
    return graph.obs["leiden"].cat.codes.to_numpy()

"""Dense, readable forms of the method, written from its equations. Float64, n x n welcome.

Nothing here calls the package: what it computes is compared with this.
"""

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln


def adjacency(senders, receivers, weights, n):
    """Raw ``A + I`` of undirected links; of equal ones the heaviest."""
    a = np.zeros((n, n))
    for i, j, weight in zip(senders, receivers, weights, strict=True):
        a[i, j] = a[j, i] = max(a[i, j], weight)
    np.fill_diagonal(a, 1)
    return a


def normalized(a):
    """``D^-1/2 A D^-1/2``, the degrees being sums of rows."""
    scale = np.asarray(a).sum(axis=1) ** -0.5
    return scale[:, None] * a * scale


def pagerank(a, alpha):
    return alpha * jnp.linalg.inv(jnp.eye(len(a)) - (1 - alpha) * a)


def attention(z):
    logits = z @ z.T
    weights = jnp.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True) @ z


def unit(z):
    return z / jnp.sqrt((z**2).sum(axis=1, keepdims=True))


def correlation_loss(s):
    n = len(s)
    off = ~np.eye(n, dtype=bool)
    return ((jnp.diag(s) - 1) ** 2).mean() + (s**2)[off].mean()


def cell_correlation(z_1, z_2):
    return correlation_loss(unit(z_1) @ unit(z_2).T)


def neighbor_contrast(z_1, z_2, cells_1, cells_2, temperature):
    """InfoNCE of pairs: the negatives of a cell are the neighbours j of cells other than itself."""
    s, n, total = unit(z_1) @ unit(z_2).T / temperature, len(z_1), 0.0

    def apart(i, j):
        return cells_1[i] not in (cells_1[j], cells_2[j]) and cells_2[i] != cells_2[j]

    for i in range(n):
        row = [s[i, j] for j in range(n) if i == j or apart(i, j)]
        column = [s[j, i] for j in range(n) if i == j or apart(j, i)]
        total += sum(jnp.log(sum(map(jnp.exp, side))) - s[i, i] for side in (row, column))
    return total / (2 * n)


def latent_correlation(z_1, z_2, q):
    share = q / q.sum(axis=0)
    return correlation_loss(unit((share.T @ z_1).T) @ unit((share.T @ z_2).T).T)


def adjacency_error(z, a):
    return ((1 / (1 + jnp.exp(-z @ z.T)) - a) ** 2).mean()


def softmax(h):
    e = jnp.exp(h)
    return e / e.sum(axis=1, keepdims=True)


def propagation_divergence(h, propagated):
    p, q = softmax(h), softmax(propagated)
    m = (p + q) / 2
    halves = (p * jnp.log(p / m)).sum(axis=1) + (q * jnp.log(q / m)).sum(axis=1)
    return halves.mean() / 2


def zinb(x, log_mean, log_dispersion, logit):
    m, t, pi = jnp.exp(log_mean), jnp.exp(log_dispersion), 1 / (1 + jnp.exp(-logit))
    log_nb = gammaln(x + t) - gammaln(t) - gammaln(x + 1)
    log_nb += t * jnp.log(t / (t + m)) + x * jnp.log(m / (t + m))
    return -jnp.log(pi * (x == 0) + (1 - pi) * jnp.exp(log_nb)).mean()


def student_t(z, centers):
    squared = ((z[:, None] - centers) ** 2).sum(axis=2)
    q = 1 / (1 + squared)
    return q / q.sum(axis=1, keepdims=True)


def sinkhorn(log_q, proportions, epsilon, iterations=5000):
    kernel = jnp.exp(log_q / epsilon)
    v = jnp.ones(len(proportions))
    for _ in range(iterations):
        u = 1 / (kernel @ v)
        v = proportions * len(kernel) / (kernel.T @ u)
    u = 1 / (kernel @ v)
    return u[:, None] * kernel * v


def dense_stack(params, x, layers, slope):
    h = x
    for i in range(layers):
        h = h @ params[f"layer_{i}"]["kernel"] + params[f"layer_{i}"]["bias"]
        h = jnp.where(h > 0, h, slope * h)
    out = params["output"]
    return h @ out["kernel"] + out["bias"] + x @ params["linear"]["kernel"], h


def graph_stack(params, x, operator, layers):
    """Each layer, the output last; the linear path is propagated at every layer."""
    h, path, found = x, x @ params["linear"]["kernel"], []
    for i in range(layers):
        h = operator @ jnp.tanh(h @ params[f"layer_{i}"]["kernel"])
        path = operator @ path
        found.append(h)
    return [*found, operator @ (h @ params["output"]["kernel"] + path)]


def divergence(target, q):
    """``KL(P || Q)``, the mean over cells."""
    safe = jnp.where(target > 0, target, 1)
    return (target * (jnp.log(safe) - jnp.log(q))).sum(axis=1).mean()


def equal_length(z):
    return unit(z) * jnp.sqrt(z.shape[1])


def fuse(params, z_features, z_graph, a):
    f, g = equal_length(z_features), equal_length(z_graph)
    logit = jnp.concatenate([f, g], axis=1) @ params["kernel"] + params["bias"]
    weight = 1 / (1 + jnp.exp(-logit))
    local = equal_length(a @ (weight * f + (1 - weight) * g))
    return equal_length(local + params["beta"] * attention(local))


def constraint_nll(q, rows, linked):
    """Mean negative log-likelihood of pairs of cells [m, 2], of one cluster where linked [m]."""
    same = jnp.array([q[i] @ q[j] for i, j in rows])
    return -jnp.mean(jnp.log(jnp.where(jnp.array(linked), same, 1 - same)))


def training_terms(
    params, x, x_1, x_2, counts, size_factors, a, kept, target, rows, pairs, structure, alpha
):
    """Every term of a training step, ``q`` and the embedding, from the raw adjacency [n, n].

    View 1 keeps the links where `kept` [n, n] is 1; the counts of the cells `rows` enter ZINB.
    """
    network = structure.network
    slope, n_f, n_g = network.negative_slope, len(network.feature_layers), len(network.graph_layers)
    a_removed, a = normalized(a * kept), normalized(a)
    spread = pagerank(a, alpha)
    f_1, _ = dense_stack(params["feature_encoder"], x_1, n_f, slope)
    f_2, _ = dense_stack(params["feature_encoder"], x_2, n_f, slope)
    layers_1 = graph_stack(params["graph_encoder"], x_1, a_removed, n_g)
    layers_2 = graph_stack(params["graph_encoder"], x_2, spread, n_g)
    g_1, g_2 = layers_1[-1], layers_2[-1]
    z = fuse(params["fusion"], (f_1 + f_2) / 2, (g_1 + g_2) / 2, a_removed)
    decoded, hidden = dense_stack(params["feature_decoder"], z, n_f, slope)
    genes = counts.shape[1]  # the heads may have more columns, padding
    heads = {
        k: (hidden[rows] @ v["kernel"] + v["bias"])[:, :genes] for k, v in params["zinb"].items()
    }
    log_mean = heads["mean"] + jnp.log(size_factors)[rows, None]
    q = student_t(z, params["centers"])
    divergences = [propagation_divergence(h, a_removed @ h) for h in layers_1]
    divergences += [propagation_divergence(h, spread @ h) for h in layers_2]
    return {
        "features": ((decoded - x) ** 2).mean(),
        "propagated_features": (
            (graph_stack(params["graph_decoder"], z, a, n_g)[-1] - a @ x) ** 2
        ).mean(),
        "adjacency": adjacency_error(z, a),
        "zinb": zinb(counts[rows], log_mean, heads["dispersion"], heads["dropout"]),
        "cell_correlation_features": cell_correlation(f_1, f_2),
        "cell_correlation_graph": cell_correlation(g_1, g_2),
        "latent_correlation": latent_correlation(f_1, f_2, q) + latent_correlation(g_1, g_2, q),
        "propagation": jnp.stack(divergences).mean(),
        "clustering": divergence(target, q),
        "constraints": constraint_nll(q, *pairs),
    }, z

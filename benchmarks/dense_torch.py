"""The training step as it is usually written: PyTorch, with dense cells x cells matrices.

Written from the paper's equations for the comparison of `benchmarks/steps.py`; the terms, widths
and data are those of the library's step. Needs ``torch``.
"""

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from benchmarks.weights import weights
from scsiameseclu_jax import Config


class Networks(nn.Module):
    """Both autoencoders, count heads, gate, attention weight and centres."""

    def __init__(self, n_features: int, n_genes: int, n_clusters: int, config: Config) -> None:
        super().__init__()
        net = config.network
        d = net.n_latent
        self.slope = net.negative_slope

        def stack(widths: list[int], *, bias: bool) -> nn.ModuleList:
            pairs = itertools.pairwise(widths)
            return nn.ModuleList(nn.Linear(a, b, bias=bias) for a, b in pairs)

        features, graph = list(net.feature_layers), list(net.graph_layers)
        self.encoder = stack([n_features, *features, d], bias=True)
        self.decoder = stack([d, *features[::-1], n_features], bias=True)
        self.graph_encoder = stack([n_features, *graph, d], bias=False)
        self.graph_decoder = stack([d, *graph[::-1], n_features], bias=False)
        self.paths = nn.ModuleList(
            nn.Linear(a, b, bias=False)
            for a, b in [(n_features, d), (d, n_features), (n_features, d), (d, n_features)]
        )
        self.heads = nn.ModuleList(nn.Linear(features[0], n_genes) for _ in range(3))
        self.gate = nn.Linear(2 * d, d)
        self.beta = nn.Parameter(torch.zeros(()))
        self.centers = nn.Parameter(torch.randn(n_clusters, d))

    def dense(self, layers: nn.ModuleList, path: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        h = x
        for layer in layers[:-1]:
            h = nnf.leaky_relu(layer(h), self.slope)
        return layers[-1](h) + path(x), h

    @staticmethod
    def convolve(layers: nn.ModuleList, path: nn.Module, x: Tensor, matrix: Tensor) -> list[Tensor]:
        h, straight, outputs = x, path(x), []
        for layer in layers[:-1]:
            h, straight = matrix @ torch.tanh(layer(h)), matrix @ straight
            outputs.append(h)
        return [*outputs, matrix @ (layers[-1](h) + straight)]


def _rows(z: Tensor) -> Tensor:
    return z * torch.rsqrt((z**2).mean(1, keepdim=True) + 1e-12)


def _unit(z: Tensor) -> Tensor:
    return z * torch.rsqrt((z**2).sum(1, keepdim=True) + 1e-12)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    s = _unit(a) @ _unit(b).T
    n = len(s)
    diagonal = torch.diagonal(s)
    others = (s**2).sum() - (diagonal**2).sum()
    return ((diagonal - 1) ** 2).mean() + others / (n * (n - 1))


def _divergence(h: Tensor, propagated: Tensor) -> Tensor:
    p, q = nnf.softmax(h, 1), nnf.softmax(propagated, 1)
    log_m = torch.log((p + q) / 2)
    halves = p * (torch.log(p) - log_m) + q * (torch.log(q) - log_m)
    return 0.5 * halves.sum(1).mean()


def _zinb(x: Tensor, log_m: Tensor, log_t: Tensor, logit: Tensor) -> Tensor:
    log_t, log_m = log_t.clamp(-7, 9), log_m.clamp(-12, 12)
    t, log_sum = torch.exp(log_t), torch.logaddexp(log_t, log_m)
    stays = t * (log_t - log_sum)
    gammas = torch.lgamma(x + t) - torch.lgamma(t) - torch.lgamma(x + 1)
    other = nnf.logsigmoid(-logit) + gammas + stays + x * (log_m - log_sum)
    zero = torch.logaddexp(nnf.logsigmoid(logit), nnf.logsigmoid(-logit) + stays)
    return -torch.where(x > 0, other, zero).mean()


class Dense:
    """A training run: call :meth:`step`."""

    def __init__(
        self,
        features: np.ndarray,
        counts: np.ndarray,
        size_factors: np.ndarray,
        adjacency: np.ndarray,
        n_clusters: int,
        config: Config,
    ) -> None:
        torch.manual_seed(0)
        self.config, self.k, self.steps = config, n_clusters, 0
        self.losses = weights(config)
        self.x = torch.tensor(features)
        self.counts, self.sizes = torch.tensor(counts), torch.tensor(size_factors)
        self.a = torch.tensor(adjacency)
        alpha = config.augmentation.alpha
        # made once, in place: at most two matrices at a time
        system = torch.eye(len(features)) - (1 - alpha) * self.a
        self.diffusion = torch.linalg.inv(system).mul_(alpha)
        del system
        self.propagated = self.a @ self.x
        self.net = Networks(features.shape[1], counts.shape[1], n_clusters, config)
        self.adam = torch.optim.Adam(self.net.parameters(), lr=config.training.rate)
        self.target: Tensor | None = None

    def _sinkhorn(self, log_q: Tensor) -> Tensor:
        """Balanced transport to equal proportions, as many iterations as the library's at most."""
        setting = self.config.transport
        n = len(log_q)
        scores = log_q / setting.epsilon
        v = torch.zeros(self.k)
        wanted = float(np.log(n / self.k))
        for i in range(setting.max_iterations):
            u = -torch.logsumexp(scores + v, 1, keepdim=True)
            columns = torch.logsumexp(scores + u + v, 0)
            if i % 10 == 0 and float((columns.exp() / n - 1 / self.k).abs().sum()) < 1e-5:
                break
            v = v + wanted - columns
        return torch.softmax(scores + v, 1)

    def _loss(self) -> tuple[Tensor, Tensor]:
        net, x, losses = self.net, self.x, self.losses
        noise = self.config.augmentation.feature_noise
        views = [x * (1 + noise * torch.randn_like(x)) for _ in range(2)]
        f = [net.dense(net.encoder, net.paths[0], view)[0] for view in views]
        matrices = [self.a, self.diffusion]
        layers = [
            net.convolve(net.graph_encoder, net.paths[2], view, matrix)
            for view, matrix in zip(views, matrices, strict=True)
        ]
        g = [outputs[-1] for outputs in layers]
        z_f, z_g = _rows((f[0] + f[1]) / 2), _rows((g[0] + g[1]) / 2)
        a = torch.sigmoid(net.gate(torch.cat([z_f, z_g], 1)))
        z = _rows(self.a @ (a * z_f + (1 - a) * z_g))
        z = _rows(z + net.beta * (torch.softmax(z @ z.T, 1) @ z))

        distance = ((z[:, None] - net.centers[None]) ** 2).sum(2)
        log_q = torch.log_softmax(-torch.log1p(distance), 1)
        q = log_q.exp()
        decoded, _ = net.dense(net.decoder, net.paths[1], z)
        rows = torch.randint(len(x), (self.config.training.zinb_batch,))
        hidden = net.dense(net.decoder, net.paths[1], z[rows])[1]
        log_m, log_t, logit = (head(hidden) for head in net.heads)
        log_m = log_m + torch.log(self.sizes[rows])[:, None]
        again = net.convolve(net.graph_decoder, net.paths[3], z, self.a)[-1]
        share = q / q.sum(0)
        loss: Any = losses["features"] * nnf.mse_loss(decoded, x)
        loss += losses["propagated_features"] * nnf.mse_loss(again, self.propagated)
        loss += losses["adjacency"] * nnf.mse_loss(torch.sigmoid(z @ z.T), self.a)
        loss += losses["zinb"] * _zinb(self.counts[rows].float(), log_m, log_t, logit)
        loss += losses["cell_correlation_features"] * _correlation(f[0], f[1])
        loss += losses["cell_correlation_graph"] * _correlation(g[0], g[1])
        for one, two in (f, g):
            loss += losses["latent_correlation"] * _correlation(
                (share.T @ one).T, (share.T @ two).T
            )
        parts = [
            _divergence(h, matrix @ h)
            for outputs, matrix in zip(layers, matrices, strict=True)
            for h in outputs
        ]
        loss += losses["propagation"] * torch.stack(parts).mean()
        if self.target is None or self.steps % self.config.transport.refresh_every == 0:
            self.target = self._sinkhorn(log_q.detach())
        target = self.target
        kl = (target * (torch.log(target.clamp_min(1e-30)) - log_q)).sum(1).mean()
        return loss + losses["clustering"] * kl, log_q

    def step(self) -> float:
        """Take one step and return its loss."""
        self.adam.zero_grad(set_to_none=True)
        loss, _ = self._loss()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), self.config.training.gradient_norm)
        self.adam.step()
        self.steps += 1
        return float(loss.detach())

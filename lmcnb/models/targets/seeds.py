"""Seeds: binomial counts on 21 plates with a random effect for each (Crowder 1978).

    tau ~ Gamma(0.01, rate 0.01);  a0, a1, a2, a12 ~ N(0, 10^2);  b_j ~ N(0, 1 / tau)
    r_j ~ Binomial(N_j, sigmoid(a0 + a1 X1_j + a2 X2_j + a12 X1_j X2_j + b_j))

Coordinates: (a0, a1, a12, a2, b_1 ... b_21, t) with t = log tau, so the Jacobian adds t.
Guaranteed: fully normalised in (r, z), binomial coefficients included.
"""

from __future__ import annotations

from math import lgamma, log, pi

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import logsigmoid

from lmcnb.errors import UsageError
from lmcnb.kernels.gradients import Product

SHAPE = RATE = 0.01
PRIOR_VARIANCE = 100.0


class Seeds:
    """Log p(r, z) of the random-effects regression, z `(..., dim)`, dim = 5 + number of plates.

    Args:
        r: germinated seeds per plate.
        n: seeds per plate.
        x1: type of seed, 0 or 1.
        x2: root extract, 0 or 1.
        dtype: of the computation.
        device: of the computation.
    """

    name = "seeds"
    log_normalizer: float | None = None

    def __init__(
        self,
        r: ArrayLike,
        n: ArrayLike,
        x1: ArrayLike,
        x2: ArrayLike,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        hits, trials, type_, extract = (np.asarray(a, dtype=np.float64) for a in (r, n, x1, x2))
        plates = len(hits)
        if not plates or any(a.shape != (plates,) for a in (hits, trials, type_, extract)):
            raise UsageError("target 'seeds': r, n, x1 and x2 must be lists of the same length")
        if (hits < 0).any() or (hits > trials).any():
            raise UsageError("target 'seeds': every r must lie between 0 and its n")
        fixed = np.stack([np.ones(plates), type_, type_ * extract, extract])
        to_logits = np.concatenate([fixed, np.eye(plates), np.zeros((1, plates))])

        def store(array: ArrayLike) -> Tensor:
            return torch.tensor(np.asarray(array), dtype=dtype, device=device)

        self.dim = plates + 5
        self.plates = plates
        self.hits, self.trials, self.fixed = store(hits), store(trials), store(fixed)
        self._to_logits, self._to_plates = store(to_logits), store(to_logits.T.copy())
        effect = np.r_[np.zeros(4), np.ones(plates), 0.0]  # 1 on the coordinates b
        self._effect = store(effect)
        self._weight = store(np.r_[np.full(4, 1 / PRIOR_VARIANCE), np.zeros(plates + 1)])
        self._slope = 0.5 * plates + SHAPE  # of t in the log density
        binomial = sum(
            lgamma(k + 1) - lgamma(h + 1) - lgamma(k - h + 1)
            for h, k in zip(hits, trials, strict=True)
        )
        self._constant = (  # binomial coefficients, N(a), Gamma(tau)
            binomial - 2 * log(2 * pi * PRIOR_VARIANCE) + SHAPE * log(RATE) - lgamma(SHAPE)
        )

    def __call__(self, z: Tensor) -> Tensor:
        """Log p(r | a, b) + log p(a) + log p(b | tau) + log p(tau) + t; `(..., dim)` -> `(...)`."""
        a, b, t = z[..., :4], z[..., 4:-1], z[..., -1]
        logits = a @ self.fixed + b
        misses = self.trials - self.hits
        likelihood = (self.hits * logsigmoid(logits) + misses * logsigmoid(-logits)).sum(-1)
        prior_b = 0.5 * (self.plates * (t - log(2 * pi)) - t.exp() * b.square().sum(-1))
        return likelihood + prior_b + self.log_prior(a, t)

    def log_prior(self, a: Tensor, t: Tensor) -> Tensor:
        """Log p(a) + log p(tau) + t + log binomial coefficients, a `(..., 4)`, t `(...)`."""
        gamma = SHAPE * t - RATE * t.exp()
        return gamma - 0.5 / PRIOR_VARIANCE * a.square().sum(-1) + self._constant

    def linearize(self, z: Tensor) -> tuple[Tensor, Product]:
        """Score and Hessian product.

        Logits l = z M, residual e = r - N sigmoid(l), tau = exp(t):
        score = e M^T - (a / 100, tau b, 0), and for t: 21/2 + 0.01 - tau (|b|^2 / 2 + 0.01).
        """
        flat = z.reshape(-1, self.dim)
        p = torch.sigmoid(flat @ self._to_logits)
        residual = torch.addcmul(self.hits, self.trials, p, value=-1)
        tau = flat[:, -1:].exp()
        weight = torch.addcmul(self._weight, self._effect, tau)
        b = flat[:, 4:-1]
        energy = torch.linalg.vecdot(b, b).mul_(0.5).add_(RATE).mul_(tau[:, 0])
        score = torch.addcmul(residual @ self._to_plates, weight, flat, value=-1)
        score[:, -1] = self._slope - energy

        def product(vector: Tensor) -> Tensor:
            v = vector.reshape(-1, self.dim)
            change = (v @ self._to_logits).mul_(torch.addcmul(p, p, p, value=-1)).mul_(self.trials)
            v_t = v[:, -1:]
            tau_b = tau * b
            result = torch.addmm(weight * v, change, self._to_plates).neg_()
            result[:, 4:-1].addcmul_(tau_b, v_t, value=-1)
            result[:, -1] = -torch.addcmul(
                torch.linalg.vecdot(tau_b, v[:, 4:-1]), energy, v_t[:, 0]
            )
            return result.view(vector.shape)

        return score.view(z.shape), product

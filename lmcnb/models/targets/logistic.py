"""Bayesian logistic regression with a standard normal prior on every weight.

    w ~ N(0, I_d),  y_i ~ Bernoulli(sigmoid(x_i . w)),  x_i = (1, standardised features)

Guaranteed: the log density is fully normalised (it is log p(y, w)), stable for any logit, and
`linearize` is its exact gradient and Hessian product. The constant column comes first.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn.functional import softplus

from lmcnb.errors import UsageError
from lmcnb.kernels.gradients import Product

LOG_2PI = float(np.log(2 * np.pi))
MANY = 32
"""From so many chains on, columns of zeros up to a multiple of 4 save a sixth of a product."""
sigmoid_backward = torch.ops.aten.sigmoid_backward.default  # (g, p) -> g p (1 - p), in one pass


def standardise(features: ArrayLike) -> NDArray[np.float64]:
    """Columns `(n, p)` with mean 0 and population standard deviation 1; a constant column is 0."""
    columns = np.asarray(features, dtype=np.float64)
    spread = columns.std(axis=0)
    constant = columns.max(axis=0) == columns.min(axis=0)
    centred = columns - columns.mean(axis=0)
    centred[:, constant] = 0.0
    return centred / np.where(constant, 1.0, spread)


class LogisticRegression:
    """Log p(y, w) for weights w, `(..., dim)`, dim = features + 1.

    Args:
        features: raw features `(n, p)`; they are standardised here.
        labels: `(n,)`, either in {-1, +1} or in {0, 1}.
        name: what records and messages call the target.
        dtype: of the computation.
        device: of the computation.
    """

    log_normalizer: float | None = None

    def __init__(
        self,
        features: ArrayLike,
        labels: ArrayLike,
        *,
        name: str = "logistic",
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        x = np.asarray(features, dtype=np.float64)
        y = np.asarray(labels, dtype=np.float64)
        if x.ndim != 2 or y.shape != x.shape[:1] or x.size == 0:
            raise UsageError(
                f"target {name!r}: features have shape {x.shape} and labels {y.shape}; "
                "they must be (n, p) and (n,)"
            )
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise UsageError(f"target {name!r}: features and labels must be finite numbers")
        if not (np.isin(y, (-1, 1)).all() or np.isin(y, (0, 1)).all()):
            raise UsageError(f"target {name!r}: labels must all be -1 or +1, or all be 0 or 1")
        design = np.concatenate([np.ones((len(x), 1)), standardise(x)], axis=1)
        signed = design * np.where(y > 0, 1.0, -1.0)[:, None]  # row i: x_i if y_i = 1, else -x_i
        self.name = name
        self.dim = design.shape[1]
        self._minus_columns = torch.tensor(-signed.T.copy(), dtype=dtype, device=device)
        self._rows = torch.tensor(signed, dtype=dtype, device=device)
        padded = np.pad(signed, ((0, 0), (0, -self.dim % 4)))
        self._padded = torch.tensor(padded, dtype=dtype, device=device)
        self._constant = -0.5 * self.dim * LOG_2PI

    def __call__(self, z: Tensor) -> Tensor:
        """sum_i log sigmoid(s_i x_i . w) + log N(w; 0, I), s_i = +1 or -1; gives `(...)`."""
        loss = softplus(z @ self._minus_columns, threshold=40).sum(-1)  # exact beyond 40
        return torch.sub(self._constant - loss, z.square().sum(-1), alpha=0.5)

    def linearize(self, z: Tensor) -> tuple[Tensor, Product]:
        """Score X^T (y - sigmoid(X w)) - w, and v -> -(X^T diag(p (1 - p)) X v + v)."""
        if z.ndim != 2:
            score, flat_product = self.linearize(z.reshape(-1, self.dim))
            return score.view(z.shape), lambda v: flat_product(v.reshape(score.shape)).view(v.shape)
        wrong = torch.mm(z, self._minus_columns).sigmoid_()  # probability of the other label

        def product(vector: Tensor) -> Tensor:
            change = sigmoid_backward(torch.mm(vector, self._minus_columns), wrong)
            return self._sum_rows(change, vector)

        return self._sum_rows(wrong, z), product

    def _sum_rows(self, weights: Tensor, minus: Tensor) -> Tensor:
        """`weights` `(chains, n)` times the rows x_i, less `minus`."""
        if len(minus) < MANY:
            return torch.addmm(minus, weights, self._rows, beta=-1)
        return torch.mm(weights, self._padded)[:, : self.dim] - minus


def breast_cancer(
    dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> LogisticRegression:
    """The 569 x 30 breast cancer table that ships with scikit-learn; +1 is benign, dim 31."""
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer()
    return LogisticRegression(
        table.data, table.target, name="breast_cancer", dtype=dtype, device=device
    )

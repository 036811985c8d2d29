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
from torch.nn.functional import logsigmoid

from lmcnb.errors import UsageError
from lmcnb.kernels.gradients import Product

LOG_2PI = float(np.log(2 * np.pi))


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
        self._rows = torch.tensor(signed, dtype=dtype, device=device)
        self._minus_columns = (-self._rows.T).contiguous()
        self._constant = -0.5 * self.dim * LOG_2PI

    def __call__(self, z: Tensor) -> Tensor:
        """sum_i log sigmoid(s_i x_i . w) + log N(w; 0, I), s_i = +1 or -1; gives `(...)`."""
        likelihood = logsigmoid(z @ self._rows.T).sum(-1)
        return likelihood - 0.5 * z.square().sum(-1) + self._constant

    def linearize(self, z: Tensor) -> tuple[Tensor, Product]:
        """Score X^T (y - sigmoid(X w)) - w, and v -> -(X^T diag(p (1 - p)) X v + v)."""
        flat = z.reshape(-1, self.dim)
        wrong = torch.sigmoid(flat @ self._minus_columns)  # probability of the other label
        score = torch.addmm(flat, wrong, self._rows, beta=-1)

        def product(vector: Tensor) -> Tensor:
            direction = vector.reshape(-1, self.dim)
            variance = torch.addcmul(wrong, wrong, wrong, value=-1)
            change = (direction @ self._minus_columns).mul_(variance)
            return torch.addmm(direction, change, self._rows, beta=-1).view(vector.shape)

        return score.view(z.shape), product


def breast_cancer(
    dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> LogisticRegression:
    """The 569 x 30 breast cancer table that ships with scikit-learn; +1 is benign, dim 31."""
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer()
    return LogisticRegression(
        table.data, table.target, name="breast_cancer", dtype=dtype, device=device
    )

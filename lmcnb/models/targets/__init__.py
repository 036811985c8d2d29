"""Target densities: callables `(..., dim) -> (...)` with a hand-written score and Hessian product.

Every target has `name`, `dim`, `__call__`, `linearize(z) -> (score, product)` and
`log_normalizer` (a float where log Z is known in advance, else None). Models know nothing of data
files: `make_target` takes the loaded table, as `lmcnb.lab.data.load(name)` returns it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from lmcnb.errors import UsageError
from lmcnb.models.targets.brownian import Brownian
from lmcnb.models.targets.logistic import LogisticRegression, breast_cancer
from lmcnb.models.targets.lorenz import Lorenz
from lmcnb.models.targets.seeds import Seeds
from lmcnb.models.targets.toy import Banana, Gaussian, GaussianMixture, Ring

__all__ = [
    "NEEDS_DATA",
    "TARGETS",
    "Banana",
    "Brownian",
    "Gaussian",
    "GaussianMixture",
    "LogisticRegression",
    "Lorenz",
    "Ring",
    "Seeds",
    "breast_cancer",
    "make_target",
]

Target = LogisticRegression | Seeds | Brownian | Lorenz | Gaussian | GaussianMixture | Banana | Ring

LOGISTIC = ("ionosphere", "sonar", "a1a", "australian", "madelon")
NEEDS_DATA = (*LOGISTIC, "seeds", "brownian", "lorenz")


def _gaussian(dtype: torch.dtype, device: torch.device | str) -> Gaussian:
    """Five correlated coordinates of unequal scale, log Z = 0.7."""
    scales = torch.tensor([0.3, 0.6, 1.0, 1.5, 2.0], dtype=torch.float64)
    lag = (torch.arange(5)[:, None] - torch.arange(5)).abs()
    covariance = 0.7**lag * scales[:, None] * scales
    mean = torch.tensor([1.0, -1.0, 0.5, 0.0, 2.0], dtype=torch.float64)
    return Gaussian(mean, covariance, log_normalizer=0.7, dtype=dtype, device=device)


def _mixture(dtype: torch.dtype, device: torch.device | str) -> GaussianMixture:
    """Three overlapping components in the plane, log Z = 1.3."""
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    means = torch.tensor([[-1.5, 0.0], [1.5, 1.0], [1.0, -1.5]], dtype=torch.float64)
    covariances = torch.tensor(
        [[[0.5, 0.2], [0.2, 0.4]], [[0.3, 0.0], [0.0, 0.8]], [[0.6, -0.3], [-0.3, 0.4]]],
        dtype=torch.float64,
    )
    return GaussianMixture(
        weights, means, covariances, log_normalizer=1.3, dtype=dtype, device=device
    )


_BUILT_IN: dict[str, Callable[[torch.dtype, torch.device | str], Target]] = {
    "breast_cancer": breast_cancer,
    "gaussian": _gaussian,
    "mixture": _mixture,
    "banana": lambda dtype, device: Banana(),
    "ring": lambda dtype, device: Ring(),
}

_PLAIN = ("gaussian", "mixture", "banana", "ring")
_FIELDS = {
    "seeds": ("r", "n", "x1", "x2"),
    "brownian": ("observations",),
    "lorenz": ("observations",),
}

TARGETS = (*NEEDS_DATA, *_BUILT_IN)


def make_target(
    name: str,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    data: Mapping[str, Any] | None = None,
) -> Target:
    """The target called `name`.

    Args:
        name: one of `TARGETS`; with a table as data, any name makes a logistic regression.
        dtype: of the computation.
        device: of the computation.
        data: what `lmcnb.lab.data.load(name)` or `load_csv(path)` gives: x and y for a table; r, n,
            x1 and x2 for seeds; observations (NaN where missing) for brownian and lorenz. The names
            outside `NEEDS_DATA` do without.

    Raises:
        UsageError: an unknown name, or data that are absent or lack a field.
    """
    if data is None:
        if name in NEEDS_DATA:
            raise UsageError(f"target {name!r} needs its data: pass data=load({name!r})")
        if name not in _BUILT_IN:
            raise UsageError(f"target {name!r} does not exist; choose one of {', '.join(TARGETS)}")
        return _BUILT_IN[name](dtype, device)
    if name in _PLAIN:
        raise UsageError(f"target {name!r} takes no data")
    wanted = _FIELDS.get(name, ("x", "y"))
    if missing := [key for key in wanted if key not in data]:
        raise UsageError(
            f"target {name!r}: the data lack {', '.join(missing)}; they have {', '.join(data)}"
        )
    arrays = [data[key] for key in wanted]
    if name == "seeds":
        return Seeds(*arrays, dtype=dtype, device=device)
    if name == "brownian":
        return Brownian(*arrays, dtype=dtype, device=device)
    if name == "lorenz":
        return Lorenz(*arrays, dtype=dtype, device=device)
    return LogisticRegression(*arrays, name=name, dtype=dtype, device=device)

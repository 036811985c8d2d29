"""An energy-based model whose partition function is known: a quadratic f.

    f(x) = -x^T A x / 2 + b^T x,   p(x) = exp(f(x)) N(x; 0, s_0^2 I) / Z = N(m, L^-1)
    L = A + I / s_0^2,   m = L^-1 b,   log Z = -D log s_0 - log|L| / 2 + b^T m / 2

Without the reference, L = A and log Z has (D / 2) log 2 pi in the place of -D log s_0. Gradients
of the log likelihood of data with mean x' and second moment E[x x^T]:

    d/db = x' - m,   d/dA = -(E[x x^T] - L^-1 - m m^T) / 2

Units: nats. A is used as its symmetric part, so its gradient is the symmetric one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lmcnb.errors import UsageError


class QuadraticEnergy(nn.Module):
    """f, with parameters A `(dim, dim)` and b `(dim)`."""

    def __init__(self, A: Tensor, b: Tensor) -> None:
        super().__init__()
        self.A, self.b = nn.Parameter(A.clone()), nn.Parameter(b.clone())

    @property
    def symmetric(self) -> Tensor:
        """(A + A^T) / 2."""
        return 0.5 * (self.A + self.A.mT)

    def forward(self, x: Tensor) -> Tensor:
        """f `(...)` of points `(..., dim)`."""
        return -0.5 * ((x @ self.symmetric) * x).sum(-1) + x @ self.b

    @torch.no_grad()
    def input_score(self, x: Tensor) -> Tensor:
        """Gradient of f by x, `(..., dim)`."""
        return self.b - x @ self.symmetric

    def moments(self, reference: float | None) -> tuple[Tensor, Tensor]:
        """Mean `(dim)` and precision `(dim, dim)` of the model.

        Raises:
            UsageError: the precision is not positive definite, and there is no such density.
        """
        L = self.symmetric
        if reference is not None:
            L = L + torch.eye(len(self.b), dtype=L.dtype, device=L.device) / reference**2
        if float(torch.linalg.eigvalsh(L.detach())[0]) <= 0:
            raise UsageError(
                f"A with reference={reference}: exp(f) cannot be normalized, its precision has an "
                "eigenvalue of at most zero"
            )
        return torch.linalg.solve(L, self.b), L

    def log_normalizer(self, reference: float | None) -> Tensor:
        """log Z, of the normalized reference or of none."""
        m, L = self.moments(reference)
        dim = len(self.b)
        base = 0.5 * dim * math.log(2 * math.pi)
        if reference is not None:
            base = -dim * math.log(reference)
        return base - 0.5 * torch.logdet(L) + 0.5 * self.b @ m

    def sample(self, n: int, reference: float | None, stream: torch.Generator) -> Tensor:
        """`n` exact samples `(n, dim)`, detached."""
        with torch.no_grad():
            m, L = self.moments(reference)
            e = torch.randn(n, len(m), generator=stream, dtype=L.dtype, device=stream.device)
            return (
                m + torch.linalg.solve_triangular(torch.linalg.cholesky(L).mT, e.mT, upper=True).mT
            )

"""The same log weights and gradients as `langevin_diffusion`, by a hand-written reverse sweep.

What makes it fast: the target is linearized once per visited state (K + 1 scores and K + 1 Hessian
products, no double autograd); everything that is not sequential (densities of the refreshes,
network, schedule) is evaluated once over all bridges; independent runs (seeds, learning rates)
are rows of one batch, each with its own parameters and network; no autograd graph is built.

Both densities of one transition meet in a form without cancellation. With forward noise xi and
p = xi + (noise that the backward kernel would need, sign reversed),

    log m_B - log m_F = -(d/2) log(v_B / v_F) + xi.p - |p|^2 / 2,
    overdamped:   p = -sqrt(eps/2) (g_k(z) + g_k(z') + s)
    underdamped:  p = alpha rho + (1 - beta) xi + delta drift - varsigma s,
                  alpha = (1 - c_F c_B)/sqrt(v_B),  beta = c_B sqrt(v_F/v_B),
                  delta = (1 - c_B)/sqrt(v_B),      varsigma = scale/sqrt(v_B).

Guaranteed: equal to the plain-autograd reference to rounding, value and every gradient, for every
method (tests, 1e-9 in float64); each row equals the same run alone. On CUDA no step waits for the
host. Arrays are `(K or K + 1, rows, chains, dim)`; names with a bar in comments are adjoints.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from lmcnb.kernels.gradients import LogDensity, Product, linearize
from lmcnb.methods.langevin_diffusion import Method, temperature_matrix
from lmcnb.models import score_network

LOG_2PI = math.log(2 * math.pi)


class Refresh(NamedTuple):
    """Coefficients of one underdamped transition, each `(rows,)`."""

    c: Tensor  # c_F
    root: Tensor  # sqrt(v_F)
    alpha: Tensor
    beta1: Tensor  # 1 - beta
    delta: Tensor
    varsigma: Tensor
    log_ratio: Tensor  # log(v_B / v_F)


def refresh_coefficients(m: Method, x: Tensor) -> tuple[Refresh, Refresh]:
    """Coefficients and their derivatives in x, which is eta ("persistence") or a = gamma eps."""
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    if m.forward == "euler":
        root = torch.sqrt(2 * x)
        slope = 1 / root
        value = Refresh(1 - x, root, root * (1 - x / 2), x, root / 2, root, zero)
        return value, Refresh(-one, slope, slope * (1 - 1.5 * x), one, slope / 2, slope, zero)
    eta, deta = (x, one) if m.forward == "persistence" else (torch.exp(-x), -torch.exp(-x))
    v = (1 - eta) * (1 + eta) if m.forward == "persistence" else -torch.expm1(-2 * x)
    root, dv = torch.sqrt(v), -2 * eta * deta
    droot = dv / (2 * root)
    if m.backward == "euler":
        back, dback = torch.sqrt(2 * x), 1 / torch.sqrt(2 * x)
        ratio, dratio = root / back, droot / back - root * dback / back**2
        kept, dkept = eta * (1 - x), deta * (1 - x) - eta
        alpha, dalpha = (1 - kept) / back, (-dkept - (1 - kept) * dback / back) / back
        value = Refresh(
            eta, root, alpha, 1 - (1 - x) * ratio, back / 2, back, -2 * torch.log(ratio)
        )
        slopes = (
            deta,
            droot,
            dalpha,
            ratio - (1 - x) * dratio,
            dback / 2,
            dback,
            -2 * dratio / ratio,
        )
        return value, Refresh(*slopes)
    if m.scale == "2(1-eta)":
        varsigma = 2 * (1 - eta) / root
        dvarsigma = -2 * deta / root - varsigma * droot / root
    else:
        varsigma, dvarsigma = 2 / root, -2 * droot / root**2
    value = Refresh(eta, root, root, 1 - eta, zero, varsigma, zero)
    return value, Refresh(deta, droot, droot, -deta, zero, dvarsigma, zero)


class Engine:
    """Buffers and code for one method, target, number of bridges, rows and chains.

    `forward` fills the buffers and returns w; `backward`, called after it, the gradient of
    sum_rows mean_chains(-w). Calling `forward` again overwrites what `backward` reads.
    """

    def __init__(
        self,
        m: Method,
        log_density: LogDensity,
        dim: int,
        bridges: int,
        rows: int,
        chains: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.m, self.log_density = m, log_density
        self.K, self.d = bridges, dim
        self.overdamped, self.euler = m.move == "overdamped", m.move == "euler"
        self.kick1, self.kick2 = (0.5, 0.5) if m.move == "leapfrog" else (1.0, 0.0)

        def empty(count: int, last: int = dim) -> tuple[Tensor, list[Tensor]]:
            """A buffer over the chain and its slices `(rows * chains, last)`, made once."""
            whole = torch.empty(count, rows, chains, last, dtype=dtype, device=device)
            return whole, list(whole.view(count, rows * chains, last).unbind(0))

        K = bridges
        self.noise, _ = empty(K + 2)
        self.xi = self.noise[2:]
        (self.z, self.z_), (self.h, self.h_), (self.move, self.move_) = (
            empty(K + 1),
            empty(K),
            empty(K),
        )
        (self.zbar, self.zbar_), (self.hbar, self.hbar_) = empty(K + 1), empty(K)
        (self.Sbar, self.Sbar_) = empty(K + 1)
        (self.to_z, self.to_z_), (self.to_S, self.to_S_), (self.to_h, self.to_h_) = (
            empty(K + 1),
            empty(K + 1),
            empty(K),
        )
        (self.on_S, self.on_S_), (self.on_z, self.on_z_) = empty(K, 1), empty(K)
        (self.eps, (self.eps_,)), (self.c, (self.c_,)) = empty(1, 1), empty(1, 1)
        self.scores: list[Tensor] = [self.z_[0]] * (K + 1)
        self.products: list[Product] = [lambda v: v] * (K + 1)
        self.matrix = temperature_matrix(K, self.noise)
        self.network: score_network.Network | None = None
        if m.network is not None and K > 0:
            n_input = 2 * dim if m.network == "z and rho" else dim
            self.network = score_network.Network(
                n_input, dim, (K, rows, chains, dim), dtype, device
            )

    # --------------------------------------------------------------------------------- forward

    def forward(self, p: Mapping[str, Tensor], noise: Tensor) -> Tensor:
        """Log weights `(rows, chains)` for parameters `(rows, ...)`, noise `(rows, K+2, chains, dim)`."""
        self.params = p
        self.noise.copy_(noise.transpose(0, 1))
        self.sigma = torch.exp(p["log_sigma"])[:, None]  # (rows, 1, dim)
        self.precision = self.sigma**-2
        self.mu_precision = p["mu"][:, None] * self.precision
        self.beta = (self.matrix @ p["knots"].mT / p["knots"].sum(1))[
            ..., None, None
        ]  # (K, rows, 1, 1)
        self.eps.copy_(p["step_size"][:, :, None])
        torch.addcmul(p["mu"][:, None], self.sigma, self.noise[0], out=self.z[0])
        w = (
            0.5 * (self.noise[0] ** 2).sum(-1)
            + p["log_sigma"].sum(1, keepdim=True)
            + 0.5 * self.d * LOG_2PI
        )
        if self.K > 0:
            w += self._overdamped() if self.overdamped else self._underdamped()
        else:
            self._visit(0)
        w += self.log_density(self.z[-1])
        return w

    def _visit(self, j: int) -> Tensor:
        """Score of the target at state j; keeps its Hessian product for the reverse sweep."""
        score, self.products[j] = linearize(self.log_density, self.z_[j])
        self.scores[j] = score
        return score

    def _after_chain(self) -> None:
        """Scores of the target and of q at all states at once."""
        self._visit(self.K)
        self.S = torch.stack(self.scores).view(self.z.shape)
        self.Q = torch.addcmul(self.mu_precision, self.z, self.precision, value=-1)

    def _kicks(self, factor: float) -> tuple[Tensor, Tensor]:
        """factor * eps * (beta, 1 - beta): weights of the two scores, `(K, rows, 1 or chains, 1)`."""
        on_target = factor * self.eps * self.beta
        return on_target, factor * self.eps - on_target

    def _overdamped(self) -> Tensor:
        """z' = z + e_S S + e_Q Q + sqrt(2 eps) xi, as  z' = on_z z + on_S S + move."""
        e_S, e_Q = self._kicks(1.0)
        torch.addcmul(e_Q * self.mu_precision, self.xi, torch.sqrt(2 * self.eps), out=self.move)
        torch.addcmul(torch.ones_like(self.precision), e_Q, self.precision, value=-1, out=self.on_z)
        self.on_S.copy_(e_S)
        z, on_z, on_S, move = self.z_, self.on_z_, self.on_S_, self.move_
        for k in range(self.K):
            torch.addcmul(move[k], self._visit(k), on_S[k], out=z[k + 1]).addcmul_(z[k], on_z[k])
        self._after_chain()
        self.G = torch.lerp(self.Q[:-1] + self.Q[1:], self.S[:-1] + self.S[1:], self.beta)
        if self.network is not None:
            self.s = self.network.forward(self.params, self.z[1:])
            self.G += self.s
        self.p = self.G * -torch.sqrt(0.5 * self.eps)
        return self._ratio()

    def _underdamped(self) -> Tensor:
        """h = c rho + sqrt(v) xi + e_S S + e_Q Q, z' = z + eps h, rho' = h + f_S S' + f_Q Q'.

        The two kicks at one state are one in the loop:  h' = c h + on_S S + on_z z + move.
        """
        x = self.params["damping"] * self.params["step_size"]
        x = self.params["persistence"] if self.m.forward == "persistence" else x
        self.refresh, self.slopes = refresh_coefficients(self.m, x[:, :, None])
        r, (e_S, e_Q), (f_S, f_Q) = self.refresh, self._kicks(self.kick1), self._kicks(self.kick2)
        self.c.copy_(r.c)
        self.on_S.copy_(e_S)
        self.on_S[1:].addcmul_(f_S[:-1], r.c)
        on_Q = e_Q.clone()
        on_Q[1:].addcmul_(f_Q[:-1], r.c)
        torch.mul(on_Q, -self.precision, out=self.on_z)
        torch.addcmul(on_Q * self.mu_precision, self.xi, r.root, out=self.move)
        self.move[0].addcmul_(self.noise[1], r.c)
        z, h, on_z, on_S, move, c, eps = (
            self.z_,
            self.h_,
            self.on_z_,
            self.on_S_,
            self.move_,
            self.c_,
            self.eps_,
        )
        for k in range(self.K):
            torch.addcmul(move[k], self._visit(k), on_S[k], out=h[k]).addcmul_(z[k], on_z[k])
            if k > 0:
                h[k].addcmul_(h[k - 1], c)
            torch.addcmul(z[k], h[k], eps, out=z[k + 1])
        self._after_chain()
        self.rho = torch.cat([self.noise[1:2], self.h])
        if self.kick2:
            self.rho[1:].addcmul_(self.S[1:], f_S).addcmul_(self.Q[1:], f_Q)
        self.p = torch.mul(self.rho[:-1], r.alpha).addcmul_(self.xi, r.beta1)
        self.u = self.h if self.euler else torch.mul(self.xi, r.root).addcmul_(self.rho[:-1], r.c)
        if self.euler:
            self.drift = self.eps * torch.lerp(self.Q[:-1], self.S[:-1], self.beta)
            self.p.addcmul_(self.drift, r.delta)
        if self.network is not None:
            self.s = self.network.forward(self.params, self.z[:-1], self.u)
            self.p.addcmul_(self.s, r.varsigma, value=-1)
        momenta = 0.5 * ((self.noise[1] ** 2).sum(-1) - (self.rho[-1] ** 2).sum(-1))
        return self._ratio() + momenta - (0.5 * self.K * self.d) * r.log_ratio[:, 0]

    def _ratio(self) -> Tensor:
        """sum_k xi.p - |p|^2/2, `(rows, chains)`; its derivative in p is xi - p."""
        return (self.p * (self.xi - 0.5 * self.p)).sum((0, 3))

    # -------------------------------------------------------------------------------- backward

    def backward(self, gradient: Mapping[str, Tensor]) -> None:
        """Write the gradient of sum_rows mean_chains(-w) into `gradient`, shaped as the parameters."""
        wbar = -1.0 / self.xi.shape[2]
        for name in ("mu", "log_sigma", "step_size", "damping", "persistence", "knots"):
            gradient[name].zero_()
        torch.mul(self.scores[-1], wbar, out=self.zbar_[-1])  # through log p~(z_K)
        if self.K > 0:
            pbar = (self.xi - self.p).mul_(wbar)
            (self._overdamped_sweep if self.overdamped else self._underdamped_sweep)(
                pbar, wbar, gradient
            )
        gradient["mu"] += self.zbar[0].sum(1)
        gradient["log_sigma"] += (self.zbar[0] * self.noise[0]).sum(1) * self.sigma[:, 0] - 1.0

    def _overdamped_sweep(self, pbar: Tensor, wbar: float, gradient: Mapping[str, Tensor]) -> None:
        """Gbar is what p sends to both scores of a step and to s."""
        Gbar = pbar.mul_(-torch.sqrt(0.5 * self.eps))
        on_S = self.beta * Gbar
        on_z = (on_S - Gbar) * self.precision
        for to, on in ((self.to_S, on_S), (self.to_z, on_z)):
            to[:-1] = on
            to[-1] = 0.0
            to[1:] += on
        if self.network is not None:
            self.to_z[1:] += self.network.backward(self.params, Gbar, gradient)[0]
        zbar, Sbar = self.zbar_, self.Sbar_
        Sbar[-1].copy_(self.to_S_[-1])
        zbar[-1].add_(self.to_z_[-1]).add_(self.products[-1](Sbar[-1]))
        for j in range(self.K - 1, -1, -1):
            torch.addcmul(self.to_S_[j], zbar[j + 1], self.on_S_[j], out=Sbar[j])
            torch.addcmul(self.to_z_[j], zbar[j + 1], self.on_z_[j], out=zbar[j])
            zbar[j].add_(self.products[j](Sbar[j]))
        arrived, eps = self.zbar[1:], self.params["step_size"][:, 0]
        moved = self._dot(arrived, self._bridge(slice(None, -1)))
        drawn = self._dot(arrived, self.xi) / torch.sqrt(2 * eps)
        gradient["step_size"][:, 0] = moved + drawn + 0.5 * self._dot(Gbar, self.G) / eps
        self._schedule(arrived * self.eps + Gbar, Gbar, gradient)

    def _underdamped_sweep(self, pbar: Tensor, wbar: float, gradient: Mapping[str, Tensor]) -> None:
        """Adjoints that p, s and w send to rho, u and the drift; then the chain, last state first."""
        r, (f_S, f_Q) = self.refresh, self._kicks(self.kick2)
        from_z = from_u = None
        if self.network is not None:
            from_z, from_u = self.network.backward(self.params, pbar * -r.varsigma, gradient)
        to_rho = torch.empty_like(self.rho)
        torch.mul(pbar, r.alpha, out=to_rho[:-1])
        torch.mul(self.rho[-1], -wbar, out=to_rho[-1])
        if from_u is not None and not self.euler:
            to_rho[:-1].addcmul_(from_u, r.c)
        self.to_h.copy_(to_rho[1:])
        self.to_S.zero_()
        self.to_z.zero_()
        if self.kick2:
            torch.mul(to_rho[1:], f_S, out=self.to_S[1:])
            torch.mul(to_rho[1:], -f_Q * self.precision, out=self.to_z[1:])
        if from_z is not None:
            self.to_z[:-1] += from_z
        if self.euler:
            g1 = pbar * (r.delta * self.eps)
            self.to_S[:-1].addcmul_(g1, self.beta)
            self.to_z[:-1].addcmul_(g1, (self.beta - 1) * self.precision)
            if from_u is not None:
                self.to_h += from_u
        zbar, hbar, Sbar = self.zbar_, self.hbar_, self.Sbar_
        on_S, on_z, c, eps = self.on_S_, self.on_z_, self.c_, self.eps_
        for j in range(self.K, -1, -1):
            if j == self.K:
                Sbar[j].copy_(self.to_S_[j])
                zbar[j].add_(self.to_z_[j])
            else:
                torch.addcmul(self.to_S_[j], hbar[j], on_S[j], out=Sbar[j])
                torch.addcmul(self.to_z_[j], hbar[j], on_z[j], out=zbar[j]).add_(zbar[j + 1])
            if j < self.K or self.kick2:
                zbar[j].add_(self.products[j](Sbar[j]))
            if j > 0:
                torch.addcmul(self.to_h_[j - 1], zbar[j], eps, out=hbar[j - 1])
            if 0 < j < self.K:
                hbar[j - 1].addcmul_(hbar[j], c)
        # parameters, from the adjoints of all steps at once
        rhobar = to_rho[1:]
        rhobar[:-1].addcmul_(self.hbar[1:], r.c)
        first, second = (
            self.hbar * self.kick1,
            rhobar * self.kick2,
        )  # adjoints of eps g_k(z), eps g_k(z')
        ubar = self.hbar if self.euler or from_u is None else self.hbar + from_u
        if self.euler:
            first.addcmul_(pbar, r.delta)
        d_eps = self._dot(self.zbar[1:], self.h) + self._dot(first, self._bridge(slice(None, -1)))
        if self.kick2:
            d_eps += self._dot(second, self._bridge(slice(1, None)))
        slope, rho = self.slopes, self.rho[:-1]
        inside = torch.mul(rho, slope.alpha).addcmul_(self.xi, slope.beta1)
        if self.euler:
            inside.addcmul_(self.drift, slope.delta)
        if self.network is not None:
            inside.addcmul_(self.s, slope.varsigma, value=-1)
        d_x = self._dot(ubar, torch.mul(rho, slope.c).addcmul_(self.xi, slope.root)) + self._dot(
            pbar, inside
        )
        d_x += (0.5 * self.K * self.d) * slope.log_ratio[:, 0, 0]
        if self.m.forward == "persistence":
            gradient["persistence"][:, 0] = d_x
        else:
            gradient["damping"][:, 0] = d_x * self.params["step_size"][:, 0]
            d_eps += d_x * self.params["damping"][:, 0]
        gradient["step_size"][:, 0] = d_eps
        self._schedule(first * self.eps, second * self.eps, gradient)

    def _bridge(self, states: slice) -> Tensor:
        """g_k at the given states: beta S + (1 - beta) Q."""
        return torch.lerp(self.Q[states], self.S[states], self.beta)

    @staticmethod
    def _dot(left: Tensor, right: Tensor) -> Tensor:
        """<left, right> summed over bridges, chains and dimensions, `(rows,)`."""
        return (left * right).sum((0, 2, 3))

    def _schedule(self, g1: Tensor, g2: Tensor, gradient: Mapping[str, Tensor]) -> None:
        """Gradients of the knots and of q through g_k, from the adjoints of g_k(z), g_k(z')."""
        difference = self.S - self.Q
        betabar = (g1 * difference[:-1]).addcmul_(g2, difference[1:]).sum((2, 3))  # (K, rows)
        along = (betabar * self.beta[..., 0, 0]).sum(0)[:, None]
        total = self.params["knots"].sum(1, keepdim=True)
        torch.div(betabar.mT @ self.matrix - along, total, out=gradient["knots"])
        g1, g2 = g1 * (1 - self.beta), g2 * (1 - self.beta)
        torch.mul((g1 + g2).sum((0, 2)), self.precision[:, 0], out=gradient["mu"])
        in_Q = (g1 * self.Q[:-1]).addcmul_(g2, self.Q[1:]).sum((0, 2))
        torch.mul(in_Q, -2.0, out=gradient["log_sigma"])

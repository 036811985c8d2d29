"""The same log weights and gradients as `langevin_diffusion`, by a hand-written reverse sweep.

What makes it fast: the target is linearized once per visited state (K + 1 scores and K + 1 Hessian
products, no double autograd); everything that is not sequential (densities of the refreshes,
network, schedule) is evaluated once over all bridges; independent runs (seeds, learning rates)
are rows of one batch, each with its own parameters and network; no autograd graph is built. At
five chains a call of torch costs more than its arithmetic, so buffers and their views are made
once, and constants are tensors (a Python number would be converted at every call).

Both densities of one transition meet in a form without cancellation. With forward noise xi and
p = xi + (noise that the backward kernel would need, sign reversed),

    log m_B - log m_F = -(d/2) log(v_B / v_F) + xi.p - |p|^2 / 2,
    overdamped:   p = -sqrt(eps/2) (g_k(z) + g_k(z') + s)
    underdamped:  p = alpha rho + (1 - beta) xi - varsigma t   (coefficients: ..._refresh.py),
                  t = s, less eps g_k(z)/2 where the noise is in the kick (Euler-Maruyama).

Guaranteed: equal to the plain-autograd reference to rounding, value and every gradient, for every
method (tests, 1e-9 in float64); each row equals the same run alone. On CUDA no step waits for the
host. Arrays are `(K or K + 1, rows, chains, dim)`, with a leading 2 where the target and q make a
pair: their scores S and Q, the weights (beta_k, 1 - beta_k) of these in g_k, and the kicks. A name
that ends in `bar` is the derivative of sum_rows mean_chains(-w) in the named quantity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lmcnb.kernels.gradients import LogDensity, Product, linearize
from lmcnb.methods.langevin_diffusion import Method, temperature_matrix
from lmcnb.methods.langevin_diffusion_refresh import refresh_coefficients
from lmcnb.models import score_network


class Buffer:
    """An array over the chain, `([2,] count, rows, chains, last)`, and its views, made once."""

    def __init__(self, whole: Tensor) -> None:
        self.all = whole
        self.each = list(whole.flatten(-3, -2).unbind(-3))  # for the loops, `(rows * chains, last)`
        self.before = whole[..., :-1, :, :, :]  # where the steps start
        self.after = whole[..., 1:, :, :, :]  # where they end


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
        self.K = K = bridges
        self.d = dim
        self.overdamped, self.leapfrog = m.move == "overdamped", m.move == "leapfrog"
        self.noisy_kick = m.move == "euler"

        def zeros(*count: int, last: int = dim) -> Tensor:
            return torch.zeros(*count, rows, chains, last, dtype=dtype, device=device)

        def constant(value: float) -> Tensor:
            return torch.tensor(value, dtype=dtype, device=device)

        self.one, self.wbar, self.minus_wbar = map(constant, (1.0, -1.0 / chains, 1.0 / chains))
        self.kick = constant(0.5 if self.leapfrog else 1.0)  # of one score, in units of eps g_k
        self.log_constant = constant(0.5 * dim * math.log(2 * math.pi))
        # forward
        self.noise, self.z, self.rho = zeros(K + 2), Buffer(zeros(K + 1)), Buffer(zeros(K + 1))
        self.noise_z, self.noise_rho, self.xi = self.noise.split([1, 1, K])
        self.noise_start = self.noise[: 1 if self.overdamped or K == 0 else 2]
        self.h = Buffer(zeros(K) if self.leapfrog else self.rho.after)
        self.eps, self.c, self.p = Buffer(zeros(1)), Buffer(zeros(1)), zeros(K)
        self.eps_1 = self.eps.all[..., :1]
        self.scores = Buffer(zeros(2, K + 1))
        self.S, self.Q = self.scores.all
        self.plain_weights = torch.zeros(2, K, rows, dtype=dtype, device=device)
        self.weights = self.plain_weights[..., None, None]
        self.Q_weights = self.plain_weights[1, ..., None]
        self.kicks = Buffer(zeros(2, K + 1, last=1))  # of steps 1..K, behind a 0
        self.kicked = zeros(2, K, last=1) if self.leapfrog else self.kicks.after  # on S and Q
        self.on = Buffer(zeros(2, K))  # the same, on S and z
        self.on_S, self.on_z = map(Buffer, self.on.all)
        # backward
        self.pbar, self.tbar, self.rhobar = zeros(K), zeros(K), Buffer(zeros(K + 1))
        self.hbar = Buffer(zeros(K + 1))  # the last stays 0
        self.bars = Buffer(zeros(2, K + 1))
        self.Sbar, self.zbar = map(Buffer, self.bars.all)
        # scratch
        self.work, self.work2, self.drift, self.work_pair = (*map(zeros, 3 * (K,)), zeros(2, K))
        matrix = temperature_matrix(K, self.noise)
        self.matrix = torch.cat([matrix, 1 - matrix])  # knots / sum(knots) -> beta, 1 - beta
        self.network: score_network.Network | None = None
        if m.network is not None and K > 0:
            n_input = 2 * dim if m.network == "z and rho" else dim
            steps = (K, rows, chains, dim)
            self.network = score_network.Network(n_input, dim, steps, dtype, device)

    # --------------------------------------------------------------------------------- forward

    def forward(self, p: Mapping[str, Tensor], noise: Tensor) -> Tensor:
        """Log weights `(rows, chains)`, nats, from noise `(rows, K + 2, chains, dim)`."""
        self.params = p
        self.target_scores: list[Tensor] = []
        self.products: list[Product] = []
        self.noise.copy_(noise.transpose(0, 1))
        mu, log_sigma = p["mu"][:, None], p["log_sigma"]
        self.sigma = torch.exp(log_sigma)[:, None]  # (rows, 1, dim)
        self.precision = self.sigma**-2
        self.minus_precision = -self.precision
        self.mu_precision = mu * self.precision
        self.eps.all.copy_(p["step_size"][:, :, None])
        torch.addcmul(mu, self.sigma, self.noise_z, out=self.z.all[:1])
        if self.K > 0:
            self.total = p["knots"].sum(1)
            raw = (self.matrix @ p["knots"].mT).view_as(self.plain_weights)
            torch.div(raw, self.total, out=self.plain_weights)
            torch.mul(self.eps_1 * self.kick, self.weights, out=self.kicks.after)
            w = self._overdamped() if self.overdamped else self._underdamped()
        else:
            self._visit(self.z.each[0])
            w = torch.zeros_like(self.noise[0, ..., 0])
        w += self.log_density(self.z.each[-1]).view_as(w)
        w.add_(self.noise_start.square().sum((0, 3)), alpha=0.5)
        return w.add_(log_sigma.sum(1, keepdim=True)).add_(self.log_constant)

    def _visit(self, z: Tensor) -> Tensor:
        """Score of the target at z; keeps it, and its Hessian product for the reverse sweep."""
        score, product = linearize(self.log_density, z)
        self.target_scores.append(score)
        self.products.append(product)
        return score

    def _after_chain(self) -> None:
        """Scores of the target and of q at all states at once."""
        self._visit(self.z.each[-1])
        torch.stack(self.target_scores, out=self.S.flatten(1, 2))
        torch.addcmul(self.mu_precision, self.z.all, self.minus_precision, out=self.Q)

    def _overdamped(self) -> Tensor:
        """z' = z + e_S S + e_Q Q + sqrt(2 eps) xi, as  z' = move + on_S S + on_z z."""
        on_S, on_Q = self.kicked
        move = torch.mul(self.xi, torch.sqrt(self.eps_1 + self.eps_1), out=self.z.after)
        move.addcmul_(on_Q, self.mu_precision)
        self.on_S.all.copy_(on_S)
        torch.addcmul(self.one, on_Q, self.minus_precision, out=self.on_z.all)
        z, chain = self.z.each[0], (self.z.each[1:], self.on_S.each, self.on_z.each)
        for new_z, on_S, on_z in zip(*chain, strict=True):
            z = new_z.addcmul_(self._visit(z), on_S).addcmul_(z, on_z)
        self._after_chain()
        self.minus_root = -torch.sqrt(self.eps_1 * 0.5)
        torch.add(self.scores.before, self.scores.after, out=self.work_pair).mul_(self.weights)
        G = torch.sum(self.work_pair, 0, out=self.work)  # g_k(z) + g_k(z') + s
        if self.network is not None:
            G += self.network.forward(self.params, self.z.after)
        torch.mul(G, self.minus_root, out=self.p)
        return self._ratio()

    def _underdamped(self) -> Tensor:
        """h = c rho + sqrt(v) xi + e_S S + e_Q Q, z' = z + eps h, rho' = h + f_S S' + f_Q Q'.

        The two kicks at one state are one in the loop:  h' = move + on_S S + on_z z + c h.
        """
        x = self.params["damping"] * self.params["step_size"]
        x = self.params["persistence"] if self.m.forward == "persistence" else x
        r, self.slopes = refresh_coefficients(self.m, x[:, :, None])
        self.refresh = r
        self.c.all.copy_(r.c)
        self.rho.all[:1] = self.noise_rho
        if self.leapfrog:
            torch.addcmul(self.kicks.after, self.kicks.before, r.c, out=self.kicked)
        on_S, on_Q = self.kicked
        move = torch.mul(self.xi, r.root, out=self.h.all)
        move.addcmul_(on_Q, self.mu_precision)
        self.on_S.all.copy_(on_S)
        torch.mul(on_Q, self.minus_precision, out=self.on_z.all)
        (eps,), (c,), z, last = self.eps.each, self.c.each, self.z.each[0], self.rho.each[0]
        chain = self.h.each, self.z.each[1:], self.on_S.each, self.on_z.each
        for h, new_z, on_S, on_z in zip(*chain, strict=True):
            last = h.addcmul_(self._visit(z), on_S).addcmul_(z, on_z).addcmul_(last, c)
            z = torch.addcmul(z, h, eps, out=new_z)
        self._after_chain()
        rho = self.rho.before
        if self.leapfrog:
            (S, Q), (f_S, f_Q) = self.scores.after, self.kicks.after
            torch.addcmul(self.h.all, S, f_S, out=self.rho.after).addcmul_(Q, f_Q)
        torch.mul(rho, r.alpha, out=self.p).addcmul_(self.xi, r.beta1)
        self.t = None
        if self.network is not None:
            u = self.h.all  # rho after the refresh
            if not self.noisy_kick:
                u = torch.mul(self.xi, r.root, out=self.work).addcmul_(rho, r.c)
            self.t = self.network.forward(self.params, self.z.before, u)
        if self.noisy_kick:
            drift = torch.mul(self._bridge(), self.eps_1 * -0.5, out=self.drift)
            self.t = drift if self.t is None else drift.add_(self.t)
        if self.t is not None:
            self.p.addcmul_(self.t, r.varsigma, value=-1)
        w = self._ratio().sub_(self.rho.all[-1].square().sum(-1), alpha=0.5)
        return w if r.log_ratio is None else w - (0.5 * self.K * self.d) * r.log_ratio[:, 0]

    def _ratio(self) -> Tensor:
        """sum_k xi.p - |p|^2/2, `(rows, chains)`; its derivative in p is xi - p."""
        return torch.sub(self.xi, self.p, alpha=0.5, out=self.work).mul_(self.p).sum((0, 3))

    # -------------------------------------------------------------------------------- backward

    def backward(self, gradient: Mapping[str, Tensor]) -> None:
        """Write the gradient of sum_rows mean_chains(-w) into `gradient`, one entry a parameter."""
        for name in ("mu", "log_sigma", "step_size", "damping", "persistence", "knots"):
            gradient[name].zero_()
        if self.K == 0:
            torch.mul(self.target_scores[-1], self.wbar, out=self.zbar.each[-1])
        else:
            torch.sub(self.xi, self.p, out=self.pbar).mul_(self.wbar)
            (self._overdamped_sweep if self.overdamped else self._underdamped_sweep)(gradient)
        zbar = self.zbar.all[0]
        gradient["mu"].add_(zbar.sum(1))
        sigmabar = (zbar * self.noise[0]).sum(1)
        gradient["log_sigma"].addcmul_(sigmabar, self.sigma[:, 0]).sub_(self.one)

    def _overdamped_sweep(self, gradient: Mapping[str, Tensor]) -> None:
        """Gbar is what p sends to both g_k of a step and to s; then the chain, last state first."""
        d_eps = 0.5 * self._dot(self.pbar, self.p)  # times eps: p is proportional to sqrt(eps)
        Gbar = self.pbar.mul_(self.minus_root)
        ends = torch.mul(self.weights, Gbar, out=self.work_pair)
        self.bars.all.zero_()
        self.bars.before.add_(ends)
        self.bars.after.add_(ends)
        self.zbar.all.mul_(self.minus_precision)
        if self.network is not None:
            self.zbar.after.add_(self.network.backward(self.params, Gbar, gradient)[0])
        zbar, Sbar, bars, on = (b.each for b in (self.zbar, self.Sbar, self.bars, self.on))
        zbar[-1].addcmul_(self.target_scores[-1], self.wbar).add_(self.products[-1](Sbar[-1]))
        for j in range(self.K - 1, -1, -1):
            bars[j].addcmul_(zbar[j + 1], on[j])
            zbar[j].add_(self.products[j](Sbar[j]))
        moved, eps = self.zbar.after, self.params["step_size"][:, 0]
        d_eps = d_eps / eps + self._dot(moved, self._bridge())
        d_eps += self._dot(moved, self.xi) / torch.sqrt(2 * eps)
        gradient["step_size"].copy_(d_eps[:, None])
        first = torch.addcmul(Gbar, moved, self.eps.all, out=self.work)
        self._schedule(first, Gbar, self.one, gradient)

    def _underdamped_sweep(self, gradient: Mapping[str, Tensor]) -> None:
        """What p, t and w send to rho, u and z; then the chain, last state first."""
        r, slope, pbar, rhobar = self.refresh, self.slopes, self.pbar, self.rhobar
        torch.mul(pbar, r.alpha, out=rhobar.before)
        torch.mul(self.rho.each[-1], self.minus_wbar, out=rhobar.each[-1])
        tbar = torch.mul(pbar, -r.varsigma, out=self.tbar)
        from_z = from_u = None
        if self.network is not None:
            from_z, from_u = self.network.backward(self.params, tbar, gradient)
        if from_u is not None and self.noisy_kick:
            rhobar.after.add_(from_u)  # u = h = rho'
        elif from_u is not None:
            rhobar.before.addcmul_(from_u, r.c)
        if self.leapfrog:
            torch.mul(self.kicks.all, rhobar.all, out=self.bars.all)
        else:
            self.bars.all.zero_()
        if self.noisy_kick:
            self.bars.before.addcmul_(self.kicks.after, tbar, value=-0.5)
        self.zbar.all.mul_(self.minus_precision)
        if from_z is not None:
            self.zbar.before.add_(from_z)
        zbar, Sbar, bars, on = (b.each for b in (self.zbar, self.Sbar, self.bars, self.on))
        (eps,), (c,), hbar, rhob = self.eps.each, self.c.each, self.hbar.each, rhobar.each
        zbar[-1].addcmul_(self.target_scores[-1], self.wbar)
        if self.leapfrog:
            zbar[-1].add_(self.products[-1](Sbar[-1]))
        for j in range(self.K - 1, -1, -1):
            rhob[j + 1].addcmul_(hbar[j + 1], c)
            torch.addcmul(rhob[j + 1], zbar[j + 1], eps, out=hbar[j])
            bars[j].addcmul_(hbar[j], on[j])
            zbar[j].add_(zbar[j + 1]).add_(self.products[j](Sbar[j]))
        # parameters, from the adjoints of all steps at once
        first = ubar = self.hbar.before
        if self.noisy_kick:
            first = torch.add(first, tbar, alpha=-0.5, out=self.work2)
        elif from_u is not None:
            ubar = torch.add(first, from_u, out=self.work2)
        second = rhobar.after if self.leapfrog else None
        d_kick = self._schedule(first, second, self.params["step_size"] * self.kick, gradient)
        d_eps = self._dot(self.zbar.after, self.h.all).addcmul_(d_kick, self.kick)
        rho = self.rho.before
        in_u = torch.mul(rho, slope.c, out=self.work).addcmul_(self.xi, slope.root)
        in_p = torch.mul(rho, slope.alpha, out=self.tbar).addcmul_(self.xi, slope.beta1)
        if self.t is not None:
            in_p.addcmul_(self.t, slope.varsigma, value=-1)
        d_x = in_u.mul_(ubar).addcmul_(in_p, pbar).sum((0, 2, 3))
        if slope.log_ratio is not None:
            d_x += (0.5 * self.K * self.d) * slope.log_ratio[:, 0, 0]
        d_eps, d_x = d_eps[:, None], d_x[:, None]
        if self.m.forward == "persistence":
            gradient["persistence"].copy_(d_x)
        else:
            torch.mul(d_x, self.params["step_size"], out=gradient["damping"])
            d_eps.addcmul_(d_x, self.params["damping"])
        gradient["step_size"].copy_(d_eps)

    def _bridge(self) -> Tensor:
        """g_k(z) of every step: beta S + (1 - beta) Q."""
        S, Q = self.scores.before
        return torch.lerp(Q, S, self.weights[0], out=self.work2)

    def _dot(self, left: Tensor, right: Tensor) -> Tensor:
        """<left, right> summed over bridges, chains and dimensions, `(rows,)`."""
        return torch.mul(left, right, out=self.work).sum((0, 2, 3))

    def _schedule(
        self, first: Tensor, second: Tensor | None, scale: Tensor, gradient: Mapping[str, Tensor]
    ) -> Tensor:
        """Gradients of the knots and of q through g_k(z), g_k(z').

        The derivatives in g_k(z) and g_k(z') are `scale` times `first` and `second`. Returns
        <first, g_k(z)> + <second, g_k(z')>, `(rows,)`.
        """
        on, both = torch.mul(self.scores.before, first, out=self.work_pair), first.sum(2)
        if second is not None:
            on.addcmul_(self.scores.after, second)
            both += second.sum(2)
        on = on.sum(3)  # (2, K, rows, dim)
        on_weights = on.sum(3)
        inner = (on_weights * self.plain_weights).sum((0, 1))
        knots = (on_weights.view(2 * self.K, -1).mT @ self.matrix).sub_(inner[:, None])
        torch.mul(knots, scale / self.total[:, None], out=gradient["knots"])
        Q_weights = self.Q_weights * scale  # (K, rows, 1)
        gradient["mu"].addcmul_((both * Q_weights).sum(0), self.precision[:, 0])
        gradient["log_sigma"].sub_((on[1] * Q_weights).sum(0), alpha=2)
        return inner

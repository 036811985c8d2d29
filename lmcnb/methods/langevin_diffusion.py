"""Langevin diffusion variational inference: one chain, many methods (arXiv 2208.07743).

Variational side: an uncorrected Langevin chain from q = N(mu, diag(sigma^2)) through K bridging
densities pi_k proportional to p~^beta_k q^(1 - beta_k). Target side: p~ extended by a backward
chain. The log weight of one path,

    w = log p~(z_K) - log q(z_0) + [log N(rho_K; 0, I) - log N(rho_0; 0, I)]
        + sum_k [log m_B(k) - log m_F(k)],                                          (nats)

has E[w] = ELBO <= log Z and E[exp w] = Z. A method is a choice of forward transition m_F and
backward kernel m_B, nothing else: read the table METHODS, then `log_weight`.

Guaranteed: E[exp w] = Z for every method, any parameters and any score network, because w is the
log ratio of two normalized densities on the same paths. Not guaranteed: a small bias of
log-mean-exp at finite chains (it is low), a finite variance of exp w, anything about samples z_K
(the chain has no Metropolis correction). This file is the plain-autograd version that the tests
trust; `langevin_diffusion_fast` computes the same numbers by a hand-written reverse sweep.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args, get_type_hints

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.kernels.gradients import LogDensity, differentiable_score
from lmcnb.kernels.leapfrog import leapfrog
from lmcnb.models import score_network

Network = Callable[[Tensor, int], Tensor]


_SCALES = {  # (forward refresh, backward refresh): factors of s that go with them
    ("euler", "euler"): ("2a",),
    ("exact", "euler"): ("2a",),
    ("exact", "exact"): ("2(1-eta)", "2"),
    ("persistence", "persistence"): ("2(1-eta)", "2"),
}


@dataclass(frozen=True)
class Method:
    """A forward transition and a backward kernel (2208.07743, section 4, and its code)."""

    name: str
    move: Literal["overdamped", "leapfrog", "symplectic", "euler"]
    """How z moves: no momentum; leapfrog; rho then z; Euler-Maruyama, the noise in the kick."""
    forward: Literal["euler", "exact", "persistence"] = "euler"
    """Momentum refresh: (1 - a, 2a) with a = gamma eps; exp(-a); a free coefficient eta."""
    backward: Literal["euler", "exact", "persistence"] = "euler"
    """Momentum refresh that the backward kernel undoes."""
    network: Literal[None, "z", "new z", "z and rho"] = None
    """What the score network sees: nothing (s = 0); z before the move; z after it; (z, rho')."""
    scale: Literal["2a", "2(1-eta)", "2", "eps"] = "2a"
    """Factor of s in the mean of the backward kernel."""
    source: str = ""

    def __post_init__(self) -> None:
        """Refuse what no row of the paper or its code needs, and the fast version does not have.

        Raises:
            UsageError: an unknown word, or move, refreshes, network and scale do not fit.
        """
        for field, kind in get_type_hints(Method).items():
            if (allowed := get_args(kind)) and getattr(self, field) not in allowed:
                words = ", ".join(map(str, allowed))
                raise UsageError(f"{field} = {getattr(self, field)!r}; allowed: {words}")
        silent, scales = self.network is None, _SCALES.get((self.forward, self.backward), ())
        if self.move == "overdamped":
            fits = silent or (self.network == "new z" and self.scale == "eps")
        else:
            known = self.scale != "eps" if silent else self.scale in scales
            fits = bool(scales) and known and self.network != "new z"
            fits = fits and (self.move != "euler" or self.forward == self.backward == "euler")
        if not fits:
            raise UsageError(f"{self}: move, refreshes, network and scale do not fit together")


METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Method("ULA", "overdamped", scale="eps", source="Thin et al. 2021; theorem 4.1"),
        Method(
            "MCD",
            "overdamped",
            network="new z",
            scale="eps",
            source="Doucet et al. 2022; theorem 4.2",
        ),
        Method(
            "UHA",
            "leapfrog",
            "persistence",
            "persistence",
            source="Geffner and Domke 2021; theorem 4.3",
        ),
        Method("LDVI", "leapfrog", network="z and rho", source="Algorithm 3; code: a-lp-sn"),
        Method("UHA_EM", "euler", source="Algorithm 4"),
        Method("LDVI_EM", "euler", network="z and rho", source="Algorithm 5"),
        Method("a-lp", "leapfrog", source="code: LDVI with s = 0"),
        Method("a-lp-sna", "leapfrog", network="z", source="code"),
        Method("e-lp", "leapfrog", "exact", "exact", source="code"),
        Method("e-lp-sna", "leapfrog", "exact", "exact", "z", "2(1-eta)", source="code"),
        Method("ea-lp-sn", "leapfrog", "exact", "euler", "z and rho", source="code"),
        Method("me_e", "symplectic", "exact", "exact", "z", "2", source="code, file only"),
    )
}


def method(name: str) -> Method:
    """The method called `name`, or a UsageError that lists them all."""
    if name not in METHODS:
        raise UsageError(f"method {name!r} is unknown; choose one of {', '.join(METHODS)}")
    return METHODS[name]


def refresh(kind: str, p: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Coefficient c and variance v of a momentum refresh rho' ~ N(c rho, v I)."""
    if kind == "euler":
        a = p["damping"] * p["step_size"]
        return 1 - a, 2 * a
    eta = p["persistence"] if kind == "persistence" else torch.exp(-p["damping"] * p["step_size"])
    return eta, 1 - eta**2


def log_weight(
    m: Method,
    log_density: LogDensity,
    p: Mapping[str, Tensor],
    noise: Tensor,
    network: Network | None = None,
) -> Tensor:
    """Log weight w of each chain, `(chains,)` in nats: the whole method in one screen.

    The chain, for k = 1..K, with g_k = grad log pi_k and eps the step size:

        overdamped   forward   z' ~ N(z + eps g_k(z), 2 eps)
                     backward  z ~ N(z' + eps g_k(z') + eps s, 2 eps)
        otherwise    forward   u ~ N(c_F rho + drift, v_F), then (z', rho') = move(z, u)
                     backward  move inverted exactly (no density term), then
                               rho ~ N(c_B u - drift + scale s, v_B)

    Args:
        m: one row of METHODS.
        log_density: log p~, `(chains, dim) -> (chains,)`, nats.
        p: `mu`, `log_sigma` `(dim,)`, `step_size`, `damping`, `persistence` `(1,)`, `knots`.
        noise: standard normals `(K + 2, chains, dim)`: of z_0, of rho_0, of the K transitions.
        network: `s(inputs, k)` with k = 0..K-1; None for methods without one.

    Source: 2208.07743, Algorithms 1 to 5, equations of section 4.
    """
    eps, K = p["step_size"], len(noise) - 2
    betas = temperatures(p["knots"], K)
    sigma = torch.exp(p["log_sigma"])
    z, rho = p["mu"] + sigma * noise[0], noise[1]
    w = -log_normal(z, p["mu"], sigma**2)
    if m.move != "overdamped":
        w = w - log_normal(rho, 0.0, 1.0)
        (c_F, v_F), (c_B, v_B) = refresh(m.forward, p), refresh(m.backward, p)

    for k in range(K):

        def g(x: Tensor, beta: Tensor = betas[k]) -> Tensor:
            return (
                beta * differentiable_score(log_density, x) + (1 - beta) * (p["mu"] - x) / sigma**2
            )

        def s(k: int = k, **inputs: Tensor) -> Tensor | float:
            if m.network is None or network is None:
                return 0.0
            seen = {"z": ("z",), "new z": ("new_z",), "z and rho": ("z", "u")}[m.network]
            return network(torch.cat([inputs[name] for name in seen], -1), k)

        if m.move == "overdamped":
            mean, v = z + eps * g(z), 2 * eps
            new = mean + torch.sqrt(v) * noise[k + 2]
            back = new + eps * g(new) + eps * s(new_z=new)
            w = w + log_normal(z, back, v) - log_normal(new, mean, v)
            z = new
            continue

        drift = eps * g(z) if m.move == "euler" else 0.0
        mean = c_F * rho + drift
        u = mean + torch.sqrt(v_F) * noise[k + 2]
        scale = {"2a": 2 * p["damping"] * eps, "2(1-eta)": 2 * (1 - c_B), "2": 2 + 0 * eps}[m.scale]
        back = c_B * u - drift + scale * s(z=z, u=u)
        w = w + log_normal(rho, back, v_B) - log_normal(u, mean, v_F)
        if m.move == "leapfrog":
            z, rho = leapfrog(z, u, eps, g)
        else:
            rho = u + eps * g(z) if m.move == "symplectic" else u
            z = z + eps * rho

    w = w + log_density(z)
    return w if m.move == "overdamped" else w + log_normal(rho, 0.0, 1.0)


def log_normal(x: Tensor, mean: Tensor | float, variance: Tensor | float) -> Tensor:
    """log N(x; mean, variance I) summed over the last dimension, nats."""
    variance = torch.as_tensor(variance, dtype=x.dtype, device=x.device)
    return (-0.5 * ((x - mean) ** 2 / variance + torch.log(2 * math.pi * variance))).sum(-1)


def temperatures(knots: Tensor, bridges: int) -> Tensor:
    """Bridging temperatures beta_1 < ... < beta_K, strictly inside (0, 1), `(..., K)`.

    Cumulated positive increments `knots` `(..., G + 1)`, G = min(32, K), interpolated linearly
    at the K interior points of an even grid; all ones give k / (K + 1). (Code of the paper.)
    """
    return knots @ temperature_matrix(bridges, knots).mT / knots.sum(-1, keepdim=True)


def temperature_matrix(bridges: int, like: Tensor) -> Tensor:
    """The fixed matrix `(K, G + 1)` with beta = matrix @ knots / sum(knots)."""
    n_knots = min(32, bridges) + 2
    at = torch.linspace(0, 1, bridges + 2, dtype=torch.float64)[1:-1] * (n_knots - 1)
    hat = (1 - (at[:, None] - torch.arange(n_knots)).abs()).clamp(min=0)  # linear interpolation
    cumulate = torch.ones(n_knots, n_knots - 1, dtype=torch.float64).tril(-1)  # prepend 0, sum up
    return (hat @ cumulate).to(like)


def shapes(m: Method, dim: int, bridges: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of one run's trainable parameters."""
    own: dict[str, tuple[int, ...]] = {"mu": (dim,), "log_sigma": (dim,)}
    own |= {
        "step_size": (1,),
        "damping": (1,),
        "persistence": (1,),
        "knots": (min(32, bridges) + 1,),
    }
    if m.network is not None and bridges > 0:
        n_input = 2 * dim if m.network == "z and rho" else dim
        own |= {f"net.{k}": v for k, v in score_network.shapes(n_input, dim, bridges).items()}
    return own


INITIAL = {
    "mu": 0.0,
    "log_sigma": 0.0,
    "step_size": 1e-5,
    "damping": 10.0,
    "persistence": 0.0,
    "knots": 1.0,
}
BOUNDS = {
    "step_size": (1e-7, 0.5),
    "damping": (1e-3, math.inf),
    "persistence": (0.0, 0.99),
    "knots": (1e-3, math.inf),
}
"""Projection after every update (code of the paper); no reparameterization."""


def initial_values(
    m: Method, dim: int, bridges: int, generator: torch.Generator, **overrides: float | Tensor
) -> Iterator[tuple[str, Tensor]]:
    """Initial parameters of one run, name by name; `overrides` replaces e.g. `mu` or `damping`."""
    unknown = set(overrides) - set(INITIAL)
    if unknown:
        raise UsageError(f"initial value for {sorted(unknown)}; allowed: {', '.join(INITIAL)}")
    sizes = shapes(m, dim, bridges)
    for name, given in overrides.items():
        value, (low, high) = torch.as_tensor(given), BOUNDS.get(name, (-math.inf, math.inf))
        if value.ndim > 1 or value.numel() not in (1, *sizes[name]):
            raise UsageError(
                f"initial {name} of shape {tuple(value.shape)}: one number or {sizes[name]} needed"
            )
        if ((value < low) | (value > high)).any():
            raise UsageError(f"initial {name} = {given}: must be between {low:g} and {high:g}")
    for name, shape in sizes.items():
        if name.startswith("net."):
            yield name, score_network.initial(name.removeprefix("net."), shape, generator)
        else:
            value = torch.as_tensor(overrides.get(name, INITIAL[name]))
            yield name, value.to(generator.device).expand(shape).clone()


def network_of(p: Mapping[str, Tensor]) -> Network | None:
    """The score network of one run's parameters as a callable, for `log_weight`."""
    if "net.W1" not in p:
        return None
    net = {k.removeprefix("net."): v[None] for k, v in p.items() if k.startswith("net.")}

    def network(inputs: Tensor, k: int) -> Tensor:
        embedding = net["embedding"][0, k].expand(*inputs.shape[:-1], -1)
        return score_network.forward(net, torch.cat([inputs, embedding], -1)[None])[0]

    return network

"""The density of a pinwheel, exact by root finding.

Features (a, t) with a ~ N(1, radial_sd^2), t ~ N(0, tangential_sd^2) are turned by the angle
2 pi k / arms + rate exp(a), the arm k at random. In polar coordinates, (a, t) =
rho (cos alpha, sin alpha), the map keeps rho and takes alpha to

    phi = u(alpha) + 2 pi k / arms   (mod 2 pi),    u(alpha) = alpha + rate exp(rho cos alpha),

so it multiplies areas by |u'(alpha)|, u' = 1 - rate rho sin(alpha) exp(rho cos alpha), and

    p(y) = (1 / arms) sum_j sum_{alpha: u(alpha) = phi + 2 pi j / arms} N(a, t) / |u'(alpha)|,

alpha over one turn, j over the integers; the root belongs to arm k = -j mod arms. u falls on at
most one stretch of the turn, since log(1 - u') is concave in alpha on (0, pi) up to a constant:
the ends of that stretch cut the turn into a rising and a falling piece, in which every root is
bracketed and bisected.

Guaranteed: no root is missed, also next to a fold (u' = 0, where the density has an integrable
pole; here it is large but finite), and the density is exact up to rounding within 12 standard
deviations. What lies beyond has a mass below 1e-31 and counts as none.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

CHUNK = 1 << 14  # points at a time, about 50 MB (five times that far out, where roots are many)


def by_arm(
    y: Tensor, radial_sd: float, tangential_sd: float, rate: float, arms: int
) -> tuple[Tensor, Tensor]:
    """Log density of each arm's part, and how near `y` is to each arm, both `(n, arms)`.

    Args:
        y: points `(n, 2)`, float64.
        radial_sd: standard deviation of a.
        tangential_sd: standard deviation of t.
        rate: of the winding, at least 0; the cost grows as rate exp(1 + 12 radial_sd).
        arms: their number.

    Returns:
        log ((1 / arms) sum N(a, t) / |u'|) over the roots of each arm, nats (NaN where y is), and
        the least ((a - 1) / radial_sd)^2 + (t / tangential_sd)^2 of those roots.
    """
    log_p = torch.full((len(y), arms), -math.inf, dtype=torch.float64, device=y.device)
    distance = -log_p
    log_p[y.isnan().any(1)] = math.nan
    reach = 1 + 12 * max(radial_sd, tangential_sd)
    near = (y.norm(dim=1) <= reach).nonzero().squeeze(1)
    constant = math.log(2 * math.pi * radial_sd * tangential_sd * arms)
    for part in near.split(CHUNK):
        rho, phi = y[part].norm(dim=1), torch.atan2(y[part, 1], y[part, 0])
        point, j, alpha = _roots(rho, phi, rate, arms)
        a, t = rho[point] * alpha.cos(), rho[point] * alpha.sin()
        squares = ((a - 1) / radial_sd).square() + (t / tangential_sd).square()
        slope = (1 - rate * a.exp() * t).abs().clamp(min=1e-12)
        place = point * arms + (-j).remainder(arms)
        least = torch.full((len(part) * arms,), math.inf, dtype=torch.float64, device=y.device)
        least.scatter_reduce_(0, place, squares, "amin")  # every arm has a root
        terms = (0.5 * (least[place] - squares)).exp() / slope
        total = torch.zeros_like(least).index_add_(0, place, terms)
        log_p[part] = (total.log() - 0.5 * least - constant).view(-1, arms)
        distance[part] = least.view(-1, arms)
    return log_p, distance


def _roots(rho: Tensor, phi: Tensor, rate: float, arms: int) -> tuple[Tensor, Tensor, Tensor]:
    """All roots for points `(n)`: whose each is, its j, its alpha."""
    width = 2 * math.pi / arms

    def u(alpha: Tensor, rho: Tensor) -> Tensor:
        return alpha + rate * (rho * alpha.cos()).exp()

    first, last = _falling(rho, rate)  # u falls on [first, last] and rises on the rest of the turn
    top = ((u(first, rho) - phi) / width).floor().long()
    bottom = ((u(last, rho) - phi) / width).floor().long()  # roots: bottom < j <= top
    rising, j_rising = _ranges(bottom - arms, top)
    falling, j_falling = _ranges(bottom, top)
    point, j = torch.cat([rising, falling]), torch.cat([j_rising, j_falling])
    rises = torch.arange(len(point), device=rho.device) < len(rising)
    left = torch.where(rises, last[point] - 2 * math.pi, first[point])
    right = torch.where(rises, first[point], last[point])
    sign = rises.double() * 2 - 1
    radius, goal = rho[point], phi[point] + j.double() * width
    return point, j, _bisect(lambda alpha: sign * (u(alpha, radius) - goal), left, right)


def _falling(rho: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """Ends of the stretch where u falls, `(n)` each; both are pi where it rises all over."""

    def steepness(alpha: Tensor) -> Tensor:  # log(1 - u')
        return (rate * rho * alpha.sin()).log() + rho * alpha.cos()

    zero, pi = torch.zeros_like(rho), torch.full_like(rho, math.pi)
    peak = (2 * rho / (1 + (1 + 4 * rho.square()).sqrt())).acos()  # of the steepness
    first = _bisect(steepness, zero, peak)
    last = _bisect(lambda alpha: -steepness(alpha), peak, pi)
    folded = steepness(peak) > 0
    return torch.where(folded, first, pi), torch.where(folded, last, pi)


def _bisect(rising: Callable[[Tensor], Tensor], left: Tensor, right: Tensor) -> Tensor:
    """Root of a rising function between `left` and `right`, of a turn to 2e-16."""
    for _ in range(55):
        middle = 0.5 * (left + right)
        low = rising(middle) < 0
        left, right = torch.where(low, middle, left), torch.where(low, right, middle)
    return 0.5 * (left + right)


def _ranges(above: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """The integers `above_i < j <= last_i` of every i in a row: the i and the j of each."""
    counts = last - above
    owner = torch.repeat_interleave(counts)
    start = counts.cumsum(0) - counts
    place = torch.arange(len(owner), device=counts.device) - start[owner]
    return owner, above[owner] + 1 + place

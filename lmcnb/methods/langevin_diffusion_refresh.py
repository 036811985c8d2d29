"""The momentum refresh of Langevin diffusion VI as its reverse sweep needs it.

Forward u ~ N(c_F rho, v_F), backward rho ~ N(c_B u + scale s, v_B); with u = c_F rho + sqrt(v_F) xi

    p = alpha rho + (1 - beta) xi - varsigma s,
    alpha = (1 - c_F c_B)/sqrt(v_B),   beta = c_B sqrt(v_F/v_B),   varsigma = scale/sqrt(v_B)

and log m_B - log m_F = -(d/2) log(v_B/v_F) + xi.p - |p|^2/2. Written so that no two numbers near 1
are subtracted where the refresh is weak, except for an exact refresh undone by an Euler one
(ea-lp-sn): there 1 - beta has a relative error of about 1e-7/a in float32 (1e-3 at the start).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lmcnb.methods.langevin_diffusion import Method


class Refresh(NamedTuple):
    """Coefficients of one underdamped transition, each `(rows, 1, 1)`."""

    c: Tensor  # c_F
    root: Tensor  # sqrt(v_F)
    alpha: Tensor
    beta1: Tensor  # 1 - beta
    varsigma: Tensor
    log_ratio: Tensor | None = None  # log(v_B / v_F), if not 0


def refresh_coefficients(m: Method, x: Tensor) -> tuple[Refresh, Refresh]:
    """Coefficients and their derivatives in x, which is eta ("persistence") or a = gamma eps."""
    one = torch.ones_like(x)
    if m.forward == "euler":
        root = torch.sqrt(x + x)
        slope = root.reciprocal()
        alpha, dalpha = root * torch.sub(one, x, alpha=0.5), slope * torch.sub(one, x, alpha=1.5)
        return Refresh(one - x, root, alpha, x, root), Refresh(-one, slope, dalpha, one, slope)
    eta, deta = (x, one) if m.forward == "persistence" else (torch.exp(-x), -torch.exp(-x))
    v = (1 - eta) * (1 + eta) if m.forward == "persistence" else -torch.expm1(-2 * x)
    root = torch.sqrt(v)
    droot = -eta * deta / root
    rest = 1 - eta if m.forward == "persistence" else -torch.expm1(-x)  # 1 - eta
    if m.backward == "euler":
        back, dback = torch.sqrt(2 * x), 1 / torch.sqrt(2 * x)
        ratio, dratio = root / back, droot / back - root * dback / back**2
        lost, dlost = rest + x * eta, eta - deta * (1 - x)  # 1 - eta (1 - x)
        alpha, dalpha = lost / back, (dlost - lost * dback / back) / back
        beta1, dbeta1 = 1 - (1 - x) * ratio, ratio - (1 - x) * dratio
        log_ratio, dlog_ratio = -2 * torch.log(ratio), -2 * dratio / ratio
        value = Refresh(eta, root, alpha, beta1, back, log_ratio)
        return value, Refresh(deta, droot, dalpha, dbeta1, dback, dlog_ratio)
    if m.scale == "2(1-eta)":
        varsigma = 2 * rest / root
        dvarsigma = -2 * deta / root - varsigma * droot / root
    else:
        varsigma, dvarsigma = 2 / root, -2 * droot / root**2
    value = Refresh(eta, root, root, rest, varsigma)
    return value, Refresh(deta, droot, droot, -deta, dvarsigma)

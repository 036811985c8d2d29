"""What is studied on probabilistic PCA: settings, theta, images and the frozen proposal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.lab.data import load
from lmcnb.lab.randomness import generator
from lmcnb.methods.unbiased_vae_kernels import Coupling, Rule
from lmcnb.methods.unbiased_vae_ppca import PPCA, Gradients, Proposal
from lmcnb.methods.unbiased_vae_ppca_fit import fit_encoder

ESTIMATORS = ("ELBO", "IWAE", "C-ISIR", "C-ISIR-DISIR", "average")
"""The last is the composite kernel's average over the window, without coupling: biased."""

COST = {"ELBO": 1.0, "IWAE": 1.5, "C-ISIR": 35.0, "C-ISIR-DISIR": 80.0, "average": 40.0}


@dataclass(frozen=True)
class Study:
    """Settings; the defaults are the small instance."""

    dim: int = 20
    """D."""
    pixels: int = 200
    """P; of binarized images 784."""
    samples: int = 10
    """K of all estimators; the ELBO's gradient is the average over K samples."""
    noise: float = 0.1
    """sigma^2."""
    scale: float = 0.1
    """Standard deviation of the entries of theta."""
    replicates: int = 4000
    points: int = 1
    """Images N; every replicate uses all."""
    data: Literal["model", "static_mnist"] = "model"
    """Images drawn from the model, or the first binarized digits of the training split."""
    proposal: Literal["shifted", "fitted"] = "shifted"
    shift: float = 0.3
    """Of a shifted proposal: distance of its mean from the posterior's, in its std before."""
    inflation: float = 1.6
    """Of a shifted proposal: factor of its std."""
    fit_images: int = 10_000
    """Of a fitted proposal: how many images it is fitted to (drawn, or of the training split)."""
    fit_samples: int = 100
    """Of a fitted proposal: K of the IWAE bound."""
    fit_steps: int = 1000
    """Of a fitted proposal: updates."""
    beta: float | None = None
    """Of DISIR; None: by pilot runs, so that ESS = 0.3 K."""
    grid: tuple[float, ...] = ()
    """Further betas with which C-ISIR-DISIR is run, named `C-ISIR-DISIR beta=...`."""
    lag: int = 10
    start: int = 1
    cap: int | None = 1000
    rule: Rule = "strict"
    estimators: tuple[str, ...] = ("ELBO", "IWAE", "C-ISIR", "C-ISIR-DISIR")
    sizes: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100)
    """K of IWAE in the study of its bias."""
    chunk: int = 2_000_000
    """Numbers in the points of a chunk: bounds the memory."""
    kept: int = 2000
    """Errors kept of every estimator, evenly spaced."""
    dtype: Literal["float32", "float64"] = "float32"
    """Of the points; all else is float64."""

    def __post_init__(self) -> None:
        least = {"dim": 1, "pixels": 1, "samples": 2, "replicates": 2, "points": 1, "fit_images": 1}
        least |= {"fit_samples": 1, "fit_steps": 1, "chunk": 1, "kept": 1}
        for name, value in least.items():
            own = getattr(self, name)
            if type(own) is not int or own < value:
                raise UsageError(f"{name}={own!r}: an integer of at least {value} is needed")
        for name in ("noise", "scale", "inflation"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name}={getattr(self, name)!r}: it must be positive")
        if unknown := [e for e in self.estimators if e not in ESTIMATORS]:
            raise UsageError(f"estimator {unknown[0]!r}: choose from {', '.join(ESTIMATORS)}")
        if any(type(k) is not int or k < 1 for k in self.sizes):
            raise UsageError(f"sizes={self.sizes!r}: integers of at least 1 are needed")
        for beta in (*self.grid, *(() if self.beta is None else (self.beta,))):
            if not 0 <= beta < 1:
                raise UsageError(f"beta={beta!r}: a correlation in [0, 1) is needed")
        if self.data == "static_mnist" and self.pixels != 784:
            raise UsageError(f"pixels={self.pixels}: binarized digits have 784")
        self.coupling(True)

    def coupling(self, composite: bool, cap: int | None = -1) -> Coupling:
        """The estimator's settings; cap -1: the study's."""
        cap = self.cap if cap == -1 else cap
        return Coupling(self.samples, composite, self.lag, self.start, cap, self.rule)

    def named(self) -> list[str]:
        """Everything that is run, the grid's included."""
        return [*self.estimators, *(f"C-ISIR-DISIR beta={b:g}" for b in self.grid)]

    @property
    def work(self) -> float:
        """What `run` will report in all."""
        rows = float(self.replicates * self.points)
        sizes = sum(self.sizes) / self.samples * COST["IWAE"]
        return rows * (sum(COST[n.split(" ")[0]] for n in self.named()) + sizes)


class Problem(NamedTuple):
    """What all estimators of a study share; the same for the same study and seed."""

    model: PPCA
    x: Tensor  # (points, pixels)
    proposal: Proposal
    exact: Gradients  # of the sum over images: (pixels,), (pixels, dim)
    entry: tuple[int, int, int]  # pixel of the intercept; pixel and coordinate of the weight


def problem(study: Study, seed: int, device: torch.device | str = "cpu") -> Problem:
    """Draw theta, the images and the components, and fit the proposal."""
    theta = generator(seed, "ppca/theta")
    model = PPCA.draw(study.pixels, study.dim, study.noise, study.scale, theta)
    fitted = study.proposal == "fitted"
    n = max(study.points, study.fit_images if fitted else 0)
    if study.data == "model":
        x = model.sample(n, generator(seed, "ppca/images"))
    else:
        x = torch.from_numpy(load("static_mnist", "train")["images"][:n]).flatten(1).double()
    pick = generator(seed, "ppca/components")
    p, q = torch.randint(study.pixels, (2,), generator=pick).tolist()
    d = int(torch.randint(study.dim, (), generator=pick))
    model, x = model.to(device), x.to(device)
    if fitted:
        stream = generator(seed, "ppca/fit")
        steps, K = study.fit_steps, study.fit_samples
        proposal = fit_encoder(model, x[: study.fit_images], K, steps, stream)(x[: study.points])
    else:
        proposal = model.shifted_mean_field(x[: study.points], study.shift, study.inflation)
    x = x[: study.points]
    exact = Gradients(*(g.sum(0) for g in model.exact_gradients(x)))
    return Problem(model, x, proposal, exact, (p, q, d))


def about(p: Problem) -> dict[str, Any]:
    """Whether A3 holds and how far the proposals are from the posteriors."""
    mean, covariance = p.model.posterior(p.x)
    off = (p.proposal.mean - mean) / covariance.diagonal().sqrt()
    factor = p.proposal.std / p.model.precision.diagonal().rsqrt()
    return {
        "bounded": float(p.model.bounded(p.proposal).double().mean()),
        "mean_off": float(off.square().mean().sqrt()),
        "std_factor": float(factor.mean()),
        "std_factor_sd": float(factor.std(correction=0)),
        "entry": list(p.entry),
        "exact_intercept": float(p.exact.intercept[p.entry[0]]),
        "exact_weight": float(p.exact.weight[p.entry[1], p.entry[2]]),
    }

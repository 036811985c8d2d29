"""What is trained for the unbiased-gradient notebook: cells, their settings, their images.

A cell is one data set, latent dimension, arm and seed (on a GPU all seeds of a bound's arm, as runs
of one program). Arms with IWAE+ begin with the models that the arm IWAE ended with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.lab.cells import Cell
from lmcnb.lab.data import load
from lmcnb.lab.randomness import generator
from lmcnb.methods.unbiased_vae_kernels import Coupling
from lmcnb.methods.unbiased_vae_settings import Training
from lmcnb.models.binary_vae import BinaryVAE
from lmcnb.papers import unbiased_vae as paper
from lmcnb.papers.unbiased_vae import by_name, parse_arm

PIXELS = {"teacher": 64, "static_mnist": 784}
TEACHER = 400_000  # training images: an arm sees none twice in 4,000 updates of 100
FRESH = 1_000  # test images of the teacher


@dataclass(frozen=True)
class VaeCell(Cell):
    """One training and its evaluation."""

    dataset: str
    latent: int
    arm: str
    seeds: tuple[int, ...]
    training: Training
    settings: paper.Training
    start: tuple[VaeCell, ...] = ()
    """Cells whose models the runs begin with, a run a seed; none: from scratch."""

    @property
    def model(self) -> BinaryVAE:
        """The architecture."""
        hidden = tuple(by_name(self.settings.hidden, self.dataset))
        return BinaryVAE(PIXELS[self.dataset], self.latent, hidden)

    @property
    def work(self) -> float:
        """Relative cost, for the bar: training and evaluation."""
        return self.training.updates * cost(self) + self.settings.bound_samples * 0.2

    @property
    def title(self) -> str:
        """For metrics: `static_mnist/D=20/IWAE`."""
        return f"{self.dataset}/D={self.latent}/{self.arm}"


def cost(cell: VaeCell) -> float:
    """Rough cost of an update, for the bar: 1 is IWAE's with ten samples."""
    t = cell.training
    if not t.chains:
        return t.samples / 10 * len(cell.seeds)
    steps = {"average": 0, "C-ISIR": 8, "C-ISIR-DISIR": 15}[t.method]
    return 10 if steps == 0 else 10 + steps * (1 if t.coupling.rule == "strict" else 0.2)


def training_of(arm: str, dataset: str, settings: paper.Training) -> Training:
    """The training that an arm's name stands for."""
    said = parse_arm(arm)
    samples = by_name(settings.samples, dataset)
    coupling = Coupling(
        samples=samples,
        composite=said.model != "C-ISIR",
        lag=settings.lag,
        cap=0 if said.model == "average" else by_name(settings.cap, arm),
        rule=said.rule,  # type: ignore[arg-type]
    )
    return Training(
        method=said.model,  # type: ignore[arg-type]
        updates=by_name(settings.more if said.switched else settings.updates, dataset),
        batch=settings.batch,
        learning_rate=by_name(settings.learning_rate, dataset),
        samples=said.samples or samples,
        coupling=coupling,
        beta=settings.beta,
    )


def cells_of(run: Any) -> list[VaeCell]:
    """The cells of `run` (a `lab.Run`), those that others begin with first."""
    settings: paper.Training = run.settings.training
    found: list[VaeCell] = []
    for switched in (False, True):
        for dataset in settings.datasets:
            for latent in by_name(settings.latent, dataset):
                for arm in by_name(settings.arms, dataset):
                    if parse_arm(arm).switched is switched:
                        found += _cells(run, dataset, latent, arm, found)
    return found


def _cells(run: Any, dataset: str, latent: int, arm: str, others: list[VaeCell]) -> list[VaeCell]:
    """The cells of an arm, by seed or group of seeds."""
    settings: paper.Training = run.settings.training
    training = training_of(arm, dataset, settings)
    seeds = run.seeds[: by_name(settings.seeds, arm)]
    bases = [c for c in others if (c.dataset, c.latent, c.arm) == (dataset, latent, "IWAE")]
    found = []
    for group in _groups(seeds, training, str(run.device)):
        start: tuple[VaeCell, ...] = ()
        if parse_arm(arm).switched:
            start = tuple(c for c in bases if set(c.seeds) & set(group))
            absent = set(group) - {seed for c in start for seed in c.seeds}
            if absent:
                raise UsageError(
                    f"training.seeds: {arm} goes on from IWAE, which is not trained for seed "
                    f"{min(absent)}; give IWAE as many seeds"
                )
        name = f"{dataset}-D{latent}-{arm}-{'_'.join(map(str, group))}"
        place = (name, run.directory, str(run.device), run.deadline)
        found.append(VaeCell(*place, dataset, latent, arm, group, training, settings, start))
    return found


def _groups(seeds: list[int], training: Training, device: str) -> list[tuple[int, ...]]:
    """Seeds that are trained together."""
    if device.startswith("cuda") and not training.chains:
        return [tuple(seeds)]
    return [(s,) for s in seeds]


@contextmanager
def flushed() -> Iterator[None]:
    """Denormal numbers count as zero inside, in this thread.

    Pixels without ink get logits below -43, where softplus squares exp(logit) to a denormal number,
    and a processor takes a hundred times as long for such. Values change by less than 1e-38.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def images(dataset: str, split: str) -> Tensor:
    """Images of 0 and 1, uint8 `(n, pixels)`: train or test."""
    if dataset == "teacher":
        n = TEACHER if split == "train" else FRESH
        return teacher(n, generator(0, f"teacher/{split}"))
    return torch.from_numpy(load(dataset, split)["images"]).flatten(1)


def teacher(n: int, stream: torch.Generator) -> Tensor:
    """`n` images of a fixed random model: 8 latents, 32 tanh units, 64 Bernoulli pixels."""
    fixed = generator(0, "teacher/weights")
    first = 3 * torch.randn(8, 32, generator=fixed) / 8**0.5
    second = 4 * torch.randn(32, 64, generator=fixed) / 32**0.5
    parts = []
    for some in torch.arange(n).split(50_000):
        z = torch.randn(len(some), 8, generator=stream)
        share = torch.sigmoid(torch.tanh(z @ first) @ second)
        parts.append(torch.rand(share.shape, generator=stream) < share)
    return torch.cat(parts).to(torch.uint8)


def spaced(x: Tensor, n: int) -> Tensor:
    """`n` evenly spaced rows of x, or all if there are fewer."""
    if n >= len(x):
        return x
    return x[torch.linspace(0, len(x) - 1, n).round().long().to(x.device)]

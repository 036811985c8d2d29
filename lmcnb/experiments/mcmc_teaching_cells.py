"""What is trained for the notebook of MCMC teaching: cells, their settings, networks and data.

A cell is one data set or density, one arm and one seed. Seeds are paired: with the same seed every
arm starts with the same networks and sees the same data in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from lmcnb.lab.cells import Cell
from lmcnb.lab.files import read_json, remove_checkpoint, save_checkpoint, write_json
from lmcnb.lab.pool import report
from lmcnb.lab.randomness import generator
from lmcnb.lab.training import fit
from lmcnb.methods.mcmc_teaching_data import Streams
from lmcnb.methods.mcmc_teaching_settings import Teaching
from lmcnb.methods.mcmc_teaching_teachers import TEACHERS
from lmcnb.methods.mcmc_teaching_training import Trainer
from lmcnb.papers.mcmc_teaching import Knobs, teaching_of

KEPT = 200  # points of a curve of gaps


@dataclass(frozen=True)
class TeachingCell(Cell):
    """One training and its evaluation."""

    group: str
    """plane, digits or images."""
    data: str
    """The density, the task or the data set."""
    arm: str
    seed: int
    teaching: Teaching
    settings: Any
    """The group of settings (`papers.mcmc_teaching`)."""

    @property
    def work(self) -> float:
        """Relative cost, for the bar."""
        return self.teaching.iterations * cost(self.teaching)

    @property
    def title(self) -> str:
        """For metrics: `plane/checkerboard/fast`."""
        return f"{self.group}/{self.data}/{self.arm}"

    @property
    def task(self) -> str:
        """What x is conditioned on."""
        return self.data if self.group == "digits" else getattr(self.settings, "task", "none")

    def stream(self, what: str, device: torch.device | str = "cpu") -> torch.Generator:
        """A random generator of the cell: the same for all arms with a seed, unless they say."""
        return generator(self.seed, f"{self.group}/{self.data}/{what}", device)

    def streams(self) -> Streams:
        """Of the training."""
        device = torch.device(self.device)
        return Streams(self.stream("data", device), self.stream(f"{self.arm}/noise", device))


def cost(t: Teaching) -> float:
    """Rough cost of an iteration, for the bar: 1 is a Langevin step of the chains."""
    who = TEACHERS[t.teacher]
    chains = 0 if who.start is None else t.steps + 8
    inference = 2 * t.inference_steps if who.latent == "langevin" else 0
    return chains + inference + (0 if who.latent is None else 6 * t.generator_steps)


def cell(run: Any, group: str, data: str, arm: str, seed: int, knobs: Knobs) -> TeachingCell:
    """A cell of `run`."""
    place = (f"{group}-{data}-{arm}-{seed}", run.directory, str(run.device), run.deadline)
    return TeachingCell(*place, group, data, arm, seed, teaching_of(arm, knobs), knobs)


def finished(cell: TeachingCell) -> dict[str, Any] | None:
    """The result of a finished cell, or None; the bar is told."""
    if not cell.result.exists():
        return None
    report(cell.work)
    return read_json(cell.result)


def train(cell: TeachingCell, trainer: Trainer) -> dict[str, Any]:
    """Train to the end, a divergence or the deadline; what every result holds."""
    t, per_iteration = cell.teaching, cost(cell.teaching)
    fit(
        trainer,
        t.iterations,
        cell.checkpoint,
        deadline=cell.deadline,
        report=lambda n: report(n * per_iteration),
        check_every=5,
    )
    report((t.iterations - trainer.done) * per_iteration)
    who, done = TEACHERS[t.teacher], trainer.done
    return {
        "group": cell.group,
        "data": cell.data,
        "task": cell.task,
        "arm": cell.arm,
        "teacher": t.teacher,
        "title": cell.title,
        "seed": cell.seed,
        "iterations": done,
        "steps": t.steps,
        "diverged_at": trainer.diverged_at()[0],
        "seconds": trainer.watch.seconds,
        "curve": trainer.curve,
        "gaps": blocks(trainer.gaps[:done]),
        "energy_gradients": 0 if who.start is None else done * t.chains * t.steps,
        "generator_updates": 0 if who.latent is None else done * t.generator_steps,
    }


def keep(cell: TeachingCell, trainer: Trainer, result: dict[str, Any]) -> dict[str, Any]:
    """Write the weights, then the result; remove the checkpoint."""
    state: dict[str, Any] = {
        f"{name}.{k}": v.detach().cpu()
        for name in ("energy", "encoder", "decoder")
        if (net := getattr(trainer, name)) is not None
        for k, v in net.state_dict().items()
    }
    save_checkpoint(cell.weights, state)
    write_json(cell.result, result)
    remove_checkpoint(cell.checkpoint)
    return result


@contextmanager
def borrowed(trainer: Trainer, stream: torch.Generator) -> Iterator[None]:
    """Inside, noise is drawn from `stream`: a look leaves the training alone."""
    own = trainer.streams
    trainer.streams = own._replace(noise=stream)
    try:
        yield
    finally:
        trainer.streams = own


def deterministic(device: str) -> None:
    """Deterministic algorithms in this process, without their cost in memory."""
    torch.use_deterministic_algorithms(True, warn_only=device.startswith("cuda"))
    # filling fresh memory would cost time in every step
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010


def blocks(values: torch.Tensor) -> dict[str, Any]:
    """Means of consecutive iterations, at most KEPT of them."""
    every = max(1, -(-len(values) // KEPT))
    means = [float(part.double().mean()) for part in values.cpu().split(every)]
    return {"every": every, "mean": rounded(means)}


def number(value: float) -> float | None:
    """The value; None where it is no number, which no file takes."""
    return value if abs(value) < float("inf") else None


def rounded(values: list[float]) -> list[float | None]:
    """Five significant digits; None where it is no number."""
    return [float(f"{v:.5g}") if abs(v) < float("inf") else None for v in values]

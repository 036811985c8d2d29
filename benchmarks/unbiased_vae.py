"""Speed of unbiased gradients by coupled chains, as ratios measured in one run on one thread.

    compaction       time of running every row of a batch to the longest meeting time over that of
                     taking out rows that have met (frozen VAE, 297 images, C-ISIR, cap 300)
    batched          time of one row at a time over that of a batch of 5,000, per row
                     (linear-Gaussian reference instance, C-ISIR-DISIR, K = 4, until all have met)
    batched_vae      the same in the frozen-VAE study, 297 rows, cap 50: bound by matrix products
    linear_in_steps  time of 100 joint steps over that of 25, divided by 4
    gradient_index   time of an update with C-ISIR-DISIR and the index rule over IWAE's
    gradient_strict  the same with the strict rule and a cap of 50
    decodes_index    decoder evaluations in the chains of such an update over IWAE's
    decodes_strict   the same with the strict rule
    denormals        time of a test bound with denormal numbers over that with zeros in their place
                     (784 pixels, every 16th with a logit of -48, as pixels without ink have)

The VAE (64 pixels, 2 x 200 units, 20 latents, K = 10) is trained here for 1,500 updates of IWAE on
binarized digits. Before anything is timed, the batch with and without compaction must meet after
the same number of joint steps, up to noise. The last line printed is one JSON object; it is also
written, with the machine and versions, to results/benchmarks/unbiased_vae.json.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lmcnb.errors import UserError
from lmcnb.experiments.unbiased_vae_cells import flushed
from lmcnb.experiments.unbiased_vae_exact_models import reference
from lmcnb.experiments.unbiased_vae_images import bound
from lmcnb.kernels import disir
from lmcnb.kernels.coupling import Pair
from lmcnb.lab import benchmark
from lmcnb.lab.benchmark import judged
from lmcnb.lab.data import load
from lmcnb.lab.timing import least_times
from lmcnb.methods.unbiased import Meeting, couple
from lmcnb.methods.unbiased_vae import weighted_points
from lmcnb.methods.unbiased_vae_gradients import row_log_weight
from lmcnb.methods.unbiased_vae_kernels import Coupling, kernels
from lmcnb.methods.unbiased_vae_settings import STATISTICS, Streams, Training
from lmcnb.methods.unbiased_vae_training import Trainer
from lmcnb.models.binary_vae import BinaryVAE

SAMPLES, BETA = 10, 0.9
STUDY = Coupling(SAMPLES, composite=False, cap=300)
TARGETS: dict[str, tuple[str, float]] = {
    "compaction": ("at_least", 2.5),
    "batched": ("at_least", 20.0),
    "linear_in_steps": ("at_most", 1.1),
    "denormals": ("at_least", 1.5),
}


def digits(split: str) -> Tensor:
    """Binarized digits, uint8 `(n, 64)`."""
    return (torch.from_numpy(load("digits", split)["images"]).flatten(1) > 7).to(torch.uint8)


def streams(seed: int) -> list[Streams]:
    """Random generators of one run."""
    return [Streams(*(torch.Generator().manual_seed(seed + i) for i in range(3)))]


def frozen(updates: int = 1500) -> Trainer:
    """The trained IWAE."""
    model = BinaryVAE(64, 20, (200, 200))
    trainer = Trainer(
        model, Training("IWAE", updates, samples=SAMPLES), digits("train"), streams(0)
    )
    for _ in range(updates):
        trainer.step()
    return trainer


class Study:
    """Pairs of chains for test images on the frozen model."""

    def __init__(self, trainer: Trainer) -> None:
        self.x = digits("test").float()
        model, p = trainer.model, trainer.parameters
        self.log_weight = row_log_weight(model, p, self.x.unsqueeze(0))[0]
        self.latent = model.latent
        self.stream = torch.Generator().manual_seed(5)

    def start(self, rows: Tensor) -> disir.State:
        """A fresh start of the given images."""
        shape = (len(rows), SAMPLES, self.latent)
        return disir.start(shape, lambda p: self.log_weight(p, rows), self.stream, torch.float32)

    def run(self, c: Coupling, rows: Tensor, compact: bool = True) -> Meeting:
        """Until all have met, or the cap."""
        own = kernels(lambda p, r: self.log_weight(p, rows[r]), c, BETA, self.stream)
        first, second = self.start(rows), self.start(rows)
        return couple(
            *own, first, second, lambda *_: None, lambda *_: None,
            lag=c.lag, start=c.start, cap=c.cap, compact=compact,
        )  # fmt: skip

    def joint(self, steps: int) -> Callable[[], object]:
        """A number of joint steps of all rows, whether they have met or not."""
        rows = torch.arange(len(self.x))
        _, coupled = kernels(self.log_weight, replace(STUDY, composite=True), BETA, self.stream)
        apart = torch.zeros(len(rows), dtype=torch.bool)

        @torch.no_grad()
        def run() -> None:
            pair = Pair(self.start(rows), self.start(rows), apart, apart)
            for _ in range(steps):
                pair = coupled(pair, rows)

        return run


def disagreement(study: Study, repeats: int = 3) -> float:
    """Difference of the mean joint steps with and without compaction, in standard errors."""
    rows = torch.arange(len(study.x)).repeat(repeats)
    found = [
        study.run(replace(STUDY, cap=50), rows, compact).joint_steps.double()
        for compact in (True, False)
    ]
    a, b = (f.view(repeats, -1).mean(0) for f in found)
    return float((a - b).mean().abs() / ((a - b).std() / len(a) ** 0.5))


def gradient(base: Trainer, t: Training) -> tuple[Callable[[], object], Trainer]:
    """An update from the frozen model."""
    trainer = Trainer(
        base.model, t, digits("train"), streams(9), begin=base.parameters, squares=base.squares,
        look_at_cut=10**9,
    )  # fmt: skip
    return trainer.step, trainer


def bounds() -> dict[str, Callable[[], object]]:
    """The test bound of an untrained model with pixels that never have ink."""
    model = BinaryVAE(784, 20, (200, 200))
    p = model.initial([torch.Generator().manual_seed(0)])
    p["decoder.W2"][..., ::16], p["decoder.b2"][..., ::16] = 0, -48
    x = torch.zeros(100, 784, dtype=torch.uint8)

    def plain() -> object:
        return bound(model, p, x, 100, torch.Generator().manual_seed(1))

    return {"bound_denormal": plain, "bound_flushed": flushed()(plain)}


def measure(rounds: int = 6, block: float = 0.5, updates: int = 1500) -> dict[str, Any]:
    """All ratios, measured; raises if the programs disagree."""
    base = frozen(updates)
    study = Study(base)
    difference = disagreement(study)
    if not difference <= 4:
        raise UserError(f"the programs disagree by {difference:.1f} standard errors")
    rows, few = torch.arange(len(study.x)), torch.arange(0, len(study.x), 30)
    short = replace(STUDY, cap=50)

    def one_by_one() -> None:
        for row in few.split(1):
            study.run(short, row)

    case, chains = reference(), Coupling(4)
    stream = torch.Generator().manual_seed(7)

    def gaussian(n: int) -> Callable[[], object]:
        dtype = torch.float64
        return lambda: weighted_points(case.log_weight(n), n, 2, chains, 0.5, stream, dtype)

    steady = {"joint_25": study.joint(25), "joint_100": study.joint(100)}
    steady |= {"gaussian_1": gaussian(1), "gaussian_5000": gaussian(5000)}
    t = least_times(steady, rounds, block)
    slow: dict[str, Callable[[], object]] = {
        "compact": lambda: study.run(STUDY, rows),
        "to_the_longest": lambda: study.run(STUDY, rows, compact=False),
        "batch": lambda: study.run(short, rows),
        "one_by_one": one_by_one,
    }
    strict = Training("C-ISIR-DISIR", 10**5, coupling=Coupling(SAMPLES, cap=50))
    index = replace(strict, coupling=Coupling(SAMPLES, cap=50, rule="index"))
    trainers = {}
    for name, training in (
        ("iwae", Training("IWAE", 10**5)), ("index", index), ("strict", strict)
    ):  # fmt: skip
        slow[name], trainers[name] = gradient(base, training)
    t |= least_times(slow, 3 if block else 1, block)
    t |= least_times(bounds(), rounds, block)
    decodes = {
        name: float(tr.statistics[: tr.done, 0, STATISTICS.index("decodes")].nanmean()) / SAMPLES
        for name, tr in trainers.items()
        if name != "iwae"
    }
    ratios = {
        "compaction": t["to_the_longest"] / t["compact"],
        "batched": t["gaussian_1"] / (t["gaussian_5000"] / 5000),
        "batched_vae": t["one_by_one"] / len(few) / (t["batch"] / len(rows)),
        "linear_in_steps": t["joint_100"] / t["joint_25"] / 4,
        "gradient_index": t["index"] / t["iwae"],
        "gradient_strict": t["strict"] / t["iwae"],
        "decodes_index": decodes["index"],
        "decodes_strict": decodes["strict"],
        "denormals": t["bound_denormal"] / t["bound_flushed"],
    }
    return judged("unbiased_vae", ratios, TARGETS, t) | {"difference": difference}


def table(result: benchmark.Result) -> str:
    """The ratios with their targets, and the times, as text."""
    return benchmark.table([f"unbiased gradients, {result['threads']} thread"], "call", result)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table and the JSON line, write the file."""
    benchmark.main(__doc__, measure, lambda: measure(1, 0.0, 100), table, arguments)


if __name__ == "__main__":
    benchmark.script(main)

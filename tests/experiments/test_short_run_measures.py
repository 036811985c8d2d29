"""What is measured of a trained generator, recomputed by hand from the same streams."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lmcnb.evaluation.frechet import frechet_distance
from lmcnb.experiments import short_run_evaluation as measure
from lmcnb.experiments import short_run_images as images
from lmcnb.experiments.short_run_cells import ImageCell, Split, cells_of, read
from lmcnb.lab.randomness import generator
from lmcnb.methods import short_run as sri
from lmcnb.methods.short_run_marginal import marginal_bounds
from lmcnb.methods.short_run_settings import Training
from lmcnb.methods.short_run_training import Streams, Trainer, in_float64, spaced
from lmcnb.models.observed import log_joint
from lmcnb.papers.short_run import Settings

GRID, CHAINS, FACTOR = [0.05, 0.1, 0.2], 6, 3
IMAGES: dict[str, Any] = {
    "datasets": ["digits"],
    "epochs": {"default": 1},
    "width": {"default": 16},
    "latent": {"1": [3]},
    "steps": 5,
    "step_size": {"default": 0.2},
    "grid": {"default": GRID},
    "search_from": {"default": 1},
    "search_every": {"default": 1},
    "search_chains": CHAINS,
    "persistent_test": FACTOR,
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(**more: Any) -> Trainer:
    """Untrained, with weights so large that the chain does something."""
    t = Training(**{"latent": (3,), "width": 16, "epochs": 1, "steps": 5, "step_size": 0.2} | more)
    trainer = Trainer(t, read("digits")[0].images, Streams(*(seeded(i) for i in range(4))))
    with torch.no_grad():
        for p in trainer.generator.parameters():
            p.mul_(1.5)
    return trainer


def digits(n: int) -> Tensor:
    return read("digits")[1].images[:n]


def ends(trainer: Trainer, x: Tensor, stream: torch.Generator, steps: int) -> list[Tensor]:
    """Images of the noisy and of the noise-free chain, step by step, from one start."""
    s, target = trainer.step_size, log_joint(trainer.generator, x, 0.3)
    start, noise = sri.draw((len(x), 3), steps, stream, torch.float32)
    found = []
    for share in (1, 0):
        z = start
        for e in noise:
            point = z.detach().requires_grad_()
            (g,) = torch.autograd.grad(target(point).sum(), point)
            z = z + 0.5 * s**2 * g + share * s * e
        found.append(trainer.generator(z).detach())
    return found


# ---- errors


@pytest.mark.parametrize("noisy", [True, False])
def test_a_sampled_reconstruction_has_the_chains_noise_and_the_mean_one_has_none(
    noisy: bool,
) -> None:
    trainer, x = small(noisy=noisy), digits(20)
    sampled, mean = measure.reconstructions(trainer, x, seeded(1))
    known = ends(trainer, x, seeded(1), 5)
    assert float((known[0] - known[1]).abs().max()) > 0.1
    assert torch.allclose(sampled, known[0 if noisy else 1], atol=1e-5)
    assert torch.allclose(mean, known[1], atol=1e-5)


def test_a_sampled_reconstruction_of_an_autoencoder_is_of_one_draw_of_q() -> None:
    trainer, x = small(method="VAE"), digits(20)
    sampled, mean = measure.reconstructions(trainer, x, seeded(1))
    assert trainer.encoder is not None
    with torch.no_grad():
        m, std = trainer.encoder(x)
        drawn = trainer.generator(m + std * torch.randn(20, 3, generator=seeded(1)))
        assert torch.allclose(sampled, drawn, atol=1e-6)
        assert torch.allclose(mean, trainer.generator(m), atol=1e-6)
    assert float((sampled - mean).abs().max()) > 0.1


def test_the_squared_error_is_a_mean_over_pixels_and_images() -> None:
    a = torch.tensor([[1.0, 3.0], [0.0, 0.0], [2.0, 2.0]])
    b = torch.tensor([[1.0, 1.0], [1.0, -1.0], [2.0, 0.0]])
    found = measure.squared_error(a, b)  # of the images 2, 1, 2
    assert found["value"] == pytest.approx(5 / 3)
    assert found["se"] == pytest.approx(math.sqrt(1 / 3) / math.sqrt(3))
    assert found["n"] == 3


def test_a_longer_chain_has_so_many_times_the_steps() -> None:
    trainer, x = small(), digits(4)
    z, noise = sri.draw((4, 3), 15, seeded(1), torch.float32)
    target = log_joint(trainer.generator, x, 0.3)
    found = measure.infer(trainer, x, seeded(1), 3)
    assert torch.equal(found[0].detach(), sri.short_run(target, z, 0.2, 15, noise).detach())


# ---- distances


@pytest.mark.parametrize(("train", "test", "reference"), [(1600, 40, "train"), (40, 1500, "test")])
def test_distances_of_generated_images_and_their_floors(
    train: int, test: int, reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The samples, the training and the test images lie around 0, 1 and 3."""
    splits = {
        "train": Split(1 + torch.rand(train, 4, generator=seeded(1)), torch.zeros(train)),
        "test": Split(3 - torch.rand(test, 4, generator=seeded(2)), torch.ones(test)),
    }

    class Fake:
        def __init__(self, power: int) -> None:
            self.power = power

        def features(self, x: Tensor) -> Tensor:
            return x[:, :2] ** self.power

        def accuracy(self, x: Tensor, labels: Tensor) -> float:
            assert torch.equal(x, splits["test"].images)
            assert torch.equal(labels, splits["test"].labels)
            return self.power / 10

    fakes = [Fake(1), Fake(2)]
    monkeypatch.setattr(measure, "read", lambda dataset: (splits["train"], splits["test"]))
    monkeypatch.setattr(measure, "classifiers", lambda dataset, count: fakes[:count])

    def network(z: Tensor) -> Tensor:
        return torch.cat([z, 0.5 * z], -1)

    found = measure.synthesis(network, "digits", 2, 1200, 2, seeded(3))
    made = network(torch.randn(1200, 2, generator=seeded(3)))
    against = splits[reference].images
    other = splits["test" if reference == "train" else "train"].images
    for name, images_of in (("classifier", made), ("floor", other)):
        known = [frechet_distance(f.features(images_of), f.features(against)) for f in fakes]
        assert min(known) > 0.5
        assert found[name] == pytest.approx(known)
    assert found["pixels"] == pytest.approx(frechet_distance(made, against))
    assert found["pixels_floor"] == pytest.approx(frechet_distance(other, against))
    assert found["n"] == [1200, len(against)]
    assert found["reference"] == reference
    assert found["accuracy"] == [0.1, 0.2]


# ---- curves


def test_the_error_by_step_size_is_that_of_a_chain_with_this_step_size() -> None:
    trainer, x = small(), digits(30)
    found = measure.error_by_step_size(trainer, x, GRID, seeded(1))
    known = []
    for s in GRID:
        trainer.step_size = s
        known.append(float((ends(trainer, x, seeded(1), 5)[0] - x).square().mean()))
    assert found == pytest.approx(known, abs=1e-5)
    assert len({round(e, 4) for e in known}) == 3


def test_the_marginal_curve_is_the_bound_of_the_whole_chain() -> None:
    trainer, x = small(search_chains=CHAINS), digits(7)
    found = measure.marginal_curve(trainer, x, GRID, seeded(1))
    z, noise = sri.draw((CHAINS, 7, 3), 5, seeded(1), torch.float32)
    trainer.generator.requires_grad_(False)
    target = log_joint(trainer.generator, x, 0.3)
    known = [marginal_bounds(target, z, s, 5, noise).upper for s in GRID]
    assert [bracket.upper for _, bracket in found] == pytest.approx(known, rel=1e-6)
    assert [s for s, _ in found] == list(GRID)


@pytest.mark.parametrize("noisy", [True, False])
def test_a_curve_is_the_objective_of_the_named_chain(noisy: bool) -> None:
    trainer, x = small(), digits(7)
    found = measure.curve(trainer, x, GRID, seeded(1), noisy=noisy)
    z, noise = sri.draw((7, 3), 5, seeded(1), torch.float64)
    target = log_joint(in_float64(trainer.generator), x.double(), 0.3)
    known = [sri.objective(target, z, s, 5, noise if noisy else None) for s in GRID]
    assert [o.value for o in found] == [o.value for o in known]


# ---- a whole evaluation


def evaluated(
    arm: str, monkeypatch: pytest.MonkeyPatch, curves: tuple[str, ...] = ()
) -> tuple[dict[str, Any], Trainer, Tensor, ImageCell]:
    """What `evaluate` finds of an untrained model, its distances left out."""
    own = Settings.model_validate(
        {
            "n_seeds": 1,
            "exact": {"draws": 1000, "updates": 20},
            "images": IMAGES | {"arms": {"default": [arm]}, "curves": list(curves)},
        }
    )
    run = SimpleNamespace(
        settings=own, seeds=[3], directory=Path("nowhere"), device="cpu", deadline=None
    )
    (cell,) = cells_of(run)
    t = cell.training
    more = {"noisy": t.noisy, "search_chains": t.search_chains, "search": t.search}
    trainer = small(method=t.method, step_size=t.step_size, **more)
    monkeypatch.setattr(measure, "synthesis", lambda *a: {})
    train, x = read("digits")[0].images, spaced(read("digits")[1].images, 80)
    return images.evaluate(cell, trainer, train, x), trainer, x, cell


@pytest.mark.parametrize("arm", ["SRI", "SRI-s0.2-noisefree"])
def test_the_final_curves_are_those_they_are_named_after(
    arm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, trainer, x, _ = evaluated(arm, monkeypatch, (arm,))
    judged_on = spaced(x, images.JUDGED)
    z, noise = sri.draw((64, 3), 5, generator(3, "digits/sweep"), torch.float64)
    target = log_joint(in_float64(trainer.generator), judged_on.double(), 0.3)
    for name, given in (("noisy", noise), ("noise_free", None)):
        known = [sri.objective(target, z, s, 5, given).value for s in GRID]
        assert known[0] is not None
        own = {p["s"]: p["value"] for p in found[f"sweep_{name}"]}
        assert own[GRID[0]] == pytest.approx(known[0], rel=1e-9)
        assert list(own.values()) == known[: len(own)]
    first = [found[f"sweep_{name}"][0]["value"] for name in ("noisy", "noise_free")]
    assert abs(first[0] - first[1]) > 0.1
    assert ("sweep_marginal" in found) == (arm == "SRI")


def test_the_final_marginal_curve_and_errors_are_by_step_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, trainer, x, _ = evaluated("SRI", monkeypatch, ("SRI",))
    twice = [0.1, 0.2, 0.4]
    own = measure.marginal_curve(trainer, spaced(x, 64), twice, generator(3, "digits/marginal"))
    assert [p["value"] for p in found["sweep_marginal"]] == [b.upper for _, b in own]
    assert [p["lower"] for p in found["sweep_marginal"]] == [b.lower for _, b in own]
    assert [p["s"] for p in found["sweep_marginal"]] == twice
    both = [0.05, 0.1, 0.2, 0.4]
    errors = measure.error_by_step_size(trainer, x, both, generator(3, "digits/by s"))
    assert found["error_by_step_size"] == dict(zip(map(str, both), errors, strict=True))


@pytest.mark.parametrize("arm", ["SRI-s0.2", "VAE"])
def test_the_final_errors_are_of_the_sampled_and_of_the_mean_reconstruction(
    arm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, trainer, x, _ = evaluated(arm, monkeypatch)
    both = measure.reconstructions(trainer, x, generator(3, "digits/test"))
    known = [measure.squared_error(image, x) for image in both]
    assert known[0]["value"] != pytest.approx(known[1]["value"], rel=1e-3)
    assert [found["mse"][kind] for kind in ("sampled", "mean")] == known


def test_a_persistent_model_is_also_tested_with_so_many_times_the_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, trainer, x, _ = evaluated("ABP-s0.1", monkeypatch)
    longer, usual = (
        measure.squared_error(ends(trainer, x, generator(3, "digits/test"), 5 * factor)[0], x)
        for factor in (FACTOR, 1)
    )
    assert abs(longer["value"] - usual["value"]) > 1e-3
    assert found["mse"]["longer"]["value"] == pytest.approx(longer["value"], abs=1e-5)
    assert found["mse"]["longer"]["n"] == 80
    assert found["mse"]["sampled"]["value"] == pytest.approx(usual["value"], abs=1e-5)


def test_inpainting_is_judged_where_pixels_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    found, trainer, x, _ = evaluated("SRI-s0.2", monkeypatch)
    stream = generator(3, "digits/inpainting")
    train, n = read("digits")[0].images, len(x)
    for name, mask in measure.masks(n, (8, 8), stream).items():
        z = torch.randn(n, 3, generator=stream)
        noise = torch.randn(5, n, 3, generator=stream)
        own = measure.inpaint(trainer.generator, x, mask, 0.3, 0.2, z, noise)
        squares = (own - x).square()
        assert float((squares * mask).max()) == 0  # what is seen is kept
        by_image = [float(squares[i][mask[i] == 0].mean()) for i in range(n)]
        score = found["inpainting"][name]["SRI"]
        assert score["value"] == pytest.approx(sum(by_image) / n, rel=1e-5)
        assert score["value"] > 0.05
        assert score["n"] == n
        nearest = [
            train[int(((train - x[i]).square() * mask[i]).sum(-1).argmin())] for i in range(n)
        ]
        fills = {"mean": [train.mean(0)] * n, "nearest": nearest}
        for fill, other in fills.items():
            errors = [float((o - x[i]).square()[mask[i] == 0].mean()) for i, o in enumerate(other)]
            value = found["inpainting"][name][fill]["value"]
            assert value == pytest.approx(sum(errors) / n, rel=1e-4)

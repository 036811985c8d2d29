"""What is measured of models of images, by models whose answers are known."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lmcnb.evaluation.classifier import Classifier
from lmcnb.experiments import mcmc_teaching_evaluation as measure
from lmcnb.experiments import mcmc_teaching_images as images
from lmcnb.experiments import mcmc_teaching_tasks as tasks
from lmcnb.experiments.mcmc_teaching_sets import read
from lmcnb.lab.files import to_json
from lmcnb.methods.mcmc_teaching_data import Batch, Networks, Streams
from lmcnb.methods.mcmc_teaching_settings import Teaching
from lmcnb.methods.mcmc_teaching_training import Trainer

sys.path.append(str(Path(__file__).parent))
from small_classifiers import REAL, small_measures
from small_teaching import FakeRun


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with small_measures():
        yield


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Known(nn.Module):
    """A network whose output is a function; what it was given is kept."""

    def __init__(self, function: Callable[..., Any], latent: int = 2) -> None:
        super().__init__()
        self.function, self.latent = function, latent
        self.seen: list[tuple[Tensor, Tensor | None]] = []
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, c: Tensor | None = None) -> Any:
        if not x.requires_grad:
            self.seen.append((x, c))
        return self.function(x) if c is None else self.function(x, c)


def flat(x: Tensor, c: Tensor | None = None) -> Tensor:
    return 0 * x.sum(-1)


def rising(x: Tensor, c: Tensor | None = None) -> Tensor:
    """Every step of size 0.2 without noise moves all pixels by 0.02."""
    return x.sum(-1)


def trainer(
    teacher: str = "variational",
    decoder: Callable[..., Any] = lambda z, c=None: torch.zeros(len(z), 64),
    encoder: Callable[..., Any] = lambda x, c=None: (x[:, :2], torch.ones(len(x), 2)),
    energy: Callable[..., Any] = flat,
    **changed: Any,
) -> Trainer:
    """Of 64 pixels, 4 chains, 3 steps without noise or reference."""
    own: dict[str, Any] = {"batch": 4, "chains": 4, "steps": 3, "step_size": 0.2, "pool": 30}
    own |= {"noisy": False, "reference": None, "ancestral": False, "start_std": 0.1}
    networks = Networks(Known(energy), Known(encoder), Known(decoder))
    t = Teaching(teacher, **(own | changed))
    return Trainer(
        t, networks, lambda n, s: Batch(torch.zeros(n, 64)), Streams(stream(), stream(1))
    )


def seen(network: nn.Module | None) -> list[tuple[Tensor, Tensor | None]]:
    assert isinstance(network, Known)
    return network.seen


def arranged(x: Tensor, c: Tensor | None = None, hidden: Tensor | None = None) -> tasks.Arranged:
    return tasks.Arranged(x, c, hidden)


# ---- samples


def test_samples_are_made_by_batches_of_chains_and_conditions_are_cycled() -> None:
    """10 samples by 4 chains: three batches; three conditions one after the other."""
    c = torch.eye(3)
    shade = torch.tensor([-0.5, 0.1, 0.7])

    def decoder(z: Tensor, c: Tensor) -> Tensor:
        return (c @ shade)[:, None].expand(-1, 64)

    own = trainer(decoder=decoder, energy=lambda x, c: 0.5 * c[:, 0] * x.sum(-1))
    found = measure.samples(own, 10, c)
    assert list(found) == ["initial", "revised"]
    assert [len(z) for z, _ in seen(own.decoder)] == [4, 4, 4]
    cycled = torch.tensor([0, 1, 2] * 4)[:10]
    assert torch.allclose(found["initial"], shade[cycled][:, None].expand(-1, 64))
    moved = found["revised"] - found["initial"]
    known = torch.where(cycled == 0, 3 * 0.02 * 0.5, 0.0)  # each under its own condition
    assert torch.allclose(moved, known[:, None].expand(-1, 64), atol=1e-6)
    with_one = measure.samples(own, 5, c[:1])
    assert torch.allclose(with_one["initial"], shade[0].expand(5, 64))
    z = torch.cat([z for z, _ in seen(own.decoder)])
    assert len(z.unique(dim=0)) == len(z) == 20


def test_samples_are_revised_and_clipped() -> None:
    for begin, value in ((0.9, 0.96), (0.99, 1.0)):  # three steps of 0.02
        own = trainer(decoder=lambda z, v=begin: v + torch.zeros(len(z), 64), energy=rising)
        found = measure.samples(own, 6)
        assert torch.allclose(found["revised"], torch.full((6, 64), value), atol=1e-5)
    x = torch.tensor([-3.0, -0.5, math.nan, 2.0, math.inf, -math.inf])
    assert measure.clipped(x).nan_to_num(9).tolist() == [-1, -0.5, 9, 1, 9, 9]


def test_what_samples_the_teachers_have() -> None:
    vae = measure.samples(trainer("VAE", decoder=lambda z: z.repeat(1, 32)), 6)
    assert list(vae) == ["initial"]
    assert vae["initial"].shape == (6, 64)
    short = measure.samples(trainer("short-run"), 9)
    assert list(short) == ["initial", "revised"]
    assert float(short["initial"].std()) == pytest.approx(0.1, rel=0.1)
    own = trainer("persistent", start_std=2.0)
    assert own.chains is not None
    kept = measure.samples(own, 9)
    assert list(kept) == ["revised"]
    assert torch.equal(kept["revised"], own.chains[:9].clamp(-1, 1))
    names = [measure.last(made) for made in (vae, short, kept)]
    assert names == ["initial", "revised", "revised"]


# ---- distances


def test_the_distance_of_the_training_images_from_themselves_is_zero() -> None:
    x, labels = measure.reference("digits")
    assert x.shape == (300, 64)
    assert labels.shape == (300,)
    assert measure.fcd(x, "digits", 2) == pytest.approx([0, 0], abs=1e-4)
    other = measure.fcd(-x, "digits", 2)
    assert len(set(other)) == 2  # classifiers of their own
    assert all(v is not None and v > 1 for v in other)
    bad = x.clone()
    bad[5, 5] = math.nan
    assert measure.fcd(bad, "digits", 2) == [None, None]


def test_the_floor_is_far_below_the_ceiling() -> None:
    found = measure.limits("digits", 200, 2)
    test = read("digits", "test")
    assert found["floor"] == measure.fcd(test.images, "digits", 2)
    for floor, ceiling, accuracy in zip(*found.values(), strict=True):
        assert 0 < floor < 0.2 * ceiling
        assert 0.6 < accuracy < 1
    right = measure.classifiers("digits", 2)[1].predict(test.images) == test.labels
    assert found["accuracy"][1] == pytest.approx(float(right.double().mean()))
    assert measure.limits("digits", 50, 2)["ceiling"] != found["ceiling"]


def test_the_ceiling_is_that_of_uniform_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Tensor] = []

    def kept(x: Tensor, dataset: str, count: int) -> list[float]:
        given.append(x)
        return [0.0]

    monkeypatch.setattr(measure, "fcd", kept)
    measure.limits.__wrapped__("digits", 500, 1)
    noise = given[1]
    assert noise.shape == (500, 64)
    assert float(noise.var()) == pytest.approx(1 / 3, rel=0.03)
    assert -1 <= float(noise.min()) < -0.99 and 0.99 < float(noise.max()) <= 1


def test_every_classifier_has_a_seed_of_its_own_and_all_training_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Classifier, "fit", lambda x, y, *, seed: (len(x), len(y), seed))
    found: Any = REAL.__wrapped__("digits", 3)
    assert found == [(1500, 1500, 0), (1500, 1500, 1), (1500, 1500, 2)]


# ---- longer and longer


def walkers(**changed: Any) -> Any:
    run = FakeRun(digits__arms={"default": ["fast"]}, **changed)
    cell = images.digits_of(run)[0]
    few = cell.settings.model_copy(update={"samples": 98})
    return replace(cell, settings=few, teaching=replace(cell.teaching, chains=4))


def test_the_same_chains_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """By 0.02 a step; 98 samples are 100 of batches of 4, of which the last two go."""
    given: list[Tensor] = []

    def kept(x: Tensor, dataset: str, count: int) -> list[float]:
        given.append(x)
        return [0.5] * count

    monkeypatch.setattr(measure, "fcd", kept)
    start = torch.linspace(-0.1, 0.1, 64)
    own = trainer("fast", decoder=lambda z: start + 0 * z[:, :1], energy=rising)
    cell = walkers(digits__classifiers=2)
    found = measure.by_steps(cell, own, "digits", [7, 2, 100])
    assert [p["steps"] for p in found] == [0, 2, 7, 100]
    assert all(p["frechet"] == [0.5, 0.5] for p in found)
    assert [len(z) for z, _ in seen(own.decoder)] == [4] * 25
    for p, x in zip(found, given, strict=True):
        assert x.shape == (98, 64)
        known = (start + 0.02 * p["steps"]).clamp(-1, 1)
        assert torch.allclose(x, known.expand(98, 64), atol=1e-5)
        assert p["shown"] == measure.shown(x)


def test_persistent_chains_go_on_from_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Tensor] = []

    def seen_as(x: Tensor, dataset: str, count: int) -> list[float]:
        given.append(x)
        return [0.5] * count

    monkeypatch.setattr(measure, "fcd", seen_as)
    own = trainer("persistent", energy=rising)
    assert own.chains is not None
    kept = own.chains.clone()
    found = measure.by_steps(walkers(), own, "digits", [5])
    for x, moved in zip(given, (0.0, 0.1), strict=True):
        assert torch.allclose(x, (kept[:98] + moved).clamp(-1, 1), atol=1e-5)
    assert torch.equal(own.chains, kept)
    assert len(found) == 2


# ---- reconstructions


def test_reconstructions_are_by_batches_and_the_last_is_filled_up() -> None:
    """q's mean is the first two pixels less 1; 10 images by 4 chains."""
    x = torch.linspace(-1, 1, 640).view(10, 64)
    own = trainer(
        encoder=lambda x: (x[:, :2] - 0.1, torch.full((len(x), 2), 50.0)),
        decoder=lambda z: z.repeat(1, 32),
        energy=rising,
    )
    found = measure.reconstructions(own, arranged(x))
    known = (x[:, :2] - 0.1).repeat(1, 32).clamp(-1, 1)
    assert torch.allclose(found["decoded"], known, atol=1e-6)
    whole = (x[:, :2] - 0.1).repeat(1, 32) + 0.06
    assert torch.allclose(found["revised"], whole.clamp(-1, 1), atol=1e-5)
    given = [x for x, _ in seen(own.encoder)]
    assert [len(part) for part in given] == [4, 4, 4]
    assert torch.equal(torch.cat(given), torch.cat([x, x[:2]]))
    few = measure.reconstructions(own, arranged(x[:3]))  # fewer images than chains
    assert few["decoded"].shape == (3, 64)
    vae = measure.reconstructions(trainer("VAE", decoder=lambda z: z.repeat(1, 32)), arranged(x))
    assert list(vae) == ["decoded"]


def test_squared_error_by_hand() -> None:
    a = torch.tensor([[0.0, 0.2], [0.4, 0.4], [0.0, 0.0]])
    found = measure.squared_error(a, torch.zeros(3, 2))
    assert found["value"] == pytest.approx(0.06)
    assert found["se"] == pytest.approx(math.sqrt((0.04**2 + 0.1**2 + 0.06**2) / 2 / 3))
    assert found["n"] == 3


# ---- interpolation


def test_a_linear_decoder_s_paths_are_straight() -> None:
    weight = 0.05 * torch.randn(2, 64, generator=stream(5))
    own = trainer(decoder=lambda z: z @ weight)
    found = measure.interpolation(own)
    assert found["jump"]["straight"] == 1 / 16
    assert found["jump"]["decoded"] == pytest.approx(1 / 16, rel=1e-4)
    assert found["jump"]["revised"] == pytest.approx(1 / 16, rel=1e-4)
    lines = torch.cat([z for z, _ in seen(own.decoder)])[: 5 * 17].view(5, 17, 2)
    assert torch.allclose(lines[:, 8], (lines[:, 0] + lines[:, -1]) / 2, atol=1e-6)
    noise = stream(1)
    for end in (0, -1):
        assert torch.equal(lines[:, end], torch.randn(5, 1, 2, generator=noise)[:, 0])
    for kind in ("decoded", "revised"):
        assert len(found["paths"][kind]) == 3
        assert all(len(path) == 17 and len(path[0]) == 64 for path in found["paths"][kind])
    assert found["paths"]["decoded"][1] == measure.shown(lines[1] @ weight)
    assert found["paths"]["revised"] == found["paths"]["decoded"]  # flat, and without noise


def test_a_decoder_that_switches_jumps() -> None:
    """Where the first latent changes its sign; the mean over lines, with and without a change."""
    weight = 0.01 * torch.randn(2, 64, generator=stream(5))

    def decoder(z: Tensor) -> Tensor:
        return 0.4 * z[:, :1].sign() + z @ weight

    own = trainer("VAE", decoder=decoder)
    jumps = measure.interpolation(own)["jump"]
    assert list(jumps) == ["straight", "decoded"]
    lines = torch.cat([z for z, _ in seen(own.decoder)])[: 5 * 17].view(5, 17, 2)
    known = []
    for line in lines:
        x = decoder(line)
        steps = [float((a - b).norm()) for a, b in itertools.pairwise(x)]
        known.append(max(steps) / float((x[0] - x[-1]).norm()))
    assert max(known) > 0.8 and min(known) < 0.1
    assert jumps["decoded"] == pytest.approx(sum(known) / 5, rel=1e-4)


def test_along_a_line_the_revision_has_the_same_noise() -> None:
    """Else its paths would not be smooth: of a flat energy they are as straight as before."""
    weight = 0.05 * torch.randn(2, 64, generator=stream(5))
    own = trainer(decoder=lambda z: z @ weight, noisy=True, step_size=0.05)
    found = measure.interpolation(own)
    assert found["jump"]["revised"] == pytest.approx(1 / 16, rel=1e-3)
    a, b = (torch.tensor(found["paths"][k][0]).float() for k in ("decoded", "revised"))
    assert float((a - b).std()) > 127.5 * 0.05  # three steps of noise


# ---- classes


class Told:
    """A classifier that says what it is told to."""

    def __init__(self, labels: list[int]) -> None:
        self.labels = torch.tensor(labels)

    def predict(self, x: Tensor) -> Tensor:
        return self.labels[: len(x)]


def test_shares_of_classes_and_their_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "classifiers", lambda d, n: [Told([4, 4, 7, 7])] * n)
    found = measure.classes(torch.zeros(4, 64), None, "digits")
    assert found["shares"] == [0, 0, 0, 0, 0.5, 0, 0, 0.5, 0, 0]
    assert found["entropy"] == pytest.approx(math.log(2))
    assert "accuracy" not in found
    even = [Told(list(range(10)))]
    monkeypatch.setattr(measure, "classifiers", lambda d, n: even)
    assert measure.classes(torch.zeros(10, 64), None, "digits")["entropy"] == pytest.approx(
        math.log(10)
    )
    lost = measure.classes(torch.full((4, 64), math.nan), None, "digits")
    assert lost == {"shares": [], "entropy": None}


def test_the_right_class_is_that_of_the_condition(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conditions 0, 1, 2 again and again, as they were asked for."""
    told = [0, 1, 2, 0, 1, 9, 9]
    monkeypatch.setattr(measure, "classifiers", lambda d, n: [Told(told)])
    c = torch.eye(10)[:3]
    found = measure.classes(torch.zeros(7, 64), c, "digits")
    assert found["accuracy"] == pytest.approx(5 / 7)


# ---- completion


def hidden_half(n: int) -> Tensor:
    hidden = torch.zeros(n, 64)
    hidden[:, 32:] = 1
    return hidden


def test_a_model_that_is_almost_right() -> None:
    """Its error is 0.1 on every hidden pixel, and large on those that are seen."""
    x = 0.5 * torch.rand(10, 64, generator=stream())
    hidden = hidden_half(10)
    own = trainer("VAE", decoder=lambda z, c: c + 0.1 + 0.2 * (1 - hidden_half(len(z))))
    found = measure.completion(own, arranged(x, x, hidden))
    assert list(found["psnr"]) == ["initial/one", "initial/mean"]
    for p in found["psnr"].values():
        assert p["value"] == pytest.approx(10 * math.log10(4 / 0.01), abs=1e-3)
        assert p["se"] == pytest.approx(0, abs=1e-3)
        assert p["n"] == 10


def test_a_model_that_restores_one_value() -> None:
    """All hidden pixels by 0; two of the ten images have other pixels."""
    x = torch.full((10, 64), 0.2)
    x[:2] = 0.6
    own = trainer("VAE", decoder=lambda z, c: torch.zeros(len(z), 64))
    own_error = (8 * 0.04 + 2 * 0.36) / 10
    found = measure.completion(own, arranged(x, x, hidden_half(10)))["psnr"]["initial/one"]
    assert found["value"] == pytest.approx(10 * math.log10(4 / own_error), abs=1e-4)
    spread = math.sqrt((8 * (0.04 - own_error) ** 2 + 2 * (0.36 - own_error) ** 2) / 9)
    se = 10 / math.log(10) * spread / math.sqrt(10) / own_error
    assert found["se"] == pytest.approx(se, rel=1e-4)


def test_the_mean_of_several_answers_has_less_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "ANSWERS", 16)
    x = torch.zeros(100, 64)
    own = trainer(decoder=lambda z, c: 0.05 * z, energy=rising)
    own.decoder.latent = 64  # type: ignore[union-attr]
    everything = measure.completion(own, arranged(x, x, hidden_half(100)))
    levels = torch.tensor(everything["completed"]["completed"])[:, 32:] / 127.5 - 1
    assert float(levels.mean()) == pytest.approx(0.06, abs=0.02)  # of a revised answer
    found = everything["psnr"]
    assert list(found) == [
        f"{kind}/{what}" for kind in ("initial", "revised") for what in ("one", "mean")
    ]
    one, mean = found["initial/one"]["value"], found["initial/mean"]["value"]
    assert one == pytest.approx(10 * math.log10(4 / 0.05**2), abs=0.3)
    assert mean - one == pytest.approx(10 * math.log10(16), abs=0.3)
    moved = found["revised/mean"]["value"]  # by 0.06
    assert moved == pytest.approx(10 * math.log10(4 / (0.06**2 + 0.05**2 / 16)), abs=0.3)


def test_of_the_completed_pixels_the_seen_ones_are_the_test_image_s() -> None:
    x = torch.rand(10, 64, generator=stream())
    hidden = hidden_half(10)
    c = torch.cat([x * (1 - hidden), 1 - hidden], 1)
    found = measure.pictured(arranged(x, c, hidden), torch.full((10, 64), -1.0))
    assert found["test"] == measure.shown(x)
    assert found["seen"] == measure.shown(x * (1 - hidden))
    assert found["completed"] == measure.shown(torch.where(hidden > 0, -torch.ones(()), x))


def test_restorations_that_are_perfect_or_no_numbers_can_be_written() -> None:
    x = torch.rand(10, 64, generator=stream())
    for answer, value in ((x, pytest.approx(126, abs=0.1)), (x * math.nan, None)):
        found = measure.restored(answer, arranged(x, x, hidden_half(10)))
        assert found["value"] == value
        to_json(found)


def test_a_completed_half_is_shown_below_the_seen_one() -> None:
    whole = torch.rand(30, 64, generator=stream())
    top = whole[:, :32]
    test = tasks.arrange("half", whole, torch.zeros(30).long(), (8, 8), stream())
    found = measure.pictured(test, torch.full((30, 32), 0.5), whole=False)
    rows = measure.spaced(30)
    assert found["test"] == measure.shown(whole[rows])
    assert found["seen"] == measure.shown(torch.cat([top, torch.zeros(30, 32)], 1)[rows])
    assert found["completed"] == measure.shown(torch.cat([top, torch.full((30, 32), 0.5)], 1)[rows])


def test_pictures_are_levels_of_evenly_spaced_images() -> None:
    assert measure.spaced(28).tolist() == [0, 3, 6, 9, 12, 15, 18, 21, 24, 27]
    assert measure.spaced(4).tolist() == [0, 1, 2, 3]
    x = torch.tensor([[-1.0, -0.5, 0.0, 0.5, 1.0, 1.4, math.nan]])
    assert measure.shown(x) == [[0, 64, 128, 191, 255, 255, 128]]
    assert len(measure.shown(torch.zeros(30, 4))) == 17


# ---- what is no number


def test_a_model_that_makes_no_numbers_can_be_written() -> None:
    """Its gap and loss may be fine: the run did not diverge, and its cell must be kept."""
    own = trainer(decoder=lambda z: torch.full((len(z), 64), math.nan))
    to_json(measure.evaluate(walkers(), own, arranged(torch.zeros(10, 64)), "digits", [3]))


def test_a_collapsed_decoder_can_be_written() -> None:
    to_json(measure.interpolation(trainer("VAE")))

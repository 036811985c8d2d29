"""MCMC teaching in the plane: cells, their pairing, pauses and divergence, and what is measured."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lmcnb.errors import Paused
from lmcnb.evaluation.mmd import squared_mmd
from lmcnb.evaluation.plane_truth import histogram_total_variation
from lmcnb.experiments import mcmc_teaching_cells as cells
from lmcnb.experiments import mcmc_teaching_plane as plane
from lmcnb.experiments import mcmc_teaching_record as record
from lmcnb.lab.files import load_checkpoint, read_json, to_json
from lmcnb.methods.mcmc_teaching_data import Batch, Networks, Streams
from lmcnb.methods.mcmc_teaching_settings import Teaching
from lmcnb.methods.mcmc_teaching_training import Trainer
from lmcnb.models.mlp import Decoder, Posterior
from lmcnb.models.plane import DENSITIES, PlaneDensity, make

sys.path.append(str(Path(__file__).parent))
from small_teaching import FakeRun, same, without_time

ARMS = ["variational", "variational-still", "short-run", "persistent", "VAE"]
Result = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Fewer samples in a look, and a coarser grid."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plane, "WATCHED", 60)
        patch.setattr(plane, "CELLS", 33)
        patch.setattr(plane, "SHOWN", 40)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[FakeRun, dict[Any, Result]]:
    """A run, and its results by arm and seed."""
    run = FakeRun(tmp_path_factory.mktemp("run"), plane__arms={"default": ARMS})
    found = plane.study(plane.cells_of(run), 1)
    return run, {(r["arm"], r["seed"]): r for r in found}


def one(directory: Path, arm: str, deadline: float | None = None, **changed: Any) -> Any:
    """The cell of an arm and of seed 3."""
    run = FakeRun(directory, deadline, plane__arms={"default": [arm]}, **changed)
    return plane.cells_of(run)[0]


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Exact(nn.Module):
    """f of the density itself: its log density less that of the reference."""

    def __init__(self, truth: PlaneDensity, reference: float) -> None:
        super().__init__()
        self.truth, self.reference = truth, reference
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        normal = torch.distributions.Normal(0.0, self.reference)
        return self.truth(x) - normal.log_prob(x).sum(-1)

    def input_score(self, x: Tensor) -> Tensor:
        score = self.truth.linearize(x)[0]  # type: ignore[attr-defined]
        return score + x / self.reference**2


class First(nn.Module):
    """f = slope x_1, first coordinate alone."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, x: Tensor) -> Tensor:
        return self.slope * x[..., 0]


def trainer(teacher: str, energy: nn.Module | None = None, **changed: Any) -> Trainer:
    """Of the eight Gaussians, not trained at all."""
    own: dict[str, Any] = {"iterations": 10, "batch": 20, "chains": 20, "steps": 4, "pool": 90}
    truth = make("eight_gaussians")
    decoder = Decoder(2, [8], 2, stream(1))
    networks = Networks(energy or First(0.5), Posterior(2, [8], 2, stream(2)), decoder)
    t = Teaching(teacher, **(own | changed))
    draw = lambda n, s: Batch(truth.sample(n, s))  # noqa: E731
    return Trainer(t, networks, draw, Streams(stream(3), stream(4)))


# ---- cells


def test_cells_come_in_the_order_of_the_settings(tmp_path: Path) -> None:
    arms = {"default": ["VAE"], "eight_gaussians": ["fast-K7-s0.3", "variational"]}
    run = FakeRun(
        tmp_path, 12.5, plane__densities=["pinwheel", "eight_gaussians"], plane__arms=arms
    )
    found = plane.cells_of(run)
    assert [c.name for c in found] == [
        f"plane-{name}-{seed}"
        for name in ("pinwheel-VAE", "eight_gaussians-fast-K7-s0.3", "eight_gaussians-variational")
        for seed in (3, 4)
    ]
    cell = found[2]
    assert (cell.group, cell.data, cell.arm, cell.seed) == (
        "plane", "eight_gaussians", "fast-K7-s0.3", 3
    )  # fmt: skip
    assert cell.title == "plane/eight_gaussians/fast-K7-s0.3"
    t = cell.teaching
    assert (t.teacher, t.steps, t.sigma, t.ancestral) == ("fast", 7, 0.3, True)
    assert (t.iterations, t.batch, t.chains, t.step_size) == (30, 64, 32, 0.1)
    assert (t.energy_rate, t.generator_rate, t.generator_steps, t.reference) == (
        1e-3, 2e-3, 2, 2.0
    )  # fmt: skip
    assert (cell.directory, cell.device, cell.deadline) == (tmp_path, "cpu", 12.5)
    assert cell.settings is run.settings.plane


def test_the_bar_s_work_is_what_a_training_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []
    monkeypatch.setattr(cells, "report", told.append)
    for arm in ("original", "VAE", "variational-e1000"):  # the last diverges
        cell = one(tmp_path, arm)
        for _ in range(2):  # trained, then read
            told.clear()
            plane.train_cell(cell)
            assert sum(told) == pytest.approx(cell.work)
    few, many = (one(tmp_path, arm).work for arm in ("variational", "variational-K6"))
    assert many - few == pytest.approx(30 * 3)  # a Langevin step of the chains is the unit


def test_with_a_gpu_one_cell_is_trained_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(plane, "map_cells", lambda f, c, *, workers, **k: asked.append(workers))
    found = plane.cells_of(FakeRun(tmp_path))
    plane.study(found, 5)
    plane.study([replace(c, device="cuda:0") for c in found], 5)
    assert asked == [5, 1]


def test_results_are_in_the_order_of_the_cells(finished: tuple[FakeRun, dict[Any, Result]]) -> None:
    assert list(finished[1]) == [(arm, seed) for arm in ARMS for seed in (3, 4)]


# ---- pairing


def test_arms_of_a_seed_begin_with_the_same_networks(tmp_path: Path) -> None:
    run = FakeRun(
        tmp_path,
        plane__densities=["eight_gaussians", "pinwheel"],
        plane__arms={"default": ["variational", "short-run-K2"]},
    )
    found = {(c.data, c.arm, c.seed): plane.networks(c) for c in plane.cells_of(run)}
    a, b = (found["eight_gaussians", arm, 3] for arm in ("variational", "short-run-K2"))
    for first, second in zip(a, b, strict=True):
        assert first is not None and second is not None
        assert same(first.state_dict(), second.state_dict())
    assert a.encoder is not None and a.decoder is not None
    assert not torch.equal(*(next(net.parameters()) for net in (a.encoder, a.decoder)))
    others = [found["eight_gaussians", "variational", 4], found["pinwheel", "variational", 3]]
    for other in others:
        for first, second in zip(a, other, strict=True):
            assert first is not None and second is not None
            assert not same(first.state_dict(), second.state_dict())


def test_arms_of_a_seed_see_the_same_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    sample = DENSITIES["eight_gaussians"].sample  # type: ignore[attr-defined]

    def spied(self: PlaneDensity, n: int, generator: torch.Generator) -> Tensor:
        x = sample(self, n, generator)
        if n == 64:  # a batch
            seen.append(x)
        return x

    monkeypatch.setattr(DENSITIES["eight_gaussians"], "sample", spied)
    run = FakeRun(tmp_path, plane__arms={"default": ["variational", "VAE", "short-run-K1"]})
    batches: dict[Any, Tensor] = {}
    for cell in plane.cells_of(run):
        seen.clear()
        plane.train_cell(cell)
        batches[cell.arm, cell.seed] = torch.stack(seen)
    own = batches["variational", 3]
    assert own.shape == (30, 64, 2)
    assert len(own.flatten(0, 1).unique(dim=0)) == 30 * 64  # no batch twice
    for arm in ("VAE", "short-run-K1"):
        assert torch.equal(batches[arm, 3], own)
    assert not torch.equal(batches["variational", 4], own)


def test_arms_have_noise_of_their_own(tmp_path: Path) -> None:
    a, b = (one(tmp_path, arm).streams() for arm in ("variational", "variational-K2"))
    assert a.data.initial_seed() == b.data.initial_seed()
    assert len({s.initial_seed() for s in (*a, b.noise)}) == 3


@pytest.mark.parametrize("arm", ["variational", "persistent", "VAE", "short-run"])
def test_looks_leave_the_training_alone(
    arm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every iteration, at some, or none at all: the same bits at the end."""
    ends = []
    for name, looks in (("every", 30), ("some", 4), ("none", 1)):
        with monkeypatch.context() as patch:
            if name == "none":
                patch.setattr(plane, "Trainer", lambda *a: Trainer(*a[:4]))
            cell = one(tmp_path / name, arm, plane__looks=looks)
            result = plane.train_cell(cell)
        curve = result.pop("curve")
        assert [p["iteration"] for p in curve] == {
            "every": list(range(31)), "some": [*range(0, 29, 7), 30], "none": []
        }[name]  # fmt: skip
        ends.append((without_time(result), load_checkpoint(cell.weights)))
    for result, weights in ends[1:]:
        assert result == ends[0][0]
        assert same(weights, ends[0][1])


# ---- what a result holds


def test_what_every_result_says(finished: tuple[FakeRun, dict[Any, Result]]) -> None:
    _, results = finished
    for (arm, seed), r in results.items():
        assert (r["group"], r["data"], r["arm"], r["seed"]) == (
            "plane", "eight_gaussians", arm, seed
        )  # fmt: skip
        assert (r["title"], r["diverged_at"]) == (f"plane/eight_gaussians/{arm}", None)
        assert (r["iterations"], r["steps"], r["n"]) == (30, 3, 200)
        assert r["seconds"] > 0
        assert r["energy_gradients"] == (0 if arm == "VAE" else 30 * 32 * 3)
        assert r["generator_updates"] == (0 if arm in ("short-run", "persistent") else 60)
        assert [p["iteration"] for p in r["curve"]] == [0, 10, 20, 30]
        assert r["gaps"]["every"] == 1
        assert len(r["gaps"]["mean"]) == 30
        assert any(r["gaps"]["mean"]) == (arm != "VAE")
        assert r["floor"]["modes"] == 8
        assert abs(r["floor"]["mmd"]) < 5 * r["floor"]["mmd_se"]
        assert len(r["shown"]) == 40


def test_what_kinds_of_results_hold(finished: tuple[FakeRun, dict[Any, Result]]) -> None:
    """An energy has a density and longer chains; persistent chains have no start."""
    _, results = finished
    for (arm, _), r in results.items():
        has_energy, has_start = arm != "VAE", arm != "persistent"
        assert (("density" in r), ("picture" in r), ("by_steps" in r)) == (has_energy,) * 3
        assert ("initial" in r, "shown_initial" in r) == (has_start, has_start)
        known = {"iteration", "seconds", "gap", "mmd/revised"}
        known |= {"mmd/initial"} if has_start else set()
        known |= {"kl"} if has_energy else set()
        known |= {"mmd/chase"} if has_start and has_energy else set()
        assert all(set(p) == known for p in r["curve"])
        if has_energy:
            assert len(r["picture"]) == plane.PICTURE**2
            assert max(r["picture"]) == 0
            assert r["density"]["kl"] > 0
            assert r["curve"][-1]["kl"] == pytest.approx(r["density"]["kl"], rel=1e-4)
        else:
            assert {p["gap"] for p in r["curve"]} == {0.0}


def test_cells_are_kept_and_not_trained_again(
    finished: tuple[FakeRun, dict[Any, Result]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, results = finished
    monkeypatch.setattr(plane, "train", lambda *a: pytest.fail("trained again"))
    for cell in plane.cells_of(run):
        assert plane.train_cell(cell) == results[cell.arm, cell.seed] == read_json(cell.result)
        state = load_checkpoint(cell.weights)
        assert state is not None
        kinds = {name.split(".")[0] for name in state}
        known = {"VAE": {"encoder", "decoder"}, "variational": {"energy", "encoder", "decoder"}}
        assert kinds == known.get(cell.arm.removesuffix("-still"), {"energy"})
    assert not list(run.directory.glob("checkpoints/*"))


def test_kept_weights_are_the_trained_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Trainer] = []

    def kept(*args: Any) -> Trainer:
        made.append(Trainer(*args))
        return made[-1]

    monkeypatch.setattr(plane, "Trainer", kept)
    cell = one(tmp_path, "fast")
    plane.train_cell(cell)
    state = load_checkpoint(cell.weights)
    assert state is not None
    begun = plane.networks(cell)
    for name in ("energy", "decoder"):
        own = {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(name)}
        assert same(own, getattr(made[0], name).state_dict())
        assert not same(own, getattr(begun, name).state_dict())


def test_the_curve_ends_with_what_is_measured(finished: tuple[FakeRun, dict[Any, Result]]) -> None:
    """By other samples of the same model."""
    _, results = finished
    for arm in ("variational", "short-run", "VAE"):
        r = results[arm, 3]
        for kind in ("initial", "revised"):
            seen, own = r["curve"][-1][f"mmd/{kind}"], r[kind]
            assert abs(seen - own["mmd"]) < 8 * own["mmd_se"] + 0.01


def test_a_diverged_cell_would_have_had_the_metrics_of_a_finished_one(
    finished: tuple[FakeRun, dict[Any, Result]],
) -> None:
    for r in finished[1].values():
        own = {name for name, _ in record.entries(r)}
        assert set(record.expected(r)) == own - {"seconds"}, r["title"]


def test_a_result_s_numbers_are_of_the_kept_model(
    finished: tuple[FakeRun, dict[Any, Result]],
) -> None:
    """Measured again, whatever the training's random numbers were."""
    run, results = finished
    truth = make("eight_gaussians")
    for cell in plane.cells_of(run)[:8:2]:
        if cell.arm == "persistent":
            continue
        draw = lambda n, s: Batch(truth.sample(n, s))  # noqa: E731
        own = Trainer(cell.teaching, plane.networks(cell), draw, Streams(stream(5), stream(6)))
        state = load_checkpoint(cell.weights)
        assert state is not None
        for name in ("energy", "encoder", "decoder"):
            if (net := getattr(own, name)) is not None:
                head = f"{name}."
                of = {k.removeprefix(head): v for k, v in state.items() if k.startswith(head)}
                net.load_state_dict(of)
        for key, value in plane.evaluate(cell, own, truth).items():
            assert results[cell.arm, cell.seed][key] == value, key


def test_the_first_look_by_hand(finished: tuple[FakeRun, dict[Any, Result]]) -> None:
    """Of the networks as they were drawn."""
    run, results = finished
    truth = make("eight_gaussians")
    for cell in plane.cells_of(run):
        if cell.arm in ("persistent", "VAE"):
            continue
        watched = truth.sample(60, cell.stream("watched"))
        draw = lambda n, s: Batch(truth.sample(n, s))  # noqa: E731
        streams = Streams(cell.stream("data"), cell.stream("look"))
        own = Trainer(cell.teaching, plane.networks(cell), draw, streams)
        made = plane.samples(own, 60)
        assert own.energy is not None
        with torch.no_grad():
            gap = own.energy(watched).mean() - own.energy(made["revised"]).mean()
        known = {
            "gap": float(gap),
            "mmd/initial": squared_mmd(made["initial"], watched, 0.3).value,
            "mmd/revised": squared_mmd(made["revised"], watched, 0.3).value,
            "mmd/chase": squared_mmd(made["initial"], made["revised"], 0.3).value,
        }
        seen = results[cell.arm, cell.seed]["curve"][0]
        for name, value in known.items():
            assert seen[name] == pytest.approx(value, rel=1e-4), name


def test_the_floor_is_that_of_fresh_draws(finished: tuple[FakeRun, dict[Any, Result]]) -> None:
    run, results = finished
    truth = make("eight_gaussians")
    for cell in plane.cells_of(run):
        data, x = (truth.sample(200, cell.stream(what)) for what in ("test", "floor"))
        assert results[cell.arm, cell.seed]["floor"] == plane.judged(x, data, truth)


def test_curves_of_gaps_are_means_of_blocks() -> None:
    values = torch.arange(1000.0)
    values[1] = math.nan
    found = cells.blocks(values)
    assert found["every"] == 5
    assert found["mean"][:3] == [None, 7.0, 12.0]
    assert len(found["mean"]) == 200
    assert cells.blocks(torch.tensor([1.0, 5.0])) == {"every": 1, "mean": [1.0, 5.0]}
    assert cells.blocks(torch.arange(401.0))["mean"][-1] == 399.5  # the last block is shorter
    assert cells.rounded([1.23456789, math.nan, -math.inf]) == [1.2346, None, None]


def test_borrowed_noise_is_given_back(tmp_path: Path) -> None:
    own = trainer("variational")
    kept = own.streams
    with pytest.raises(ZeroDivisionError), cells.borrowed(own, stream(9)):
        assert own.streams.noise.initial_seed() == 9
        assert own.streams.data is kept.data
        raise ZeroDivisionError
    assert own.streams is kept


# ---- samples


def test_a_generator_s_samples_are_draws_of_its_law() -> None:
    for ancestral in (True, False):
        own = trainer("variational", ancestral=ancestral, sigma=0.3)
        found = plane.samples(own, 50)
        z, e = (torch.randn(50, 2, generator=g) for g in [stream(4)] for _ in "ze")
        assert own.decoder is not None
        means = own.decoder(z).detach()
        assert torch.equal(found["initial"], means + 0.3 * e if ancestral else means)
        assert found["revised"].shape == (50, 2)
        assert not torch.equal(found["revised"], found["initial"])
        assert not found["initial"].requires_grad and not found["revised"].requires_grad


def test_the_revision_has_the_steps_of_training() -> None:
    """f = slope x_1 and no reference or noise: every step moves x_1 by d^2 / 2 slope."""
    own = trainer("fast", First(3.0), reference=None, noisy=False, step_size=0.2)
    found = plane.samples(own, 30)
    shift = found["revised"] - found["initial"]
    assert torch.allclose(shift[:, 0], torch.tensor(4 * 0.02 * 3.0), atol=1e-5)
    assert torch.equal(shift[:, 1], torch.zeros(30))


def test_chains_from_noise_start_in_it() -> None:
    normal = plane.samples(trainer("short-run", start_std=1.5), 4000)["initial"]
    assert float(normal.std()) == pytest.approx(1.5, rel=0.05)
    uniform = plane.samples(trainer("short-run", start="uniform", start_std=1.5), 4000)["initial"]
    assert 1.4 < float(uniform.max()) <= 1.5


def test_persistent_chains_stand_for_themselves() -> None:
    own = trainer("persistent")
    assert own.chains is not None
    found = plane.samples(own, 50)
    assert found["initial"] is None
    assert torch.equal(found["revised"], own.chains[:50])
    found["revised"].zero_()
    assert bool((own.chains != 0).all())


def test_a_vae_s_samples_are_means_and_draws() -> None:
    found = plane.samples(trainer("VAE", sigma=0.4), 3000)
    noise = (found["revised"] - found["initial"]) / 0.4
    assert float(noise.std()) == pytest.approx(1, rel=0.05)
    assert abs(float(noise.mean())) < 0.05
    assert not found["revised"].requires_grad


# ---- judging


def test_exact_samples_are_near_the_floor() -> None:
    for name in DENSITIES:
        truth = make(name)
        data, x = truth.sample(1000, stream(0)), truth.sample(1000, stream(1))
        found = plane.judged(x, data, truth)
        assert abs(found["mmd"]) < 4 * found["mmd_se"]
        assert found["mmd_se"] < 2e-3
        assert found["within"] > 0.98
        assert found["modes"] == len(truth.modes)
        assert sum(found["shares"]) == pytest.approx(found["within"], abs=1e-4)
        few = plane.judged(x[:250], data, truth)["tv"]
        assert found["tv"] < 0.75 * few  # the histogram's floor falls with n


def test_bad_samples_are_far_from_it() -> None:
    truth = make("eight_gaussians")
    data = truth.sample(1000, stream(0))
    one_mode = plane.judged(
        truth.modes[2].float() + 0.2 * torch.randn(1000, 2, generator=stream(1)), data, truth
    )
    assert one_mode["modes"] == 1
    assert one_mode["mmd"] > 20 * one_mode["mmd_se"]
    assert one_mode["tv"] == pytest.approx(7 / 8, abs=0.04)
    assert one_mode["within"] > 0.97
    broad = plane.judged(2 * torch.randn(1000, 2, generator=stream(1)), data, truth)
    assert broad["within"] < 0.4
    assert broad["tv"] > 0.6
    outside = plane.judged(torch.full((1000, 2), 3.3), data, truth)
    assert (outside["modes"], outside["within"]) == (0, 0.0)
    assert outside["tv"] == pytest.approx(1)


def test_the_mmd_is_the_package_s_own_at_the_sheet_s_bandwidth() -> None:
    truth = make("pinwheel")
    x, y = truth.sample(300, stream(0)), truth.sample(200, stream(1)) + 0.1
    known = squared_mmd(x, y, 0.3)
    found = plane.judged(x, y, truth)
    assert (found["mmd"], found["mmd_se"]) == (known.value, known.se)
    assert plane.mmd(x, y) == known.value


def test_a_mode_is_covered_from_two_percent() -> None:
    truth = make("eight_gaussians")
    data = truth.sample(100, stream(0))
    centres = truth.modes.float()
    x = torch.cat([centres[0].expand(957, 2), centres[1].expand(24, 2), centres[2].expand(19, 2)])
    found = plane.judged(x, data, truth)
    assert found["modes"] == 2
    assert found["shares"][:3] == [0.957, 0.024, 0.019]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_samples_that_are_no_numbers_have_no_measure(bad: float) -> None:
    truth = make("eight_gaussians")
    data, x = truth.sample(100, stream(0)), truth.sample(100, stream(1))
    x[7, 1] = bad
    found = plane.judged(x, data, truth)
    assert found == dict.fromkeys(("mmd", "mmd_se", "tv", "within", "modes"))
    assert plane.mmd(x, data) == plane.mmd(data, x) == math.inf
    assert plane.points(x)[7] == [pytest.approx(float(x[7, 0]), rel=1e-4), None]


def test_points_are_the_first_ones_in_five_digits() -> None:
    found = plane.points(torch.arange(200.0).view(100, 2) / 7)
    assert len(found) == 40
    assert found[1] == [0.28571, 0.42857]


def test_the_gap_is_data_less_samples() -> None:
    data, made = torch.tensor([[1.0, 9.0], [3.0, 9.0]]), torch.tensor([[0.5, -9.0]])
    assert plane.gap(trainer("fast", First(2.0)), data, made) == pytest.approx(2 * (2 - 0.5))
    assert plane.gap(trainer("VAE"), data, made) == 0


# ---- the energy's density


def test_masses_are_the_density_s_and_by_its_coordinates() -> None:
    for name in DENSITIES:
        found = plane.masses(name)
        assert found.shape == (plane.BINS, plane.BINS)
        assert float(found.sum()) == pytest.approx(1, abs=2e-3)
    truth = make("pinwheel")
    x = truth.sample(20_000, stream(0))
    masses = plane.masses("pinwheel")
    right, turned = (histogram_total_variation(v, masses, plane.LIMIT) for v in (x, x.flip(1)))
    assert right < 0.1
    assert turned > 0.3
    board = plane.masses("checkerboard")
    assert board[0, 0] == 0  # [-3.2, -3)^2
    inside = board[board > 0]
    assert len(inside) == 8 * 25
    assert torch.allclose(inside, torch.tensor(0.04 / 8, dtype=torch.float64))


def test_a_picture_s_first_index_is_the_first_coordinate() -> None:
    own = trainer("short-run", First(3.0), reference=2.0)
    found = torch.tensor(plane.picture(own)).view(plane.PICTURE, plane.PICTURE)
    axis = (torch.arange(64) + 0.5) * 0.1 - 3.2
    log_p = 3 * axis[:, None] - (axis[:, None].square() + axis.square()) / 8
    assert torch.allclose(found, log_p - log_p.max(), atol=1e-3)  # five digits
    row, column = divmod(int(found.argmax()), 64)
    assert row == 63  # at the right edge,
    assert column in (31, 32)  # in its middle


def test_the_exact_energy_is_the_data_s_density(tmp_path: Path) -> None:
    """KL 0, and long chains whose samples are the data's."""
    truth = make("eight_gaussians")
    own = trainer("short-run", Exact(truth, 2.0), step_size=0.1, steps=2, start_std=2.0)
    cell = one(tmp_path, "short-run-K2", plane__samples=1000, plane__longest=200)
    found = plane.evaluate(cell, own, truth)
    assert abs(found["density"]["kl"]) < 1e-5
    assert found["density"]["total_variation"] < 1e-4
    assert abs(found["density"]["log_normalizer"]) < 1e-3
    begun, ended = found["by_steps"][0], found["by_steps"][-1]
    assert (begun["steps"], ended["steps"]) == (0, 200)
    assert begun["mmd"] > 20 * begun["mmd_se"]
    assert abs(ended["mmd"]) < 4 * ended["mmd_se"]
    assert ended["tv"] < found["floor"]["tv"] + 0.1
    assert (ended["modes"], found["floor"]["modes"]) == (8, 8)
    for reference in (1.0, 3.0):  # another reference than the energy was made for
        other = trainer("short-run", Exact(truth, 2.0), reference=reference)
        own_density = plane.learned(other, truth)
        assert own_density is not None and abs(own_density.log_normalizer) > 0.05


def test_a_flat_energy_s_density_is_the_reference() -> None:
    truth = make("checkerboard")
    found = plane.learned(trainer("short-run", First(0.0), reference=1.0), truth)
    assert found is not None
    x = truth.sample(100_000, stream(0)).double()
    cross = float((x.square().sum(-1) / 2).mean()) + math.log(2 * math.pi)
    assert found.kl == pytest.approx(cross - math.log(8), rel=0.02)
    assert found.log_normalizer == pytest.approx(0, abs=1e-3)


class Half(First):
    """No density at all where the first coordinate is positive."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x[..., 0] > 0, -math.inf, 0.0)

    def input_score(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def test_a_density_that_lacks_half_of_the_data_can_be_written(tmp_path: Path) -> None:
    """Its divergence is infinite, which is no JSON."""
    own = trainer("short-run", Half(0.0))
    found = plane.evaluate(one(tmp_path, "short-run"), own, make("eight_gaussians"))
    assert found["density"]["kl"] is None
    assert 0.5 < found["density"]["total_variation"] < 1
    to_json(found)


# ---- longer chains


def test_longer_chains_are_at_most_so_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    judged = plane.judged

    def kept(x: Tensor, data: Tensor, truth: PlaneDensity) -> Result:
        sizes.append((len(x), len(data)))
        return judged(x, data, truth)

    monkeypatch.setattr(plane, "WALKERS", 70)
    monkeypatch.setattr(plane, "judged", kept)
    plane.evaluate(one(tmp_path, "short-run"), trainer("short-run"), make("eight_gaussians"))
    assert sizes[:3] == [(200, 200)] * 3  # start, revised, floor
    assert set(sizes[3:]) == {(70, 70)}


def test_longer_chains_are_looked_at_where_they_should(
    finished: tuple[FakeRun, dict[Any, Result]],
) -> None:
    _, results = finished
    for (arm, _), r in results.items():
        if arm == "VAE":
            continue
        assert [p["steps"] for p in r["by_steps"]] == [0, 1, 2, 3, 5, 6, 15, 30, 40]
        assert [p["steps"] for p in r["by_steps"] if "shown" in p] == [0, 1, 2, 3, 5, 40]
        assert all(len(p["shown"]) == 40 for p in r["by_steps"] if "shown" in p)


def test_longer_chains_start_from_the_same_samples_and_pass_the_revised_ones(
    finished: tuple[FakeRun, dict[Any, Result]],
) -> None:
    """Without noise exactly, with it up to the noise."""
    _, results = finished

    def measured(point: Result) -> Result:
        return {k: v for k, v in point.items() if k not in ("steps", "shown")}

    for arm in ("variational", "variational-still", "short-run"):
        r = results[arm, 3]
        at = {p["steps"]: p for p in r["by_steps"]}
        assert measured(at[0]) == r["initial"]
        assert at[0]["shown"] == r["shown_initial"]
        assert abs(at[3]["mmd"] - r["revised"]["mmd"]) < 3 * r["revised"]["mmd_se"]
    still = results["variational-still", 3]
    at = {p["steps"]: p for p in still["by_steps"]}
    assert measured(at[3]) == still["revised"]
    assert at[3]["shown"] == still["shown"]
    kept = results["persistent", 3]
    assert measured(kept["by_steps"][0]) == kept["revised"]
    assert kept["by_steps"][0]["shown"] == kept["shown"]


def test_longer_chains_take_the_number_of_steps_that_they_say(tmp_path: Path) -> None:
    """f = slope x_1 without noise or reference moves x_1 by d^2 / 2 slope in every step."""
    truth = make("eight_gaussians")
    own = trainer("fast", First(3.0), reference=None, noisy=False, step_size=0.2)
    own.teaching = replace(own.teaching, steps=3)
    found = plane.evaluate(one(tmp_path, "fast"), own, truth)
    begun = found["by_steps"][0]["shown"][0]
    for p in found["by_steps"]:
        if "shown" in p:
            x, y = p["shown"][0]
            assert x - begun[0] == pytest.approx(p["steps"] * 0.06, abs=1e-3)
            assert y == begun[1]


# ---- pauses and divergence


def test_a_paused_cell_goes_on_to_the_same_bits(
    finished: tuple[FakeRun, dict[Any, Result]], tmp_path: Path
) -> None:
    """Five times paused; persistent chains are part of the state, too."""
    run, results = finished
    for arm in ("variational", "persistent"):
        for done in range(5, 30, 5):
            with pytest.raises(Paused, match=f"iteration {done} of 30"):
                plane.train_cell(one(tmp_path, arm, 0.0))
            assert one(tmp_path, arm).checkpoint.exists()
            assert not one(tmp_path, arm).result.exists()
        resumed = plane.train_cell(one(tmp_path, arm, 0.0))
        assert without_time(resumed) == without_time(results[arm, 3])
        known = next(c for c in plane.cells_of(run) if (c.arm, c.seed) == (arm, 3))
        a, b = (load_checkpoint(c.weights) for c in (one(tmp_path, arm), known))
        assert same(a, b)
        assert not one(tmp_path, arm).checkpoint.exists()


def test_a_cell_depends_on_no_other(
    finished: tuple[FakeRun, dict[Any, Result]], tmp_path: Path
) -> None:
    alone = plane.train_cell(one(tmp_path, "short-run"))
    assert without_time(alone) == without_time(finished[1]["short-run", 3])


def test_a_diverged_cell_ends_early_and_says_where(tmp_path: Path) -> None:
    cell = one(tmp_path, "variational-e1000")
    r = plane.train_cell(cell)
    assert r["diverged_at"] == 2
    assert r["iterations"] == 5  # the next look at divergence
    assert r["energy_gradients"] == 5 * 32 * 3
    assert len(r["gaps"]["mean"]) == 5
    assert not {"revised", "density", "by_steps"} & set(r)
    assert read_json(cell.result) == r


def test_a_diverged_cell_is_recorded_with_its_siblings_metrics(
    finished: tuple[FakeRun, dict[Any, Result]], tmp_path: Path
) -> None:
    """Seed 4 diverges, seed 3 does not; another arm's metrics are not among them."""
    _, results = finished
    run = FakeRun(tmp_path, plane__arms={"default": ["variational"]})
    cell = plane.cells_of(run)[1]
    lost = plane.train_cell(replace(cell, teaching=replace(cell.teaching, energy_rate=1e3)))
    record.enter(run, [results["variational", 3], lost, results["VAE", 3]])
    names = {seed: {n for n, s in run.metrics if s == seed} for seed in (3, 4)}
    own = {n for n in names[3] if n.startswith("plane/eight_gaussians/variational/")}
    own.remove("plane/eight_gaussians/variational/seconds")
    assert names[4] == own
    assert {n.rsplit("/", 1)[-1] for n in own} >= {"mmd", "tv", "kl", "density_tv", "gap", "fall"}
    for name in own:
        entry = run.metrics[name, 4]
        assert (entry["value"], entry["diverged"]) == (None, True)
        assert entry["note"] == "diverged at iteration 2"
        assert entry["unit"] == run.metrics[name, 3]["unit"]
        assert not run.metrics[name, 3].get("diverged")


def test_a_look_at_a_broken_energy_does_not_stop_the_run(tmp_path: Path) -> None:
    r = plane.train_cell(one(tmp_path, "variational-g1000", plane__looks=30))
    assert r["diverged_at"] == 1
    assert r["curve"][-1]["kl"] is None

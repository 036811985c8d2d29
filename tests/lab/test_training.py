"""The training loop: kills, damaged checkpoints, pauses, divergence."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from lmcnb.errors import Paused, UsageError
from lmcnb.lab.files import load_checkpoint, save_checkpoint
from lmcnb.lab.training import fit
from lmcnb.methods.langevin_diffusion import METHODS
from lmcnb.methods.langevin_diffusion_training import Trainer, Training

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1])]
from killed import run_script
from train_killed import ITERATIONS, make_trainer, train


class Toy:
    """A random walk whose rows diverge when they are told to."""

    def __init__(self, diverge: tuple[int | None, ...] = (None,)) -> None:
        self.done, self.x, self.diverge = 0, 0.0, diverge
        self.generator = torch.Generator().manual_seed(0)

    def step(self) -> None:
        self.done += 1
        self.x = math.cos(3 * self.x) + float(torch.randn((), generator=self.generator))

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done, "x": self.x, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.done, self.x = state["done"], state["x"]
        self.generator.set_state(state["generator"])

    def diverged_at(self) -> list[int | None]:
        return [d if d is not None and d <= self.done else None for d in self.diverge]


def toy_to(iterations: int) -> Toy:
    toy = Toy()
    for _ in range(iterations):
        toy.step()
    return toy


def assert_same_state(one: Trainer, other: Trainer) -> None:
    """Bit for bit: parameters, Adam's moments, losses, step and generators."""
    assert one.done == other.done == ITERATIONS
    for name in ("flat", "first", "second", "count", "losses"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    for left, right in zip(one.generators, other.generators, strict=True):
        assert torch.equal(left.get_state(), right.get_state())


@pytest.fixture(scope="module")
def undisturbed() -> Trainer:
    return train(None)


# ------------------------------------------------------------------------------- kill and resume


def test_killed_at_random_moments_it_ends_in_the_same_bits(
    tmp_path: Path, undisturbed: Trainer
) -> None:
    checkpoint = tmp_path / "run.pt"
    seed = time.time_ns() % 1000  # other moments in every test run
    killed = int(run_script(Path(__file__).with_name("train_killed.py"), checkpoint, 5, seed))
    assert killed >= 3, f"killed only {killed} times, seed {seed}"
    after = make_trainer()
    after.load_state_dict(load_checkpoint(checkpoint))
    assert_same_state(after, undisturbed)


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.999])
def test_a_truncated_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, undisturbed: Trainer, keep: float
) -> None:
    checkpoint = tmp_path / "run.pt"
    trainer = make_trainer()
    for iterations in (80, 120):
        fit(trainer, iterations, check_every=40)
        save_checkpoint(checkpoint, trainer.state_dict())
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: int(keep * len(whole))])
    ticks: list[int] = []
    with pytest.warns(UserWarning, match=r"run\.pt: damaged checkpoint ignored"):
        trainer = make_trainer()
        fit(trainer, ITERATIONS, checkpoint, report=ticks.append, check_every=40)
    assert ticks == [80, 40, 40, 40, 40]  # the first is what the checkpoint before held
    assert_same_state(trainer, undisturbed)


def test_a_finished_run_is_not_trained_further(tmp_path: Path) -> None:
    checkpoint = tmp_path / "toy.pt"
    fit(Toy(), 50, checkpoint, save_every=0.0)
    again = Toy()
    fit(again, 50, checkpoint)
    assert (again.done, again.x) == (50, toy_to(50).x)


@pytest.mark.parametrize("save_every", [0.0, 1e9])
@pytest.mark.parametrize("check_every", [1, 7, 200])
def test_saving_and_looking_have_no_influence_on_the_numbers(
    tmp_path: Path, save_every: float, check_every: int
) -> None:
    toy, ticks = Toy(), []
    fit(
        toy,
        50,
        tmp_path / "toy.pt",
        save_every=save_every,
        check_every=check_every,
        report=ticks.append,
    )
    assert toy.x == toy_to(50).x
    assert sum(ticks) == 50
    assert (tmp_path / "toy.pt").exists() == (save_every == 0.0)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.pt"
    save_checkpoint(checkpoint, make_trainer().state_dict())
    other = Trainer(
        METHODS["ULA"],
        lambda z: -0.5 * (z**2).sum(-1),
        2,
        3,
        Training(ITERATIONS),
        [0.1],
        [torch.Generator()],
    )
    with pytest.raises(UsageError, match="checkpoint"):
        fit(other, ITERATIONS, checkpoint)


# ------------------------------------------------------------------------------------- deadline


def test_pauses_at_the_deadline_and_goes_on_to_the_same_bits(
    tmp_path: Path, undisturbed: Trainer
) -> None:
    checkpoint, ticks, pauses = tmp_path / "run.pt", [], 0
    while True:
        trainer = make_trainer()
        try:
            fit(
                trainer,
                ITERATIONS,
                checkpoint,
                deadline=time.time() - 1,
                check_every=40,
                report=ticks.append,
            )
            break
        except Paused as reason:
            pauses += 1
            assert trainer.done == 40 * pauses  # a pause still makes headway
            assert f"iteration {40 * pauses} of {ITERATIONS}" in str(reason)
    assert pauses == 5
    assert ticks == [
        40,
        40,
        40,
        80,
        40,
        120,
        40,
        160,
        40,
        200,
        40,
    ]  # each start reports what was done before
    assert_same_state(trainer, undisturbed)


def test_a_deadline_that_is_far_or_comes_at_the_end_does_not_pause(tmp_path: Path) -> None:
    far, at_the_end = Toy(), Toy()
    fit(far, 50, tmp_path / "far.pt", deadline=time.time() + 3600, check_every=10)
    fit(at_the_end, 50, tmp_path / "end.pt", deadline=time.time() - 1, check_every=50)
    assert far.done == at_the_end.done == 50
    assert load_checkpoint(tmp_path / "end.pt")["done"] == 50


# ----------------------------------------------------------------------------------- divergence


def test_stops_early_only_when_every_row_has_diverged(tmp_path: Path) -> None:
    all_gone, one_left = Toy((13, 35)), Toy((13, None))
    fit(all_gone, 200, check_every=10)
    fit(one_left, 200, check_every=10)
    assert (all_gone.done, one_left.done) == (40, 200)

    from_seven = Toy((13, 35))
    for _ in range(7):
        from_seven.step()
    fit(from_seven, 200, check_every=10)  # looks at the same iterations
    assert (from_seven.done, from_seven.x) == (40, all_gone.x)

    resumed, checkpoint = Toy((13, 35)), tmp_path / "toy.pt"
    with pytest.raises(Paused):
        fit(resumed, 200, checkpoint, check_every=10, deadline=0.0)
    resumed = Toy((13, 35))
    fit(resumed, 200, checkpoint, check_every=10)
    assert (resumed.done, resumed.x) == (40, all_gone.x)


def quartic(z: torch.Tensor) -> torch.Tensor:
    return -(z**4).sum(-1)


def quartic_trainer(rates: list[float], iterations: int = 60) -> Trainer:
    """ULA on a quartic: a step size of 0.5 throws the chains to infinity."""
    return Trainer(
        METHODS["ULA"],
        quartic,
        2,
        6,
        Training(iterations),
        rates,
        [torch.Generator().manual_seed(r) for r in range(len(rates))],
    )


def test_a_diverged_row_leaves_the_others_alone() -> None:
    calm, mixed = quartic_trainer([1e-3] * 3), quartic_trainer([1e-3, 1.0, 1e-3])
    for trainer in (calm, mixed):
        fit(trainer, 60, check_every=5)
    assert calm.diverged_at() == [None] * 3
    first, second, third = mixed.diverged_at()
    assert first is None
    assert third is None
    assert second is not None
    assert mixed.done == 60
    for row in (0, 2):
        assert torch.equal(mixed.losses[:, row], calm.losses[:, row])
        for name, value in calm.row(row).items():
            assert torch.equal(mixed.row(row)[name], value), name
    assert all(not torch.isfinite(mixed.row(1)[name]).all() for name in ("mu", "log_sigma"))


def test_diverged_at_is_the_exact_iteration() -> None:
    trainer, first = quartic_trainer([1.0, 1e-3]), None
    for iteration in range(1, 61):
        if first is None:  # what this iteration is about to compute, from a copy of its noise
            state = trainer.generators[0].get_state()
            noise = torch.empty_like(trainer.noise[:1])
            noise[0].normal_(generator=trainer.generators[0])
            trainer.generators[0].set_state(state)
            both = noise.expand_as(trainer.noise)
            w = trainer.engine.forward(trainer.parameters, both)[0]
            first = None if torch.isfinite(w.mean()) else iteration
        trainer.step()
        assert trainer.diverged_at() == [first, None]
    assert first is not None
    assert first > 1

    trainer.losses[first - 1 : 40, 0] = 0.0
    assert trainer.diverged_at() == [41, None]
    trainer.losses[:, 0] = 0.0
    trainer.losses[3, 0], trainer.losses[7, 1] = float("inf"), float("nan")
    assert trainer.diverged_at() == [4, 8]
    trainer.done = 7
    assert trainer.diverged_at() == [4, None]


def test_training_stops_when_all_rows_have_diverged() -> None:
    trainer = quartic_trainer([1.0, 0.9], iterations=1000)
    fit(trainer, 1000, check_every=20)
    assert None not in trainer.diverged_at()
    assert trainer.done % 20 == 0
    assert max(step or 0 for step in trainer.diverged_at()) <= trainer.done <= 200

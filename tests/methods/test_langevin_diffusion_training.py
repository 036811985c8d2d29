"""Training in rows: rows are single runs, the update is Adam, bounds, refusals, any target."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.evaluation.laplace import laplace
from lmcnb.lab.data import load
from lmcnb.lab.files import load_checkpoint, save_checkpoint
from lmcnb.methods.langevin_diffusion import METHODS, initial_values, log_weight, network_of
from lmcnb.methods.langevin_diffusion_training import Trainer, Training, log_weights
from lmcnb.models.targets import Gaussian, make_target

START = {"step_size": 0.05, "damping": 2.0, "persistence": 0.4, "log_sigma": -0.5}
DOUBLE = torch.float64


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def make(
    name: str = "LDVI",
    rates: Sequence[float] = (1e-2,),
    seeds: Sequence[int] = (0,),
    target: Callable[[Tensor], Tensor] | None = None,
    training: Training = Training(50, chains=4),  # noqa: B008
    **changed: Any,
) -> Trainer:
    arguments: dict[str, Any] = {
        "m": METHODS[name],
        "log_density": target or make_target("mixture", DOUBLE),
        "dim": 2,
        "bridges": 3,
        "training": training,
        "learning_rates": rates,
        "generators": seeded(*seeds),
        "initial": [START] * len(seeds),
        "dtype": DOUBLE,
    }
    return Trainer(**(arguments | changed))


def run(trainer: Trainer) -> Trainer:
    for _ in range(trainer.training.iterations):
        trainer.step()
    return trainer


# ----------------------------------------------------------------------------------------- rows


@pytest.mark.parametrize("name", ["ULA", "MCD", "UHA", "LDVI"])
def test_a_row_is_the_single_run(name: str) -> None:
    rows = [(lr, seed) for lr in (1e-2, 2e-3) for seed in (0, 1)]
    batch = run(make(name, [lr for lr, _ in rows], [seed for _, seed in rows]))
    start = make(name).row(0)
    for r, (lr, seed) in enumerate(rows):
        alone = run(make(name, [lr], [seed]))
        torch.testing.assert_close(batch.losses[:, r], alone.losses[:, 0], rtol=1e-9, atol=1e-9)
        for key, value in alone.row(0).items():
            torch.testing.assert_close(batch.row(r)[key], value, rtol=1e-9, atol=1e-9, msg=key)
        moved = (alone.row(0)["mu"] - start["mu"]).abs().max()
        assert moved > 5 * lr  # it was a training
    first, second = batch.losses[:, 0], batch.losses[:, 1]
    assert not torch.isclose(first, second, rtol=1e-3).any()  # another seed, other numbers


def test_rows_may_stand_in_any_order_and_start_differently() -> None:
    one = {"mu": torch.tensor([1.0, -1.0]), "step_size": 0.02}
    forth = run(make("UHA", [1e-2, 3e-3], [5, 6], initial=[START, one]))
    back = run(make("UHA", [3e-3, 1e-2], [6, 5], initial=[one, START]))
    torch.testing.assert_close(forth.losses, back.losses.flip(1), rtol=1e-9, atol=1e-9)
    assert forth.names == back.names
    for key, value in forth.row(1).items():
        torch.testing.assert_close(value, back.row(0)[key], rtol=1e-9, atol=1e-9, msg=key)


def test_the_generator_of_a_row_decides_network_and_noise_only_of_that_row() -> None:
    one, other = make(rates=[1e-2] * 2, seeds=[0, 1]), make(rates=[1e-2] * 2, seeds=[0, 2])
    for trainer in (one, other):
        trainer.step()
    assert torch.equal(one.row(0)["net.W1"], other.row(0)["net.W1"])
    assert torch.equal(one.noise[0], other.noise[0])
    assert not torch.isclose(one.row(1)["net.W1"], other.row(1)["net.W1"], rtol=1e-3).all()
    assert not torch.isclose(one.noise[1], other.noise[1]).any()
    assert not torch.isclose(one.noise[1], one.noise[0]).any()


def test_a_state_put_back_goes_on_bit_for_bit() -> None:
    whole = run(make(rates=[1e-2, 3e-3], seeds=[0, 1]))
    half = make(rates=[1e-2, 3e-3], seeds=[0, 1])
    for _ in range(20):
        half.step()
    state = half.state_dict()
    run_on = make(rates=[1e-2, 3e-3], seeds=[8, 9])
    half.step()  # a state is a copy
    run_on.load_state_dict(state)
    for _ in range(30):
        run_on.step()
    assert torch.equal(run_on.flat, whole.flat)
    assert torch.equal(run_on.losses, whole.losses)


# --------------------------------------------------------------------------------------- update


def schedule(decay: float) -> list[float]:
    """Learning-rate factors of 60 iterations, written out."""
    if decay == 0:
        return [1.0] * 60
    return [1.0] * 31 + [j / 30 for j in range(29, 0, -1)]


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_the_update_is_adam_then_projection(decay: float) -> None:
    rate = 0.03
    trainer = make(
        rates=[rate, rate], seeds=[0, 1], training=Training(60, 4, decay), initial=[{}, START]
    )
    ours = {k: v.clone().requires_grad_(True) for k, v in trainer.parameters.items()}
    adam = torch.optim.Adam(ours.values(), lr=rate, betas=(0.9, 0.999), eps=1e-8)
    clamped = 0
    for factor in schedule(decay):
        trainer.step()
        for name, parameter in ours.items():
            parameter.grad = trainer.gradients[name].clone()
        adam.param_groups[0]["lr"] = rate * factor
        adam.step()
        with torch.no_grad():
            ours["step_size"].clamp_(1e-7, 0.5)
            ours["damping"].clamp_(min=1e-3)
            ours["persistence"].clamp_(0.0, 0.99)
            ours["knots"].clamp_(min=1e-3)
            clamped += int((ours["step_size"] == 1e-7).any())
        for name, parameter in ours.items():
            torch.testing.assert_close(
                trainer.parameters[name], parameter.detach(), rtol=1e-12, atol=1e-12, msg=name
            )
    assert clamped > 0  # projections did happen, and Adam's moments went on through them


def test_the_gradient_is_that_of_the_reference() -> None:
    trainer = make("LDVI", [1e-2] * 2, [0, 1])
    trainer.parameters["net.factor"].fill_(0.3)
    for r in range(2):
        p = {k: v.requires_grad_(True) for k, v in trainer.row(r).items()}
        noise = torch.empty_like(trainer.noise[r])
        noise.normal_(generator=seeded(0)[0].set_state(trainer.generators[r].get_state()))
        w = log_weight(METHODS["LDVI"], make_target("mixture", DOUBLE), p, noise, network_of(p))
        loss = -w.mean()
        # the persistence has no part in LDVI
        used = {k: v for k, v in p.items() if k != "persistence"}
        expected = dict(zip(used, torch.autograd.grad(loss, list(used.values())), strict=True))
        if r == 0:
            trainer_state = trainer.state_dict()
        else:
            trainer.load_state_dict(trainer_state)
        trainer.step()
        torch.testing.assert_close(trainer.losses[0, r], loss.detach(), rtol=1e-10, atol=1e-10)
        for name, value in expected.items():
            found = trainer.gradients[name][r]
            torch.testing.assert_close(found, value, rtol=1e-8, atol=1e-10, msg=name)
        trainer.load_state_dict(trainer_state)


BOUNDS = {  # the projection of the paper's code
    "step_size": (1e-7, 0.5),
    "damping": (1e-3, math.inf),
    "persistence": (0.0, 0.99),
    "knots": (1e-3, math.inf),
}


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_bounds_hold_and_are_reached(sign: float) -> None:
    trainer = make(rates=[5.0, 0.5], seeds=[0, 1], training=Training(4, 2))
    trainer.engine.backward = lambda gradients: trainer.gradient.fill_(sign)
    run(trainer)
    for name, (low, high) in BOUNDS.items():
        value, bound = trainer.parameters[name], low if sign > 0 else high
        assert (value >= low).all()
        assert (value <= high).all()
        if math.isfinite(bound):
            expected = torch.full_like(value[0], bound)  # Adam moved it by 4 x 5, the start is near
            torch.testing.assert_close(value[0], expected, rtol=0, atol=0, msg=name)
    change = trainer.row(0)["log_sigma"] - START["log_sigma"]
    torch.testing.assert_close(change, torch.full_like(change, -sign * 20), rtol=1e-6, atol=0)


def test_mean_field_finds_the_gaussian_and_its_normalizer() -> None:
    mean, sd = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 1.5])
    target = Gaussian(mean, torch.diag(sd**2), log_normalizer=0.7, dtype=DOUBLE)
    trainer = run(
        make("ULA", [0.05], target=target, bridges=0, training=Training(1000, 32, decay=0.8))
    )
    torch.testing.assert_close(trainer.row(0)["mu"].float(), mean, rtol=0, atol=0.03)
    torch.testing.assert_close(trainer.row(0)["log_sigma"].exp().float(), sd, rtol=0.02, atol=0)
    w = log_weights(METHODS["ULA"], target, trainer.parameters, seeded(1), 1000, 0)
    assert float(w.mean()) == pytest.approx(0.7, abs=4e-3)
    assert float(-trainer.losses[0]) < float(-trainer.losses[-1])


# ----------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("value", [0, -3, 1.5, "10", None])
@pytest.mark.parametrize("name", ["iterations", "chains", "bridges", "dim"])
def test_impossible_counts_are_refused_by_name(name: str, value: object) -> None:
    if name == "bridges" and value == 0:
        make(bridges=0)  # plain variational inference
        return
    with pytest.raises(UsageError, match=f"{name}={value!r}"):
        if name in ("iterations", "chains"):
            Training(**({"iterations": 10} | {name: value}))
        else:
            make(**{name: value})


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf])
def test_impossible_decay_is_refused(value: float) -> None:
    with pytest.raises(UsageError, match=f"decay={value!r}"):
        Training(10, decay=value)


@pytest.mark.parametrize("rate", [0.0, -1e-3, math.nan, math.inf])
def test_impossible_learning_rates_are_refused(rate: float) -> None:
    with pytest.raises(UsageError, match="learning_rates"):
        make(rates=[1e-2, rate], seeds=[0, 1])


class WrongSign:
    """A target whose own score points down."""

    name, dim = "wrong", 2

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        return -0.5 * (z**2).sum(-1)

    def linearize(self, z: torch.Tensor) -> Any:
        return z, lambda v: v


def test_rates_and_generators_must_match_and_initial_values_be_known() -> None:
    with pytest.raises(UsageError, match="2 learning rates for 1 generators"):
        make(rates=[1e-2, 1e-2], seeds=[0])
    with pytest.raises(UsageError, match="0 generators"):
        make(rates=[], seeds=[])
    with pytest.raises(UsageError, match="gamma"):
        make(initial=[{"gamma": 1.0}])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (lambda z: -(z**2).sum(-1) * math.nan, "NaN or infinity"),
        (lambda z: -(z**2), "shape"),
        (lambda z: -(z**2).sum(), "shape"),
        (lambda z: -(z**2).sum(-1, keepdim=True), "shape"),
        (lambda z: -(z @ torch.ones(7, 7, dtype=DOUBLE)).sum(-1), "raised"),
        (lambda z: -((z - z.mean(0)) ** 2).sum(-1), "mixes samples"),
        (lambda z: -(z**2).sum(-1).softmax(0), "mixes samples"),
        (lambda z: -(z**2).sum(-1) - 1200 + z.detach().mean(0).sum(-1), "mixes samples"),
        (make_target("seeds", DOUBLE, data=load("seeds")), "dim = 26, not 2"),
        (WrongSign(), "linearize gives a score that is no gradient"),
        (lambda z: float(-(z**2).sum()), "float"),
        (lambda z: (z - z.detach()).sqrt().sum(-1), "score"),
        ("a string", "not callable"),
    ],
)
def test_impossible_targets_are_refused_before_training(target: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(target=target)


@pytest.mark.parametrize(
    ("initial", "message"),
    [
        ({"persistence": 1.5}, "persistence = 1.5: must be between 0 and 0.99"),
        ({"step_size": -1.0}, "step_size = -1.0: must be between 1e-07 and 0.5"),
        ({"mu": torch.zeros(3)}, r"mu of shape \(3,\): one number or \(2,\)"),
        ({"mu": torch.zeros(1, 2)}, r"mu of shape \(1, 2\)"),
        ({"knots": torch.ones(2)}, r"knots of shape \(2,\): one number or \(4,\)"),
    ],
)
def test_impossible_initial_values_are_refused(initial: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(initial=[initial])


def test_no_step_beyond_the_last() -> None:
    trainer = run(make())
    with pytest.raises(UsageError, match=f"all {trainer.done} iterations are done"):
        trainer.step()


def test_a_state_of_another_training_is_refused_and_nothing_changes() -> None:
    trainer = run(make("LDVI"))
    state = trainer.state_dict()
    others = {
        "method": make("LDVI_EM"),
        "iterations": make(training=Training(trainer.done + 1, trainer.training.chains)),
        "chains": make(training=Training(trainer.done, trainer.training.chains + 1)),
        "learning_rates": make(rates=[0.5]),
        "dtype": make(target=make_target("mixture"), dtype=torch.float32),
        "decay": make(training=Training(trainer.done, trainer.training.chains, 0.5)),
        "bridges": make(bridges=2),
        "dim": make(target=Gaussian(torch.zeros(3), torch.eye(3), dtype=DOUBLE), dim=3),
    }
    assert set(others) == set(trainer.made_for)
    others["learning_rates"] = make(rates=[1e-2] * 2, seeds=[0, 1])  # another number of rows
    for name, other in others.items():
        before = other.flat.clone()
        with pytest.raises(UsageError, match=f"checkpoint: made for {name} ="):
            other.load_state_dict(state)
        assert torch.equal(other.flat, before), name
        assert other.done == 0
    with pytest.raises(UsageError, match="unknown format 1"):
        trainer.load_state_dict(state | {"format": 1})


def test_a_state_with_numpy_rates_can_be_read_again(tmp_path: Path) -> None:
    trainer = make(rates=list(np.array([1e-2])))
    save_checkpoint(tmp_path / "state.pt", trainer.state_dict())
    trainer.load_state_dict(load_checkpoint(tmp_path / "state.pt"))


def test_a_target_that_autograd_cannot_follow_trains_by_its_own_score() -> None:
    class Numpy:
        name, dim = "numpy", 2

        def __call__(self, z: Tensor) -> Tensor:
            return torch.from_numpy(-0.5 * (z.detach().numpy() ** 2).sum(-1))

        def linearize(self, z: Tensor) -> Any:
            return -z, lambda v: -v

    run(make("ULA", target=Numpy(), training=Training(3, 2)))


@pytest.mark.parametrize("name", ["lorenz", "brownian", "seeds", "breast_cancer"])
def test_good_targets_are_not_refused_in_float32(name: str) -> None:
    """At the scale of the posterior and around the origin."""
    target = make_target(name, data=load(name) if name in ("lorenz", "brownian", "seeds") else None)
    starts = [{}]
    if name == "lorenz":
        point = laplace(make_target(name, DOUBLE, data=load(name)), torch.zeros(90, dtype=DOUBLE))
        starts += [{"mu": point.mode.float(), "log_sigma": point.sigma.log().float()}]
    for start in starts:
        make(target=target, dim=target.dim, initial=[start], dtype=torch.float32)


def test_fresh_chains_of_another_number_of_bridges_are_refused() -> None:
    trainer = make()
    target = trainer.engine.log_density
    with pytest.raises(UsageError, match=r"parameters\['knots'\]: LDVI with 5 bridges needs"):
        log_weights(METHODS["LDVI"], target, trainer.parameters, seeded(1), 10, 5)
    ula = make("ULA").parameters
    with pytest.raises(UsageError, match="needs the shape .* found none"):
        log_weights(METHODS["LDVI"], target, ula, seeded(1), 10, 3)


@pytest.mark.parametrize(("name", "value"), [("chains", 0), ("chains", 2.5), ("chunk", 0)])
def test_impossible_counts_of_fresh_chains_are_refused(name: str, value: object) -> None:
    trainer = make()
    arguments = {"chains": 10, "bridges": 3, "chunk": 5} | {name: value}
    with pytest.raises(UsageError, match=f"{name}={value!r}"):
        log_weights(
            METHODS["LDVI"],
            trainer.engine.log_density,
            trainer.parameters,
            seeded(1),
            **arguments,
        )


# --------------------------------------------------------------------------------- fresh chains


@pytest.mark.parametrize("chunk", [1, 3, 7, 8, 500])
def test_as_many_fresh_chains_as_asked_for(chunk: int) -> None:
    target = make_target("mixture")
    p = make(rates=[1e-2] * 2, seeds=[0, 1], target=target, dtype=torch.float32).parameters
    w = log_weights(METHODS["LDVI"], target, p, seeded(7, 8), 7, 3, chunk)
    assert w.shape == (2, 7)
    assert w.dtype == DOUBLE
    assert len(set(w.flatten().tolist())) == 14  # no chain twice
    first = min(chunk, 7)
    one_chunk = log_weights(METHODS["LDVI"], target, p, seeded(7, 8), first, 3)
    assert torch.equal(w[:, :first], one_chunk)


def test_fresh_chains_have_the_log_weights_of_the_reference() -> None:
    trainer = run(make(rates=[1e-2] * 2, seeds=[0, 1]))
    target = trainer.engine.log_density
    w = log_weights(METHODS["LDVI"], target, trainer.parameters, seeded(7, 8), 6, 3, chunk=4)
    for r, generator in enumerate(seeded(7, 8)):
        parts = []
        for _ in range(2):
            noise = torch.empty(5, 4, 2, dtype=DOUBLE).normal_(generator=generator)
            p = trainer.row(r)
            parts.append(log_weight(METHODS["LDVI"], target, p, noise, network_of(p)).detach())
        torch.testing.assert_close(w[r], torch.cat(parts)[:6], rtol=1e-10, atol=1e-10)


# ------------------------------------------------------------------------------------ any target


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("name", ["MCD", "LDVI"])
def test_a_plain_function_trains_as_the_target_with_formulas(name: str, inference: bool) -> None:
    own = make_target("mixture", DOUBLE)
    with torch.inference_mode() if inference else contextlib.nullcontext():
        plain = run(make(name, target=lambda z: own(z), training=Training(20, 3)))
        w = log_weights(METHODS[name], lambda z: own(z), plain.parameters, seeded(1), 5, 3)
    formulas = run(make(name, target=own, training=Training(20, 3)))
    torch.testing.assert_close(plain.losses, formulas.losses, rtol=1e-9, atol=1e-9)
    expected = log_weights(METHODS[name], own, formulas.parameters, seeded(1), 5, 3)
    torch.testing.assert_close(w, expected, rtol=1e-9, atol=1e-9)


def test_start_values_reach_every_row() -> None:
    mu = torch.tensor([3.0, -4.0])
    trainer = make(rates=[1e-2] * 2, seeds=[0, 1], initial=[{"mu": mu}, START])
    assert torch.equal(trainer.row(0)["mu"], mu.double())
    assert torch.equal(trainer.row(1)["mu"], torch.zeros(2, dtype=DOUBLE))
    assert float(trainer.row(0)["damping"]) == 10
    assert float(trainer.row(1)["damping"]) == 2
    expected = dict(initial_values(METHODS["LDVI"], 2, 3, seeded(1)[0], **START))
    for name, value in trainer.row(1).items():
        assert torch.equal(value, expected[name].double()), name

"""Training binary VAEs: gradients against exact ones, the update, statistics, resuming, graphs."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from lmcnb.errors import UsageError
from lmcnb.kernels import disir
from lmcnb.lab.training import fit
from lmcnb.methods import unbiased_vae_gradients as grads
from lmcnb.methods import unbiased_vae_training as uvt
from lmcnb.methods.unbiased import couple
from lmcnb.methods.unbiased_vae import Weighted, adapted, weighted_points
from lmcnb.methods.unbiased_vae_graph import BLOCK, Program
from lmcnb.methods.unbiased_vae_kernels import Coupling, kernels
from lmcnb.methods.unbiased_vae_settings import Streams, Training
from lmcnb.methods.unbiased_vae_training import Trainer
from lmcnb.models.binary_vae import BinaryVAE

F64 = torch.float64
MODEL = BinaryVAE(12, 2, (8,))
CHAINS = Coupling(samples=3, lag=3, cap=4)
SMALL = Training(updates=12, batch=10, learning_rate=1e-2, samples=3, coupling=CHAINS, beta=0.7)
ARMS = {
    "ELBO": replace(SMALL, method="ELBO"),
    "IWAE": SMALL,
    "average": replace(SMALL, method="average", coupling=replace(CHAINS, cap=0)),
    "C-ISIR": replace(SMALL, method="C-ISIR", coupling=replace(CHAINS, composite=False)),
    "C-ISIR-DISIR": replace(SMALL, method="C-ISIR-DISIR"),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def streams(*seeds: int) -> list[Streams]:
    return [Streams(*(generator(10 * seed + i) for i in range(3))) for seed in seeds or (0,)]


def twin(source: torch.Generator) -> torch.Generator:
    """A generator with the same future."""
    other = torch.Generator()
    other.set_state(source.get_state())
    return other


def images(n: int = 40) -> Tensor:
    """Bright above or bright below."""
    stream = generator(5)
    share = torch.where(torch.rand(n, 1, generator=stream) < 0.5, 0.8, 0.2)
    share = torch.cat([share.expand(n, 6), 1 - share.expand(n, 6)], -1)
    return (torch.rand(n, 12, generator=stream) < share).to(torch.uint8)


def trained(t: Training, updates: int | None = None, *seeds: int, **more: Any) -> Trainer:
    trainer = Trainer(MODEL, t, images(), streams(*seeds), **more)
    fit(trainer, t.updates if updates is None else updates)
    return trainer


@cache
def learned() -> dict[str, Tensor]:
    """Float64 parameters after some training, so that q is no stranger to the posterior."""
    t = replace(SMALL, updates=400, learning_rate=3e-3)
    return {k: v.double() for k, v in trained(t).parameters.items()}


def decoder(g: dict[str, Tensor]) -> Tensor:
    return torch.cat([v.flatten() for k, v in g.items() if k.startswith("decoder")])


# ---- gradients of the bounds


def log_weights(p: dict[str, Tensor], x: Tensor, noise: Tensor, detached: bool) -> Tensor:
    """log w at reparameterized latents, by the density's formulas; `detached`: phi inside log q."""
    mean, std = (v.unsqueeze(2) for v in MODEL.encode(p, x))
    z = mean + std * noise
    logits = MODEL.logits(p, z.flatten(1, 2)).view(*z.shape[:3], -1)
    x = x.unsqueeze(2)
    seen = -(x * softplus(-logits) + (1 - x) * softplus(logits)).sum(-1)
    if detached:
        mean, std = mean.detach(), std.detach()
    normal = torch.distributions.Normal(mean, std)
    prior = torch.distributions.Normal(torch.zeros_like(z), 1.0)
    return seen + prior.log_prob(z).sum(-1) - normal.log_prob(z).sum(-1)


def bound_of(method: str, log_w: Tensor) -> Tensor:
    if method == "ELBO":
        return log_w.mean(-1)
    return torch.logsumexp(log_w, -1) - math.log(log_w.shape[-1])


@pytest.mark.parametrize("method", ["ELBO", "IWAE"])
@pytest.mark.parametrize("runs", [1, 2])
def test_gradients_of_the_bounds_are_autograd_s(method: str, runs: int) -> None:
    """The decoder's: of the bound itself. The encoder's: of the DReG surrogate."""
    first = learned()
    p = {k: torch.cat([v, 0.7 * v])[:runs] for k, v in first.items()}
    x = images(10 * runs).double().view(runs, 10, 12)
    noise = torch.randn(runs, 10, 3, 2, generator=generator(1), dtype=F64)
    bound, found = grads.bound_gradients(MODEL, p, x, noise, elbo=ARMS[method].method == "ELBO")
    leaves = {k: v.clone().requires_grad_() for k, v in p.items()}
    known = bound_of(method, log_weights(leaves, x, noise, detached=False)).mean(-1)
    torch.testing.assert_close(bound.double(), known.detach(), rtol=1e-6, atol=1e-6)
    names = [k for k in p if k.startswith("decoder")]
    exact = torch.autograd.grad(-known.sum(), [leaves[k] for k in names])
    for k, g in zip(names, exact, strict=True):
        torch.testing.assert_close(found[k], g, rtol=0, atol=1e-10)
    log_w = log_weights(leaves, x, noise, detached=True)
    share = torch.softmax(log_w.detach(), -1).square()
    if method == "ELBO":
        share = torch.full_like(share, 1 / 3)
    surrogate = -(share * log_w).sum(-1).mean(-1).sum()
    names = [k for k in p if k.startswith("encoder")]
    exact = torch.autograd.grad(surrogate, [leaves[k] for k in names])
    for k, g in zip(names, exact, strict=True):
        torch.testing.assert_close(found[k], g, rtol=0, atol=1e-10)
    assert set(found) == set(p)


@pytest.mark.parametrize("method", ["ELBO", "IWAE"])
def test_the_encoder_s_gradient_is_unbiased_with_less_variance(method: str) -> None:
    """Against the plain reparameterized gradient of the same bound, a run a draw."""
    draws = 20_000
    p = {k: v.expand(draws, *v.shape[1:]) for k, v in learned().items()}
    x = images(1).double().expand(draws, 1, 12)
    noise = torch.randn(draws, 1, 3, 2, generator=generator(1), dtype=F64)
    _, found = grads.bound_gradients(MODEL, p, x, noise, elbo=ARMS[method].method == "ELBO")
    names = [k for k in p if k.startswith("encoder")]
    leaves = {k: v.clone().requires_grad_() for k, v in p.items()}
    bound = bound_of(method, log_weights(leaves, x, noise, detached=False))
    plain = torch.autograd.grad(-bound.sum(), [leaves[k] for k in names])
    a = torch.cat([found[k].flatten(1) for k in names], -1)
    b = torch.cat([g.flatten(1) for g in plain], -1)
    gap = a - b
    moved = gap.std(0) > 0  # the weights of dark pixels get no gradient
    assert int(moved.sum()) > 20
    z = gap.mean(0)[moved] / (gap.std(0)[moved] / math.sqrt(draws))
    assert float(z.abs().max()) < 4
    assert float(a.var(0).sum()) < 0.7 * float(b.var(0).sum())
    scale = b.mean(0).abs() / (b.std(0) / math.sqrt(draws)).clamp(min=1e-12)
    assert float(scale.max()) > 8  # there is a gradient to agree on


# ---- the gradient of chains, against quadrature

TINY = BinaryVAE(6, 1, (5,), "tanh")
SEEN = torch.tensor([1, 0, 1, 1, 0, 0], dtype=F64)
ROWS, GROUPS = 800, 40  # replicates are rows of one image


@cache
def tiny() -> dict[str, Tensor]:
    """q = N(1, 1.5^2) of a posterior about -1 +- 0.6: shifted and wide, so weights are bounded."""
    p = {k: v.double() for k, v in TINY.initial([generator()]).items()}
    stream = generator(50)
    for name, scale in (("decoder.W0", 3), ("decoder.W1", 2)):
        p[name] = scale * p[name]
    for name in ("decoder.b0", "decoder.b1"):
        p[name] = 0.3 * torch.randn(p[name].shape, generator=stream, dtype=F64)
    p["encoder.W1"] = torch.zeros_like(p["encoder.W1"])
    p["encoder.b1"] = torch.tensor([[[1.0, math.log(math.expm1(1.5 - 1e-4))]]], dtype=F64)
    return p


@cache
def exact() -> Tensor:
    """grad log p(x) of the decoder's parameters on a fine grid of the latent."""
    grid = torch.linspace(-12, 12, 20_001, dtype=F64)
    leaves = {k: v.clone().requires_grad_() for k, v in tiny().items() if k.startswith("decoder")}
    a = torch.tanh(grid.unsqueeze(-1) @ leaves["decoder.W0"][0] + leaves["decoder.b0"][0])
    logits = a @ leaves["decoder.W1"][0] + leaves["decoder.b1"][0]
    seen = torch.distributions.Bernoulli(logits=logits).log_prob(SEEN.expand_as(logits)).sum(-1)
    evidence = torch.logsumexp(seen - 0.5 * grid.square(), 0)
    return torch.cat([g.flatten() for g in torch.autograd.grad(evidence, list(leaves.values()))])


def worst(draw: Callable[[torch.Generator], dict[str, Tensor]], seed: int = 1) -> float:
    """Largest |z| of the error over all decoder parameters; `draw` gives the mean of ROWS."""
    stream = generator(seed)
    found = torch.stack([-decoder(draw(stream)) for _ in range(GROUPS)])
    assert found.shape[1] == 46
    error = found.mean(0) - exact()
    return float((error / (found.std(0) / math.sqrt(GROUPS))).abs().max())


def by_chains(coupling: Coupling) -> Callable[[torch.Generator], dict[str, Tensor]]:
    p, x = tiny(), SEEN.expand(1, ROWS, 6)
    log_weight, mean, std = grads.row_log_weight(TINY, p, x)

    def draw(stream: torch.Generator) -> dict[str, Tensor]:
        points = weighted_points(log_weight, ROWS, 1, coupling, 0.7, stream, F64)
        z = mean[points.rows].unsqueeze(1) + std[points.rows].unsqueeze(1) * points.points
        return grads.decoder_gradients(TINY, p, x, points, z)

    return draw


@pytest.mark.parametrize("composite", [False, True])
def test_the_gradient_of_coupled_chains_is_exact_in_the_mean(composite: bool) -> None:
    assert worst(by_chains(Coupling(3, composite=composite, lag=2))) < 4


@pytest.mark.parametrize(
    "coupling",
    [
        Coupling(3, lag=2, cap=0),
        Coupling(3, lag=2, cap=1),
        Coupling(3, lag=2, cap=1, composite=False),
        Coupling(3, lag=2, rule="index"),
    ],
)
def test_the_same_test_rejects_what_is_biased(coupling: Coupling) -> None:
    assert worst(by_chains(coupling)) > 10


def test_the_same_test_rejects_importance_weighting() -> None:
    t, x = Training(samples=3), SEEN.expand(1, ROWS, 6)

    def draw(stream: torch.Generator) -> dict[str, Tensor]:
        noise = torch.randn(1, ROWS, 3, 1, generator=stream, dtype=F64)
        return grads.bound_gradients(TINY, tiny(), x, noise, elbo=t.method == "ELBO")[1]

    assert worst(draw) > 20


# ---- the update


def test_rmsprop_is_the_formula() -> None:
    p = {k: torch.randn(3, 2, generator=generator(i)) for i, k in enumerate("ab")}
    v = {k: torch.rand(3, 2, generator=generator(2 + i)) for i, k in enumerate("ab")}
    for step in range(3):
        g = {k: torch.randn(3, 2, generator=generator(9 * step + i)) for i, k in enumerate("ab")}
        squares = {k: 0.9 * v[k].double() + 0.1 * g[k].double() ** 2 for k in p}
        known = {k: p[k].double() - 0.01 * g[k].double() / (squares[k] + 1e-8).sqrt() for k in p}
        same = {k: t.data_ptr() for k, t in p.items()}
        grads.rmsprop(p, g, v, 0.01)
        for k in p:
            torch.testing.assert_close(p[k].double(), known[k], rtol=0, atol=1e-6)
            torch.testing.assert_close(v[k].double(), squares[k], rtol=1e-6, atol=0)
            assert p[k].data_ptr() == same[k]
    zero = {k: torch.zeros_like(t) for k, t in p.items()}
    tiny_step = {k: torch.full_like(t, 1e-5) for k, t in p.items()}
    before, none = copy.deepcopy(p), copy.deepcopy(zero)
    grads.rmsprop(p, tiny_step, none, 1.0)  # here epsilon inside the root is seen
    for k in p:
        moved = before[k] - p[k]
        torch.testing.assert_close(moved, torch.full_like(moved, 1e-5 / math.sqrt(1e-11 + 1e-8)))


def replayed(before: Trainer, rows: Tensor) -> tuple[Weighted, dict[str, Tensor], Tensor]:
    """Run 0's chains, its gradient by plain autograd, and images; from a trainer before a step."""
    stream, t = twin(before.streams[0].noise), before.training
    p = {k: v[:1] for k, v in before.parameters.items()}
    x = before.images[rows].float().unsqueeze(0)
    noise = torch.randn(1, t.batch, t.samples, 2, generator=stream)
    _, gradients = grads.bound_gradients(MODEL, p, x, noise, elbo=t.method == "ELBO")
    log_weight, mean, std = grads.row_log_weight(MODEL, p, x)
    points = weighted_points(log_weight, t.batch, 2, t.coupling, before.beta[0, rows], stream)
    z = mean[points.rows].unsqueeze(1) + std[points.rows].unsqueeze(1) * points.points
    return points, gradients | by_autograd(p, x[0], points.rows, z, points.weights), x


def by_autograd(
    p: dict[str, Tensor], x: Tensor, rows: Tensor, z: Tensor, weights: Tensor
) -> dict[str, Tensor]:
    """-(1/B) sum of weight grad log p(x | z), float64, every point."""
    leaves = {k: v.double().requires_grad_() for k, v in p.items() if k.startswith("decoder")}
    value = MODEL.log_likelihood(leaves, x[rows].double().unsqueeze(0), z.double().unsqueeze(0))[0]
    loss = -(weights * value).sum() / len(x)
    found = torch.autograd.grad(loss, list(leaves.values()))
    return {k: g.float() for k, g in zip(leaves, found, strict=True)}


@pytest.mark.parametrize("method", ["average", "C-ISIR", "C-ISIR-DISIR"])
def test_an_update_is_the_literal_one(method: str) -> None:
    """Bound first, chains next, from one stream; RMSProp of both; twice, so that state counts."""
    trainer = Trainer(MODEL, ARMS[method], images(), streams())
    for step in range(2):
        before = copy.deepcopy(trainer)
        trainer.step()
        rows = trainer.order[0, 10 * step : 10 * step + 10]
        _, gradients, _ = replayed(before, rows)
        for k, v in trainer.parameters.items():
            squares = 0.9 * before.squares[k] + 0.1 * gradients[k] ** 2
            known = before.parameters[k] - 1e-2 * gradients[k] / (squares + 1e-8).sqrt()
            torch.testing.assert_close(v, known, rtol=0, atol=1e-5)


def test_every_image_is_seen_once_an_epoch() -> None:
    trainer = Trainer(MODEL, SMALL, images(), streams())
    order = twin(trainer.streams[0].order)
    seen = []
    update = trainer._update
    trainer._update = lambda rows: (seen.append(rows.clone()), update(rows))  # type: ignore
    for _ in range(8):
        trainer.step()
    for epoch in range(2):
        own = torch.cat(seen[4 * epoch : 4 * epoch + 4], -1)[0]
        assert torch.equal(own, torch.randperm(40, generator=order))


@pytest.mark.parametrize("method", list(ARMS))
def test_training_raises_the_bound(method: str) -> None:
    t = replace(ARMS[method], updates=150)
    trainer = trained(t)
    assert float(trainer.bounds[-20:].mean()) > float(trainer.bounds[:5].mean()) + 1
    assert trainer.diverged_at() == [None]


@pytest.mark.parametrize("method", ["ELBO", "IWAE", "average", "C-ISIR-DISIR"])
def test_two_runs_are_the_single_ones(method: str) -> None:
    both = trained(ARMS[method], 4, 0, 1)
    assert both.runs == 2
    for run in range(2):
        alone = trained(ARMS[method], 4, run)
        for k, v in alone.parameters.items():
            torch.testing.assert_close(both.parameters[k][run], v[0], rtol=0, atol=1e-5)
        assert torch.equal(both.order[run], alone.order[0])
        torch.testing.assert_close(both.bounds[:4, run], alone.bounds[:4, 0])
        torch.testing.assert_close(both.beta[run], alone.beta[0])
        torch.testing.assert_close(
            both.statistics[:4, run], alone.statistics[:4, 0], equal_nan=True
        )
    assert not torch.equal(both.parameters["decoder.W0"][0], both.parameters["decoder.W0"][1])


def test_arms_of_a_seed_start_alike_and_see_the_same_order() -> None:
    a, b = (trained(ARMS[m], 1) for m in ("ELBO", "C-ISIR"))
    assert torch.equal(a.order, b.order)
    first, second = (Trainer(MODEL, ARMS[m], images(), streams()) for m in ("ELBO", "C-ISIR"))
    assert all(torch.equal(v, second.parameters[k]) for k, v in first.parameters.items())


def test_it_goes_on_from_what_it_is_given() -> None:
    earlier = trained(SMALL)
    kept = copy.deepcopy(earlier.parameters)
    trainer = Trainer(
        MODEL, SMALL, images(), streams(3), begin=earlier.parameters, squares=earlier.squares
    )
    for name in ("parameters", "squares"):
        own, given = getattr(trainer, name), getattr(earlier, name)
        assert all(torch.equal(own[k], v) for k, v in given.items())
    trainer.step()
    assert all(torch.equal(earlier.parameters[k], v) for k, v in kept.items())  # not its own
    assert not torch.equal(trainer.parameters["decoder.W0"], kept["decoder.W0"])


# ---- beta


def test_beta_is_kept_by_image_and_moves_after_the_visit() -> None:
    t = replace(ARMS["C-ISIR-DISIR"], batch=20)
    trainer = Trainer(MODEL, t, images(), streams())
    expected = torch.full((40,), 0.7)
    for step in range(4):
        before = copy.deepcopy(trainer)
        trainer.step()
        rows = trainer.order[0, 20 * (step % 2) :][:20]
        points, _, _ = replayed(before, rows)  # with the betas of before the visit
        seen = expected[rows]
        torch.testing.assert_close(trainer.statistics[step, 0, 4], seen.mean())
        expected[rows] = (seen - 0.1 * (points.effective.float() / 3 - 0.3)).clamp(1e-6, 1 - 1e-6)
        torch.testing.assert_close(trainer.beta[0], expected)
        if step == 0:
            untouched = torch.ones(40, dtype=torch.bool)
            untouched[rows] = False
            assert bool((trainer.beta[0, untouched] == 0.7).all())
            assert bool((trainer.beta[0, rows] != 0.7).all())
            torch.testing.assert_close(
                trainer.beta[0, rows], adapted(seen, points.effective.float() / 3)
            )


@pytest.mark.parametrize("method", ["IWAE", "C-ISIR"])
def test_beta_stays_where_nothing_uses_it(method: str) -> None:
    assert bool((trained(ARMS[method]).beta == 0.7).all())


# ---- what is recorded


@pytest.mark.parametrize("method", ["C-ISIR", "C-ISIR-DISIR"])
def test_statistics_are_those_of_the_chains(method: str) -> None:
    trainer = Trainer(MODEL, ARMS[method], images(), streams())
    before = copy.deepcopy(trainer)
    trainer.step()
    points, _, _ = replayed(before, trainer.order[0, :10])
    m = points.meeting
    found = dict(zip(uvt.STATISTICS, trainer.statistics[0, 0].tolist(), strict=True))
    assert found["joint_steps"] == pytest.approx(float(m.joint_steps.double().mean()))
    assert found["longest"] == int(m.joint_steps.max())
    assert found["capped"] == pytest.approx(float(m.capped.double().mean()))
    assert 0 < found["capped"] < 1
    assert found["effective"] == pytest.approx(float(points.effective.mean()) / 3)
    assert found["beta"] == pytest.approx(0.7)
    solo, joint = (4, 6) if method == "C-ISIR-DISIR" else (2, 2)  # K - 1 = 2, by step
    assert found["decodes"] == pytest.approx(2 * 3 + 3 * solo + m.row_steps * joint / 10)
    assert bool(torch.isnan(trainer.statistics[1:]).all())


def test_an_average_has_no_joint_steps() -> None:
    trainer = trained(ARMS["average"])
    named = dict(zip(uvt.STATISTICS, trainer.statistics.unbind(-1), strict=True))
    for name in ("joint_steps", "longest", "capped"):
        assert bool(torch.isnan(named[name]).all())
    assert bool((named["decodes"] == 2 * 3 + 3 * 4).all())
    assert bool(((named["effective"] > 1 / 3) & (named["effective"] < 1)).all())
    assert bool(torch.isnan(trainer.cuts).all())
    assert bool(torch.isnan(trained(ARMS["IWAE"]).statistics).all())


@pytest.mark.parametrize("method", ["C-ISIR", "C-ISIR-DISIR"])
def test_what_the_cap_cut_is_recorded(method: str) -> None:
    """The last corrections of capped rows, by a driver of our own, over the whole gradient."""
    trainer = Trainer(MODEL, ARMS[method], images(), streams(), look_at_cut=1)
    before = copy.deepcopy(trainer)
    trainer.step()
    rows, t = trainer.order[0, :10], trainer.training
    _, whole, x = replayed(before, rows)
    stream = twin(before.streams[0].noise)
    torch.randn(1, 10, 3, 2, generator=stream)  # the bound's
    log_weight, mean, std = grads.row_log_weight(MODEL, before.parameters, x)
    kernel, joint = kernels(log_weight, t.coupling, before.beta[0, rows], stream)
    start = [disir.start((10, 3, 2), lambda p: log_weight(p, torch.arange(10)), stream, x.dtype)
             for _ in range(2)]  # fmt: skip
    newest: dict[int, tuple[disir.State, disir.State, int]] = {}

    def correct(first: disir.State, second: disir.State, own: Tensor) -> None:
        for at, row in enumerate(own.tolist()):
            newest[row] = (first, second, at)

    meeting = couple(
        kernel, joint, *start, lambda s, r: None, correct, lag=3, cap=t.coupling.cap
    )  # fmt: skip
    total: dict[str, Tensor] = {}
    for row in meeting.capped.nonzero().flatten().tolist():
        *states, at = newest[row]
        for state, sign in zip(states, (1, -1), strict=True):
            z = mean[row] + std[row] * state.points[at]
            w = sign * disir.weights(state)[at] / 3
            own = torch.tensor([row])
            g = by_autograd(before.parameters, x[0], own, z.unsqueeze(0), w.unsqueeze(0))
            total = {k: total.get(k, 0) + v for k, v in g.items()}
    share = decoder(total).norm() / decoder(whole).norm()
    assert float(share) > 0.01
    assert float(trainer.cuts[0, 0]) == pytest.approx(float(share), rel=1e-4)


def test_something_is_cut_only_where_a_row_reached_the_cap() -> None:
    t = replace(ARMS["C-ISIR-DISIR"], updates=40, batch=2, coupling=replace(CHAINS, cap=2))
    trainer = trained(t, look_at_cut=1)
    capped = trainer.statistics[:, 0, 2] > 0
    assert 5 < int(capped.sum()) < 35
    assert torch.equal(trainer.cuts[:, 0] > 0, capped)
    assert bool((trainer.cuts[~capped] == 0).all())
    rare = trained(t, look_at_cut=7)
    assert torch.isfinite(rare.cuts[:, 0]).nonzero().flatten().tolist() == [0, 7, 14, 21, 28, 35]
    free = trained(replace(t, updates=3, coupling=replace(CHAINS, cap=None)), look_at_cut=1)
    assert bool(torch.isnan(free.cuts).all())
    assert bool((free.statistics[:, 0, 2] == 0).all())


def test_a_weight_that_is_not_a_number_is_not_left_out() -> None:
    """The run diverges, visibly, in the place of going on without the image."""
    x = images(20)
    trainer = Trainer(MODEL, replace(SMALL, method="C-ISIR", batch=20), x, streams())
    trainer.step()
    chains = trainer._chains

    def broken(*given: Any) -> tuple[Weighted, Tensor]:
        points, z = chains(*given)
        points.weights[points.rows == 3] = math.nan
        return points, z

    trainer._chains = broken  # type: ignore[method-assign]
    trainer.step()
    trainer.step()
    assert trainer.diverged_at() == [3]


def test_leaving_out_negligible_points_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    p, x = learned(), images(30).double().unsqueeze(0)
    wide = {k: v.clone() for k, v in p.items()}
    wide["encoder.b1"][..., 2:] += 6  # most draws of such a q explain nothing
    log_weight, mean, std = grads.row_log_weight(MODEL, wide, x)
    c = Coupling(10, lag=10, cap=20)
    points = weighted_points(log_weight, 30, 2, c, 0.5, generator(3), F64)
    z = mean[points.rows].unsqueeze(1) + std[points.rows].unsqueeze(1) * points.points
    pruned = decoder(grads.decoder_gradients(MODEL, wide, x, points, z))
    assert float((points.weights.abs() < grads.NEGLIGIBLE).double().mean()) > 0.05
    monkeypatch.setattr(grads, "NEGLIGIBLE", 0.0)
    monkeypatch.setattr(grads, "CHUNK", 1000)
    whole = decoder(grads.decoder_gradients(MODEL, wide, x, points, z))
    assert float((pruned - whole).norm() / whole.norm()) < 1e-6
    known = torch.zeros_like(whole)
    leaves = {k: v.clone().requires_grad_() for k, v in wide.items() if k.startswith("decoder")}
    value = MODEL.log_likelihood(leaves, x[:, points.rows], z.unsqueeze(0))[0]
    loss = -(points.weights * value).sum() / 30
    known = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(leaves.values()))])
    torch.testing.assert_close(whole, known, rtol=0, atol=1e-10)


def test_the_monitor_is_called_and_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(Trainer, "_clock", lambda self: clock[0])
    update = Trainer._update

    def timed(self: Trainer, rows: Tensor) -> None:
        clock[0] += 1
        update(self, rows)

    def look(trainer: Trainer) -> dict[str, Any]:
        clock[0] += 100
        return {"seen": trainer.done}

    monkeypatch.setattr(Trainer, "_update", timed)
    trainer = trained(SMALL, monitor=look, monitor_every=5)
    assert [c["seen"] for c in trainer.curve] == [c["update"] for c in trainer.curve]
    assert [c["update"] for c in trainer.curve] == [0, 5, 10, 12]
    assert [c["seconds"] for c in trainer.curve] == [0, 5, 10, 12]
    assert trainer.seconds == 12


# ---- resuming


def saved(trainer: Trainer) -> dict[str, Any]:
    kept = io.BytesIO()
    torch.save(trainer.state_dict(), kept)
    kept.seek(0)
    return torch.load(kept, weights_only=True)


@pytest.mark.parametrize("method", ["IWAE", "C-ISIR-DISIR"])
def test_a_killed_run_ends_as_the_undisturbed_one(method: str) -> None:
    more: dict[str, Any] = {
        "monitor": lambda t: {"b": float(t.beta.mean())},
        "monitor_every": 3,
        "look_at_cut": 2,
    }
    whole = trained(ARMS[method], None, 0, 1, **more)
    part = trained(ARMS[method], 6, 0, 1, **more)
    state = saved(part)
    part.step()  # what is saved does not follow
    rest = Trainer(MODEL, ARMS[method], images(), streams(7, 8), **more)
    rest.load_state_dict(state)
    assert rest.done == 6
    fit(rest, 12)
    for name in ("parameters", "squares"):
        own, known = getattr(rest, name), getattr(whole, name)
        assert all(torch.equal(own[k], v) for k, v in known.items())
    for name in ("order", "beta", "bounds", "statistics", "cuts"):
        assert torch.equal(getattr(rest, name).nan_to_num(-1), getattr(whole, name).nan_to_num(-1))
    assert [c["b"] for c in rest.curve] == [c["b"] for c in whole.curve]
    assert rest.seconds > 0
    for mine, theirs in zip(rest.streams, whole.streams, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert torch.equal(a.get_state(), b.get_state()) or a is mine.start


def test_another_trainings_checkpoint_is_refused_and_nothing_changed() -> None:
    own = trained(SMALL, 3)
    before = saved(own)
    others = {
        "training": Trainer(MODEL, replace(SMALL, learning_rate=1e-3), images(), streams()),
        "model": Trainer(BinaryVAE(12, 2, (9,)), SMALL, images(), streams()),
        "images": Trainer(MODEL, SMALL, images(30), streams()),
        "runs": Trainer(MODEL, SMALL, images(), streams(0, 1)),
    }
    for name, other in others.items():
        with pytest.raises(UsageError, match=f"checkpoint: made for {name} = "):
            own.load_state_dict(other.state_dict())
    with pytest.raises(UsageError, match="unknown format 99"):
        own.load_state_dict(before | {"format": 99})
    after = saved(own)
    assert after["done"] == before["done"] == 3
    for name in ("parameters", "squares", "tensors"):
        for k, v in before[name].items():
            assert torch.equal(after[name][k].nan_to_num(-1), v.nan_to_num(-1))
    for a, b in zip(after["generators"][0], before["generators"][0], strict=True):
        assert torch.equal(a, b)


# ---- the program that is captured on CUDA, on the CPU

ROWS_SEEN = torch.arange(20)[None]


@pytest.mark.parametrize("method", ["ELBO", "IWAE"])
def test_the_program_s_update_of_a_bound_is_the_plain_one(method: str) -> None:
    plain, other = (Trainer(MODEL, ARMS[method], images(), streams(0, 1)) for _ in range(2))
    program = Program(other)
    for _ in range(3):
        rows = torch.stack([torch.randperm(40, generator=generator(i))[:10] for i in range(2)])
        plain._update(rows)
        program.update(rows)
        assert torch.equal(plain.bounds.nan_to_num(1), other.bounds.nan_to_num(1))
        for k, v in plain.parameters.items():
            assert torch.equal(other.parameters[k], v)
            assert torch.equal(other.squares[k], plain.squares[k])
        plain.done, other.done = plain.done + 1, other.done + 1


def test_making_a_program_changes_nothing() -> None:
    trainer = trained(ARMS["C-ISIR-DISIR"], 2)
    before = saved(trainer)
    Program(trainer)
    after = saved(trainer)
    for name in ("parameters", "squares", "tensors"):
        for k, v in before[name].items():
            assert torch.equal(after[name][k].nan_to_num(-1), v.nan_to_num(-1))
    for a, b in zip(after["generators"][0], before["generators"][0], strict=True):
        assert torch.equal(a, b)


VARIANTS = {
    "composite": Coupling(3, lag=3),
    "C-ISIR": Coupling(3, lag=3, composite=False),
    "index": Coupling(3, lag=3, rule="index"),
    "cap": Coupling(3, lag=3, cap=BLOCK + 1),
    "average": Coupling(3, lag=3, cap=0),
}


@pytest.mark.parametrize("name", list(VARIANTS))
def test_the_program_s_chains_have_the_law_of_the_plain_ones(name: str) -> None:
    """Through `update`, with a learning rate that moves nothing."""
    t = replace(SMALL, method="C-ISIR-DISIR", batch=20, coupling=VARIANTS[name])
    t = replace(t, learning_rate=1e-30)
    begin = {k: v.float() for k, v in learned().items()}
    begin["encoder.b1"] = begin["encoder.b1"] + 0.5  # off, so that chains have some way to go
    trainer = Trainer(MODEL, t, images(), streams(), begin=begin)
    program = Program(trainer)
    trainer.beta[0, :20] = torch.linspace(0.1, 0.95, 20)  # not what the program was made with
    x = images()[:20].float().unsqueeze(0)
    seen: list[Any] = []
    returned: list[Tensor] = []
    trainer.keep = lambda *given: seen.append(given)  # type: ignore[method-assign]

    def by_program() -> tuple[Weighted, Tensor]:
        program.update(ROWS_SEEN)
        _, _, points, found, _, _, z = seen.pop()
        returned.append(decoder(found))
        return points, z

    def plain() -> tuple[Weighted, Tensor]:
        return trainer._chains(begin, x, 0, ROWS_SEEN[0])

    measured = []
    for draw in (by_program, plain):
        found = []
        for _ in range(80):
            points, z = draw()
            check(points, t.coupling)
            g = decoder(grads.decoder_gradients(MODEL, begin, x, points, z))
            m = points.meeting
            first = points.effective.float()  # of every row: betas differ
            capped = m.capped.float().mean()
            steps = m.joint_steps.float()
            whole = torch.stack([steps.mean(), first.mean(), capped])
            found.append(torch.cat([g, steps, first, whole]))
        measured.append(torch.stack(found))
    a, b = measured
    assert torch.equal(a[:, : len(returned[0])], torch.stack(returned))
    se = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
    z = (a.mean(0) - b.mean(0)) / se
    assert float(z[se > 1e-7].abs().max()) < 4
    torch.testing.assert_close(a.mean(0)[se <= 1e-7], b.mean(0)[se <= 1e-7])


def check(points: Weighted, c: Coupling) -> None:
    """What holds in every draw."""
    m, n = points.meeting, 20
    sums = torch.zeros(n, dtype=F64).index_add(0, points.rows, points.weights.sum(-1))
    torch.testing.assert_close(sums, torch.ones(n, dtype=F64))
    terms = torch.bincount(points.rows, minlength=n)
    corrections = torch.where(m.capped, m.joint_steps, (m.joint_steps - 1).clamp(min=0))
    assert torch.equal(terms, c.lag + 2 * corrections)
    assert m.calls == int(m.joint_steps.max())
    if c.cap is None:
        assert not m.capped.any()
    else:
        assert bool((m.joint_steps[m.capped] == c.cap).all())
        assert int(m.joint_steps.max()) <= c.cap
    last = points.last.nonzero().flatten()
    if c.cap:
        assert torch.equal(torch.bincount(points.rows[last], minlength=n), 2 * m.capped.long())
    else:
        assert len(last) == 0
    for row in points.rows[last].unique().tolist():  # they are its newest, one of either sign
        own = (points.rows == row).nonzero().flatten()[-2:]
        assert bool(points.last[own].all())
        assert float(points.weights[own].sum()) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", ["composite", "C-ISIR", "index"])
def test_who_has_met_is_known_from_block_to_block(name: str) -> None:
    t = replace(SMALL, method="C-ISIR-DISIR", batch=20, coupling=VARIANTS[name])
    program = Program(Trainer(MODEL, t, images(), streams()))
    program.rows.copy_(ROWS_SEEN)
    program.replay_solo()
    seen = [program.pair.joined.clone()]
    assert not seen[0].any()
    for _ in range(4):
        program.replay_joint()
        for pair in program.block:
            before = seen[-1]
            assert bool((pair.joined >= before).all())
            known = before if name == "C-ISIR" else pair.joined
            assert torch.equal(pair.met, known)
            if name != "index":
                for a, b in zip(pair.first, pair.second, strict=True):
                    assert torch.equal(a[pair.met], b[pair.met])
            seen.append(pair.joined.clone())
    if name != "index":
        assert bool((seen[BLOCK] & ~seen[BLOCK - 1]).any())  # some at the end of a block


def test_the_program_s_update_with_chains() -> None:
    """Gradients of the bound for the encoder, of the chains for the decoder; beta; statistics."""
    coupling = replace(CHAINS, cap=BLOCK + 1)
    t = replace(ARMS["C-ISIR-DISIR"], batch=20, coupling=coupling)
    trainer = Trainer(MODEL, t, images(), streams(), look_at_cut=1)
    before = copy.deepcopy(trainer)
    program = Program(trainer)
    program.update(ROWS_SEEN)
    stream = twin(before.streams[0].noise)
    noise = torch.randn(1, 20, 3, 2, generator=stream)
    x = images()[:20].float().unsqueeze(0)
    bound, g = grads.bound_gradients(MODEL, before.parameters, x, noise, elbo=t.method == "ELBO")
    assert torch.equal(trainer.bounds[0], bound)
    before.streams = [Streams(*before.streams[0][:2], stream)]
    other = Program(before)  # its betas are those of the start still
    other.rows.copy_(ROWS_SEEN)
    points = other._points()
    at = points.rows
    z = other.mean[at][:, None] + other.std[at][:, None] * points.points
    g |= grads.decoder_gradients(MODEL, before.parameters, x, points, z)
    for k, v in before.parameters.items():
        known = v - 1e-2 * g[k] / (0.1 * g[k] ** 2 + 1e-8).sqrt()
        torch.testing.assert_close(trainer.parameters[k], known, rtol=0, atol=1e-6)
    window = torch.stack([disir.effective_samples(s) for s in other.window])
    torch.testing.assert_close(points.effective, window.mean(0))
    share = points.effective.float() / 3
    torch.testing.assert_close(trainer.beta[0, :20], adapted(torch.full((20,), 0.7), share))
    assert bool((trainer.beta[0, 20:] == 0.7).all())
    joint = float(points.meeting.joint_steps.double().mean())
    assert float(trainer.statistics[0, 0, 0]) == pytest.approx(joint)
    assert points.meeting.calls == BLOCK + 1
    decodes = 2 * 3 + 3 * 4 + 2 * BLOCK * 6  # masked rows and whole blocks cost the same
    assert float(trainer.statistics[0, 0, 5]) == pytest.approx(decodes)
    assert float(trainer.cuts[0, 0]) > 0


def test_a_program_of_what_it_cannot_do_is_refused() -> None:
    t = ARMS["C-ISIR-DISIR"]
    with pytest.raises(UsageError, match="runs=2"):
        Program(Trainer(MODEL, t, images(), streams(0, 1)))
    late = replace(t, coupling=replace(CHAINS, start=2))
    with pytest.raises(UsageError, match="start=2"):
        Program(Trainer(MODEL, late, images(), streams()))
    Program(Trainer(MODEL, ARMS["IWAE"], images(), streams(0, 1)))


def test_on_cuda_a_step_is_the_program_s(device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("needs --device cuda")
    t = replace(ARMS["C-ISIR-DISIR"], updates=60)
    own = [s._replace(noise=torch.Generator(device).manual_seed(3)) for s in streams()]
    trainer = Trainer(MODEL, t, images(), own)
    fit(trainer, 60)
    assert trainer.program is not None
    assert trainer.diverged_at() == [None]
    assert float(trainer.bounds[-10:].mean()) > float(trainer.bounds[:10].mean())


# ---- divergence and bad input


@pytest.mark.parametrize("method", list(ARMS))
def test_a_run_that_explodes_is_noticed(method: str) -> None:
    t = replace(ARMS[method], updates=40, learning_rate=1e30)
    trainer = Trainer(MODEL, t, images(), streams())
    fit(trainer, 40, check_every=10)
    assert trainer.diverged_at() == [2]
    assert trainer.done == 10


def test_a_lost_run_leaves_the_other_alone() -> None:
    t = ARMS["C-ISIR-DISIR"]
    known = trained(t, None, 0)
    trainer = Trainer(MODEL, t, images(), streams(0, 1))
    trainer.parameters["decoder.W0"][1] = math.nan
    fit(trainer, 12, check_every=1)
    assert trainer.diverged_at() == [None, 1]
    assert trainer.done == 12
    torch.testing.assert_close(
        trainer.parameters["decoder.W0"][0], known.parameters["decoder.W0"][0], rtol=0, atol=1e-3
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("method", "SUMO"),
        ("updates", 0),
        ("batch", 2.5),
        ("samples", 0),
        ("learning_rate", 0.0),
        ("learning_rate", math.inf),
        ("beta", 1.0),
        ("beta", -0.1),
    ],
)
def test_impossible_settings_are_refused(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{name}={value!r}"):
        replace(SMALL, **{name: value})


def test_bad_images_are_refused() -> None:
    for bad in (images(9), images()[:, :11], images().view(40, 3, 4)):
        with pytest.raises(UsageError, match=r"images of shape .*12.*batch=10"):
            Trainer(MODEL, SMALL, bad, streams())
    for bad in (images().float(), 2 * images(), images().bool()):
        with pytest.raises(UsageError, match="binarize"):
            Trainer(MODEL, SMALL, bad, streams())
    with pytest.raises(UsageError, match="streams: at least one run"):
        Trainer(MODEL, SMALL, images(), [])


def test_a_step_beyond_the_end_is_refused() -> None:
    trainer = trained(SMALL)
    with pytest.raises(UsageError, match="all 12 updates are done"):
        trainer.step()

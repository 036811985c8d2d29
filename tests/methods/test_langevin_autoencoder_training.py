"""The trainer: what moves, rows, resuming, starts, bounds, and known values on data."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from lmcnb.errors import Paused, UsageError
from lmcnb.lab.data import load
from lmcnb.lab.training import fit
from lmcnb.methods.langevin_autoencoder import Langevin
from lmcnb.methods.langevin_autoencoder_bounds import (
    importance_weighted,
    log_weight,
    negative_elbo,
    posterior,
    refined,
)
from lmcnb.methods.langevin_autoencoder_training import Model, Streams, Trainer, Training
from lmcnb.models import planar_flow
from lmcnb.models.discretized_logistic import to_grid

SMALL = Training("LAE", epochs=2, batch=10, width=16, hidden=2, latent=3, levels=17)
METHODS = {
    "VAE": replace(SMALL, method="VAE"),
    "VAE-flow": replace(SMALL, method="VAE-flow"),
    "Hoffman": replace(SMALL, method="Hoffman"),
    "LAE": replace(SMALL, langevin=Langevin(step_size=1e-2)),
    "healthy": replace(SMALL, langevin=Langevin(step_size=1e-2, target_acceptance=0.75)),
    "unadjusted": replace(SMALL, langevin=Langevin(adjusted=False)),
    "frozen": replace(SMALL, langevin=Langevin(moves=0)),
    "gradient": replace(SMALL, langevin=Langevin(moves=0, gradient=True)),
}


def streams(*seeds: int, device: torch.device | str = "cpu") -> list[Streams]:
    def g(seed: int, where: torch.device | str = "cpu") -> torch.Generator:
        return torch.Generator(where).manual_seed(seed)

    return [Streams(g(3 * s, device), g(3 * s + 1), g(3 * s + 2, device)) for s in seeds]


def pixels(n: int = 60) -> torch.Tensor:
    return torch.from_numpy(load("digits")["images"]).flatten(1)[:n]


def run(t: Training, seeds: tuple[int, ...], steps: int, dtype: torch.dtype) -> Trainer:
    trainer = Trainer(t, pixels(), streams(*seeds), dtype=dtype)
    for _ in range(steps):
        trainer.step()
    return trainer


@pytest.mark.parametrize("name", METHODS)
def test_a_row_equals_the_single_run(name: str) -> None:
    together = run(METHODS[name], (0, 1, 2), 8, torch.float64)
    alone = run(METHODS[name], (1,), 8, torch.float64)
    for key, value in alone.parameters.items():
        torch.testing.assert_close(together.parameters[key][1:2], value, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(together.losses[:8, 1], alone.losses[:8, 0])
    assert not torch.equal(together.losses[:8, 0], together.losses[:8, 1])


@pytest.mark.parametrize("name", METHODS)
def test_every_parameter_moves_but_phi_only_by_the_chain(name: str) -> None:
    t = METHODS[name]
    before = Trainer(t, pixels(), streams(0))
    after = run(t, (0,), 2, torch.float32)
    assert bool((before.parameters["b"] == 0).all())
    for key, value in after.parameters.items():
        moved = not torch.equal(value, before.parameters[key])
        assert moved == (key != "phi" or name != "frozen"), key
    if name in ("LAE", "unadjusted"):  # the optimizer never holds it
        one = Trainer(replace(t, learning_rate=0.5), pixels(), streams(0))
        one.step()
        two = Trainer(t, pixels(), streams(0))
        two.step()
        assert torch.equal(one.parameters["phi"], two.parameters["phi"])
        assert not torch.equal(one.parameters["decoder.W0"], two.parameters["decoder.W0"])


def test_methods_start_with_the_same_features_and_decoder() -> None:
    starts = [Trainer(t, pixels(), streams(4)).parameters for t in METHODS.values()]
    for key in starts[0]:
        if key.startswith(("body", "decoder")):
            assert all(torch.equal(s[key], starts[0][key]) for s in starts)


def test_bfloat16_products_train_alike() -> None:
    exact = run(SMALL, (0,), 10, torch.float32)
    rough = run(replace(SMALL, products="bfloat16"), (0,), 10, torch.float32)
    assert not torch.equal(exact.losses, rough.losses)
    torch.testing.assert_close(exact.losses[:10], rough.losses[:10], rtol=2e-2, atol=0)


def test_the_step_size_follows_the_acceptance_asked_for() -> None:
    langevin = Langevin(step_size=0.5, target_acceptance=0.6)
    trainer = run(replace(SMALL, epochs=100, langevin=langevin), (0,), 600, torch.float32)
    assert float(trainer.acceptance[:50].mean()) < 0.1  # far too large
    assert abs(float(trainer.acceptance[400:600].mean()) - 0.6) < 0.15  # it lags a little behind
    fixed = replace(SMALL, epochs=10, langevin=Langevin(step_size=0.5))
    plain = run(fixed, (0,), 50, torch.float32)
    assert float(plain.acceptance[:50].mean()) < 0.05
    assert torch.equal(plain.log_step, torch.tensor([0.5]).log())


@pytest.mark.parametrize("name", METHODS)
def test_a_killed_run_goes_on_bit_for_bit(name: str, tmp_path) -> None:
    t, file = METHODS[name], tmp_path / "checkpoint.pt"

    def monitor(trainer: Trainer) -> dict[str, list[float]]:
        return {"loss": trainer.losses[max(0, trainer.done - 1)].tolist()}

    whole = Trainer(t, pixels(), streams(0, 1), monitor, 5)
    fit(whole, whole.iterations)
    first = Trainer(t, pixels(), streams(0, 1), monitor, 5)
    with pytest.raises(Paused):
        fit(first, first.iterations, file, deadline=0.0, check_every=4)
    again = Trainer(t, pixels(), streams(0, 1), monitor, 5)
    fit(again, again.iterations, file, check_every=4)
    assert again.done == whole.done == 12
    for key, value in whole.parameters.items():
        assert torch.equal(value, again.parameters[key]), key
    assert torch.equal(whole.losses, again.losses)
    assert torch.equal(whole.acceptance, again.acceptance)
    steps = [(p["step"], p["loss"]) for p in whole.curve]
    assert steps == [(p["step"], p["loss"]) for p in again.curve]
    assert [s for s, _ in steps] == [0, 5, 10, 12]


def test_time_of_the_monitor_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def monitor(_: Trainer) -> dict[str, float]:
        now[0] += 1000.0
        return {}

    trainer = Trainer(SMALL, pixels(), streams(0), monitor, 5)
    iteration = trainer._iteration

    def second() -> None:
        now[0] += 1.0
        iteration()

    monkeypatch.setattr(trainer, "_clock", lambda: now[0])
    monkeypatch.setattr(trainer, "_iteration", second)
    fit(trainer, trainer.iterations)
    assert trainer.seconds == 12.0
    assert [p["seconds"] for p in trainer.curve] == [0.0, 5.0, 10.0, 12.0]


def test_another_training_s_checkpoint_is_refused() -> None:
    state = Trainer(SMALL, pixels(), streams(0)).state_dict()
    other = Trainer(replace(SMALL, learning_rate=1e-3), pixels(), streams(0))
    with pytest.raises(UsageError, match="made for learning_rate"):
        other.load_state_dict(state)
    fewer = Trainer(replace(SMALL, epochs=2.4), pixels(50), streams(0))  # 12 iterations as well
    assert fewer.iterations == 12
    with pytest.raises(UsageError, match="made for (images|epochs)"):
        fewer.load_state_dict(state)
    same = {**state["made_for"], "images": 50}
    with pytest.raises(UsageError, match="made for images = 50, not 60"):
        Trainer(SMALL, pixels(), streams(0)).load_state_dict({**state, "made_for": same})
    with pytest.raises(UsageError, match="unknown format"):
        other.load_state_dict({**state, "format": 99})


def test_a_move_is_accepted_where_its_uniform_is_below_the_rate() -> None:
    langevin = Langevin(step_size=3e-2, moves=1, extra_step=False)
    t = replace(SMALL, epochs=100, langevin=langevin, learning_rate=1e-6)
    trainer = Trainer(t, pixels(), streams(0))
    uniforms, moved = [], []
    for i in range(200):
        before = trainer.parameters["phi"].clone()
        trainer.step()
        uniforms.append(float(trainer.uniform[0, 0]))
        moved.append(not torch.equal(before, trainer.parameters["phi"]))
        assert moved[-1] == (uniforms[-1] < float(trainer.acceptance[i, 0]))
    assert 20 < sum(moved) < 180
    uniforms.sort()
    off = max(abs(u - (i + 0.5) / 200) for i, u in enumerate(uniforms))
    assert off < 0.115  # Kolmogorov-Smirnov, one in a hundred


def test_every_image_is_seen_once_an_epoch() -> None:
    trainer = Trainer(SMALL, pixels(), streams(0, 1))
    trainer.step()
    first = trainer.order.clone()
    for row in first:
        assert sorted(row.tolist()) == list(range(60))
    for _ in range(trainer.per_epoch):
        trainer.step()
    assert not torch.equal(first, trainer.order)
    assert not torch.equal(first[0], first[1])


def test_images_left_over_in_one_epoch_come_in_another() -> None:
    trainer = Trainer(replace(SMALL, epochs=40), pixels(67), streams(0))
    seen: set[int] = set()
    for _ in range(20):
        for _ in range(trainer.per_epoch):
            trainer.step()
        seen |= set(trainer.order[0].tolist())
    assert seen == set(range(67))


def written_out(trainer: Trainer, p: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss of a baseline's first step, written out once more with torch.distributions."""
    t, model, m = trainer.training, trainer.model, len(trainer.pixels)
    x = to_grid(trainer.pixels[trainer.order[0, : t.batch]], t.levels).double()[None]
    q = Normal(*model.encode(p, x))
    noise = trainer.noise.view(-1, 1, t.batch, t.latent)
    assert len(noise) == (3 if t.method == "Hoffman" else 1)  # T = 2 steps after the first draw
    z = q.loc + q.scale * noise[0]
    prior = Normal(torch.zeros((), dtype=torch.float64), 1.0)
    penalty = -(p["b"] - 2 * torch.log1p(p["b"].exp())) / m  # -log of the logistic density
    fixed = {k: v.detach() for k, v in p.items()}
    if t.method == "VAE":
        loss = -model.log_likelihood(p, x, z) + kl_divergence(q, prior).sum(-1)
    elif t.method == "VAE-flow":
        log_det: torch.Tensor = torch.zeros(1, t.batch, dtype=torch.float64)
        for k in range(t.flows):
            w, u, c = (p[f"flow.{n}"][0, k] for n in "wuc")
            inner = torch.tanh(z @ w + c)
            eye = torch.eye(t.latent, dtype=torch.float64)
            jacobian = eye + (1 - inner**2)[..., None, None] * torch.outer(u, w)
            log_det = log_det + torch.linalg.slogdet(jacobian).logabsdet
            z = z + inner[..., None] * u
        likelihood = model.log_likelihood(p, x, z) + prior.log_prob(z).sum(-1)
        loss = -likelihood - q.entropy().sum(-1) - log_det
    else:
        loss = -model.log_likelihood(fixed, x, z) + kl_divergence(q, prior).sum(-1)
        z = z.detach()
        for xi in noise[1:]:
            z = z.requires_grad_()
            joint = model.log_likelihood(fixed, x, z) - 0.5 * z.square().sum(-1)
            (g,) = torch.autograd.grad(joint.sum(), z)
            z = (z + 0.005 * g + 0.1 * xi).detach()  # sqrt(2 x 0.005) = 0.1
        loss = loss - model.log_likelihood(p, x, z)
    return loss.mean() + penalty.sum()


@pytest.mark.parametrize("method", ["VAE", "VAE-flow", "Hoffman"])
def test_a_baseline_s_first_step_is_its_loss_written_out(method: Any) -> None:
    t = replace(SMALL, method=method, learning_rate=1e-2)
    trainer = Trainer(t, pixels(), streams(0), dtype=torch.float64)
    p = {k: v.clone().requires_grad_() for k, v in trainer.parameters.items()}
    trainer.step()
    loss = written_out(trainer, p)
    torch.testing.assert_close(trainer.losses[0, 0], loss.detach(), rtol=1e-10, atol=0)
    gradients = torch.autograd.grad(loss, list(p.values()))
    for (key, before), g in zip(p.items(), gradients, strict=True):
        after = trainer.parameters[key]
        torch.testing.assert_close(after, before.detach() - 1e-2 * g, rtol=1e-9, atol=1e-11)


def test_divergence_is_reported_where_it_happened() -> None:
    trainer = Trainer(replace(SMALL, method="VAE", learning_rate=1e12), pixels(), streams(0, 1))
    fit(trainer, trainer.iterations, check_every=1)
    assert all(isinstance(step, int) and 1 <= step <= 12 for step in trainer.diverged_at())


def test_the_first_iteration_that_is_not_finite_is_named() -> None:
    trainer = Trainer(SMALL, pixels(), streams(0, 1))
    trainer.done = 10
    trainer.losses[4:, 1] = math.nan
    assert trainer.diverged_at() == [None, 5]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"batch": 0}, "batch=0"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
        ({"refinements": -1}, "refinements=-1"),
        ({"method": "GAN"}, "method='GAN'"),
        ({"products": "int8"}, "products='int8'"),
        ({"latent": 2.0}, "latent=2.0"),
        ({"levels": 1}, "levels=1: an integer of at least 2"),
        ({"langevin": 1e-4}, "langevin=0.0001"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        replace(SMALL, **change)


def test_a_batch_beyond_the_features_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="batch = 20 points exceeds width = 16"):
        Trainer(replace(SMALL, batch=20), pixels(), streams(0))


def test_bad_images_are_refused() -> None:
    with pytest.raises(UsageError, match="outside the grid of 17 levels"):
        Trainer(SMALL, pixels() + 1, streams(0))
    for wrong in (pixels().view(-1, 8, 8), pixels().numpy()):
        with pytest.raises(UsageError, match="pixels: a tensor"):
            Trainer(SMALL, wrong, streams(0))
    with pytest.raises(UsageError, match="0 images do not fill"):
        Trainer(SMALL, pixels(0), streams(0))
    with pytest.raises(UsageError, match="streams: at least one"):
        Trainer(SMALL, pixels(), [])
    with pytest.raises(UsageError, match="monitor_every=0"):
        Trainer(SMALL, pixels(), streams(0), monitor_every=0)
    with pytest.raises(UsageError, match="5 images do not fill a batch of 10"):
        Trainer(SMALL, pixels(5), streams(0))
    trainer = Trainer(replace(SMALL, epochs=0.01), pixels(), streams(0))
    trainer.step()
    with pytest.raises(UsageError, match="all 1 iterations are done"):
        trainer.step()


# ------------------------------------------------------------------------------- bounds


@pytest.mark.parametrize("name", ["VAE", "VAE-flow", "LAE"])
def test_bounds_agree_with_each_other(name: str) -> None:
    """One sample's weight is the bound in expectation; more samples only raise it."""
    trainer = run(METHODS[name], (0, 1), 12, torch.float32)
    model, p = Model(METHODS[name], 64), trainer.parameters
    x = pixels()[:20]

    def fresh(seed: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(100 * seed + r) for r in range(2)]

    elbos = torch.stack([negative_elbo(model, p, x, fresh(s), 0.1).mean(-1) for s in range(40)])
    images = to_grid(x, 17).expand(2, 20, 64)
    mean, std = posterior(model, p, images, 0.1)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        weights = torch.stack(
            [
                -log_weight(model, p, images, mean, std, torch.randn(mean.shape, generator=g)).mean(
                    -1
                )
                for _ in range(40)
            ]
        )
    z = (elbos.mean(0) - weights.mean(0)) / (elbos.var(0) + weights.var(0)).sqrt() * math.sqrt(40)
    assert float(z.abs().max()) < 4
    few = importance_weighted(model, p, x, fresh(50), 5, 0.1).value.mean(-1)
    many = importance_weighted(model, p, x, fresh(51), 200, 0.1).value.mean(-1)
    assert bool((many < few).all())
    assert bool((few < elbos.mean(0)).all())


@pytest.mark.parametrize("name", ["VAE", "LAE"])
def test_fitted_posteriors_tighten_the_bound_and_stay_below_it(name: str) -> None:
    """On eight images with one latent: against quadrature of log p(x)."""
    t = replace(METHODS[name], latent=1, epochs=20)
    trainer = run(t, (0, 1), 60, torch.float32)
    model, p, x = Model(t, 64), trainer.parameters, pixels()[:8]

    def fresh() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(r) for r in range(2)]

    bound = refined(model, p, x, fresh(), 1000)
    own = bound.value
    before = negative_elbo(model, p, x, fresh()).mean(-1)
    assert bool((own.mean(-1) < before).all())
    grid = torch.linspace(-8, 8, 4001)
    images = to_grid(x, 17).expand(2, 8, 64)
    with torch.no_grad():
        log_p = torch.stack(
            [
                model.log_likelihood(p, images, z.expand(2, 8, 1)) - 0.5 * z**2 - 0.9189385
                for z in grid
            ]
        ).double()
    exact = -(torch.logsumexp(log_p, 0) + math.log(16 / 4000))
    assert float(((own - exact) / bound.se).min()) > -4.5  # never better than the truth
    assert -0.02 < float((own - exact).mean()) < 0.1


@pytest.mark.parametrize("width", [0.05, 0.3])
def test_the_langevin_autoencoder_s_bound_written_out(width: float) -> None:
    trainer = run(METHODS["LAE"], (0,), 12, torch.float32)
    model, p, x = Model(METHODS["LAE"], 64), trainer.parameters, pixels()[:20]
    own = negative_elbo(model, p, x, [torch.Generator().manual_seed(3)], width)[0]
    with torch.no_grad():
        images = to_grid(x, 17)[None]
        features = model.body.forward({k[5:]: v for k, v in p.items() if k[:4] == "body"}, images)
        q = Normal(features @ p["phi"].view(1, 3, 16).mT, width)
        noise = torch.randn(20, 3, generator=torch.Generator().manual_seed(3))
        z = q.loc + width * noise
        kl = kl_divergence(q, Normal(0.0, 1.0)).sum(-1)
        known = -model.log_likelihood(p, images, z) + kl
    torch.testing.assert_close(own, known[0].double(), rtol=1e-5, atol=1e-4)


def test_the_flow_s_weight_written_out() -> None:
    trainer = run(METHODS["VAE-flow"], (0,), 12, torch.float32)
    model, p = Model(METHODS["VAE-flow"], 64), trainer.parameters
    images = to_grid(pixels()[:5], 17)[None]
    noise = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        mean, std = model.encode(p, images)
        own = log_weight(model, p, images, mean, std, noise)
    flow = {k[5:]: v for k, v in p.items() if k.startswith("flow")}
    for i in range(5):
        z0 = (mean + std * noise)[0, i]

        def flowed(z: torch.Tensor) -> torch.Tensor:
            return planar_flow.forward(flow, z[None, None])[0][0, 0]

        jacobian = torch.autograd.functional.jacobian(flowed, z0)
        z = flowed(z0)
        log_q = Normal(mean[0, i], std[0, i]).log_prob(z0).sum() - jacobian.det().abs().log()
        joint = model.log_likelihood(p, images[:, i : i + 1], z[None, None])[0, 0]
        known = joint + Normal(0.0, 1.0).log_prob(z).sum() - log_q
        torch.testing.assert_close(own[0, i], known, rtol=1e-4, atol=1e-3)


def test_rows_have_their_own_bounds() -> None:
    trainer = run(METHODS["LAE"], (0, 1), 12, torch.float32)
    model, x = Model(METHODS["LAE"], 64), pixels()[:20]
    both = [torch.Generator().manual_seed(s) for s in (8, 9)]
    together = negative_elbo(model, trainer.parameters, x, both)
    own = {k: v[1:] for k, v in trainer.parameters.items()}
    alone = negative_elbo(model, own, x, [torch.Generator().manual_seed(9)])
    torch.testing.assert_close(together[1], alone[0], rtol=1e-5, atol=1e-4)


def test_an_impossible_posterior_width_is_refused() -> None:
    trainer = Trainer(SMALL, pixels(), streams(0))
    with pytest.raises(UsageError, match="width=0"):
        negative_elbo(Model(SMALL, 64), trainer.parameters, pixels(), [torch.Generator()], 0.0)
    with pytest.raises(UsageError, match="width=nan"):
        importance_weighted(
            Model(SMALL, 64), trainer.parameters, pixels(), [torch.Generator()], 2, math.nan
        )


def test_a_generator_a_row_is_asked_for() -> None:
    trainer = Trainer(SMALL, pixels(), streams(0, 1))
    with pytest.raises(UsageError, match="1 generators for 2 rows"):
        negative_elbo(Model(SMALL, 64), trainer.parameters, pixels(), [torch.Generator()])


def test_the_initial_value_on_mnist(require_data) -> None:
    """The sheet's 6.15: 2.181 nats a pixel at mu = 0, s = 1.2011."""
    from lmcnb.models.discretized_logistic import log_mass, scale_of

    require_data("mnist")
    x = to_grid(torch.from_numpy(load("mnist", "test")["images"]).flatten(1))
    value = -log_mass(x, torch.zeros(()), scale_of(torch.zeros(()))).mean()
    assert abs(float(value) - 2.181) < 2e-3


@pytest.mark.slow
def test_early_training_on_mnist(require_data) -> None:
    """The sheet's 6.15: below 1.5 nats a pixel by step 600 at the paper's rate and 256 units."""
    require_data("mnist")
    images = torch.from_numpy(load("mnist")["images"]).flatten(1)
    for method in ("VAE", "LAE"):
        trainer = Trainer(Training(method, epochs=1, width=256), images, streams(0))
        fit(trainer, 600)
        test = torch.from_numpy(load("mnist", "test")["images"]).flatten(1)[::10]
        g = [torch.Generator().manual_seed(0)]
        model = Model(trainer.training, 784)
        bound = negative_elbo(model, trainer.parameters, test, g).mean() / 784
        assert 1.2 < float(bound) < 1.5


@pytest.mark.parametrize("name", METHODS)
def test_on_cuda_the_graph_is_the_plain_iteration(name: str, device) -> None:
    if device.type != "cuda":
        pytest.skip("needs --device cuda")
    t = METHODS[name]
    graph = Trainer(t, pixels(), streams(0, 1, device=device))
    plain = Trainer(t, pixels(), streams(0, 1, device=device))
    for _ in range(10):
        graph.step()
        if plain.done % plain.per_epoch == 0:
            plain._shuffle()
        plain._iteration()
        plain.done += 1
    for key, value in graph.parameters.items():
        torch.testing.assert_close(value, plain.parameters[key], rtol=1e-3, atol=1e-5)
    last = Trainer(t, pixels(), streams(0, 1, device=device))
    last.load_state_dict(graph.state_dict())  # captured with two iterations left
    fit(last, last.iterations)
    assert int(last.count) == last.done == 12

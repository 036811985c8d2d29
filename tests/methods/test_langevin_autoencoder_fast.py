"""The hand-written training step against the readable one, in float64, with one row and several."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lmcnb.methods import langevin_autoencoder as lae
from lmcnb.methods.langevin_autoencoder_fast import Engine, part
from lmcnb.models.discretized_logistic import log_mass, scale_of, to_grid
from lmcnb.models.perceptron import Perceptron

LEVELS, PIXELS, LATENT, WIDTH, BATCH = 17, 12, 3, 8, 5
BODY = Perceptron((PIXELS, 9, WIDTH))
DECODER = Perceptron((LATENT, 7, 6), PIXELS)
SETTINGS = {
    "published": lae.Langevin(step_size=5e-2),
    "rejected": lae.Langevin(step_size=60.0),
    "one move": lae.Langevin(moves=1, extra_step=False, step_size=5e-2),
    "five moves": lae.Langevin(moves=5, step_size=2e-1),
    "unadjusted": lae.Langevin(adjusted=False, step_size=5e-2),
    "frozen": lae.Langevin(moves=0),
    "gradient": lae.Langevin(moves=0, gradient=True),
}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problem(rows: int, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """Parameters away from their start, and images, in float64."""
    streams = [generator(seed + r) for r in range(rows)]
    p = {f"body.{k}": v.double() for k, v in BODY.initial(streams).items()}
    p |= {f"decoder.{k}": v.double() for k, v in DECODER.initial(streams).items()}
    g = generator(seed + 100)
    for k, v in p.items():
        p[k] = v + 0.2 * torch.randn(v.shape, generator=g, dtype=torch.float64)
    p["phi"] = 0.5 * torch.randn(rows, LATENT * WIDTH, generator=g, dtype=torch.float64)
    p["b"] = torch.randn(rows, 1, 1, generator=g, dtype=torch.float64)
    pixels = torch.randint(0, LEVELS, (rows, BATCH, PIXELS), generator=g)
    return p, to_grid(pixels, LEVELS).double()


def draws(settings: lae.Langevin, seeds: list[int]) -> tuple[Tensor, Tensor]:
    """The noise and uniforms that `training_step` draws from `generator(seed)`."""
    noise = torch.zeros(len(seeds), settings.total, LATENT * WIDTH, dtype=torch.float64)
    uniform = torch.zeros(len(seeds), settings.total, dtype=torch.float64)
    for r, seed in enumerate(seeds):
        g = generator(seed)
        for t in range(settings.total):
            noise[r, t] = torch.randn(LATENT * WIDTH, generator=g, dtype=torch.float64)
            if settings.adjusted:
                uniform[r, t] = torch.rand((), generator=g, dtype=torch.float64)
    return noise, uniform


def readable(
    p: dict[str, Tensor], x: Tensor, r: int, settings: lae.Langevin, seed: int
) -> tuple[Tensor, Tensor, dict[str, Tensor], Tensor]:
    """`training_step` of row r: Phi, loss, gradients, mean acceptance."""
    own = {k: v[r : r + 1].clone().requires_grad_() for k, v in p.items()}

    def body(images: Tensor) -> Tensor:
        return BODY.forward(part(own, "body"), images[None])[0]

    def log_joint(images: Tensor, z: Tensor) -> Tensor:
        mean = DECODER.forward(part(own, "decoder"), z[None])[0]
        scale = scale_of(own["b"][0, 0])
        return log_mass(images, mean, scale, LEVELS).sum(-1) - 0.5 * z.square().sum(-1)

    phi, loss, infos = lae.training_step(
        own["phi"][0] if settings.gradient else own["phi"][0].detach(),
        x[r],
        body,
        log_joint,
        settings,
        generator(seed),
    )
    names = [k for k in own if k != "phi" or settings.gradient]
    grads = torch.autograd.grad(loss, [own[k] for k in names])
    seen = [float(i.acceptance) for i in infos if hasattr(i, "acceptance")]
    acceptance = torch.tensor(sum(seen) / len(seen) if seen else 1.0, dtype=torch.float64)
    return (
        phi.detach(),
        loss.detach(),
        {k: g[0] for k, g in zip(names, grads, strict=True)},
        acceptance,
    )


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", SETTINGS)
def test_every_number_is_the_readable_step_s(name: str, rows: int) -> None:
    settings = SETTINGS[name]
    p, x = problem(rows)
    seeds = list(range(20, 20 + rows))
    noise, uniform = draws(settings, seeds)
    step_size = torch.full((rows,), settings.step_size, dtype=torch.float64)
    got = Engine(BODY, DECODER, settings, LEVELS).step(p, x, noise, uniform, step_size)
    for r in range(rows):
        phi, loss, gradients, acceptance = readable(p, x, r, settings, seeds[r])
        torch.testing.assert_close(got.phi[r], phi, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(got.loss[r], loss, rtol=1e-12, atol=0)
        torch.testing.assert_close(got.acceptance[r], acceptance, rtol=1e-8, atol=1e-10)
        assert set(gradients) == set(got.gradients)
        for key, g in gradients.items():
            torch.testing.assert_close(got.gradients[key][r], g, rtol=1e-8, atol=1e-10)


def test_the_cases_accept_and_reject() -> None:
    """Otherwise the test above would not see a wrong branch."""
    rates = {}
    for name in ("published", "rejected", "five moves"):
        p, x = problem(8)
        noise, uniform = draws(SETTINGS[name], list(range(8)))
        step_size = torch.full((8,), SETTINGS[name].step_size, dtype=torch.float64)
        engine = Engine(BODY, DECODER, SETTINGS[name], LEVELS)
        got = engine.step(p, x, noise, uniform, step_size)
        rates[name] = float(got.acceptance.mean())
        if name == "rejected":
            assert torch.equal(got.phi, p["phi"])
    assert rates["published"] > 0.5
    assert rates["rejected"] < 1e-6
    assert 0.05 < rates["five moves"] < 0.95


def test_without_moves_it_is_a_deterministic_autoencoder_with_a_penalty_on_z() -> None:
    """The sheet's 6.13: the loss is NLL + |z|^2 / 2 at the given Phi, and Phi stays."""
    p, x = problem(1)
    engine = Engine(BODY, DECODER, SETTINGS["frozen"], LEVELS)
    empty = torch.zeros(1, 0, LATENT * WIDTH, dtype=torch.float64)
    got = engine.step(p, x, empty, empty[..., 0], torch.ones(1, dtype=torch.float64))
    z = BODY.forward(part(p, "body"), x) @ p["phi"].view(1, LATENT, WIDTH).mT
    mean = DECODER.forward(part(p, "decoder"), z)
    nll = -log_mass(x, mean, scale_of(p["b"]), LEVELS).sum(-1)
    torch.testing.assert_close(got.loss, (nll + 0.5 * z.square().sum(-1)).mean(-1))
    assert torch.equal(got.phi, p["phi"])

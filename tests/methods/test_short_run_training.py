"""Learning by short-run inference: the update, the search for s, the baselines, resuming."""

from __future__ import annotations

import io
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.lab.training import fit
from lmcnb.methods import short_run as sri
from lmcnb.methods.short_run_baselines import negative_elbo, reconstruct
from lmcnb.methods.short_run_graph import CapturedChain
from lmcnb.methods.short_run_marginal import marginal_search
from lmcnb.methods.short_run_settings import Training
from lmcnb.methods.short_run_training import Trainer, in_float64, spaced, to_unit
from lmcnb.models.encoders import Encoder, LadderEncoder
from lmcnb.models.gaussian import log_normal, log_standard
from lmcnb.models.linear_gaussian import LinearGaussian
from lmcnb.models.observed import LogJoint, log_joint
from lmcnb.models.top_down import TopDown

sys.path.append(str(Path(__file__).parent))
from short_run_start import digits, generator, streams

F64 = torch.float64
SMALL = Training(latent=(3,), width=16, epochs=6, batch=20, steps=5, step_size=0.1)


def trained(t: Training, seed: int = 0, images: Tensor | None = None, **more: Any) -> Trainer:
    trainer = Trainer(t, digits() if images is None else images, streams(seed), **more)
    fit(trainer, trainer.iterations)
    return trainer


def test_an_update_is_the_literal_one() -> None:
    """One update by plain autograd, with the trainer's own draws."""
    t = replace(SMALL, latent=(2, 3), epochs=1)
    own, other = (Trainer(t, digits(), streams()) for _ in range(2))
    own.step()
    rows = torch.randperm(100, generator=other.streams.order)[:20]
    x = digits()[rows]
    z, noise = sri.draw((20, 5), 5, other.streams.noise, torch.float32)
    plain = LogJoint(other.generator, x, 0.3)
    for e in noise:
        point = z.detach().requires_grad_()
        (g,) = torch.autograd.grad(-plain(point).sum(), point)
        z = (z - 0.5 * 0.1**2 * g + 0.1 * e).detach()
    optimizer = torch.optim.Adam(other.generator.parameters(), lr=1e-3, betas=(0.5, 0.999))
    loss = ((x - other.generator(z)) ** 2).sum() / 20
    loss.backward()
    optimizer.step()
    for a, b in zip(own.generator.parameters(), other.generator.parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-5)
    assert abs(float(own.losses[0]) - float(loss.detach()) / 64) < 1e-5


def test_no_gradient_passes_through_the_chain() -> None:
    trainer = Trainer(SMALL, digits(), streams())
    seen = {}

    class Spy(torch.nn.Module):
        def __init__(self, inner: TopDown) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, z: Tensor) -> Tensor:
            seen.setdefault("requires_grad", []).append(z.requires_grad)
            return self.inner(z)

    x = digits()[:20]
    spy = Spy(trainer.generator)
    trainer.generator = spy  # type: ignore[assignment]
    loss, _ = trainer._chain(x, torch.arange(20))
    assert seen["requires_grad"][-1] is False
    loss.backward()
    assert all(p.grad is not None for p in spy.parameters())


@pytest.mark.parametrize("method", ["SRI", "VAE", "LVAE", "ABP"])
def test_training_lowers_the_error(method: str) -> None:
    t = replace(SMALL, method=method, latent=(3, 3), epochs=20, steps=10, step_size=0.2)  # type: ignore[arg-type]
    trainer = trained(t)
    assert float(trainer.losses[-10:].mean()) < 0.7 * float(trainer.losses[:3].mean())
    assert trainer.diverged_at() == [None]


def test_arms_of_a_seed_start_alike_and_see_the_same_order() -> None:
    short = Trainer(SMALL, digits(), streams())
    auto = Trainer(replace(SMALL, method="VAE"), digits(), streams())
    for a, b in zip(short.generator.parameters(), auto.generator.parameters(), strict=True):
        assert torch.equal(a, b)
    short.step()
    auto.step()
    assert torch.equal(short.order, auto.order)


def test_persistent_chains_go_on_where_they_stopped() -> None:
    t = replace(SMALL, method="ABP", epochs=1)
    trainer = Trainer(t, digits(), streams())
    assert trainer.chains is not None
    before = trainer.chains.clone()
    trainer.step()
    rows = trainer.order[:20]
    moved = (trainer.chains != before).any(-1)
    assert bool(moved[rows].all())
    assert int(moved.sum()) == 20
    distance = (trainer.chains - before)[rows].square().mean().sqrt()
    assert float(distance) < 3  # from where they were, not from a fresh draw elsewhere


def test_the_learning_rate_falls_as_it_is_told() -> None:
    trainer = Trainer(replace(SMALL, epochs=20), digits(), streams())
    found = []
    for share in (0.0, 0.59, 0.6, 0.84, 0.86):
        trainer.done = round(share * trainer.iterations)
        found.append(trainer.learning_rate / 1e-3)
    assert found == pytest.approx([1, 1, 0.3, 0.3, 0.1])


@pytest.mark.parametrize("how", ["grid", "gradient"])
def test_the_step_size_is_chosen_when_it_should_be(how: str) -> None:
    t = replace(
        SMALL,
        search=how,  # type: ignore[arg-type]
        search_from=2,
        search_every=2,
        search_images=10,
        grid=(0.05, 0.1, 0.2, 0.4),
        search_iterations=4,
    )
    trainer = trained(t)
    assert [s["epoch"] for s in trainer.searches] == [2.0, 4.0]
    assert trainer.step_size == trainer.searches[-1]["step_size"]
    if how == "grid":
        assert trainer.step_size in t.grid
    assert trainer.search_seconds > 0


def test_the_search_is_the_objectives_minimum_on_fixed_draws() -> None:
    t = replace(SMALL, search="grid", search_images=10, grid=(0.05, 0.1, 0.2, 0.4))
    trainer = Trainer(t, digits(), streams())
    found, again = trainer.search(), trainer.search()
    assert found == again
    x = spaced(digits(), 10).double()
    z, noise = sri.draw((10, 3), 5, generator(3), F64)
    target = log_joint(in_float64(trainer.generator), x, 0.3)
    values = [sri.objective(target, z, s, 5, noise).value for s in t.grid]
    assert [o.value for o in found.visited] == values
    known = [v for v in values if v is not None]
    assert found.step_size == t.grid[values.index(min(known))]


def test_the_marginal_search_is_the_bounds_minimum_on_fixed_draws() -> None:
    t = replace(SMALL, search="marginal", search_images=10, search_chains=7, grid=(0.05, 0.1, 0.2))
    trainer = Trainer(t, digits(), streams())
    assert trainer.search() == trainer.search()
    z, noise = sri.draw((7, 10, 3), 5, generator(3), torch.float32)
    target = log_joint(trainer.generator.requires_grad_(False), spaced(digits(), 10), 0.3)
    known = marginal_search(target, z, [0.1, 0.2, 0.4], 5, noise)
    assert trainer.search() == known
    run = trained(replace(t, search_from=1, search_every=2))
    assert [s["epoch"] for s in run.searches] == [1.0, 3.0, 5.0]
    assert run.step_size == run.searches[-1]["step_size"]
    assert run.searches[0]["visited"][0][2] is None


def test_on_cuda_the_captured_chain_is_the_plain_one(device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("needs --device cuda")
    network = TopDown((2, 3), 64, 16, generator()).to(device)
    x = digits(20).to(device)
    z, noise = (v.to(device) for v in sri.draw((20, 5), 6, generator(1), torch.float32))
    chain = CapturedChain(network, 0.3, 0.1, x, 0 * z, 0 * noise)
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(1.1)  # an update in place
    found = chain(x, z, noise)
    known = sri.short_run(log_joint(network, x, 0.3), z, 0.1, 6, noise)
    assert torch.allclose(found, known, atol=1e-5)


def test_a_search_without_a_usable_step_keeps_the_old_one() -> None:
    t = replace(SMALL, search="grid", search_from=1, search_images=10, grid=(50.0, 90.0))
    trainer = trained(t)
    assert trainer.step_size == 0.1
    assert trainer.searches[0]["step_size"] is None


@pytest.mark.parametrize("method", ["SRI", "ABP", "LVAE"])
def test_a_killed_run_ends_as_the_undisturbed_one(method: str) -> None:
    search = "grid" if method == "SRI" else "none"
    t = replace(
        SMALL,
        method=method,  # type: ignore[arg-type]
        latent=(2, 2),
        search=search,
        search_from=1,
        search_every=1,
        search_images=8,
        grid=(0.05, 0.1, 0.2),
    )
    whole = trained(t)
    part = Trainer(t, digits(), streams())
    for _ in range(13):
        part.step()
    kept = io.BytesIO()
    torch.save(part.state_dict(), kept)
    kept.seek(0)
    rest = Trainer(t, digits(), streams(5))
    rest.load_state_dict(torch.load(kept, weights_only=True))
    fit(rest, rest.iterations)
    assert torch.equal(rest.losses, whole.losses)
    for a, b in zip(rest.generator.parameters(), whole.generator.parameters(), strict=True):
        assert torch.equal(a, b)
    assert rest.searches == whole.searches
    assert len(rest.curve) == len(whole.curve)


def test_another_trainings_checkpoint_is_refused() -> None:
    state = Trainer(SMALL, digits(), streams()).state_dict()
    other = Trainer(replace(SMALL, step_size=0.2), digits(), streams())
    with pytest.raises(UsageError, match="step_size"):
        other.load_state_dict(state)
    with pytest.raises(UsageError, match="format"):
        other.load_state_dict({"format": 99})


def test_a_run_that_explodes_is_noticed() -> None:
    images = digits()
    images[7] = math.nan
    trainer = Trainer(SMALL, images, streams())
    fit(trainer, trainer.iterations, check_every=1)
    assert trainer.diverged_at()[0] is not None
    assert trainer.done < trainer.iterations


# ---- the baselines


def test_the_elbo_in_closed_form() -> None:
    """A decoder without layers between: E_q |x - W z|^2 is known, and zero noise is q's mean."""
    encoder = Encoder(6, 8, 2, generator()).double()
    W = torch.randn(6, 2, generator=generator(1), dtype=F64)
    x = torch.randn(5, 6, generator=generator(2), dtype=F64)
    linear = torch.nn.Linear(2, 6, bias=False).double()
    with torch.no_grad():
        linear.weight.copy_(W)
    mean, std = encoder(x)
    n = 40_000
    noise = torch.randn(n, 5, 2, generator=generator(3), dtype=F64)
    with torch.no_grad():
        mc = torch.stack(
            [negative_elbo(linear, encoder, x, noise[i : i + 1][0], 0.7) for i in range(2000)]
        )
    expected = ((x - mean @ W.T).square().sum(-1) + (std.square() @ W.T.square().T.mT).sum(-1)) / (
        2 * 0.49
    )
    expected = expected + 6 * (0.5 * math.log(2 * math.pi) + math.log(0.7))
    expected = expected + 0.5 * (mean**2 + std**2 - 1 - 2 * std.log()).sum(-1)
    z = (mc.mean(0) - expected) / (mc.std(0) / math.sqrt(2000))
    assert float(z.abs().max()) < 4
    assert torch.allclose(reconstruct(linear, encoder, x, 0 * noise[0]).image, mean @ W.T)


@pytest.mark.parametrize("diagonal", [True, False])
def test_a_vae_reaches_what_its_posterior_allows(diagonal: bool) -> None:
    """Trained on a linear-Gaussian model: no gap where the true posterior is diagonal.

    Elsewhere the least gap of a diagonal Gaussian is known, half of sum log diag(C^-1) - log det
    C^-1, which is mean-field inference's.
    """
    W = torch.linalg.qr(torch.randn(6, 2, generator=generator(1), dtype=F64)).Q
    W = W @ torch.diag(torch.tensor([1.5, 0.7], dtype=F64))
    if not diagonal:
        W = W @ torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=F64)
    model = LinearGaussian(W, 0.36 * torch.eye(6, dtype=F64))
    precision = torch.linalg.inv(model.posterior(torch.zeros(6, dtype=F64))[1])
    least = 0.5 * float(precision.diagonal().log().sum() - torch.logdet(precision))
    assert (least < 1e-12) == diagonal
    encoder = Encoder(6, 32, 2, generator(2)).double()
    adam = torch.optim.Adam(encoder.parameters(), lr=3e-3)
    stream = generator(3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 1200)
    for _ in range(1200):
        x = model.sample(200, stream)
        noise = torch.randn(200, 2, generator=stream, dtype=F64)
        loss = negative_elbo(lambda z: z @ W.mT, encoder, x, noise, 0.6).mean()  # type: ignore
        adam.zero_grad()
        loss.backward()
        adam.step()
        decay.step()
    x = model.sample(5000, stream)
    with torch.no_grad():
        m, s = encoder(x)
        true_mean, _ = model.posterior(x)
        off = m - true_mean
        square = ((off @ precision) * off).sum(-1) + (s.square() @ precision.diagonal())
        gap = 0.5 * (square - 2 - 2 * s.log().sum(-1) - torch.logdet(precision))
    assert least - 1e-9 < float(gap.mean()) < least + 0.02


def test_the_ladders_divergence_by_monte_carlo() -> None:
    """The analytic KL of every layer against log q - log p along samples."""
    network = TopDown((2, 3), 6, 8, generator()).double()
    encoder = LadderEncoder(6, 8, (2, 3), generator(1)).double()
    x = torch.randn(1, 6, generator=generator(2), dtype=F64).expand(20_000, 6)
    noise = torch.randn(20_000, 5, generator=generator(3), dtype=F64)
    with torch.no_grad():
        image, kl, z = reconstruct(network, encoder, x, noise)
        assert torch.allclose(network(z), image)
        (m1, s1), (m2, s2) = encoder(x)
        v1 = 1 / (1 + s1**-2)
        u1 = m1 * s1**-2 * v1 + v1.sqrt() * noise[:, :2]
        gap = log_normal(u1, m1 * s1**-2 * v1, v1.sqrt()) - log_standard(u1)
        h = network.feature(0, u1, None)
        mean, std = network.conditional(1, h)
        v2 = 1 / (std**-2 + s2**-2)
        centre = (mean * std**-2 + m2 * s2**-2) * v2
        u2 = centre + v2.sqrt() * noise[:, 2:]
        gap = gap + log_normal(u2, centre, v2.sqrt()) - log_normal(u2, mean, std)
    z = (gap.mean() - kl.mean()) / ((gap - kl).std() / math.sqrt(len(gap)))
    assert abs(float(z)) < 4


def test_a_ladder_needs_layers_with_a_density() -> None:
    network = TopDown((2, 3), 6, 8, generator(), variant="ladder")
    encoder = LadderEncoder(6, 8, (2, 3), generator(1))
    with pytest.raises(UsageError, match="density"):
        reconstruct(network, encoder, torch.zeros(1, 6), torch.zeros(1, 5))


# ---- bad input


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("method", "GAN"),
        ("batch", 0),
        ("steps", 2.5),
        ("sigma", 0.0),
        ("step_size", -0.1),
        ("learning_rate", math.inf),
        ("search", "random"),
    ],
)
def test_impossible_settings_are_refused(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{name}="):
        replace(SMALL, **{name: value})


def test_searches_of_models_without_a_fresh_chain_are_refused() -> None:
    for method in ("VAE", "ABP"):
        with pytest.raises(UsageError, match="only SRI"):
            replace(SMALL, method=method, search="grid")  # type: ignore[arg-type]


def test_bad_images_are_refused() -> None:
    with pytest.raises(UsageError, match="batch=20"):
        Trainer(SMALL, digits(10), streams())
    with pytest.raises(UsageError, match="images of shape"):
        Trainer(SMALL, digits().view(100, 8, 8), streams())
    trainer = trained(replace(SMALL, epochs=1))
    with pytest.raises(UsageError, match="iterations are done"):
        trainer.step()


def test_pixels_are_scaled() -> None:
    assert torch.equal(
        to_unit(torch.tensor([0, 255], dtype=torch.uint8)), torch.tensor([-1.0, 1.0])
    )
    images = torch.arange(10.0)[:, None]
    assert spaced(images, 3).flatten().tolist() == [0, 4, 9]
    assert len(spaced(images, 20)) == 10

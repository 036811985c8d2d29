"""MCMC teaching: the revision, the losses, every teacher's iteration, resuming, divergence."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.lab.training import fit
from lmcnb.methods import mcmc_teaching as mt
from lmcnb.methods import mcmc_teaching_theory as theory
from lmcnb.methods.mcmc_teaching_data import Batch, Networks, Streams, from_images
from lmcnb.methods.mcmc_teaching_graph import Revision
from lmcnb.methods.mcmc_teaching_settings import Teaching
from lmcnb.methods.mcmc_teaching_teachers import TEACHERS
from lmcnb.methods.mcmc_teaching_training import Trainer
from lmcnb.models.coop_networks import networks as conv_networks
from lmcnb.models.energy import ByHand, EnergyDensity, EnergyMLP, density
from lmcnb.models.mlp import Decoder, Posterior
from lmcnb.models.quadratic_energy import QuadraticEnergy

F64 = torch.float64
SMALL = Teaching(
    iterations=6, batch=8, chains=8, steps=3, step_size=0.2, generator_steps=2, pool=20, sigma=0.3
)


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def networks(condition: int = 0) -> Networks:
    return Networks(
        EnergyMLP(2, [8, 8], stream(1), condition),
        Posterior(2, [8], 3, stream(2), condition=condition),
        Decoder(3, [8], 2, stream(3), condition=condition),
    )


def ring(n: int, s: torch.Generator) -> Batch:
    angle = 6.2832 * torch.rand(n, generator=s)
    return Batch(2 * torch.stack([angle.cos(), angle.sin()], -1))


def labelled(n: int, s: torch.Generator) -> Batch:
    x = ring(n, s).x
    return Batch(x, (x[:, :1] > 0).float())


def trainer(t: Teaching = SMALL, *, draw: Any = ring, seed: int = 5, **more: Any) -> Trainer:
    condition = 1 if draw is labelled else 0
    return Trainer(t, networks(condition), draw, Streams(stream(seed), stream(seed + 1)), **more)


def literal(target: Any, x: Tensor, d: float, noise: Tensor | None, steps: int) -> Tensor:
    """The revision by plain autograd."""
    for k in range(steps):
        leaf = x.detach().requires_grad_(True)
        (g,) = torch.autograd.grad(target(leaf).sum(), leaf)
        x = x + 0.5 * d**2 * g + (0 if noise is None else d * noise[k])
    return x.detach()


@pytest.mark.parametrize("noisy", [True, False])
def test_revision_is_the_literal_chain(noisy: bool) -> None:
    energy = EnergyMLP(2, [16, 16], stream()).double()
    x = torch.randn(10, 2, generator=stream(1), dtype=F64)
    noise = torch.randn(7, 10, 2, generator=stream(2), dtype=F64) if noisy else None
    end = mt.revise(density(energy, 1.7), x, 0.3, 7, noise)
    known = literal(lambda v: energy(v) - v.square().sum(-1) / (2 * 1.7**2), x, 0.3, noise, 7)
    assert torch.allclose(end, known, atol=1e-12)
    assert mt.revise(density(energy, 1.7), x, 0.3, 0).equal(x)


def test_chains_of_a_batch_are_independent() -> None:
    energy = EnergyMLP(2, [16], stream()).double()
    x = torch.randn(4, 2, generator=stream(1), dtype=F64)
    together = mt.revise(density(energy, 2.0), x, 0.3, 5)
    alone = torch.cat([mt.revise(density(energy, 2.0), v[None], 0.3, 5) for v in x])
    assert torch.allclose(together, alone, atol=1e-14)


def test_density_counts_the_reference_with_its_constant() -> None:
    energy = EnergyMLP(3, [4], stream()).double()
    x = torch.randn(5, 3, generator=stream(1), dtype=F64)
    normal = torch.distributions.Normal(0.0, 0.7)
    known = energy(x) + normal.log_prob(x).sum(-1)
    assert torch.allclose(density(energy, 0.7)(x), known, atol=1e-12)
    assert torch.allclose(density(energy, None)(x), energy(x))
    assert isinstance(density(energy, 0.7), ByHand)
    assert type(density(torch.nn.Linear(3, 1), 0.7)) is EnergyDensity
    with pytest.raises(UsageError, match="reference=0"):
        density(energy, 0.0)


def test_hessian_product_of_the_density() -> None:
    energy = EnergyMLP(3, [6, 6], stream()).double()
    x, v = (torch.randn(1, 3, generator=stream(i), dtype=F64) for i in (1, 2))
    own = density(energy, 0.7)
    assert isinstance(own, ByHand)
    hessian = torch.autograd.functional.hessian(lambda u: own(u).sum(), x).view(3, 3)
    assert torch.allclose(own.linearize(x)[1](v)[0], hessian @ v[0], atol=1e-12)


def test_losses_are_what_they_say() -> None:
    n = networks(1)
    x, made, c, e = (torch.randn(6, k, generator=stream(i)) for i, k in enumerate((2, 2, 1, 3)))
    assert n.energy is not None and n.encoder is not None and n.decoder is not None
    gap = mt.energy_loss(n.energy, made, x, c, 2 * c)
    assert torch.allclose(gap, n.energy(made, c).mean() - n.energy(x, 2 * c).mean())
    mean, std = n.encoder(x, c)
    kl = -0.5 * (1 + 2 * std.log() - mean**2 - std**2).sum(-1)  # the code's
    squares = ((x - n.decoder(mean + std * e, c)) ** 2).sum(-1)
    loss = mt.vae_loss(n.encoder, n.decoder, x, e, 0.5, c)
    assert torch.allclose(loss, (squares + 2 * 0.25 * kl).mean())


@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("ancestral", [True, False])
def test_an_iteration_is_the_literal_one(teacher: str, ancestral: bool) -> None:
    """By plain autograd, with the trainer's own draws in its own order."""
    t = replace(SMALL, teacher=teacher, ancestral=ancestral, data_noise=0.1, inference_steps=4)
    own, other = trainer(t), trainer(t)
    own.step()
    who, s = TEACHERS[teacher], other.streams.noise
    clean = ring(8, other.streams.data).x
    x = clean + 0.1 * torch.randn(8, 2, generator=other.streams.data)  # the energy's positives
    energy, encoder, decoder = other.energy, other.encoder, other.decoder
    made, z, rows = clean, None, None
    if who.start is not None:
        assert energy is not None
        if who.start == "generator":
            assert decoder is not None
            z = torch.randn(8, 3, generator=s)
            start = decoder(z).detach()
            start = start + 0.3 * torch.randn(8, 2, generator=s) if ancestral else start
        elif who.start == "noise":
            start = 2.0 * torch.randn(8, 2, generator=s)
        else:
            assert other.chains is not None
            rows = torch.randperm(20, generator=s)[:8]
            start = other.chains[rows]
        noise = torch.randn(3, 8, 2, generator=s)
        made = literal(
            lambda v: energy(v) - v.square().sum(-1) / (2 * 2.0**2), start, 0.2, noise, 3
        )
        loss = energy(made).mean() - energy(x).mean()
        adam = torch.optim.Adam(energy.parameters(), lr=1e-3, betas=(0.5, 0.999))
        loss.backward()
        adam.step()
        assert own.gaps[0] == pytest.approx(-float(loss.detach()), abs=1e-5)
    if who.latent is not None:
        assert decoder is not None
        parameters = [*decoder.parameters()]
        parameters += [] if encoder is None else [*encoder.parameters()]
        adam = torch.optim.Adam(parameters, lr=2e-3, betas=(0.5, 0.999))
        if who.latent == "langevin":
            assert z is not None
            noise = torch.randn(4, 8, 3, generator=s)

            def log_posterior(u: Tensor) -> Tensor:
                squares = (made - decoder(u)).square().sum(-1)
                return -squares / (2 * 0.3**2) - u.square().sum(-1) / 2

            z = literal(log_posterior, z, 0.1, noise, 4)
        for _ in range(2):
            if encoder is not None:
                e = torch.randn(8, 3, generator=s)
                mean, std = encoder(made)
                z = mean + std * e
                kl = -0.5 * (1 + 2 * std.log() - mean**2 - std**2).sum(-1)
                loss = ((made - decoder(z)) ** 2).sum(-1).mean() + 2 * 0.3**2 * kl.mean()
            else:
                loss = ((made - decoder(z)) ** 2).sum(-1).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
        assert own.losses[0] == pytest.approx(float(loss.detach()), rel=1e-4)
    for name in ("energy", "encoder", "decoder"):
        a, b = getattr(own, name), getattr(other, name)
        assert (a is None) == (b is None)
        if a is not None:
            for p, q in zip(a.parameters(), b.parameters(), strict=True):
                assert torch.allclose(p, q, atol=3e-5)
    if rows is not None:
        assert own.chains is not None and other.chains is not None
        assert torch.allclose(own.chains[rows], made, atol=1e-5)
        rest = torch.ones(20, dtype=torch.bool)
        rest[rows] = False
        assert own.chains[rest].equal(other.chains[rest])


@pytest.mark.parametrize("teacher", TEACHERS)
def test_a_teacher_has_the_networks_it_needs_and_no_other(teacher: str) -> None:
    who, own = TEACHERS[teacher], trainer(replace(SMALL, teacher=teacher))
    assert (own.energy is not None) == (who.start is not None)
    assert (own.encoder is not None) == (who.latent == "encoder")
    assert (own.decoder is not None) == (who.latent is not None)
    assert (own.chains is not None) == (who.start == "persistent")
    lacking = networks()._replace(energy=None, decoder=None)
    with pytest.raises(UsageError, match=r"networks\.(energy|decoder)"):
        Trainer(replace(SMALL, teacher=teacher), lacking, ring, Streams(stream(), stream()))


def test_teachers_of_a_seed_see_the_same_data() -> None:
    own = [trainer(replace(SMALL, teacher=name)) for name in TEACHERS]
    for t in own:
        for _ in range(3):
            t.step()
    states = [t.streams.data.get_state() for t in own]
    assert all(s.equal(states[0]) for s in states)


def test_conditions_reach_every_network() -> None:
    own = trainer(replace(SMALL, iterations=30), draw=labelled)
    fit(own, 30)
    assert own.diverged_at() == [None]
    c = torch.tensor([[0.0], [1.0]]).repeat(4, 1)
    _, start, _ = own.begin(8, c)
    assert start is not None
    with pytest.raises(UsageError, match=r"condition of shape \(7, 1\)"):
        own.begin(8, c[:7])
    with pytest.raises(UsageError, match="condition of shape None"):
        own.begin(8)
    with pytest.raises(UsageError, match="condition of shape"):
        own.revised(start, torch.zeros(8, 2))
    with pytest.raises(UsageError, match="chains=4, batch=8"):
        trainer(replace(SMALL, chains=4), draw=labelled)
    with pytest.raises(UsageError, match="teacher='persistent'"):
        trainer(replace(SMALL, teacher="persistent"), draw=labelled)


def test_conditional_energy_learns_the_side() -> None:
    t = replace(SMALL, iterations=300, batch=64, chains=64, steps=10, generator_rate=1e-2,
                energy_rate=1e-2, sigma=0.2)  # fmt: skip
    own = trainer(t, draw=labelled)
    fit(own, 300)
    for side in (0.0, 1.0):
        c = torch.full((200, 1), side)
        with torch.no_grad():
            _, start, _ = own.begin(200, c)
        assert start is not None
        x = own.revised(start, c)
        assert float(((x[:, 0] > 0).float() == side).float().mean()) > 0.8


def test_a_resumed_run_is_the_undisturbed_one() -> None:
    for teacher in ("variational", "persistent"):
        t = replace(SMALL, teacher=teacher)
        whole, begun, later = (
            trainer(t, monitor=lambda own: {"gap": float(own.gaps.sum())}, monitor_every=2)
            for _ in range(3)
        )
        fit(whole, 6)
        for _ in range(3):
            begun.step()
        saved = io.BytesIO()
        torch.save(begun.state_dict(), saved)
        begun.step()  # the saved state must not move
        saved.seek(0)
        later.load_state_dict(torch.load(saved, weights_only=True))
        fit(later, 6)
        assert later.gaps.equal(whole.gaps)
        for a, b in zip(later.energy.parameters(), whole.energy.parameters(), strict=True):  # type: ignore[union-attr]
            assert a.equal(b)
        drop = ("seconds",)
        assert [{k: v for k, v in p.items() if k not in drop} for p in later.curve] == [
            {k: v for k, v in p.items() if k not in drop} for p in whole.curve
        ]


def test_a_checkpoint_of_another_training_is_refused_and_changes_nothing() -> None:
    own, other = trainer(), trainer(replace(SMALL, sigma=0.2))
    own.step()
    before = [p.clone() for p in other.energy.parameters()]  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="sigma"):
        other.load_state_dict(own.state_dict())
    with pytest.raises(UsageError, match="format"):
        other.load_state_dict(own.state_dict() | {"format": 9})
    assert other.done == 0
    assert all(a.equal(b) for a, b in zip(before, other.energy.parameters(), strict=True))  # type: ignore[union-attr]


def test_rates_fall_as_they_are_told() -> None:
    t = replace(SMALL, iterations=100)
    assert [t.factor(k) for k in (0, 49)] == [1.0, 1.0]
    assert t.factor(75) == pytest.approx(0.51)
    assert t.factor(100) == pytest.approx(0.02)
    e = replace(SMALL, decay="exponential", decay_every=20)
    assert e.factor(40) == pytest.approx(0.98**2)
    assert replace(SMALL, decay="none").factor(5) == 1.0
    own = trainer(replace(SMALL, decay="exponential", decay_every=1))
    own.step()
    own.step()
    assert own.optimizers["energy"].param_groups[0]["lr"] == pytest.approx(1e-3 * 0.98)
    assert own.optimizers["generator"].param_groups[0]["lr"] == pytest.approx(2e-3 * 0.98)


def test_a_run_that_explodes_ends_within_a_few_iterations() -> None:
    t = replace(SMALL, iterations=5000, energy_rate=10.0, explosion=100.0, steps=10)
    own = trainer(t)
    fit(own, 5000, check_every=5)
    (at,) = own.diverged_at()
    assert at is not None
    assert own.done - at < 5
    assert own.done < 5000
    assert float(own.gaps[: at - 1].abs().max()) <= 100
    assert not float(own.gaps[at - 1].abs()) <= 100


def test_a_loss_that_is_no_number_is_a_divergence() -> None:
    own = trainer(replace(SMALL, teacher="VAE"))
    own.step()
    own.losses[0] = float("nan")
    assert own.diverged_at() == [1]


def test_dropout_of_the_codes_encoder_draws_from_the_noise_stream() -> None:
    x = 2 * torch.rand(20, 196, generator=stream()) - 1
    t = replace(SMALL, batch=4, chains=4, reference=0.5, steps=2, step_size=0.01)
    made = Networks(*_order(conv_networks("mnist14", 3, stream())))
    own = Trainer(t, made, from_images(x), Streams(stream(1), stream(2)))
    before = own.streams.noise.get_state()
    first, second = own.posterior(x[:4])[0], own.posterior(x[:4])[0]
    assert not torch.allclose(first, second)
    own.streams.noise.set_state(before)
    assert own.posterior(x[:4])[0].equal(first)
    own.step()
    assert own.diverged_at() == [None]


def _order(made: Any) -> tuple[Any, Any, Any]:
    energy, posterior, decoder = made
    return energy, posterior, decoder


def test_a_finished_trainer_refuses_to_go_on() -> None:
    own = trainer(replace(SMALL, iterations=1))
    own.step()
    with pytest.raises(UsageError, match="all 1 iterations"):
        own.step()


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"teacher": "coop"}, "teacher='coop'"),
        ({"chains": 0}, "chains=0"),
        ({"steps": 0}, "steps=0"),
        ({"batch": 2.0}, "batch=2.0"),
        ({"step_size": -1.0}, "step_size=-1.0"),
        ({"step_size": 4.0}, r"step_size < 2 reference = 4.0"),
        ({"reference": 0.0}, "reference=0.0"),
        ({"reference": 0.05}, "reference=0.05"),
        ({"sigma": float("nan")}, "sigma=nan"),
        ({"data_noise": -0.1}, "data_noise"),
        ({"first_beta": 1.0}, "first_beta"),
        ({"decay": "cosine"}, "decay"),
        ({"start": "zeros"}, "start"),
        ({"teacher": "persistent", "pool": 4}, "pool=4"),
        ({"explosion": 0.0}, "explosion"),
    ],
)
def test_impossible_settings_are_refused_by_name(changed: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        replace(SMALL, **changed)


def test_images_out_of_range_and_conditions_that_do_not_match_are_refused() -> None:
    x = torch.zeros(4, 6)
    with pytest.raises(UsageError, match=r"values from 0 to 255"):
        from_images(torch.tensor([[0.0, 255.0]]))
    with pytest.raises(UsageError, match="values from"):
        from_images(torch.tensor([[float("nan"), 0.0]]))
    with pytest.raises(UsageError, match="at least one image"):
        from_images(x[:0])
    with pytest.raises(UsageError, match="floats"):
        from_images(x.to(torch.uint8))
    with pytest.raises(UsageError, match=r"\(3, 2\) for 4 images"):
        from_images(x, torch.zeros(3, 2))
    with pytest.raises(UsageError, match="finite"):
        from_images(x, torch.full((4, 1), float("inf")))
    batch = from_images(torch.arange(4.0)[:, None] / 4, torch.arange(4.0)[:, None])(50, stream())
    assert batch.c is not None
    assert batch.x.equal(batch.c / 4)
    assert len(batch.x.unique()) == 4


def test_a_step_past_the_bound_of_stability_is_refused_by_the_theory() -> None:
    with pytest.raises(UsageError, match=r"0 < step_size < 1"):
        theory.invariant_variance(4.0, 1.0)
    with pytest.raises(UsageError, match="at least d"):
        theory.precision_of(0.03, 0.2)
    with pytest.raises(UsageError, match="step_size=-1"):
        mt.revise(density(networks().energy, 1.0), torch.zeros(1, 2), -1.0, 1)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="cannot be normalized"):
        QuadraticEnergy(-torch.eye(2), torch.zeros(2)).moments(2.0)
    with pytest.raises(UsageError, match="teacher='VAE'"):
        theory.fixed_point("VAE", 0.0, 1.0, 0.1, 5)
    with pytest.raises(UsageError, match="sigma=2"):
        theory.fixed_point("variational", 0.0, 1.0, 0.1, 5, sigma=2.0)
    with pytest.raises(UsageError, match="steps=1"):
        theory.energy_precision(1.0, 0.1, 1, 0.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_captured_revision_is_the_plain_one() -> None:
    device = torch.device("cuda")
    energy = EnergyMLP(2, [16, 16], stream()).to(device)
    revision = Revision(device)
    for steps in (3, 5):
        for seed in range(2):
            x = torch.randn(10, 2, generator=stream(seed)).to(device)
            noise = torch.randn(steps, 10, 2, generator=stream(seed + 9)).to(device)
            own = revision(density(energy, 2.0), x, 0.2, steps, noise)
            known = mt.revise(density(energy, 2.0), x, 0.2, steps, noise)
            assert torch.allclose(own, known, atol=1e-5)
            with torch.no_grad():
                for p in energy.parameters():
                    p.mul_(1.1)

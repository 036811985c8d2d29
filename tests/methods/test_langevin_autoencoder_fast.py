"""The hand-written training step against the readable one, in float64, with one row and several."""

from __future__ import annotations

import pytest
import torch

from lmcnb.experiments import langevin_autoencoder_exact_models as exact
from lmcnb.methods.langevin_autoencoder_fast import Engine, Step, choose, part
from lmcnb.models.discretized_logistic import log_mass, scale_of


def one_step(name: str, rows: int) -> tuple[dict[str, torch.Tensor], torch.Tensor, Step]:
    settings = exact.STEP_SETTINGS[name]
    p, x = exact.step_problem(rows, 0)
    noise, uniform = exact.step_noise(settings, range(rows))
    size = torch.full((rows,), settings.step_size, dtype=torch.float64)
    engine = Engine(exact.BODY, exact.DECODER, settings, exact.LEVELS)
    return p, x, engine.step(p, x, noise, uniform, size)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("rows", [1, 3])
def test_every_number_is_the_readable_step_s(rows: int, seed: int) -> None:
    errors = exact.step_errors(rows, seed)
    assert set(errors) == set(exact.STEP_SETTINGS)
    assert max(errors.values()) < 1e-9, errors


def test_the_cases_accept_and_reject() -> None:
    """Otherwise the test above would not see a wrong branch."""
    rates = {}
    for name in ("published", "rejected", "five"):
        p, _, got = one_step(name, 8)
        rates[name] = float(got.acceptance.mean())
        if name == "rejected":
            assert torch.equal(got.phi, p["phi"])
    assert rates["published"] > 0.5
    assert rates["rejected"] < 1e-6
    assert 0.05 < rates["five"] < 0.95


def test_without_moves_it_is_a_deterministic_autoencoder_with_a_penalty_on_z() -> None:
    """The sheet's 6.13: the loss is NLL + |z|^2 / 2 at the given Phi, and Phi stays."""
    p, x, got = one_step("frozen", 1)
    phi = p["phi"].view(1, exact.LATENT, exact.WIDTH)
    z = exact.BODY.forward(part(p, "body"), x) @ phi.mT
    mean = exact.DECODER.forward(part(p, "decoder"), z)
    nll = -log_mass(x, mean, scale_of(p["b"]), exact.LEVELS).sum(-1)
    torch.testing.assert_close(got.loss, (nll + 0.5 * z.square().sum(-1)).mean(-1))
    assert torch.equal(got.phi, p["phi"])
    assert got.acceptance.tolist() == [1.0]


def test_choosing_row_by_row() -> None:
    old, new = (torch.zeros(3, 2), (torch.zeros(3),)), (torch.ones(3, 2), (torch.ones(3),))
    accepted = torch.tensor([True, False, True])
    wide, (narrow,) = choose(accepted, new, old)
    assert wide.tolist() == [[1, 1], [0, 0], [1, 1]]
    assert narrow.tolist() == [1, 0, 1]
    assert choose(torch.tensor([True]), new, old) is new
    assert choose(torch.tensor([False]), new, old) is old

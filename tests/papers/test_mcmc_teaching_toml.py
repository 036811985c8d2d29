"""The facts of mcmc_teaching: what is judged, and no claim that cannot fail."""

from __future__ import annotations

import copy
import re
import sys
from pathlib import Path

import pytest

from lmcnb.lab import claims, facts
from lmcnb.lab.rules import NOT_REPRODUCED, REPRODUCED, RULES

sys.path.append(str(Path(__file__).parent))
from claim_samples import sample

PAPER = facts.load("mcmc_teaching")
CLAIMS = {claim.id: claim for claim in PAPER.claim}
JUDGED = [claim for claim in PAPER.claim if not claim.not_testable]
ARM = (
    r"(variational|fast|original|short-run|persistent|VAE|regression)"
    r"(-[KsdvegL]\d+(\.\d+)?(e-\d+)?|-means|-draws|-still)*"
)
PLANE = "mmd|tv|within|modes"
GRAMMAR = re.compile(
    rf"plane/(eight_gaussians|checkerboard|pinwheel)/{ARM}"
    rf"/((initial/|long/)?({PLANE})|kl|density_tv|gap|gain/mmd|fall)"
    rf"|(digits/(none|label|half|occluded)|images/(mnist14|mnist|fashion_mnist|cifar10))/{ARM}"
    r"/((initial/|long/|gain/)?fcd|mse/(decoded|revised)|jump/(decoded|revised)|entropy|accuracy"
    r"|gap|(initial/)?psnr/(one|mean))"
    r"|learning/[\w(), -]+/(variance|mean|weight)|theory/[\w(), -]+/K=\d+/(precision|mean)"
    r"|exact/[\w.=/-]+"
)
SETS = ["eight_gaussians", "checkerboard", "pinwheel"]


def names(claim: facts.Claim) -> set[str]:
    return {name for cell in claim.cells() for name in claim.names(cell)}


@pytest.mark.parametrize("claim", JUDGED, ids=lambda c: c.id)
def test_claims_use_known_rules_and_the_grammar_of_metrics(claim: facts.Claim) -> None:
    assert claim.rule in RULES
    assert claim.where
    assert not claim.statement.endswith(".")
    assert not [name for name in names(claim) if not GRAMMAR.fullmatch(name)]


def test_every_claim_of_the_sheet_is_there() -> None:
    for number in range(1, 11):
        assert any(re.fullmatch(rf"C{number}(\..+)?", id) for id in CLAIMS), number


def test_the_one_number_that_was_recovered() -> None:
    (table,) = PAPER.table
    assert table.entries["fid/cifar10/variational"]["value"] == 36.20
    assert table.entries["fid/cifar10/VAE"]["value"] == 78.41
    assert CLAIMS["C5"].not_testable
    assert "36.20" in CLAIMS["C5"].statement


def test_what_is_judged() -> None:
    """Metrics in their order (of an order: highest first), places and bounds, written again."""
    known: dict[str, tuple[str, dict[str, object], float | None, int]] = {
        "C1.plane": (
            "plane/{density}/short-run/mmd plane/{density}/variational/mmd",
            {"density": SETS},
            None,
            3,
        ),
        "C1.steps": (
            "plane/eight_gaussians/short-run-K{K}/mmd plane/eight_gaussians/variational-K{K}/mmd",
            {"K": [5, 40]},
            None,
            3,
        ),
        "C1.digits": ("digits/none/short-run/fcd digits/none/variational/fcd", {}, None, 3),
        "C2.plane": (
            "plane/{density}/variational/initial/mmd plane/{density}/variational/mmd",
            {"density": SETS},
            None,
            3,
        ),
        "C2.digits": (
            "digits/none/variational/initial/fcd digits/none/variational/fcd",
            {},
            None,
            3,
        ),
        "C3.learns": ("plane/{density}/variational/fall", {"density": SETS}, 0.1, 3),
        "C3.gap": ("plane/{density}/variational/gap", {"density": SETS}, 1.0, 3),
        "C4.fast": (
            "plane/{density}/fast/mmd plane/{density}/variational/mmd",
            {"density": SETS},
            None,
            3,
        ),
        "C4.fast_digits": ("digits/none/fast/fcd digits/none/variational/fcd", {}, None, 3),
        "C4.original": (
            "plane/{density}/variational/mmd plane/{density}/original/mmd",
            {"density": SETS},
            0.0,
            3,
        ),
        "C4.original_digits": ("digits/none/variational/fcd digits/none/original/fcd", {}, 0.0, 3),
        "C5.vae": ("images/cifar10/VAE/fcd images/cifar10/variational/fcd", {}, None, 1),
        "C6": (
            "images/{set}/VAE/fcd images/{set}/variational/fcd",
            {"set": ["mnist", "fashion_mnist"]},
            None,
            1,
        ),
        "C6.small": (
            "images/mnist14/{other}/fcd images/mnist14/variational/fcd",
            {"other": ["VAE", "short-run"]},
            None,
            3,
        ),
        "C7.samples": (
            "plane/eight_gaussians/variational-K1/mmd "
            "plane/eight_gaussians/variational-K5/mmd "
            "plane/eight_gaussians/variational-K10/mmd "
            "plane/eight_gaussians/variational/mmd "
            "plane/eight_gaussians/variational-K40/mmd",
            {},
            None,
            3,
        ),
        "C8": ("digits/none/variational/jump/revised", {}, 0.25, 3),
        "C9": ("digits/none/variational/mse/decoded", {}, 0.1, 3),
        "C10.revised": (
            "digits/{task}/variational/psnr/one digits/{task}/variational/initial/psnr/one",
            {"task": ["half", "occluded"]},
            None,
            3,
        ),
        "C10.vae": (
            "digits/{task}/variational/psnr/mean digits/{task}/VAE/psnr/mean",
            {"task": ["half", "occluded"]},
            None,
            3,
        ),
        "C10.label": ("digits/label/variational/accuracy", {}, 0.9, 3),
        "F1.variance": ("learning/variational/variance", {}, 0.0024, 1),
        "F1.from_mean": ("learning/variational, from g(z)/variance", {}, 0.0025, 1),
        "F1.short_run": ("learning/short-run/mean", {}, 0.028, 1),
        "F1.fast": ("learning/fast/weight", {}, 0.02, 1),
        "F2.density": (
            "plane/{density}/variational/kl plane/{density}/persistent/kl",
            {"density": SETS},
            None,
            3,
        ),
        "F2.rate": (
            "plane/eight_gaussians/variational/kl plane/eight_gaussians/variational-e1e-2/kl",
            {},
            None,
            3,
        ),
        "F2.rate_persistent": (
            "plane/eight_gaussians/variational-e1e-2/kl plane/eight_gaussians/persistent-e1e-2/kl",
            {},
            None,
            3,
        ),
        "F2.rate_short_run": (
            "plane/eight_gaussians/short-run-e1e-2/mmd plane/eight_gaussians/variational-e1e-2/mmd",
            {},
            0.0,
            3,
        ),
        "F2.steps": (
            "plane/eight_gaussians/variational-K5/kl plane/eight_gaussians/variational/kl",
            {},
            None,
            3,
        ),
        "F2.samples": (
            "plane/eight_gaussians/variational-K5/mmd plane/eight_gaussians/variational/mmd",
            {},
            0.0,
            3,
        ),
        "F2.long": (
            "plane/{density}/variational/long/mmd plane/{density}/variational/mmd",
            {"density": SETS},
            None,
            3,
        ),
        "F2.long_digits": (
            "digits/none/variational/long/fcd digits/none/variational/fcd",
            {},
            None,
            3,
        ),
        "F3.vae": ("digits/none/VAE/fcd digits/none/variational/fcd", {}, 0.0, 3),
        "F3.reconstruction": (
            "digits/none/variational/mse/decoded digits/none/VAE/mse/decoded",
            {},
            None,
            3,
        ),
        "F4.collapse": ("digits/none/fast/fcd digits/none/variational/fcd", {}, 50.0, 3),
        "F4.tuned": (
            "digits/none/{arm}/fcd digits/none/variational/fcd",
            {"arm": ["fast-s0.3-draws", "fast-v3", "fast-e3e-5", "fast-K60"]},
            50.0,
            1,
        ),
        "F5.width": ("digits/none/variational-s0.3/fcd digits/none/variational/fcd", {}, 50.0, 3),
        "F6.regression": (
            "digits/{task}/regression/psnr/mean digits/{task}/{arm}/psnr/mean",
            {"task": ["half", "occluded"], "arm": ["variational", "VAE"]},
            None,
            3,
        ),
        "E1": (
            "exact/{check}",
            {
                "check": [
                    "fixed/short-run/l",
                    "fixed/short-run/m",
                    "fixed/variational/variance",
                    "fixed/from_mean/V",
                    "pca/bound",
                    "pca/gradient",
                    "chain_rule/chain",
                    "chain_rule/bound",
                    "score",
                    "partition/s0=1.3",
                    "loss",
                ]
            },
            1e-6,
            1,
        ),
        "E2": (
            "exact/{check}",
            {
                "check": [
                    "revision/mean/f/K=60",
                    "revision/variance/f/K=60",
                    "revision/variance/reference/K=60",
                    "gradient/b/s0=1.3",
                    "gradient/A/s0=1.3",
                ]
            },
            4.2,
            1,
        ),
    }
    for id, (metrics, grid, bound, seeds) in known.items():
        claim = CLAIMS[id]
        assert (" ".join(claim.metrics), claim.grid, claim.seeds) == (metrics, grid, seeds), id
        which = "tolerance" if claim.rule in ("interval", "exact") else "value"
        assert claim.parameters.get(which) == bound, id
        assert (claim.rule == "ordering") == (bound is None), id
    assert {c.id for c in JUDGED} == set(known)
    values = {id: CLAIMS[id].parameters["value"] for id in known if CLAIMS[id].rule == "interval"}
    assert values == {
        "C3.gap": 0.0, "F1.variance": 0.2396, "F1.from_mean": 0.2488, "F1.short_run": 2.8117,
    }  # fmt: skip


@pytest.mark.parametrize("claim", JUDGED, ids=lambda c: c.id)
def test_every_claim_can_hold_and_can_fail(claim: facts.Claim) -> None:
    for good, verdict in ((True, REPRODUCED), (False, NOT_REPRODUCED)):
        rows = claims.judge(PAPER, copy.deepcopy(sample(PAPER.name, claim, good)))
        (row,) = [r for r in rows if r["id"] == claim.id]
        assert row["verdict"] == verdict, row["reason"]


def test_the_ledger_answers_what_the_paper_leaves_open() -> None:
    wanted = {"noise", "reference", "ancestral", "width", "order", "latent", "data", "conditional"}
    wanted |= {"data_noise", "distance", "schedule"}
    assert wanted | {"pool", "test_steps", "alignment"} <= {a.id for a in PAPER.assumption}
    assert all(a.choice and a.why for a in PAPER.assumption)

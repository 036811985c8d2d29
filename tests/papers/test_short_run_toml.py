"""The facts of short_run: numbers as printed, and no claim that cannot fail."""

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

PAPER = facts.load("short_run")
CLAIMS = {claim.id: claim for claim in PAPER.claim}
TABLES = {table.id: table.entries for table in PAPER.table}
JUDGED = [claim for claim in PAPER.claim if not claim.not_testable]
DATA = "digits|coloured_digits|mnist|fashion_mnist|svhn|cifar10"
ARM = r"(SRI|VAE|LVAE|ABP)(-[\w.]+)*"
GRAMMAR = re.compile(
    rf"mse/({DATA})/{ARM}/(sampled|mean|longer)|frechet/({DATA})/{ARM}"
    rf"|(step_size|best_step_size)/({DATA})/{ARM}/(first|late|kept|final|mse)"
    rf"|objective/({DATA})/{ARM}/(share=[\d.]+|test/(noisy|noise_free|marginal))"
    r"/(minimizer|minimum|left|right)"
    rf"|inpainting/({DATA})/{ARM}/(scattered|block)/(SRI|mean|nearest)"
    rf"|latents/({DATA})/{ARM}/explained|effect/({DATA})/{ARM}/(ground|label)/layer=\d"
    rf"|time/({DATA})/{ARM}:{ARM}|exact/[\w.=-]+(/[\w.=-]+){{0,3}}"
)


def names(claim: facts.Claim) -> set[str]:
    return {name for cell in claim.cells() for name in claim.names(cell)}


@pytest.mark.parametrize("claim", JUDGED, ids=lambda c: c.id)
def test_claims_use_known_rules_and_the_grammar_of_metrics(claim: facts.Claim) -> None:
    assert claim.rule in RULES
    assert claim.where
    assert not claim.statement.endswith(".")
    assert not [name for name in names(claim) if not GRAMMAR.fullmatch(name)]


def test_every_claim_of_the_sheet_is_there() -> None:
    for number in range(1, 13):
        assert any(re.fullmatch(rf"C{number}(\..+)?", id) for id in CLAIMS), number


def test_the_tables_as_printed() -> None:
    errors = {
        "svhn": {"VAE": 0.019, "SRI": 0.018, "SRI-L5": 0.011, "LVAE-L5": 0.014},
        "celeba64": {"VAE": 0.021, "SRI": 0.020, "SRI-L5": 0.015, "LVAE-L5": 0.028},
    }
    fids = {
        "svhn": {"VAE": 46.78, "SRI": 44.86, "SRI-L5": 35.23, "LVAE-L5": 39.26},
        "celeba64": {"VAE": 65.75, "SRI": 61.03, "SRI-L5": 47.95, "LVAE-L5": 53.40},
    }
    for table, form, printed in (
        ("paper", "mse/{}/{}/sampled", errors),
        ("paper_fid", "fid/{}/{}", fids),
    ):
        wanted = {
            form.format(data, arm): {"value": value, "sd": None}
            for data, arms in printed.items()
            for arm, value in arms.items()
        }
        assert TABLES[table] == wanted


def test_fid_is_never_judged() -> None:
    assert not [id for id, claim in CLAIMS.items() if any("fid" in m for m in claim.metrics)]
    assert "Inception" in str(CLAIMS["C2.svhn"].not_testable)


def test_what_is_judged() -> None:
    """Metrics in their order (of an order: highest first), places and bounds, written again."""
    d, sampled = "mse/digits/", "/sampled"
    masks = ["scattered", "block"]
    ladder = "effect/coloured_digits/SRI-L3-s0.2-ladder/"
    own = "objective/digits/SRI-s0.2/test/"
    both: dict[str, object] = {"data": ["digits", "mnist"]}
    known: dict[str, tuple[str, dict[str, object], float | None]] = {
        "C1.svhn": ("mse/svhn/VAE/sampled mse/svhn/SRI-s0.05/sampled", {}, None),
        "C1.cifar10": ("mse/cifar10/VAE/sampled mse/cifar10/SRI-s0.05/sampled", {}, None),
        "C3.cifar10": (
            "mse/cifar10/SRI-s0.05/sampled mse/cifar10/SRI-L5-s0.05/sampled",
            {},
            None,
        ),
        "F7.bound": (f"{own}noisy/minimum {own}marginal/minimum", {}, 5.0),
        "F7.larger": (f"{own}marginal/minimizer {own}noisy/minimizer", {}, None),
        "F7.mse": ("mse/{data}/SRI/sampled mse/{data}/SRI-marginal/sampled", both, None),
        "F7.vae": ("mse/{data}/VAE/sampled mse/{data}/SRI-marginal/sampled", both, None),
        "F7.depth": (
            f"{d}SRI-{{layers}}{sampled} {d}SRI-{{layers}}-marginal{sampled}",
            {"layers": ["L3", "L5"]},
            None,
        ),
        "F7.alive": (
            "latents/digits/SRI-{layers}-marginal/explained",
            {"layers": ["L3", "L5"]},
            0.1,
        ),
        "F7.frechet": ("frechet/{data}/SRI-marginal frechet/{data}/SRI", both, None),
        "C1.digits": ("mse/digits/VAE/sampled mse/digits/SRI/sampled", {}, None),
        "C1.mnist": ("mse/mnist/VAE/sampled mse/mnist/SRI/sampled", {}, None),
        "C1.fashion_mnist": (
            "mse/fashion_mnist/VAE/sampled mse/fashion_mnist/SRI/sampled",
            {},
            None,
        ),
        "C2.digits": ("frechet/digits/VAE frechet/digits/SRI", {}, None),
        "C2.mnist": ("frechet/mnist/VAE frechet/mnist/SRI", {}, None),
        "C3.svhn": ("mse/svhn/SRI-s0.05/sampled mse/svhn/SRI-L5-s0.05/sampled", {}, None),
        "C3.digits": (f"{d}SRI{sampled} {d}{{arm}}{sampled}", {"arm": ["SRI-L3", "SRI-L5"]}, None),
        "C3.digits_fixed": (
            f"{d}SRI-s0.2{sampled} {d}{{arm}}{sampled}",
            {"arm": ["SRI-L3-s0.2", "SRI-L5-s0.2"]},
            None,
        ),
        "C3.mnist_fixed": (f"mse/mnist/SRI-s0.1{sampled} mse/mnist/SRI-L3-s0.1{sampled}", {}, None),
        "C4.digits_fixed": (f"{d}LVAE-L3{sampled} {d}SRI-L3-s0.2{sampled}", {}, None),
        "C4.mnist_fixed": (f"mse/mnist/LVAE-L3{sampled} mse/mnist/SRI-L3-s0.1{sampled}", {}, None),
        "C3.mnist": (
            "mse/mnist/{one}/sampled mse/mnist/{three}/sampled",
            {"one": ["SRI"], "three": ["SRI-L3"]},
            None,
        ),
        "C3.samples": (
            "frechet/{data}/SRI frechet/{data}/SRI-L3",
            {"data": ["digits", "mnist"]},
            None,
        ),
        "C4.svhn": ("mse/svhn/LVAE-L5/sampled mse/svhn/SRI-L5-s0.05/sampled", {}, None),
        "C4.cifar10": (
            "mse/cifar10/LVAE-L5/sampled mse/cifar10/SRI-L5-s0.05/sampled",
            {},
            None,
        ),
        "C4.layers": (
            "mse/{data}/LVAE-L3/sampled mse/{data}/SRI-L3/sampled",
            {"data": ["digits", "mnist"]},
            None,
        ),
        "C5.left": ("objective/digits/SRI/share=1.00/left", {}, 10.0),
        "C5.right": ("objective/digits/SRI/share=1.00/right", {}, 1.0),
        "C5.mnist": ("objective/mnist/SRI/share=1.00/{end}", {"end": ["left", "right"]}, 1.0),
        "C6.falls": ("step_size/digits/SRI/first step_size/digits/SRI/late", {}, None),
        "C6.stays": ("step_size/digits/SRI/kept", {}, 0.333),
        "C7": ("step_size/digits/SRI/late step_size/digits/SRI-gradient/late", {}, 0.02),
        "C8": (f"{d}{{arm}}{sampled}", {"arm": ["SRI", "SRI-s0.2"]}, 0.148),
        "C9": (
            "inpainting/digits/{arm}/{mask}/mean inpainting/digits/{arm}/{mask}/SRI",
            {"arm": ["SRI", "SRI-s0.2"], "mask": masks},
            None,
        ),
        "C10.ground": (
            f"{ladder}ground/layer=3 {ladder}ground/layer={{other}}",
            {"other": [1, 2]},
            None,
        ),
        "C10.label": (
            f"{ladder}label/layer=2 {ladder}label/layer={{other}}",
            {"other": [1, 3]},
            None,
        ),
        "C11": ("latents/digits/{arm}/explained", {"arm": ["SRI", "SRI-s0.2"]}, 0.5),
        "C12": ("exact/likelihood_limit", {}, 0.002),
        "F1.bound": ("exact/gap/frozen", {}, 1.0),
        "F1.small": ("exact/gap/step_size", {}, 0.6),
        "F2.mse": (
            "best_step_size/digits/SRI-s0.2/mse objective/digits/SRI-s0.2/test/noisy/minimizer",
            {},
            None,
        ),
        "F2.fixed": (f"{d}SRI{sampled} {d}SRI-s0.2{sampled}", {}, None),
        "F3.fixed": (f"{d}VAE{sampled} {d}SRI-s0.2{sampled}", {}, None),
        "F3.mean": (f"{d}VAE/mean {d}SRI-s0.2/mean", {}, None),
        "F3.long": (f"{d}VAE-x4{sampled} {d}SRI-s0.2-x4{sampled}", {}, None),
        "F4.time": (f"{d}VAE-x7{sampled} {d}SRI-s0.2{sampled}", {}, None),
        "F4.frechet": ("frechet/digits/VAE-x7 frechet/digits/SRI-s0.2", {}, None),
        "F4.ratio": ("time/digits/VAE-x7:SRI-s0.2", {}, 0.35),
        "F5.small": (f"{d}SRI-s0.05{sampled}", {}, 0.045),
        "F6.persistent": (f"{d}SRI-s0.1/longer {d}ABP-s0.1/longer", {}, None),
        "F7.loose": ("exact/bound/step_size", {}, 1.5),
        "F9.nearest": (
            "inpainting/digits/{arm}/{mask}/nearest inpainting/digits/{arm}/{mask}/SRI",
            {"arm": ["SRI", "SRI-s0.2"], "mask": masks},
            None,
        ),
        "C12.order": (
            "exact/distance/s=0.1/K=100 exact/distance/{exact}",
            {"exact": ["s=0.1/K=400", "s=0.05/K=2000"]},
            0.1,
        ),
    }
    for id, (metrics, grid, bound) in known.items():
        claim = CLAIMS[id]
        assert (" ".join(claim.metrics), claim.grid) == (metrics, grid), id
        number = claim.parameters.get("tolerance", claim.parameters.get("value"))
        assert number == bound, id
        assert (claim.rule == "ordering") == (bound is None), id
    kept = {c.id for c in JUDGED if c.kind != "check"}
    assert kept == set(known)


@pytest.mark.parametrize("claim", JUDGED, ids=lambda c: c.id)
def test_every_claim_can_hold_and_can_fail(claim: facts.Claim) -> None:
    for good, verdict in ((True, REPRODUCED), (False, NOT_REPRODUCED)):
        rows = claims.judge(PAPER, copy.deepcopy(sample(PAPER.name, claim, good)))
        (row,) = [r for r in rows if r["id"] == claim.id]
        assert row["verdict"] == verdict, row["reason"]


def test_the_ledger_answers_what_the_sheet_asks() -> None:
    ids = {a.id for a in PAPER.assumption}
    wanted = {"convention", "density", "search", "std", "reconstruction", "vae", "fid", "injective"}
    assert wanted <= ids
    assert all(a.choice and a.why for a in PAPER.assumption)

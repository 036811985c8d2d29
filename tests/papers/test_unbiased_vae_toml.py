"""The facts of unbiased_vae: numbers as printed, and no claim that cannot fail."""

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

PAPER = facts.load("unbiased_vae")
CLAIMS = {claim.id: claim for claim in PAPER.claim}
TABLES = {table.id: table.entries for table in PAPER.table}
JUDGED = [claim for claim in PAPER.claim if not claim.not_testable]
DATA = "static_mnist/D=(20|100|300)|teacher/D=8"
ARM = r"(IWAE\+)?(ELBO|IWAE|average|C-ISIR-DISIR|C-ISIR)(-K\d+)?(-index)?"
KERNEL = r"(C-ISIR|C-ISIR-DISIR/beta=(adapted|[\d.]+))/(strict|index)"
WHAT = "mean|median|q90|q99|largest|capped|effective|beta|first"
GRAMMAR = re.compile(
    rf"(ll|ais|ais_gap|ais_longer|seconds)/({DATA})/{ARM}|(gain|ais_gain|cost)/({DATA})/{ARM}:{ARM}"
    rf"|meeting/({DATA})/{KERNEL}/({WHAT})|illustration/[\w-]+/(moves_right|right|total_variation)"
    rf"|ppca/(reduced|digits)/({ARM}/((intercept|weight)(/z|/sd)?|rms_bias|max_z)"
    rf"|{ARM}/relative/of_(each|mean)|variance/(intercept|weight))"
    rf"|exact/[\w.=:-]+(/[\w.=:, -]+)?"
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
    for number in range(1, 12):
        assert any(re.fullmatch(rf"C{number}(\..+)?", id) or id.startswith(f"C{number}.")
                   for id in CLAIMS), number  # fmt: skip


def test_the_table_as_printed() -> None:
    printed = {
        20: {"ELBO": -90.05, "IWAE": -88.06, "C-ISIR-DISIR": -87.29, "C-ISIR": -90.70},
        100: {"ELBO": -89.96, "IWAE": -88.07, "C-ISIR-DISIR": -86.75},
        300: {"ELBO": -90.63, "IWAE": -89.05, "C-ISIR-DISIR": -88.10},
    }
    wanted = {
        f"ais/static_mnist/D={latent}/{arm}": {"value": value, "sd": None}
        for latent, arms in printed.items()
        for arm, value in arms.items()
    }
    assert TABLES["table1a"] == wanted


def test_what_is_judged() -> None:
    """Metrics in their order (of an order: highest first), places and bounds, written again."""
    known: dict[str, tuple[str, dict[str, object], float | None]] = {
        "C1.rejected": ("ppca/reduced/{estimator}/max_z", {"estimator": ["ELBO", "IWAE"]}, 10.0),
        "C1.order": ("ppca/reduced/ELBO/rms_bias ppca/reduced/IWAE/rms_bias", {}, None),
        "C2.exact": ("exact/unbiased/{estimator}", {"estimator": ["C-ISIR", "C-ISIR-DISIR"]}, 4.0),
        "C2.ppca": (
            "ppca/reduced/{estimator}/{what}/z",
            {"estimator": ["C-ISIR", "C-ISIR-DISIR"], "what": ["intercept", "weight"]},
            4.0,
        ),
        "C2.digits": (
            "ppca/digits/{estimator}/{what}/z",
            {"estimator": ["C-ISIR", "C-ISIR-DISIR"], "what": ["intercept", "weight"]},
            4.0,
        ),
        "C3.reduced": ("ppca/reduced/variance/{what}", {"what": ["intercept", "weight"]}, 1.5),
        "C3.digits": ("ppca/digits/variance/{what}", {"what": ["intercept", "weight"]}, 1.5),
        "C4.each": (
            "ppca/digits/ELBO/relative/of_each "
            "ppca/digits/IWAE/relative/of_each "
            "ppca/digits/C-ISIR/relative/of_each "
            "ppca/digits/C-ISIR-DISIR/relative/of_each",
            {},
            None,
        ),
        "C4.mean": (
            "ppca/digits/ELBO/relative/of_mean "
            "ppca/digits/IWAE/relative/of_mean "
            "ppca/digits/C-ISIR/relative/of_mean "
            "ppca/digits/C-ISIR-DISIR/relative/of_mean",
            {},
            None,
        ),
        "C5": (
            "illustration/{kernel}/moves_right illustration/ISIR/moves_right",
            {"kernel": ["DISIR", "ISIR-DISIR"]},
            None,
        ),
        "C6.isir": ("meeting/static_mnist/D=20/C-ISIR/strict/median", {}, 2.0),
        "C6.isir_tail": ("meeting/static_mnist/D=20/C-ISIR/strict/mean", {}, 22.0),
        "C6.composite": (
            "meeting/static_mnist/D=20/C-ISIR/strict/mean "
            "meeting/static_mnist/D=20/C-ISIR-DISIR/beta=adapted/strict/mean",
            {},
            None,
        ),
        "C6.most": ("meeting/static_mnist/D=20/C-ISIR-DISIR/beta=adapted/strict/largest", {}, 29.0),
        "C6.grows": (
            "meeting/static_mnist/D=300/C-ISIR/strict/mean "
            "meeting/static_mnist/D=20/C-ISIR/strict/mean",
            {},
            None,
        ),
        "C6.share": (
            "meeting/static_mnist/D=300/C-ISIR/strict/capped "
            "meeting/static_mnist/D=20/C-ISIR/strict/capped",
            {},
            None,
        ),
        "C6.light": ("meeting/static_mnist/D=20/C-ISIR-DISIR/beta=adapted/strict/q99", {}, 16.0),
        "C6.insensitive": (
            "meeting/static_mnist/D=300/C-ISIR-DISIR/beta=adapted/strict/mean "
            "meeting/static_mnist/D=20/C-ISIR-DISIR/beta=adapted/strict/mean",
            {},
            1.0,
        ),
        "C7.iwae20": ("gain/static_mnist/D=20/IWAE:ELBO", {}, 1.0),
        "C7.iwae": ("gain/static_mnist/D={latent}/IWAE:ELBO", {"latent": [100, 300]}, 0.8),
        "C7.ours": (
            "gain/static_mnist/D={latent}/C-ISIR-DISIR:IWAE",
            {"latent": [20, 100, 300]},
            0.38,
        ),
        "C8": ("gain/static_mnist/D=20/C-ISIR:ELBO", {}, -0.32),
        "C9": (
            "gain/{model}/IWAE+C-ISIR-DISIR:IWAE+IWAE",
            {"model": ["static_mnist/D=20", "teacher/D=8"]},
            0.1,
        ),
        "C9.ais": (
            "ais_gain/{model}/IWAE+C-ISIR-DISIR:IWAE+IWAE",
            {"model": ["static_mnist/D=20", "teacher/D=8"]},
            0.1,
        ),
        "C10": ("cost/static_mnist/D=20/IWAE+C-ISIR-DISIR:IWAE", {}, 15.0),
        "C10.clipping": (
            "ll/static_mnist/D=20/IWAE+{kernel}",
            {"kernel": ["C-ISIR", "C-ISIR-DISIR"]},
            -100.0,
        ),
        "C11.contraction": ("exact/rate_over_bound", {}, 1.0),
        "C11.bound": ("exact/bound/{kernel}", {"kernel": ["C-ISIR", "C-ISIR-DISIR"]}, 1.0),
        "C11.K": ("exact/most_joint_steps/K=2 exact/most_joint_steps/K=64", {}, 1.0),
        "F1.index": ("meeting/static_mnist/D=20/C-ISIR-DISIR/beta=adapted/index/mean", {}, 2.35),
        "F1.first": ("meeting/static_mnist/D=20/C-ISIR-DISIR/beta=adapted/index/first", {}, 0.03),
        "F2.beta": (
            "meeting/static_mnist/D=20/C-ISIR-DISIR/beta={beta}/strict/mean "
            "meeting/static_mnist/D=20/C-ISIR/strict/mean",
            {"beta": ["0.0", "0.5", "0.8", "0.9", "0.95", "0.97", "0.99", "adapted"]},
            None,
        ),
        "F3.premature": ("exact/biased/C-ISIR, stopped at the selected points", {}, 4.0),
        "F3.uncoupled": ("exact/rms_bias_ratio/IWAE:uncoupled", {}, 3.0),
        "F3.adapted": ("exact/biased/C-ISIR-DISIR, beta adapted inside the run", {}, 4.0),
        "F3.rules": (
            "exact/biased/{control}",
            {"control": ["C-ISIR-DISIR, index rule", "C-ISIR, cap 2"]},
            4.0,
        ),
        "F4.pimh": ("exact/unbiased/PIMH", {}, 4.0),
        "F6.every": (
            "ppca/reduced/{estimator}/max_z",
            {"estimator": ["C-ISIR", "C-ISIR-DISIR"]},
            4.5,
        ),
        "F7.samples": ("gain/static_mnist/D=20/IWAE+C-ISIR-DISIR:IWAE+IWAE-K240", {}, 0.1),
        "F7.samples_ais": (
            "ais_gain/static_mnist/D=20/IWAE+C-ISIR-DISIR:IWAE+IWAE-K240",
            {},
            0.1,
        ),
        "F8.correction": (
            "ais_gain/static_mnist/D=20/IWAE+C-ISIR-DISIR:IWAE+average",
            {},
            0.05,
        ),
        "F5.ais": ("ais_gap/static_mnist/D=20/IWAE", {}, 1.0),
    }
    for id, (metrics, grid, bound) in known.items():
        claim = CLAIMS[id]
        assert (" ".join(claim.metrics), claim.grid) == (metrics, grid), id
        number = claim.parameters.get("tolerance", claim.parameters.get("value"))
        assert number == bound, id
        assert (claim.rule == "ordering") == (bound is None), id
    index = CLAIMS["F1.index"].parameters
    assert (index["below"], index["above"]) == (2.35 / 2, 2.35)
    kept = {c.id for c in JUDGED if c.kind != "check"}
    assert kept == set(known)


@pytest.mark.parametrize("claim", JUDGED, ids=lambda c: c.id)
def test_every_claim_can_hold_and_can_fail(claim: facts.Claim) -> None:
    for good, verdict in ((True, REPRODUCED), (False, NOT_REPRODUCED)):
        rows = claims.judge(PAPER, copy.deepcopy(sample(PAPER.name, claim, good)))
        (row,) = [r for r in rows if r["id"] == claim.id]
        assert row["verdict"] == verdict, row["reason"]


def test_the_ledger_answers_what_the_paper_leaves_open() -> None:
    ids = {a.id for a in PAPER.assumption}
    wanted = {"meeting", "beta", "cap", "ppca", "rmsprop", "elbo", "encoder", "split", "evaluation"}
    wanted |= {"counter", "initialisation"}
    assert wanted <= ids
    assert all(a.choice and a.why for a in PAPER.assumption)


def test_no_claim_on_learning_is_judged_from_another_scale() -> None:
    for id in ("C7.iwae20", "C7.iwae", "C7.ours", "C8"):
        assert (CLAIMS[id].profile, CLAIMS[id].seeds) == ("paper", 3)

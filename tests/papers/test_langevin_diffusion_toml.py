"""The facts of langevin_diffusion: numbers as printed, and no claim that cannot fail."""

import copy
import math
import re

import pytest

from lmcnb.lab import claims, facts
from lmcnb.lab.rules import NOT_REPRODUCED, REPRODUCED, RULES

PAPER = facts.load("langevin_diffusion")
CLAIMS = {claim.id: claim for claim in PAPER.claim}
TABLES = {table.id: table.entries for table in PAPER.table}

TARGETS = ["ionosphere", "sonar", "seeds", "brownian", "lorenz", "lorenz_published", "banana"]
TARGETS += ["a1a", "breast_cancer", "gaussian", "mixture", "ring"]
METHODS = ["ULA", "MCD", "UHA", "LDVI", "UHA_EM", "LDVI_EM"]
METHODS += ["a-lp", "a-lp-sna", "e-lp", "e-lp-sna", "ea-lp-sn", "me_e"]
GRAMMAR = re.compile(
    rf"(elbo|log_z)/({'|'.join(TARGETS)})/K=\d+/({'|'.join(METHODS)})"
    rf"|elbo/({'|'.join(TARGETS)})/MF"
    rf"|log_z/({'|'.join(TARGETS)})/(reference|particle_filter|laplace)"
    r"|exact/[\w.=-]+(/[\w.=-]+)?"
)


def names(claim):
    return {name for cell in claim.cells() for name in claim.names(cell)}


@pytest.mark.parametrize("claim", PAPER.claim, ids=CLAIMS)
def test_claims_use_known_rules_and_the_grammar_of_metrics(claim):
    assert claim.rule in RULES
    assert claim.where
    assert claim.statement[0].isupper()
    assert not claim.statement.endswith(".")
    strange = [name for name in names(claim) if not GRAMMAR.fullmatch(name)]
    assert not strange


def test_every_claim_of_the_sheet_is_there():
    for number in range(1, 11):
        assert any(re.fullmatch(rf"C{number}[a-z]?(\..+)?", id) for id in CLAIMS), number
    assert {"S1", "S2", "S3a", "S3b", "F1.filter", "F2", "F3", "P1", "V.sonar_8"} <= set(CLAIMS)


def test_samples_of_the_paper_s_tables():
    paper = TABLES["paper"]
    printed = {
        "elbo/ionosphere/K=8/LDVI": (-114.4, 0.02),
        "elbo/ionosphere/K=256/LDVI": (-111.7, 0.01),
        "elbo/sonar/K=8/ULA": (-122.4, 0.1),
        "elbo/sonar/K=64/MCD": (-111.1, 0.7),
        "elbo/sonar/K=16/UHA_EM": (-119.9, 0.08),
        "elbo/brownian/K=8/LDVI_EM": (-2.8, 0.4),
        "elbo/brownian/K=64/UHA": (0.1, 0.02),
        "elbo/lorenz_published/K=256/LDVI": (-1151.1, 0.2),
        "elbo/lorenz_published/K=128/LDVI_EM": (-1163.4, None),
        "elbo/seeds/K=32/MCD": (-74.3, 0.03),
        "elbo/seeds/K=256/LDVI_EM": (-73.7, None),
    }
    for metric, (value, sd) in printed.items():
        assert paper[metric] == {"value": value, "sd": sd}, metric
    assert len(paper) == 5 * 6 * 6
    assert TABLES["paper_vi"]["elbo/sonar/MF"] == {"value": -138.6, "sd": 0.2}
    assert TABLES["log_z"]["log_z/brownian/reference"]["value"] == 1.18773
    assert TABLES["mean_field_optimum"]["elbo/lorenz/MF"]["value"] == -65.82


def test_samples_of_the_replication_and_its_gaps():
    replication = TABLES["replication"]
    assert replication["elbo/sonar/K=8/LDVI"] == {"value": -116.275, "sd": 0.168}
    assert replication["elbo/seeds/K=16/MCD"] == {"value": -74.569, "sd": 0.073}
    assert replication["elbo/lorenz_published/K=8/UHA"] == {"value": -1173.971, "sd": 0.201}
    missing = {("MCD", 128), ("MCD", 256), ("UHA", 256), ("LDVI", 128)}
    for method, K in missing:
        assert f"elbo/lorenz_published/K={K}/{method}" not in replication
    assert "elbo/brownian/K=128/ULA" not in replication
    assert len(replication) == 6 * 4 * 6 - 5


def test_the_paper_s_claims_hold_in_its_own_tables():
    for row in claims.judge(PAPER, []):
        assert row["verdict"] == "not run"
        if row["kind"] in ("check", "finding"):
            continue
        for cell in row["cells"]:
            if cell["paper"] is not None and cell["excepted"] is None:
                assert cell["paper_verdict"] == REPRODUCED, (row["id"], cell)
            if cell["excepted"] is not None:
                assert cell["paper_verdict"] == NOT_REPRODUCED, (row["id"], cell)


def test_the_ledger_is_whole():
    assert len(PAPER.assumption) >= 30
    ids = {entry.id for entry in PAPER.assumption}
    assert {"gamma_start", "projection", "lr_selection", "naive_scheme", "me_e"} <= ids
    for entry in PAPER.assumption:
        assert all((entry.question, entry.choice, entry.why, entry.sensitivity)), entry.id


def test_citation():
    assert PAPER.citation.arxiv in PAPER.citation.bibtex
    assert str(PAPER.citation.year) in PAPER.citation.bibtex


# ---- mutation: a world in which every claim holds, then one wrong number at a time


def world():
    """A number for every metric that a claim names, such that all claims hold."""
    numbers = {name: entry["value"] for name, entry in TABLES["paper"].items()}
    numbers |= {name: entry["value"] for name, entry in TABLES["paper_vi"].items()}
    numbers |= {name: entry["value"] for name, entry in TABLES["mean_field_optimum"].items()}
    for name, entry in TABLES["log_z"].items():
        target = name.split("/")[1]
        for K in (8, 16, 32, 64):
            for method in METHODS:
                numbers[f"log_z/{target}/K={K}/{method}"] = entry["value"] - 1.0
    numbers |= {"log_z/lorenz/particle_filter": -29.2, "log_z/lorenz/laplace": -29.21}
    numbers |= {"elbo/lorenz/MF": -65.82, "log_z/mixture/reference": 0.0}
    for K in (4, 8, 16, 32, 64):
        for rank, method in enumerate(("ULA", "MCD", "UHA", "LDVI")):
            numbers[f"elbo/lorenz/K={K}/{method}"] = -60.0 + math.log2(K) + rank
            numbers[f"elbo/breast_cancer/K={K}/{method}"] = -60.0 + math.log2(K) + rank
            numbers[f"elbo/mixture/K={K}/{method}"] = -0.5
        for target in ("sonar", "brownian"):
            if K > 4:
                best, fixed = (numbers[f"elbo/{target}/K={K}/{m}"] for m in ("LDVI", "UHA"))
                numbers[f"elbo/{target}/K={K}/a-lp-sna"] = best - 0.2
                numbers[f"elbo/{target}/K={K}/e-lp"] = fixed
                numbers[f"elbo/{target}/K={K}/ea-lp-sn"] = best - 0.1
                numbers[f"elbo/{target}/K={K}/a-lp"] = fixed - 0.9
    for claim in PAPER.claim:
        for name in names(claim):
            if name.startswith("exact/q_is_p"):
                numbers[name] = float(name.partition("eps=")[2]) ** 3
            elif name.startswith("exact/"):
                numbers[name] = 0.0
    return numbers


WORLD = world()


def record(numbers, profile="paper"):
    metrics = {
        name: [{"seed": s, "value": v, "se": error(name), "diverged": False} for s in range(3)]
        for name, v in numbers.items()
    }
    return {
        "id": "r", "notebook": PAPER.name, "profile": profile, "status": "ok", "settings": {},
        "finished": "2024-01-01", "metrics": metrics,
    }  # fmt: skip


def error(name):
    return None if name.startswith("exact/q_is_p") else 0.005


def judge(claim, metrics):
    paper = PAPER.model_copy(update={"claim": [claim]})
    return claims.judge(paper, [record({}, claim.most) | {"metrics": metrics}])[0]


def flips(claim, metrics, name):
    """Whether a number that is far too low, or far too high, changes the verdict."""
    wrong = (
        metrics | {name: [e | {"value": e["value"] + shift} for e in metrics[name]]}
        for shift in (-1e4, 1e4)
    )
    return any(judge(claim, changed)["verdict"] != REPRODUCED for changed in wrong)


@pytest.mark.parametrize("claim", PAPER.claim, ids=CLAIMS)
def test_one_wrong_number_flips_the_verdict(claim):
    right = record({name: WORLD[name] for name in names(claim)})["metrics"]
    assert judge(claim, right)["verdict"] == REPRODUCED
    counted = [cell for cell in claim.cells() if not claim.exception(cell)]
    assert flips(claim, right, claim.names(counted[-1])[-1])
    for cell in counted:
        alone = claim.model_copy(update={"grid": {k: [v] for k, v in cell.items()}})
        own = {name: right[name] for name in alone.names(cell)}
        assert all(flips(alone, own, name) for name in own), cell


@pytest.mark.parametrize("claim", PAPER.claim, ids=CLAIMS)
def test_everything_wrong_is_not_reproduced(claim):
    right = record({name: WORLD[name] for name in names(claim)})["metrics"]
    for first in {claim.names(cell)[0] for cell in claim.cells()}:
        up = claim.rule in ("at_most", "exact") or claim.offset is not None
        shift = 1e4 if up else -1e4
        right[first] = [e | {"value": e["value"] + shift} for e in right[first]]
    assert judge(claim, right)["verdict"] == NOT_REPRODUCED


@pytest.mark.parametrize("claim", PAPER.claim, ids=CLAIMS)
def test_a_diverged_seed_flips_the_verdict(claim):
    right = record({name: WORLD[name] for name in names(claim)})["metrics"]
    wrong = copy.deepcopy(right)
    cell = next(c for c in claim.cells() if not claim.exception(c))
    wrong[claim.names(cell)[0]][1] |= {"value": None, "diverged": True}
    assert judge(claim, wrong)["verdict"] != REPRODUCED


@pytest.mark.parametrize("claim", PAPER.claim, ids=CLAIMS)
def test_a_lower_profile_or_too_few_seeds_do_not_judge(claim):
    right = record({name: WORLD[name] for name in names(claim)})
    lower = facts.PROFILES[: facts.PROFILES.index(claim.profile)]
    for profile in lower:
        rows = claims.judge(
            PAPER.model_copy(update={"claim": [claim]}), [right | {"profile": profile}]
        )
        assert rows[0]["verdict"] == "not run"
    above = facts.PROFILES[facts.PROFILES.index(claim.most) + 1 :]
    for profile in above:
        rows = claims.judge(
            PAPER.model_copy(update={"claim": [claim]}), [right | {"profile": profile}]
        )
        assert rows[0]["verdict"] == "not run"
    few = {name: entries[: claim.seeds - 1] for name, entries in right["metrics"].items()}
    assert judge(claim, few)["verdict"] == "not run"

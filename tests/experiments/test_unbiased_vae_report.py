"""Tables, statements and figures show the numbers they are given, under the right names."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

from lmcnb.experiments import unbiased_vae_figures as figures
from lmcnb.experiments import unbiased_vae_record as record
from lmcnb.experiments import unbiased_vae_report as report
from lmcnb.lab import checkout

sys.path.append(str(Path(__file__).parent))
from entered import record_of

Made = dict[str, Any]
CUT = "last correction / gradient, capped rows"


def errors(mean: float, se: float) -> Made:
    return {"mean": mean, "se": se, "sd": 10 * se, "z": mean / se}


def gradient(estimator: str, **changed: Any) -> Made:
    """An estimator's result on PCA."""
    own = {
        "study": "reduced",
        "estimator": estimator,
        "seed": 3,
        "size": False,
        "beta": None,
        "intercept": errors(0.1, 0.2),
        "weight": errors(-0.3, 0.15),
        "max_z": 2.5 if estimator.startswith("C-") else 30.0,
        "relative": {"of_each": 0.7, "of_mean": 0.02},
        "joint_steps": 4.5,
        "capped": 0.01,
        "evaluations": 120.0,
        "replicates": 2000,
    }
    return own | changed


def trained(arm: str, seed: int = 3, value: float | None = -90.0, **changed: Any) -> Made:
    """A training's result, one run."""
    own = {
        "dataset": "teacher",
        "latent": 8,
        "arm": arm,
        "seeds": [seed],
        "updates": 100,
        "seconds": 10.0,
        "diverged_at": [None if value is not None else 7],
        "test": {"value": [value], "se": [0.1]},
    }
    return own | changed


def chains(**changed: float | None) -> Made:
    own = {"joint_steps": 9.0, "capped": 0.25, "effective": 0.4, "decodes": 300.0} | changed
    return {name: {"mean": [value]} for name, value in own.items()}


def met(kernel: str, rule: str, beta: float | None, **changed: Any) -> Made:
    """A meeting study of ten pairs: 4 met after one step, 3 after two, 2 after 31 to 35."""
    edges = [*range(1, 32), 37]
    counts = [4, 3] + [0] * 28 + [2, 0]
    own = {
        "dataset": "static_mnist",
        "latent": 20,
        "kernel": kernel,
        "rule": rule,
        "beta": beta,
        "seed": 3,
        "mean_beta": 0.875,
        "cap": 1000,
        "effective": 0.35,
        "mean": 107.2,
        "se": 5.0,
        "median": 2.0,
        "q90": 35.0,
        "q99": 900.0,
        "largest": 1000.0,
        "capped": 0.1,
        "n": 10,
        "counts": {"from": edges, "count": counts},
    }
    return own | changed


# ---- tables


def test_arms_in_words() -> None:
    assert report.shown("IWAE") == "IWAE"
    assert report.shown("IWAE+average") == "IWAE, then average, not coupled"
    assert report.shown("ELBO-K100") == "ELBO, K = 100"
    assert report.shown("IWAE+C-ISIR-index") == "IWAE, then C-ISIR, index rule (biased)"


def test_the_mean_over_seeds_counts_the_lost_ones() -> None:
    assert report.seed_mean([1.0]) == (1.0, None)
    mean, se = report.seed_mean([1.0, 2.0, 6.0])
    assert mean == 3.0
    assert se == pytest.approx(math.sqrt(7) / math.sqrt(3))  # variance (4 + 1 + 9) / 2
    assert report.seed_mean([1.0, None, 6.0]) == "1 of 3 seeds diverged"
    assert report.seed_mean([None]) == "1 of 1 seeds diverged"


def test_gradients_of_one_study_and_seed() -> None:
    given = [
        gradient("IWAE"),
        gradient("C-ISIR-DISIR beta=0.8", beta=0.8),
        gradient("IWAE", size=True),
        gradient("C-ISIR", seed=4),
        gradient("C-ISIR", study="digits"),
    ]
    iwae, coupled = report.ppca_table(given, "reduced")
    assert (iwae["estimator"], coupled["estimator"]) == ("IWAE", "C-ISIR-DISIR, β = 0.8")
    assert iwae["intercept: mean error"] == (0.1, 0.2)
    assert iwae["weight: mean error"] == (-0.3, 0.15)
    assert (iwae["sd"], iwae["all intercepts: largest |z|"]) == (2.0, 30.0)
    assert (iwae["relative error, each"], iwae["of the mean"]) == (0.7, 0.02)
    assert iwae["joint steps"] is None and iwae["capped (%)"] is None
    assert (coupled["joint steps"], coupled["capped (%)"], coupled["β"]) == (4.5, 1.0, 0.8)
    assert coupled["log weights an image"] == 120.0


def test_arms_are_gathered_over_seeds() -> None:
    given = [
        trained("IWAE", 3, -90.0),
        trained("IWAE", 4, -92.0, seconds=30.0),
        trained("IWAE+C-ISIR", 3, -89.0, updates=10, seconds=8.0, chains=chains()),
        trained("IWAE+C-ISIR", 4, None, updates=10, seconds=8.0, chains=chains(capped=0.35)),
        trained("IWAE+C-ISIR", 5, -1.0, updates=10, seconds=8.0, chains=chains(capped=0.3)),
        trained("IWAE", 3, -50.0, latent=9),
        trained("IWAE", 3, -1.0, dataset="static_mnist"),
    ]
    given[4]["diverged_at"] = [9]  # a bound of parameters that are lost
    iwae, coupled, wide = report.training_table(given, "teacher")
    assert (iwae["gradient"], iwae["D"], iwae["updates"], iwae["seeds"]) == ("IWAE", 8, 100, 2)
    assert iwae["test bound (nats)"] == (-91.0, pytest.approx(1.0))
    assert iwae["joint steps"] is None and iwae["capped (%)"] is None
    assert iwae["time of an update / IWAE"] == 1.0
    assert coupled["test bound (nats)"] == "2 of 3 seeds diverged"
    assert coupled["joint steps"] == 9.0
    assert coupled["capped (%)"] == pytest.approx(30.0)
    assert coupled["ESS / K"] == pytest.approx(0.4)
    assert coupled["decodes an image"] == 300.0
    assert coupled["time of an update / IWAE"] == pytest.approx(0.8 / 0.2)
    assert (wide["D"], wide["test bound (nats)"]) == (9, (-50.0, None))


def test_chains_of_a_lost_seed_are_left_out_of_the_means() -> None:
    """A seed whose model had diverged before has no chain statistics."""
    none = chains(joint_steps=None, capped=None, effective=None, decodes=None)
    for order in (1, -1):
        given = [trained("C-ISIR", 3, chains=chains()), trained("C-ISIR", 4, None, chains=none)]
        (row,) = report.training_table(given[::order], "teacher")
        assert (row["joint steps"], row["capped (%)"]) == (9.0, 25.0)
    (row,) = report.training_table([trained("C-ISIR", 4, None, chains=none)], "teacher")
    assert row["joint steps"] is None


def test_times_are_of_programs_with_as_many_runs() -> None:
    three = trained("IWAE", seeds=[3, 4, 5], diverged_at=[None] * 3)
    three["test"] = {"value": [-90.0] * 3, "se": [0.1] * 3}
    one, other = report.training_table([three, trained("C-ISIR", chains=chains())], "teacher")
    assert one["time of an update / IWAE"] == 1.0 and other["time of an update / IWAE"] is None


def test_an_arm_without_iwae_beside_it_has_no_ratio() -> None:
    (row,) = report.training_table([trained("average", chains=chains(capped=None))], "teacher")
    assert row["time of an update / IWAE"] is None
    assert row["capped (%)"] is None


def test_meetings() -> None:
    given = [met("C-ISIR", "strict", 0.0), met("C-ISIR-DISIR", "index", None, cap=50)]
    one, two = report.meeting_table(given)
    assert (one["kernel"], one["rule"], one["β"]) == ("C-ISIR", "strict", None)
    assert (two["rule"], two["β"]) == ("index", "adapted, 0.875")
    assert one["joint steps: mean"] == (107.2, 5.0)
    assert (one["median"], one["99 %"], one["largest"]) == (2.0, 900.0, 1000.0)
    assert one["capped at 1,000 (%)"] == two["capped at 50 (%)"] == 10.0
    assert report.meeting_table([met("C-ISIR-DISIR", "strict", 0.5)])[0]["β"] == 0.5


def test_the_paper_s_histograms() -> None:
    """The sheet's section 4.1, digitised: 0.38 percent of 10,000 at the cap."""
    composite = report.paper_meetings()[1]
    assert composite["joint steps: mean"] == 2.35 and composite["99 %"] == 8
    assert report.paper_meetings()[0]["median"] == 18 - 11 + 1  # whole states: one step later
    assert report.paper_meetings()[0]["capped at 1,000 (%)"] == pytest.approx(0.38)


# ---- recorded runs


def recorded(profile: str, metrics: dict[str, list[float | None]]) -> Made:
    """A record with a value a seed; None: diverged."""
    entries = {
        name: [
            {"seed": s, "value": v, "se": None, "diverged": v is None} for s, v in enumerate(values)
        ]
        for name, values in metrics.items()
    }
    return record_of("unbiased_vae", profile, entries)


def test_recorded_meetings_are_of_their_profile() -> None:
    name = "meeting/static_mnist/D=20/C-ISIR-DISIR/beta=adapted/index"
    numbers = {"mean": 2.5, "median": 2.0, "q99": 10.0, "capped": 0.25, "effective": 0.3}
    metrics: Any = {f"{name}/{k}": [v] for k, v in numbers.items()}
    order = ["C-ISIR-DISIR/beta=0.5/index", "C-ISIR-DISIR/beta=0.5/strict", "C-ISIR/strict"]
    more = {f"meeting/static_mnist/D=20/{n}/{k}": [v] for n in order for k, v in numbers.items()}
    rows = report.recorded_meetings([recorded("paper", more)], "paper")  # type: ignore[arg-type]
    assert [r["kernel"].split()[0] + "/" + r["rule"] for r in rows] == [
        "C-ISIR/strict",
        "C-ISIR-DISIR/strict",
        "C-ISIR-DISIR/index",
    ]
    records = [recorded("paper", metrics)]
    (row,) = report.recorded_meetings(records, "paper")
    assert row["paper profile"] == "static_mnist, D=20"
    assert (row["kernel"], row["rule"]) == ("C-ISIR-DISIR β = adapted", "index")
    assert row["joint steps: mean"][0] == 2.5
    assert (row["median"], row["99 %"], row["capped (%)"], row["ESS / K"]) == (2.0, 10.0, 25.0, 0.3)
    assert report.recorded_meetings(records, "laptop") == [
        {"laptop profile": "no record of this profile yet"}
    ]


def test_recorded_trainings() -> None:
    title = "static_mnist/D=20/IWAE+C-ISIR"
    metrics: dict[str, list[float | None]] = {
        f"ll/{title}": [-90.0, -91.0, -92.0],
        f"ais_gap/{title}": [1.0],
        f"ais_gain/{title}:IWAE+IWAE": [1.0, 1.5, 1.0],
        f"ais_gain/{title}:IWAE": [9.0, 9.0, 9.0],
        "ais_gain/static_mnist/D=20/IWAE:IWAE+IWAE": [9.0],
        "ll/static_mnist/D=20/IWAE+IWAE": [-90.0, -90.0, -90.0],
        f"gain/{title}:IWAE+IWAE": [0.0, 0.5, 1.0],
        f"gain/{title}:IWAE": [7.0, 7.0, 7.0],
        "gain/static_mnist/D=20/IWAE:IWAE+IWAE": [7.0],
        f"chains/{title}/joint_steps": [9.0, 9.0, 9.0],
        f"chains/{title}/capped": [0.07, 0.07, 0.07],
        f"chains/{title}/cut": [0.125],
        "ll/static_mnist/D=20/IWAE": [-90.0, None, None],
        "ll/teacher/D=8/IWAE": [-30.0],
    }
    records = [recorded("paper", metrics)]
    for entry in records[0]["metrics"][f"ll/{title}"]:
        entry["se"] = 0.25  # of the images, which all seeds share
    own, base, lost = report.recorded_table(records, "static_mnist", "paper")
    gains = [r["the same gain, by AIS, some images (nats)"] for r in (own, base, lost)]
    assert gains == ["1.17 ± 0.17", None, None]
    assert own["static_mnist, paper profile"] == "IWAE, then C-ISIR"
    assert (own["D"], own["seeds"]) == (20, 3)
    assert own["test bound (nats)"] == "-91.00 ± 0.58"
    assert own["AIS less the bound, same images (nats)"] == "1.00"
    assert (own["paper (nats, by AIS)"], lost["paper (nats, by AIS)"]) == (None, "-88.06")
    assert own["decodes an image"] is None
    assert own["joint steps"] == "9.0 ± 0.0"
    assert (own["share capped"], own[CUT]) == ("0.070 ± 0.000", "0.125")
    assert own["paired gain over IWAE, then IWAE (nats)"] == "0.50 ± 0.29"
    assert lost["paired gain over IWAE, then IWAE (nats)"] is None
    assert lost["test bound (nats)"] == "-90.00 (2 of 3 diverged)"
    assert report.recorded_table(records, "static_mnist", "laptop") == [
        {"static_mnist, laptop profile": "no record of this profile yet"}
    ]


def test_the_exact_part_of_a_record() -> None:
    metrics: dict[str, list[float | None]] = {
        "exact/unbiased/C-ISIR": [1.5],
        "exact/biased/IWAE": [30.0],
        "exact/rms_bias/C-ISIR": [0.01],
        "exact/rms_bias/IWAE": [0.5],
    }
    records = [recorded("laptop", metrics)]
    found = report.recorded_exact(records, "laptop")
    assert [tuple(r.values()) for r in found] == [
        ("C-ISIR", "yes", 1.5, 0.01),
        ("IWAE", "no", 30.0, 0.5),
    ]
    assert report.recorded_exact(records, "paper") == [
        {"paper profile": "no record of this profile yet"}
    ]


# ---- statements


def row(right: bool) -> Made:
    return {"right": right, "estimator": "IWAE", "test": "passes", "largest |z|": 2.0}


GOOD: Made = {
    "answers": [{"holds": True}],
    "table": [{"right": True}],
    "results": [trained("IWAE")],
    "ppca": [gradient("ELBO"), gradient("IWAE"), gradient("C-ISIR"), gradient("C-ISIR-DISIR")],
}
BAD: dict[str, Made] = {
    "all exact answers hold": {
        "answers": [{"holds": True, "check": "a"}, {"holds": False, "check": "b"}]
    },
    "the test tells every biased estimator": {"table": [row(False), row(True)]},
    "PPCA: IWAE and ELBO are rejected": {
        "ppca": [gradient("ELBO"), gradient("IWAE", max_z=4.9), gradient("C-ISIR")]
    },
    "PPCA: coupled chains have no bias": {
        "ppca": [gradient("IWAE"), gradient("C-ISIR", weight=errors(-0.9, 0.2))]
    },
}


BROKEN = dict(
    zip(
        BAD,
        (
            "b",
            "IWAE passes with |z| = 2.0",
            "IWAE with |z| = 4.9, not 5, at 2,000 replicates",
            "C-ISIR with |z| = 4.5 of one weight",
        ),
        strict=True,
    )
)


@pytest.mark.parametrize("words", [None, *BAD])
def test_a_statement_fails_alone(words: str | None) -> None:
    *lines, lost = report.sanity(**GOOD | (BAD[words] if words else {}))
    failed = [line for line in lines if ": NO: " in line]
    assert failed == [line for line in lines if words and line.startswith(words)]
    assert all(line.split(": NO: ")[1] == BROKEN[str(words)] for line in failed)
    assert sum(line.endswith(": yes") for line in lines) == len(BAD) - (words is not None)
    assert lost == "diverged runs: 0"


def test_diverged_runs_are_counted() -> None:
    results = [trained("IWAE"), trained("IWAE+C-ISIR", 3, None), trained("IWAE+C-ISIR", 4, None)]
    assert report.sanity(**GOOD | {"results": results})[-1] == "diverged runs: 2"


def test_a_size_or_an_average_is_no_coupled_chain() -> None:
    """IWAE with one sample needs no |z| of 10 at few replicates, nor is the average unbiased."""
    more = [gradient("IWAE", size=True, max_z=1.0), gradient("average", weight=errors(9.0, 0.1))]
    assert not any("NO" in line for line in report.sanity(**GOOD | {"ppca": GOOD["ppca"] + more}))


# ---- figures


@pytest.fixture(autouse=True)
def closed() -> Any:
    yield
    plt.close("all")


def test_survival_is_the_share_that_takes_longer() -> None:
    given = [
        met("C-ISIR", "strict", 0.0),
        met("C-ISIR-DISIR", "strict", None),
        met("C-ISIR-DISIR", "index", None),
        met("C-ISIR-DISIR", "index", 0.5),  # of the grid: not drawn
        met("C-ISIR", "strict", 0.0, latent=100, n=1_000),
    ]
    fig, arrays = figures.survival(given, 20)
    names = {"C-ISIR/strict", "C-ISIR-DISIR/strict", "C-ISIR-DISIR/index"}
    assert set(arrays) == {f"{n}/{k}" for n in names for k in ("n", "share")}
    share = dict(zip(arrays["C-ISIR/strict/n"], arrays["C-ISIR/strict/share"], strict=True))
    assert share[1] == pytest.approx(0.6) and share[2] == pytest.approx(0.3)
    assert share[30] == pytest.approx(0.3) and share[36] == pytest.approx(0.1)  # the capped one
    drawn = {line.get_label(): line for line in fig.axes[0].lines}
    assert set(drawn) == {
        "C-ISIR, strict rule",
        "C-ISIR-DISIR, β adapted, strict rule",
        "C-ISIR-DISIR, β adapted, index rule",
        "paper's C-ISIR: median, 99 %",
        "paper's C-ISIR-DISIR: median, 99 %",
    }
    line = drawn["C-ISIR, strict rule"]
    np.testing.assert_allclose(line.get_ydata(), arrays["C-ISIR/strict/share"])
    stars = drawn["paper's C-ISIR: median, 99 %"]
    assert list(stars.get_xdata()) == [8, 432] and list(stars.get_ydata()) == [0.5, 0.01]


def test_nothing_beyond_the_cap_is_drawn_and_the_paper_s_stars_are_of_its_data() -> None:
    fig, _ = figures.survival([met("C-ISIR", "strict", 0.0, cap=20, dataset="teacher")], 20)
    (line,) = fig.axes[0].lines
    assert max(line.get_xdata()) == 19


def test_the_grid_of_beta() -> None:
    given = [met("C-ISIR", "strict", 0.0, mean=7.0)]
    for rule in ("strict", "index"):
        given += [
            met("C-ISIR-DISIR", rule, beta, mean=100 * beta, effective=beta / 2)
            for beta in (0.9, 0.5)
        ]
        given.append(met("C-ISIR-DISIR", rule, None, mean=1.0))
        given.append(met("C-ISIR-DISIR", rule, 0.7, mean=1.0, latent=100))
    fig, arrays = figures.by_beta(given, 20)
    for rule in ("strict", "index"):
        assert list(arrays[f"{rule}/beta"]) == [0.5, 0.9]
        assert list(arrays[f"{rule}/mean"]) == [50.0, 90.0]
        assert list(arrays[f"{rule}/se"]) == [5.0, 5.0]
    assert list(arrays["effective"]) == [0.25, 0.45]
    assert arrays["C-ISIR"] == 7.0
    left, right = fig.axes
    labels = [t.get_text() for t in left.get_legend().get_texts()]
    assert sorted(labels) == ["C-ISIR", "C-ISIR-DISIR, index rule", "C-ISIR-DISIR, strict rule"]
    assert any(list(line.get_ydata()) == [0.3, 0.3] for line in right.lines)  # the target


def test_gains_are_points_of_seeds() -> None:
    def pair(arm: str, seed: int, gap: float | None, base: str = "IWAE+IWAE") -> record.Pair:
        return (("teacher", 8, arm, base, seed), gap, None if gap is None else 0.1, 50)

    given = [
        pair("IWAE+C-ISIR", 3, 0.5),
        pair("IWAE+C-ISIR", 4, None),
        pair("IWAE+average", 3, -0.2),
        pair("IWAE+average", 3, 9.0, base="IWAE"),
        (("static_mnist", 20, "IWAE+average", "IWAE+IWAE", 3), 9.0, 0.1, 50),
    ]
    fig, arrays = figures.gains(given, "teacher", "IWAE+IWAE")
    assert set(arrays) == {"IWAE+C-ISIR", "IWAE+average"}
    assert arrays["IWAE+C-ISIR"].tolist() == [[0.5, 0.1]]
    assert arrays["IWAE+average"].tolist() == [[-0.2, 0.1]]
    ax = fig.axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == [
        "IWAE, then C-ISIR (1 of 2 diverged)",
        "IWAE, then average, not coupled",
    ]
    assert "test bound less that of \u201cIWAE, then IWAE" in ax.get_xlabel()
    by_ais = [
        pair("IWAE+C-ISIR", 3, -0.5),
        pair("IWAE+C-ISIR", 4, None),
        pair("IWAE+average", 3, 9.0, base="IWAE"),
    ]
    fig, arrays = figures.gains(given, "teacher", "IWAE+IWAE", by_ais)
    assert arrays["IWAE+C-ISIR"].tolist() == [[0.5, 0.1]]
    assert arrays["IWAE+C-ISIR, AIS"].tolist() == [[-0.5, 0.1]]
    assert set(arrays) == {"IWAE+C-ISIR", "IWAE+average", "IWAE+C-ISIR, AIS"}
    words = [t.get_text() for t in fig.axes[0].get_legend().get_texts()]
    assert words == ["test bound, 50 images", "AIS, 50 images"]
    assert "log likelihood less" in fig.axes[0].get_xlabel()


def test_kernels_keep_their_colours_and_the_index_rule_is_told_apart() -> None:
    strict, index = figures.look("IWAE+C-ISIR-DISIR"), figures.look("C-ISIR-DISIR-index")
    assert strict.color == figures.KERNELS["C-ISIR-DISIR"]
    assert figures.look("C-ISIR").color == figures.KERNELS["C-ISIR"]
    assert (index.color, index.line) != (strict.color, strict.line)
    assert index.marker == strict.marker


def test_the_recorded_tables_are_those_of_the_records() -> None:
    """On the project's own records: a name that changed in one place leaves a table empty."""
    folder = checkout.root() / "results" / "unbiased_vae"
    records = [json.loads(p.read_text()) for p in folder.glob("paper-*.json")]
    rows = report.recorded_meetings(records, "paper")
    assert {(r["kernel"].split(" ")[0], r["rule"]) for r in rows} == {
        ("C-ISIR", "strict"),
        ("C-ISIR-DISIR", "strict"),
        ("C-ISIR-DISIR", "index"),
    }
    table = report.recorded_table(records, "static_mnist", "paper")
    (iwae,) = [r for r in table if r["static_mnist, paper profile"] == "IWAE"]
    assert iwae["seeds"] == 3 and iwae["test bound (nats)"].startswith("-89.")

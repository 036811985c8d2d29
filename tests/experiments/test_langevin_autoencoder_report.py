"""Every number stands under its name: records, tables, statements that can fail."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lmcnb.experiments import langevin_autoencoder_checks as checks
from lmcnb.experiments import langevin_autoencoder_record as record
from lmcnb.experiments import langevin_autoencoder_report as report

sys.path.append(str(Path(__file__).parent))
from entered import Entered, record_of


class FakeRun(Entered):
    """Keeps what is entered."""

    def __init__(self, products: str = "float32") -> None:
        images = SimpleNamespace(batch=100, products=products)
        super().__init__(settings=SimpleNamespace(images=images))


def bound(value: float, n: int = 10_000) -> dict[str, Any]:
    return {"value": value, "se": value / 1000, "n": n}


def seed_of(**changed: Any) -> dict[str, Any]:
    """A seed of an LAE whose every number is another one."""
    points = [(0, 2.2, 50.0, 90.0, 0.5), (10, 1.3, 40.0, 80.0, 1.5), (20, 1.2, 30.0, 70.0, 2.5)]
    curve = [
        {"step": step, "seconds": step / 2, "nelbo": nelbo, "smallest": small, "largest": large,
         "rank": 100, "stability": stability, "step_size": 1e-6}
        for step, nelbo, small, large, stability in points
    ]  # fmt: skip
    own = {
        "seed": 7,
        "diverged_at": None,
        "nelbo": bound(1.21),
        "by_width": {"0.05": bound(1.21), "0.1": bound(1.22)},
        "weighted": bound(1.12, 2000),
        "weighted_by_width": {"0.05": bound(1.13, 2000), "0.1": bound(1.12, 2000)},
        "weighted_width": 0.1,
        "scale": 0.4,
        "seconds": 10.0,
        "curve": curve,
        "acceptance": {"every": 1, "mean": [0.9] * 10 + [0.5] * 8 + [0.3] * 2},
        "loss": {"every": 1, "mean": [1.0]},
        "pictures": None,
    }
    return own | changed


def result(arm: str = "LAE", **changed: Any) -> dict[str, Any]:
    own = seed_of(**changed)
    return {"dataset": "mnist", "arm": arm, "seeds": [own], "iterations": 20, "decoder_calls": 5}


def test_every_number_of_a_seed_enters_under_its_name() -> None:
    run = FakeRun()
    record.images(run, [result()])
    known = {
        "nelbo/mnist/LAE": 1.21,
        "nelbo/mnist/LAE/width=0.1": 1.22,
        "iw/mnist/LAE": 1.12,
        "iw/mnist/LAE/width=0.05": 1.13,
        "iw_width/mnist/LAE": 0.1,
        "scale/mnist/LAE": 0.4,
        "acceptance/mnist/LAE": 0.3,
        "acceptance/mnist/LAE/dead_share": 0.0,
        "gram/mnist/LAE/smallest": 30.0,
        "gram/mnist/LAE/largest": 70.0,
        "stability/mnist/LAE": 2.5,
    }
    found = {name: run.metrics[name, 7]["value"] for name in known}
    assert found == pytest.approx(known)
    assert run.metrics["iw/mnist/LAE", 7]["n"] == 2000
    assert run.metrics["nelbo/mnist/LAE", 7]["se"] == 1.21 / 1000
    assert run.counters == {"decoder calls": 5}


def test_the_sweep_enters_under_its_names() -> None:
    names = ["ratio_error", "covariance_error", "law_error", "posterior_error", "outside"]
    own = {name: float(i) for i, name in enumerate(names)}
    own |= {"width": 3, "trace_ratio": [0.5, 0.9, 0.7], "acceptance": 0.6, "smallest": 1.5,
            "largest": 8.5}  # fmt: skip
    run = FakeRun()
    record.conjugate(run, 7, [own])
    entered = {
        name.removeprefix("conjugate/d=3/"): v["value"] for (name, _), v in run.metrics.items()
    }
    assert entered == {
        **{name: float(i) for i, name in enumerate(names)},
        "smallest_ratio": 0.5,
        "largest_ratio": 0.9,
        "acceptance": 0.6,
        "smallest_eigenvalue": 1.5,
        "largest_eigenvalue": 8.5,
    }


def test_the_spread_over_seeds_is_a_standard_error() -> None:
    mean, error = report.seed_mean([1.0, 2.0, 3.0])
    assert (mean, error) == (2.0, pytest.approx(1 / math.sqrt(3)))
    assert report.seed_mean([1.5]) == (1.5, None)
    assert report.seed_mean([1.0, None]) == "1 of 2 seeds diverged"


def test_the_table_of_a_run() -> None:
    fitted = [
        {"dataset": "mnist", "arm": "LAE", "seeds": [{"seed": 7, "refined": bound(1.1, 500)}]}
    ]
    vae = result("VAE", acceptance=None, seconds=4.0)
    rows = report.images_table([result(), vae], fitted)
    assert rows[0] == {
        "data": "mnist",
        "model": "LAE, T = 2",
        "-ELBO (nats/dim)": (1.21, None),
        "importance-weighted (2,000 images)": (1.12, None),
        "posteriors fitted (500 images)": (1.1, None),
        "acceptance, start": 0.9,
        "end": 0.3,
        "time of a step / VAE": 2.5,
        "seeds": 1,
    }
    assert rows[1]["acceptance, start"] is None
    assert rows[1]["posteriors fitted (500 images)"] is None


def test_the_table_of_the_records_keeps_profiles_apart() -> None:
    def kept(profile: str, value: float) -> dict[str, Any]:
        def entries(v: float, n: int) -> list[dict[str, Any]]:
            return [
                {
                    "seed": s,
                    "value": v + d,
                    "se": 1e-5,
                    "n": n,
                    "diverged": False,
                    "unit": "nats/dim",
                }
                for s, d in enumerate((-0.01, 0.0, 0.01))
            ]

        metrics = {
            "nelbo/mnist/LAE": entries(value, 10_000),
            "nelbo/mnist/LAE/width=0.1": entries(9.0, 10_000),
            "refined/mnist/LAE": entries(value - 0.1, 500),
        }
        return record_of("langevin_autoencoder", profile, metrics)

    records = [kept("laptop", 1.3), kept("paper", 1.2)]
    for profile, value in (("laptop", 1.3), ("paper", 1.2)):
        rows = report.results_table(records, "mnist", profile)
        row = next(r for r in rows if r[f"mnist, {profile} profile"] == "LAE, T = 2")
        assert row["paper"] == "1.177 (sd 0.001)"
        assert row["-ELBO (10,000 images)"] == f"{value:.4f} ± 0.0058"
        assert row["fitted (500 images)"] == f"{value - 0.1:.4f} ± 0.0058"
        assert row["seeds"] == 3


def test_parity_is_paired_and_only_where_products_differ() -> None:
    exact = result("LAE-float32", nelbo=bound(1.2105))
    run = FakeRun("bfloat16")
    record.images(run, [result(), exact])
    assert run.metrics["parity/mnist/LAE", 7]["value"] == pytest.approx(-0.0005)
    other = result("LAE-float32", seed=8)
    for products, results in (("float32", [result(), exact]), ("bfloat16", [result(), other])):
        run = FakeRun(products)
        record.images(run, results)
        assert not [name for name, _ in run.metrics if name.startswith("parity")]


def test_what_is_said_of_a_dead_chain() -> None:
    dead = {"every": 1, "mean": [0.9] * 5 + [0.0] * 15}
    (line,) = record.chain_notes(FakeRun(), [result(acceptance=dead)])
    assert "from step 5 on" in line
    assert "is 2.5, above 2, and K's largest eigenvalue is 70" in line
    calm = seed_of(acceptance=dead)
    calm["curve"][-1] |= {"stability": 0.7}
    (line,) = record.chain_notes(FakeRun(), [result() | {"seeds": [calm]}])
    assert "is 0.7, and" in line
    calm["curve"][-1] |= {"stability": None, "largest": None}
    (line,) = record.chain_notes(FakeRun(), [result() | {"seeds": [calm]}])
    assert "not a number" in line


GOOD = {"smallest": 5.0, "rank": 3, "ratio_error": 0.01, "law_error": 0.01, "outside": 1e-14}


@pytest.mark.parametrize(
    ("line", "sweep", "images"),
    [
        (0, {"ratio_error": 0.5}, {}),
        (0, {"law_error": 0.5}, {}),
        (1, {"outside": 1e-3}, {}),
        (2, {}, {"weighted": bound(1.3)}),
        (3, {}, {"curve": [{"nelbo": 1.0}, {"nelbo": 2.0}]}),
        (4, {}, {"nelbo": None}),
    ],
)
def test_every_statement_can_fail(line: int, sweep: dict, images: dict) -> None:
    good = report.sanity([GOOD], [result(weighted=bound(1.12))])
    assert [text.rsplit(" ", 1)[1] for text in good] == ["yes"] * 4 + ["0"]
    bad = report.sanity([GOOD | sweep], [result(**{"weighted": bound(1.12), **images})])
    assert [i for i, (a, b) in enumerate(zip(good, bad, strict=True)) if a != b] == [line]
    assert bad[line].endswith(("NO", "1"))


@pytest.mark.parametrize("wrong", [1.0, math.nan])
def test_a_check_that_fails_says_so(wrong: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.models, "flow_error", lambda stream: wrong)
    monkeypatch.setattr(checks.models, "scale_errors", lambda: (wrong, 0.0))
    for name in ("stationary", "unadjusted_bias", "detailed_balance", "fisher_identity"):
        found = {
            "stationary": SimpleNamespace(mean=0.0, covariance=0.0),
            "unadjusted_bias": {"x": 0.0},
            "detailed_balance": 0.0,
            "fisher_identity": (0.0, 0.0),
        }[name]
        monkeypatch.setattr(checks.exact, name, lambda *a, found=found: found)
    run = FakeRun()
    run.seeds, run.settings.exact = [0], SimpleNamespace(draws=1000)
    rows = checks.exact_answers(run)
    failed = [row["check"] for row in rows if not row["holds"]]
    assert failed == [
        "prior of the scale; 1.2011 at the start",
        "log-determinant of planar flows, by autograd",
    ]
    assert torch.tensor([row["worst"] for row in rows]).isfinite().all() == (wrong == 1.0)

"""The record and the tables of MCMC teaching hold the numbers they are given, under their names."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest

from lmcnb.experiments import mcmc_teaching_record as record
from lmcnb.experiments import mcmc_teaching_report as report

sys.path.append(str(Path(__file__).parent))
import made_teaching as made
from entered import Entered, record_of

Made = dict[str, Any]


def entered(*results: Made) -> Entered:
    run = Entered()
    record.enter(run, results)
    return run


def values(run: Entered, title: str, seed: int = 3) -> dict[str, Any]:
    """Values by what they are, of one cell."""
    return {
        name.removeprefix(f"{title}/"): entry["value"]
        for (name, s), entry in run.metrics.items()
        if s == seed and name.startswith(f"{title}/")
    }


# ---- the record


def test_every_metric_of_a_cell_in_the_plane() -> None:
    run = entered(made.plane("variational"))
    assert values(run, "plane/eight_gaussians/variational") == {
        "seconds": 90.0,
        "initial/mmd": 0.03,
        "initial/tv": 0.61,
        "initial/within": 0.42,
        "initial/modes": 6,
        "mmd": 0.01,
        "tv": 0.31,
        "within": 0.82,
        "modes": 8,
        "kl": 0.4,
        "density_tv": 0.23,
        "gap": 0.75,  # the last quarter of eight
        "gain/mmd": pytest.approx(0.02),
        "long/mmd": 0.05,  # after 500 steps
        "long/within": 0.6,
        "long/modes": 7,
        "fall": pytest.approx(0.04 / 0.5),
    }
    title = "plane/eight_gaussians/variational"
    assert run.metrics[f"{title}/mmd", 3] == {
        "value": 0.01, "unit": "1", "se": 0.001, "n": 4000
    }  # fmt: skip
    assert run.metrics[f"{title}/initial/mmd", 3]["se"] == pytest.approx(0.003)
    assert run.metrics[f"{title}/tv", 3]["n"] == 4000
    units = {n.removeprefix(f"{title}/"): e["unit"] for (n, _), e in run.metrics.items()}
    assert {k for k, v in units.items() if v == "nats"} == {"kl", "gap"}
    assert {k for k, v in units.items() if v == "s"} == {"seconds"}
    assert run.counters == {"gradients of the energy": 1000, "updates of a generator": 60}


def test_models_without_energy_or_start_have_fewer() -> None:
    run = entered(made.vae(), made.persistent(seed=4))
    own = values(run, "plane/eight_gaussians/VAE")
    assert not {"kl", "density_tv", "gap", "fall", "long/mmd"} & set(own)
    assert own["gain/mmd"] == pytest.approx(0.04)
    chains = values(run, "plane/eight_gaussians/persistent", 4)
    assert not any(name.startswith(("initial", "gain")) for name in chains)
    assert chains["kl"] == pytest.approx(0.2)
    assert chains["fall"] == pytest.approx(0.02 / 0.5)
    assert run.counters == {"gradients of the energy": 1000, "updates of a generator": 60}


def test_every_metric_of_digits() -> None:
    run = entered(made.digits("variational"))
    title = "digits/none/variational"
    assert values(run, title) == {
        "seconds": 90.0,
        "initial/fcd": 14.0,  # means over classifiers
        "fcd": 10.0,
        "gain/fcd": 4.0,
        "entropy": 2.25,
        "steps=0/fcd": 11.0,
        "steps=20/fcd": 12.0,
        "steps=200/fcd": 13.0,
        "long/fcd": 13.0,
        "gap": 0.75,
        "mse/decoded": 0.05,
        "mse/revised": 0.04,
        "jump/straight": 1 / 16,
        "jump/decoded": 0.15,
        "jump/revised": 0.17,
    }
    own = run.metrics[f"{title}/fcd", 3]
    assert (own["n"], own["split"], own["unit"]) == (2000, "train", "1")
    assert own["estimator"] == "features of classifiers"
    mse = run.metrics[f"{title}/mse/decoded", 3]
    assert (mse["se"], mse["n"], mse["split"]) == (0.0005, 297, "test")
    assert run.metrics[f"{title}/gap", 3]["unit"] == "nats"


def test_a_generator_alone_is_judged_by_its_own_samples() -> None:
    r = made.without(made.digits("VAE"), "by_steps")
    r["frechet"] = made.without(r["frechet"], "revised")
    own = values(entered(r), "digits/none/VAE")
    assert own["fcd"] == own["initial/fcd"] == 14.0
    assert not {"gain/fcd", "gap", "long/fcd"} & set(own)
    chains = made.digits("persistent")
    chains["frechet"] = made.without(chains["frechet"], "initial")
    own = values(entered(chains), "digits/none/persistent")
    assert own["fcd"] == 10.0
    assert not {"initial/fcd", "gain/fcd"} & set(own)


def test_the_right_class_is_entered_where_there_is_one() -> None:
    r = made.without(made.digits("variational", data="label"), "by_steps")
    r["classes"] = {"shares": [], "entropy": 2.0, "accuracy": 0.75}
    run = entered(r)
    assert run.metrics["digits/label/variational/accuracy", 3] == {
        "value": 0.75, "unit": "1", "n": 2000
    }  # fmt: skip


def test_completions_are_entered_by_the_last_samples_and_by_the_start_s() -> None:
    run = entered(
        made.completed("variational"), made.completed("VAE"), made.completed("regression")
    )
    assert values(run, "digits/half/variational") == {
        "seconds": 90.0,
        "initial/psnr/one": 15.0,
        "initial/psnr/mean": 17.0,
        "psnr/one": 16.5,
        "psnr/mean": 18.5,
    }
    vae = values(run, "digits/half/VAE")
    assert vae["psnr/one"] == vae["initial/psnr/one"] == 15.0
    assert values(run, "digits/half/regression") == {"psnr/mean": 15.0, "initial/psnr/mean": 15.0}
    own = run.metrics["digits/half/variational/psnr/mean", 3]
    assert (own["unit"], own["se"], own["n"], own["split"]) == ("dB", 0.185, 297, "test")


def test_decibels_of_the_start() -> None:
    run = entered(made.completed("variational"))
    assert run.metrics["digits/half/variational/initial/psnr/one", 3]["unit"] == "dB"


def test_floors_and_ceilings_are_entered_once_for_every_set_and_seed() -> None:
    """`Entered` refuses a name twice."""
    arms = ("variational", "fast")
    run = entered(
        *[made.plane(arm, seed) for arm in arms for seed in (3, 4)],
        made.plane("variational", data="pinwheel"),
        *[made.digits(arm, seed) for arm in arms for seed in (3, 4)],
    )
    for data, seeds in (("eight_gaussians", {3, 4}), ("pinwheel", {3})):
        for what, value in (("mmd", 1e-4), ("tv", 0.09)):
            found = {s: e for (n, s), e in run.metrics.items() if n == f"plane/{data}/floor/{what}"}
            assert set(found) == seeds
            assert {e["value"] for e in found.values()} == {value}
            assert {e["unit"] for e in found.values()} == {"1"}
    assert run.metrics["plane/pinwheel/floor/mmd", 3]["se"] == 2e-4
    for seed in (3, 4):
        own = {k: run.metrics[f"digits/none/{k}", seed]["value"]
               for k in ("floor/fcd", "ceiling/fcd", "accuracy")}  # fmt: skip
        assert own == {"floor/fcd": 1.5, "ceiling/fcd": 550.0, "accuracy": pytest.approx(0.96)}


def test_a_diverged_cell_has_its_siblings_metrics_as_diverged() -> None:
    run = entered(
        made.plane("fast"), made.lost(made.plane("fast", 4)), made.persistent(), made.vae(4)
    )
    title = "plane/eight_gaussians/fast"
    names = {seed: set(values(run, title, seed)) - {"seconds"} for seed in (3, 4)}
    assert names[3] == names[4] >= {"mmd", "kl", "initial/mmd", "long/mmd", "fall"}
    for name in names[4]:
        own = run.metrics[f"{title}/{name}", 4]
        assert (own["value"], own["diverged"]) == (None, True)
        assert own["note"] == "diverged at iteration 7"
        assert own["unit"] == run.metrics[f"{title}/{name}", 3]["unit"]
    assert ("plane/eight_gaussians/floor/mmd", 4) in run.metrics  # by the VAE
    assert run.counters["gradients of the energy"] == 3000


KINDS: list[Made] = [
    made.plane("variational"), made.persistent(), made.vae(), made.digits("variational"),
    made.without(made.digits("fast"), "mse"), made.completed("variational"),
    made.completed("VAE"),
]  # fmt: skip


@pytest.mark.parametrize("result", KINDS, ids=lambda r: r["title"])
def test_a_diverged_cell_enters_what_it_would_have_had(result: Made) -> None:
    """Alone, too: then no sibling tells the names, and every claim on them must fail."""
    title = result["title"]
    if result["arm"] == "fast":
        result = result | {"jump": {"straight": 1 / 16, "decoded": 0.15, "revised": 0.17}}
    own, lost = (values(entered(r), title) for r in (result, made.lost(result, 12_345)))
    by_number = {name for name in own if name.startswith("steps=")}
    assert set(lost) == set(own) - by_number - {"seconds"}
    assert set(lost.values()) == {None}
    note = {e["note"] for e in entered(made.lost(result, 12_345)).metrics.values()}
    assert note == {"diverged at iteration 12,345"}


def test_where_every_seed_of_a_completion_diverged() -> None:
    run = entered(made.lost(made.completed("fast")))
    assert any("psnr" in name for name, _ in run.metrics)
    assert not any("fcd" in name for name, _ in run.metrics)


def test_means_of_what_is_not_all_there() -> None:
    assert record.late([5.0, None, 1.0, 3.0]) == 3.0
    assert record.late([5.0, 4.0, 9.0, 8.0, 1.0, 2.0, None, 4.0]) == 4.0
    assert record.late([7.0, None]) is None
    assert record.late([7.0]) == 7.0
    assert record.mean_of([1.0, 2.0]) == 1.5
    assert record.mean_of([1.0, None]) is None


def test_samples_that_are_no_numbers_can_be_entered() -> None:
    """The run did not diverge: its gap is fine, some of its samples are not."""
    nothing = made.samples(0.01) | dict.fromkeys(("mmd", "mmd_se", "tv", "within", "modes"))
    run = entered(made.plane("fast", revised=nothing))
    assert run.metrics["plane/eight_gaussians/fast/mmd", 3]["value"] is None
    assert run.metrics["plane/eight_gaussians/fast/gain/mmd", 3]["value"] is None


def test_a_look_that_was_no_number_can_be_entered() -> None:
    curve = [made.look(0, 0.5), made.look(30, 0.1) | {"mmd/revised": None}]
    run = entered(made.plane("fast", curve=curve))
    assert run.metrics["plane/eight_gaussians/fast/fall", 3]["value"] is None


# ---- tables


def test_over_seeds() -> None:
    assert report.over_seeds([1.0]) == (1.0, None)
    mean, se = report.over_seeds([1.0, 2.0, 6.0])
    assert mean == 3.0
    assert se == pytest.approx(math.sqrt(7) / math.sqrt(3))
    assert report.over_seeds([1.0, None, 6.0]) == "1 of 3 seeds diverged"
    assert report.over_seeds([None, None]) == "2 of 2 seeds diverged"


def test_a_table_of_the_plane() -> None:
    given = [
        made.plane("variational", 3, 0.01),
        made.plane("variational", 4, 0.03, seconds=30.0),
        made.persistent(),
        made.vae(),
        made.plane("variational", 3, 9.0, data="pinwheel"),
    ]
    ours, chains, vae = report.table(given, "eight_gaussians", report.PLANE)
    assert list(ours) == ["method", *report.PLANE.values(), "minutes", "seeds"]
    assert (ours["method"], ours["seeds"], ours["minutes"]) == ("variational", 2, 1.0)
    assert ours["MMD² × 1e3"] == (pytest.approx(20.0), pytest.approx(10.0))
    assert ours["of the start"][0] == pytest.approx(60.0)
    assert ours["MMD² × 1e3, long chains"][0] == pytest.approx(100.0)
    assert ours["KL(data, EBM)"] == (pytest.approx(0.8), pytest.approx(0.4))
    assert ours["TV, histogram"] == (0.31, pytest.approx(0))
    assert (chains["of the start"], chains["MMD² × 1e3"]) == (None, (5.0, None))
    assert (vae["KL(data, EBM)"], vae["TV of the EBM"]) == (None, None)
    assert vae["within the modes"] == (0.82, None)
    assert list(report.table([made.vae()], "eight_gaussians", report.PLANE)[0]) == [
        "method", "MMD² × 1e3", "of the start", "TV, histogram", "within the modes", "modes",
        "minutes", "seeds",
    ]  # fmt: skip


def test_tables_of_images() -> None:
    (row,) = report.table([made.digits("variational")], "none", report.IMAGES)
    assert row["FCD"] == (10.0, None)
    assert row["FCD of the start"] == (14.0, None)
    assert row["test error, decoded"] == (0.05, None)
    assert row["largest jump, decoded"] == (0.15, None)
    assert "right class" not in row
    given = [made.completed("variational"), made.completed("regression")]
    ours, plain = report.table(given, "half", report.COMPLETION)
    assert (ours["PSNR of the start"], ours["PSNR, one sample"], ours["mean of 16"]) == (
        (15.0, None), (16.5, None), (18.5, None)
    )  # fmt: skip
    assert (plain["PSNR, one sample"], plain["mean of 16"]) == (None, (15.0, None))
    assert plain["minutes"] == 0


def test_a_table_says_which_seeds_diverged() -> None:
    given = [
        made.plane("fast"),
        made.lost(made.plane("fast", 4)),
        made.lost(made.plane("original")),
        made.lost(made.plane("original", 4)),
    ]
    some, every = report.table(given, "eight_gaussians", report.PLANE)
    assert some["MMD² × 1e3"] == some["KL(data, EBM)"] == "1 of 2 seeds diverged"
    assert every["MMD² × 1e3"] == every["modes"] == "2 of 2 seeds diverged"


def test_the_table_of_learning() -> None:
    given = {
        "teacher": "fast", "variance": 0.3, "exact variance": 0.31, "mean": 2.1,
        "exact mean": 2.0, "weight": 0.01, "exact weight": 0.0,
    }  # fmt: skip
    (row,) = report.learning_table([given])
    assert row == {
        "teacher": "fast", "1 / l, learned": 0.3, "exact": 0.31, "m, learned": 2.1, "exact m": 2.0,
        "w, learned": 0.01, "exact w": 0.0,
    }  # fmt: skip
    assert report.learning_table([given | {"weight": None}])[0]["exact w"] is None


def test_limits_in_words() -> None:
    given = [made.completed("VAE"), made.digits("fast")]
    (line,) = report.limits(given)
    assert "test images 1.5, of uniform noise 550; 2 classifiers, test accuracy 0.960" in line
    assert report.limits(given[:1]) == []


# ---- statements

GOOD: Made = {
    "answers": [{"holds": True}, {"holds": True}],
    "plane": [made.plane("variational"), made.plane("fast", mmd=0.5), made.vae()],
    "images": [made.digits("variational"), made.digits("short-run", fcd=399.0)],
}
BAD: dict[str, Made] = {
    "exact answers hold": {"answers": [{"holds": True}, {"holds": False}]},
    "revision improves the samples": {
        "plane": [
            made.plane("variational"),
            made.plane("variational", 4, initial=made.samples(0.009)),
        ]
    },
    "its samples end closer": {
        "plane": [made.plane("variational", curve=[made.look(0, 0.5), made.look(30, 0.26)])]
    },
    "its samples cover all modes": {
        "plane": [made.plane("variational", revised=made.samples(0.01, modes=7))]
    },
}


@pytest.mark.parametrize("words", [None, *BAD])
def test_a_statement_fails_alone(words: str | None) -> None:
    *lines, lost = report.sanity(**GOOD | (BAD[words] if words else {}))
    assert len(lines) == len(BAD)
    for line in lines:
        verdict = "NO" if words and line.startswith(words) else "yes"
        assert line.endswith(f": {verdict}"), line
    assert lost == "diverged runs: 0"


def test_digits_that_do_not_come_closer_are_seen() -> None:
    lines = report.sanity(**GOOD | {"images": [made.digits("variational", fcd=201.0)]})
    assert [line for line in lines if "NO" in line] == [
        "its samples end closer to the data than they began: NO"
    ]


def test_statements_of_what_was_not_run_say_so() -> None:
    lines = report.sanity([], [made.plane("fast")], [])
    assert [line.endswith("not run") for line in lines[:-1]] == [True] * 4
    few = made.plane("variational", data="pinwheel", revised=made.samples(0.01, modes=5))
    lines = report.sanity([], [few], [])
    assert lines[3] == "its samples cover all modes: not run"
    assert lines[2].endswith("yes")


def test_samples_that_are_no_numbers_are_no_better_than_the_start() -> None:
    nothing = dict.fromkeys(("mmd", "mmd_se", "tv", "within", "modes"))
    lines = report.sanity(**GOOD | {"plane": [made.plane("variational", revised=nothing)]})
    assert lines[1].startswith("revision improves") and lines[1].endswith(": NO")
    assert lines[3].endswith(": NO")


def test_diverged_runs_are_counted_and_fail_no_statement() -> None:
    given = GOOD | {
        "plane": [*GOOD["plane"], made.lost(made.plane("variational", 4))],
        "images": [*GOOD["images"], made.lost(made.digits("variational", 4))],
    }
    *lines, lost = report.sanity(**given)
    assert lost == "diverged runs: 2"
    assert all(line.endswith("yes") for line in lines)


def test_completions_fail_no_statement_about_samples() -> None:
    given = GOOD | {"images": [*GOOD["images"], made.completed("variational")]}
    assert not any("NO" in line for line in report.sanity(**given))


def test_the_ends_of_a_curve() -> None:
    curve = [made.look(0, 0.5), made.look(10, 0.3), made.look(20, 0.1)]
    assert report.ends({"curve": curve}) == (0.5, 0.1)
    nothing = made.look(20, 0.1) | {"mmd/revised": None}
    assert report.ends({"curve": [*curve, nothing]}) == (0.5, math.inf)
    assert report.ends({"curve": [{"fcd/revised": 9.0}, {"fcd/revised": 4.0}]}) == (9, 4)
    assert report.ends({"curve": [{"mse": 1.0}]})[0] is None


# ---- recorded runs


def entries(*found: float | None, se: float = 0.002) -> list[Made]:
    return [
        {"seed": seed, "value": v, "se": None if v is None else se, "diverged": v is None}
        for seed, v in enumerate(found)
    ]


def test_recorded_runs_are_shown_as_recorded() -> None:
    head = "plane/eight_gaussians"
    metrics = {
        f"{head}/variational/mmd": entries(0.010, 0.012, 0.014),
        f"{head}/variational/modes": entries(8.0, 8.0, 8.0, se=0.0),
        f"{head}/variational/gap": entries(1.0, 1.0, 1.0),
        f"{head}/fast/mmd": entries(0.05, None, 0.05),
        f"{head}/fast/kl": entries(0.25),
        f"{head}/original/mmd": entries(None, None, None),
        f"{head}/floor/mmd": entries(1e-5, 1e-5, 1e-5),
        "plane/checkerboard/variational/mmd": entries(9.0, 9.0, 9.0),
    }
    records = [
        record_of("mcmc_teaching", "laptop", metrics),
        record_of("mcmc_teaching", "quick", {f"{head}/VAE/mmd": entries(7.0)}) | {"id": "quick-1"},
    ]
    rows = report.recorded(records, head, "laptop", report.PLANE)
    title = f"{head}, laptop profile"
    ours, fast, original = rows
    assert [r[title] for r in rows] == ["variational", "fast", "original"]
    assert list(ours) == [title, "MMD² × 1e3", "modes", "KL(data, EBM)", "seeds"]
    assert ours["MMD² × 1e3"].startswith("12.0 ± 1.2")
    assert ours["modes"] == "8 ± 0"
    assert ours["seeds"] == 3 and ours["KL(data, EBM)"] is None
    assert fast["MMD² × 1e3"].startswith("50.0") and fast["MMD² × 1e3"].endswith("(1 diverged)")
    assert fast["KL(data, EBM)"] == "0.250"  # one seed has no spread to show
    assert original["MMD² × 1e3"].startswith("diverged")
    (quick,) = report.recorded(records, head, "quick", report.PLANE)
    assert quick["MMD² × 1e3"] == "7000.0"


def test_recorded_images_have_their_digits() -> None:
    metrics = {
        "digits/none/variational/fcd": entries(10.25, 10.35, 10.45),
        "digits/none/variational/mse/decoded": entries(0.05123, 0.05123, 0.05123, se=0.0),
        "digits/none/accuracy": entries(0.9, 0.9, 0.9),
        "digits/none/ceiling/fcd": entries(500.0),
        "digits/half/variational/psnr/mean": entries(17.123, 17.123, 17.123, se=0.0),
    }
    records = [record_of("mcmc_teaching", "laptop", metrics)]
    (row,) = report.recorded(records, "digits/none", "laptop", report.IMAGES)
    assert row["FCD"].startswith("10.3 ±") or row["FCD"].startswith("10.4 ±")
    assert row["test error, decoded"] == "0.051 ± 0.000"
    (half,) = report.recorded(records, "digits/half", "laptop", report.COMPLETION)
    assert half["mean of 16"] == "17.12 ± 0.00"


def test_without_a_record_the_table_says_so() -> None:
    (row,) = report.recorded([], "plane/pinwheel", "laptop", report.PLANE)
    assert row == {"plane/pinwheel, laptop profile": "no record of this profile yet"}

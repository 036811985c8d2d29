"""The PPCA study: unbiased or not, its statistics, its chunks, its figures."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from lmcnb.errors import UsageError
from lmcnb.experiments import unbiased_vae_ppca as ppca
from lmcnb.experiments import unbiased_vae_ppca_figures as figures
from lmcnb.experiments.unbiased_vae_ppca_problem import ESTIMATORS, Problem, Study, problem
from lmcnb.lab.randomness import generator
from lmcnb.methods.unbiased_vae_kernels import Coupling
from lmcnb.methods.unbiased_vae_ppca import coupled, independent

MINI = Study(replicates=3000, estimators=ESTIMATORS, sizes=(1, 10, 100), grid=(0.5,))
SMALL = Study(
    dim=3, pixels=9, samples=4, replicates=40, points=3, beta=0.7, sizes=(2,), dtype="float64"
)


@cache
def mini() -> tuple[dict[str, Any], list[float]]:
    done: list[float] = []
    return ppca.run(MINI, 0, report=done.append), done


def small(name: str, **more: Any) -> tuple[dict[str, Any], Problem]:
    study = dataclasses.replace(SMALL, **more)
    p = problem(study, 0)
    return ppca.estimate(p, study, name, 0.7, 0), p


# ---- the small instance of the notes


def test_coupled_estimators_pass_and_the_others_are_rejected() -> None:
    found = mini()[0]["estimators"]
    for name in ("C-ISIR", "C-ISIR-DISIR", "C-ISIR-DISIR beta=0.5"):
        for quantity in ("intercept", "weight"):
            assert abs(found[name][quantity]["z"]) < 4
        assert found[name]["max_z"] < 4.5  # of 200 intercepts in 20 dimensions
        assert found[name]["capped"] == 0
        relative = found[name]["relative"]
        assert relative["of_mean"] < 2 * relative["of_mean_unbiased"]
    for name, least in (("ELBO", 40), ("IWAE", 8)):
        assert abs(found[name]["intercept"]["z"]) > least
        assert found[name]["max_z"] > 10
    assert found["ELBO"]["rms_bias"] > 2 * found["IWAE"]["rms_bias"]
    assert found["average"]["max_z"] > 4.5  # ten steps without coupling are biased


def test_numbers_are_the_notes() -> None:
    """Probe of the notes: rms bias .11; sd 2.20 and 1.00; 9.2 and 10.9 joint steps."""
    about, found = mini()[0]["about"], mini()[0]["estimators"]
    isir, disir = found["C-ISIR"], found["C-ISIR-DISIR"]
    assert about["bounded"] == 1
    assert about["beta"] == pytest.approx(0.93, abs=0.01)
    assert about["pilot_effective"] == pytest.approx(3.0, abs=0.02)
    assert found["IWAE"]["rms_bias"] == pytest.approx(0.11, abs=0.02)
    assert isir["intercept"]["sd"] == pytest.approx(2.2, abs=0.5)
    assert disir["intercept"]["sd"] == pytest.approx(1.0, abs=0.15)
    assert isir["joint_steps"] == pytest.approx(9.7, abs=1.2)
    assert disir["joint_steps"] == pytest.approx(10.9, abs=0.8)
    assert disir["joint_steps_99"] < isir["joint_steps_99"]
    for r in (isir, disir):  # 2 starts, 10 steps of one chain, joint steps of two
        steps = 1 if r is isir else 2
        joint = 1 if r is isir else 3
        expected = 2 * 10 + 10 * steps * 9 + joint * 9 * r["joint_steps"]
        assert r["evaluations"] == pytest.approx(expected)


def test_bias_falls_with_k_and_k_one_is_the_elbo() -> None:
    one, ten, hundred = mini()[0]["bias"]
    assert [r["samples"] for r in (one, ten, hundred)] == [1, 10, 100]
    assert one["rms_bias"] > 2 * ten["rms_bias"] > 4 * hundred["rms_bias"]
    elbo = mini()[0]["estimators"]["ELBO"]
    for quantity in ("intercept", "weight"):
        a, b = one[quantity], elbo[quantity]
        assert abs(a["mean"] - b["mean"]) < 4 * (a["se"] ** 2 + b["se"] ** 2) ** 0.5
        assert a["sd"] / b["sd"] == pytest.approx(10**0.5, rel=0.1)
    same = mini()[0]["estimators"]["IWAE"]["intercept"]  # a stream of estimator and K
    np.testing.assert_array_equal(ten["intercept"]["errors"], same["errors"])


def test_work_is_reported_in_full() -> None:
    assert sum(mini()[1]) == pytest.approx(MINI.work)


# ---- statistics


@pytest.mark.parametrize("name", ESTIMATORS)
def test_statistics_are_recomputed_from_the_estimates(name: str) -> None:
    r, p = small(name)
    data, d = torch.arange(3).repeat(40), p.entry[2]
    log_weight = p.model.log_weight(p.x, p.proposal, data, torch.float64)
    stream = generator(0, f"ppca/{name}/K=4/0")
    if name in ("ELBO", "IWAE"):
        weigh = None if name == "ELBO" else log_weight
        own = independent(weigh, p.proposal, data, 4, stream, torch.float64, (d,))
    else:
        cap = 0 if name == "average" else 1000
        coupling = Coupling(4, name != "C-ISIR", cap=cap)
        own = coupled(log_weight, p.proposal, data, coupling, 0.7, stream, torch.float64, (d,))
    g = p.model.gradients(p.x, own, (d,))
    exact = p.model.exact_gradients(p.x)
    errors = (g.intercept - exact.intercept.sum(0)).numpy()
    at, pixel, _ = p.entry
    of_weight = (g.weight[:, pixel, 0] - exact.weight.sum(0)[pixel, d]).numpy()
    for found, e in ((r["intercept"], errors[:, at]), (r["weight"], of_weight)):
        np.testing.assert_allclose(found["errors"], e, atol=1e-12)
        assert found["mean"] == pytest.approx(np.mean(e))
        assert found["sd"] == pytest.approx(np.std(e, ddof=1))
        assert found["se"] == pytest.approx(np.std(e, ddof=1) / 40**0.5)
        assert found["z"] == pytest.approx(np.mean(e) / found["se"])
        quartiles = [found[k] for k in ("min", "q1", "median", "q3", "max")]
        np.testing.assert_allclose(quartiles, np.quantile(e, [0, 0.25, 0.5, 0.75, 1]))
        box = plt.matplotlib.cbook.boxplot_stats(e)[0]
        assert found["whisker_low"] == pytest.approx(box["whislo"])
        assert found["whisker_high"] == pytest.approx(box["whishi"])
    truth = np.abs(exact.intercept.sum(0).numpy())
    se = errors.std(0, ddof=1) / 40**0.5
    each = (np.abs(errors) / truth).mean(1)
    bias = np.maximum((errors.mean(0) ** 2).mean() - (se**2).mean(), 0) ** 0.5
    relative = r["relative"]
    assert relative["of_each"] == pytest.approx(each.mean())
    assert relative["of_each_se"] == pytest.approx(each.std(ddof=1) / 40**0.5)
    assert relative["of_mean"] == pytest.approx((np.abs(errors.mean(0)) / truth).mean())
    expected = np.mean(se / truth) * np.sqrt(2 / np.pi)  # E |N(0, se^2)|
    assert relative["of_mean_unbiased"] == pytest.approx(expected)
    assert r["rms_bias"] == pytest.approx(bias)
    assert r["rms_se"] == pytest.approx(np.sqrt((se**2).mean()))
    assert r["max_z"] == pytest.approx(np.abs(errors.mean(0) / se).max())
    assert r["joint_steps"] == pytest.approx(float(own.joint_steps.double().mean()))
    assert r["joint_steps_max"] == int(own.joint_steps.max())
    assert r["evaluations"] == pytest.approx(own.n_weights / 120)
    assert r["capped"] == 0


def test_capped_rows_are_counted() -> None:
    r, p = small("C-ISIR", cap=3)
    data = torch.arange(3).repeat(40)
    log_weight = p.model.log_weight(p.x, p.proposal, data, torch.float64)
    stream = generator(0, "ppca/C-ISIR/K=4/0")
    coupling = Coupling(4, False, cap=3)
    own = coupled(log_weight, p.proposal, data, coupling, 0.0, stream, torch.float64)
    assert 0 < r["capped"] == float(own.capped.double().mean()) < 1
    many, _ = small("C-ISIR", cap=3, chunk=1)  # a replicate a chunk: their shares add up
    assert many["capped"] == pytest.approx(r["capped"], abs=0.25)


def test_chunks_cover_every_replicate_once_and_bound_the_memory() -> None:
    done: list[float] = []
    study = dataclasses.replace(SMALL, chunk=7 * 3 * 4 * 3, kept=1000)
    p = problem(study, 0)
    r = ppca.estimate(p, study, "IWAE", 0.7, 0, report=done.append)
    assert [round(d / 1.5) for d in done] == [21] * 5 + [15]
    errors = r["intercept"]["errors"]
    assert len(errors) == len(set(errors)) == 40  # no stream twice
    assert r["evaluations"] == 4
    alone = dataclasses.replace(study, replicates=7)
    first = ppca.estimate(problem(alone, 0), alone, "IWAE", 0.7, 0)
    np.testing.assert_array_equal(first["intercept"]["errors"], errors[:7])


def test_kept_errors_are_thinned_evenly() -> None:
    errors = np.arange(10.0)
    np.testing.assert_array_equal(ppca.summary(errors, 4)["errors"], [0, 3, 6, 9])
    np.testing.assert_array_equal(ppca.summary(errors, 10)["errors"], errors)


def test_the_grid_has_its_own_beta_and_names_are_independent() -> None:
    r, _ = small("C-ISIR-DISIR beta=0.2")
    assert r["beta"] == 0.2
    found = ppca.run(dataclasses.replace(SMALL, estimators=("IWAE",), grid=(0.2,)), 0)
    assert list(found["estimators"]) == ["IWAE", "C-ISIR-DISIR beta=0.2"]
    again = found["estimators"]["C-ISIR-DISIR beta=0.2"]["intercept"]
    assert again["mean"] == r["intercept"]["mean"]
    other, _ = small("C-ISIR-DISIR")
    assert other["intercept"]["mean"] != again["mean"]
    assert found["about"]["beta"] == 0.7


# ---- problems


def test_a_problem_is_a_function_of_study_and_seed() -> None:
    a, b, c = problem(SMALL, 0), problem(SMALL, 0), problem(SMALL, 1)
    assert torch.equal(a.x, b.x)
    assert a.entry == b.entry
    assert not torch.equal(a.x, c.x)
    torch.testing.assert_close(a.exact.intercept, a.model.exact_gradients(a.x).intercept.sum(0))
    about = ppca.about(a)
    assert about["std_factor"] == pytest.approx(1.6)
    shift = (a.proposal.mean - a.model.posterior(a.x)[0]) * 1.6 / a.proposal.std
    torch.testing.assert_close(shift, torch.full((3, 3), 0.3, dtype=torch.float64))
    assert about["exact_intercept"] == float(a.exact.intercept[a.entry[0]])
    p, d = a.entry[1:]
    assert about["exact_weight"] == float(a.exact.weight[p, d])
    mean, covariance = a.model.posterior(a.x)
    off = (a.proposal.mean - mean) / covariance.diagonal().sqrt()
    assert about["mean_off"] == pytest.approx(float(off.square().mean()) ** 0.5)


def test_a_fitted_proposal_is_near_the_posterior() -> None:
    study = dataclasses.replace(SMALL, proposal="fitted", fit_images=200, fit_samples=10)
    steps = (1, 1500)
    first, last = (ppca.about(problem(dataclasses.replace(study, fit_steps=t), 0)) for t in steps)
    assert last["mean_off"] < 0.15 < 0.5 < first["mean_off"]
    assert 1 < last["std_factor"] < 1.5


def test_binarized_digits(require_data: Any) -> None:
    require_data("static_mnist")
    study = Study(dim=5, pixels=784, points=4, data="static_mnist", replicates=2)
    p = problem(study, 0)
    assert p.x.shape == (4, 784)
    assert set(p.x.unique().tolist()) == {0.0, 1.0}
    assert np.isfinite(ppca.estimate(p, study, "IWAE", 0.0, 0)["weight"]["mean"])


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"samples": 1}, "samples=1"),
        ({"replicates": 1}, "replicates=1"),
        ({"points": 0}, "points=0"),
        ({"noise": 0.0}, "noise="),
        ({"noise": -0.1}, "noise="),
        ({"inflation": 0.0}, "inflation="),
        ({"estimators": ("SUMO",)}, "'SUMO'"),
        ({"sizes": (0,)}, "sizes="),
        ({"beta": 1.0}, "beta=1"),
        ({"grid": (0.5, -0.1)}, "beta=-0.1"),
        ({"lag": 0}, "lag=0"),
        ({"cap": -2}, "cap=-2"),
        ({"data": "static_mnist"}, "pixels="),
    ],
)
def test_impossible_settings_are_refused_by_name(wrong: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        Study(**wrong)


def test_an_unknown_estimator_is_refused() -> None:
    with pytest.raises(UsageError, match="'SUMO'"):
        ppca.estimate(problem(SMALL, 0), SMALL, "SUMO", 0.5, 0)


# ---- figures


def test_figures_draw_the_numbers() -> None:
    result = mini()[0]
    fig, arrays = figures.boxes(result)
    assert set(arrays["estimator"]) == set(MINI.named())
    own = result["estimators"]["C-ISIR"]["weight"]
    assert arrays["weight/C-ISIR/mean"] == own["mean"]
    np.testing.assert_array_equal(arrays["weight/C-ISIR/errors"], own["errors"])
    plt.close(fig)
    fig, arrays = figures.bias(result)
    np.testing.assert_array_equal(arrays["K"], [1, 10, 100])
    assert arrays["intercept/IWAE"].tolist() == [r["intercept"]["mean"] for r in result["bias"]]
    assert {k.split("/")[1] for k in arrays if "/" in k} == {
        "IWAE", "C-ISIR", "C-ISIR-DISIR", "C-ISIR-DISIR beta=0.5"
    }  # fmt: skip
    plt.close(fig)
    fig, arrays = figures.relative(result)
    expected = [r["relative"]["of_mean"] for r in result["estimators"].values()]
    assert arrays["of_mean"].tolist() == expected
    plt.close(fig)

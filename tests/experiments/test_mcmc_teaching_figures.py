"""Figures of MCMC teaching draw the numbers of the results, and say so where there are none."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from lmcnb.experiments import mcmc_teaching_figures as figures
from lmcnb.experiments import mcmc_teaching_image_figures as pictures
from lmcnb.experiments import mcmc_teaching_learning as learning
from lmcnb.lab.figures import INTERVAL, method_style, save_figure
from lmcnb.methods import mcmc_teaching_theory as theory
from lmcnb.methods.mcmc_teaching_teachers import TEACHERS

sys.path.append(str(Path(__file__).parent))
import made_teaching as made

matplotlib.use("Agg")
Made = dict[str, Any]
DATA = "eight_gaussians"


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """A warning is an error: it would stand in the notebook. Coarse pictures are quick."""
    with warnings.catch_warnings(), plt.rc_context({"savefig.dpi": 30}):
        warnings.simplefilter("error")
        yield
    plt.close("all")


def saved(drawn: tuple[Any, Made], tmp_path: Path) -> tuple[Any, Made]:
    """What a notebook does with a figure: its picture and its arrays are written."""
    fig, arrays = drawn
    save_figure(fig, "drawn", arrays, "a figure", tmp_path, show=False)
    assert set(np.load(tmp_path / "drawn.npz")) == set(arrays)
    return fig, arrays


def lines(ax: Any) -> dict[str, Any]:
    return {line.get_label(): line for line in ax.lines}


def errorbars(ax: Any) -> dict[str, tuple[list[float], list[float], list[float]]]:
    """Places, values and half lengths of the bars, by label."""
    found = {}
    for container in ax.containers:
        line, _, (bars,) = container.lines
        half = [(seg[1][1] - seg[0][1]) / 2 for seg in bars.get_segments()]
        found[container.get_label()] = (list(line.get_xdata()), list(line.get_ydata()), half)
    return found


# ---- styles


def test_a_teacher_keeps_its_style_and_other_settings_are_dashed() -> None:
    styles = {teacher: figures.look(teacher) for teacher in TEACHERS}
    assert styles == {teacher: method_style(teacher) for teacher in TEACHERS}
    assert method_style("no such") not in styles.values()
    assert len({(s.color, s.marker, s.line) for s in styles.values()}) == len(TEACHERS)
    for arm in ("fast-K60", "fast-s0.3-draws", "fast-still"):
        own = figures.look(arm)
        assert (own.color, own.marker, own.line) == (
            styles["fast"].color, styles["fast"].marker, "--"
        )  # fmt: skip
    assert figures.named("fast", 1) == "fast (1 seed)"
    assert figures.named("fast", 3) == "fast (3 seeds)"


# ---- one dimension


def test_fixed_points_are_the_theory_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the original teacher's, which take seconds."""
    few = {name: own for name, own in learning.LEARNED.items() if name != "original"}
    monkeypatch.setattr(learning, "LEARNED", few)
    learned = [
        {"teacher": "short-run", "variance": 0.17, "mean": 2.8},
        {"teacher": "variational, from g(z)", "variance": 0.24, "mean": 2.05},
    ]
    fig, arrays = figures.fixed_points(learned)
    K = arrays["K"].tolist()
    assert K[0] == 1 and K[-1] == 60 and 10 in K and sorted(set(K)) == K
    for name, (teacher, ancestral) in learning.LEARNED.items():
        known = theory.fixed_point(teacher, 2.0, 0.25, 0.2, 10, sigma=0.2, ancestral=ancestral)
        assert arrays[f"{name}/variance"][K.index(10)] == known.variance
        assert arrays[f"{name}/mean"][K.index(10)] == known.mean
    assert arrays["short-run/learned"].tolist() == [0.17, 2.8]
    assert not np.isfinite(arrays["fast/variance"][0])  # no density at few steps
    left, right = fig.axes
    for ax, what, place in ((left, "variance", 0), (right, "mean", 1)):
        drawn = lines(ax)
        for name in learning.LEARNED:
            y = np.array(drawn[name].get_ydata())
            known_y = arrays[f"{name}/{what}"]
            good = np.isfinite(known_y)
            assert np.array_equal(y[good], known_y[good])
            assert not np.isfinite(y[~good]).any()
        marks = [line for line in ax.lines if list(line.get_xdata()) == [10]]
        assert [line.get_ydata()[0] for line in marks] == [
            arrays[f"{name}/learned"][place]
            for name in ("variational, from g(z)", "short-run")
        ]  # fmt: skip
    saved((fig, arrays), tmp_path)
    assert "fast/learned" not in figures.fixed_points([])[1]


# ---- the plane


def test_the_first_seed_of_an_arm_is_shown() -> None:
    given = [
        made.plane("fast", 3),
        made.plane("fast", 4),
        made.lost(made.plane("original", 3)),
        made.plane("original", 4),
        made.lost(made.plane("short-run", 3)),
        made.plane("variational", data="pinwheel"),
    ]
    found = figures.first_seed(given, DATA)
    assert {arm: r["seed"] for arm, r in found.items()} == {"fast": 3, "original": 4}
    assert figures.in_order(["original", "VAE", "fast"], found) == ["original", "fast"]


def test_samples_are_those_of_the_results(tmp_path: Path) -> None:
    """A column an arm; a density is drawn with the first coordinate to the right."""
    given = [made.plane("fast"), made.plane("fast", 4, shown=[]), made.vae(), made.persistent()]
    fig, arrays = saved(figures.samples(given, DATA, ["persistent", "original", "fast", "VAE"]),
                        tmp_path)  # fmt: skip
    axes = np.array(fig.axes).reshape(4, 3)
    assert [ax.get_title() for ax in axes[0]] == ["persistent", "fast", "VAE"]
    assert [ax.get_ylabel() for ax in axes[:, 0]] == [
        "chains' start", "revised, K steps", "exp(f) p0", "500 steps"
    ]  # fmt: skip
    known = {
        "persistent/revised": made.points(1.0), "persistent/long": made.points(500.0),
        "fast/start": made.points(-1.0), "fast/revised": made.points(1.0),
        "fast/long": made.points(500.0), "VAE/start": made.points(-1.0),
        "VAE/revised": made.points(1.0),
    }  # fmt: skip
    picture = np.array([-0.1 * i for i in range(16)]).reshape(4, 4)
    assert set(arrays) == {*known, "fast/density", "persistent/density"}
    for column, arm in zip(axes.T, ("persistent", "fast", "VAE"), strict=True):
        for ax, row in zip(column, ("start", "revised", "density", "long"), strict=True):
            name = f"{arm}/{row}"
            if name in known:
                assert arrays[name].tolist() == known[name]
                (scatter,) = ax.collections
                assert np.array_equal(np.asarray(scatter.get_offsets()), known[name])
            elif name in arrays:
                assert np.array_equal(arrays[name], picture)
                (image,) = ax.images
                assert np.allclose(image.get_array(), np.exp(picture).T)
                assert image.origin == "lower"
                assert list(image.get_extent()) == [-3.2, 3.2, -3.2, 3.2]
            else:
                assert [t.get_text() for t in ax.texts] == ["–"]


def test_the_revision_of_an_arm(tmp_path: Path) -> None:
    given = [made.plane("fast"), made.plane("fast", 4, mmd=7.0)]
    fig, arrays = saved(figures.revision(given, DATA, "fast"), tmp_path)
    assert set(arrays) == {"density", "steps=0", "steps=20", "steps=500"}
    assert arrays["density"].tolist() == np.array(given[0]["picture"]).reshape(4, 4).tolist()
    for ax, steps, mmd in zip(fig.axes, (0, 20, 500), (20.0, 30.0, 50.0), strict=True):
        assert arrays[f"steps={steps}"].tolist() == made.points(steps)
        assert ax.get_title() == f"{steps} steps\nMMD² {mmd:.1f}e-3"
        assert np.array_equal(np.asarray(ax.collections[0].get_offsets()), made.points(steps))
        (image,) = ax.images
        assert np.allclose(image.get_array(), np.exp(arrays["density"]).T)


def test_the_chase_is_the_mean_over_seeds(tmp_path: Path) -> None:
    """The gap is the first seed's; a curve is cut to the shortest."""
    short = made.plane("variational", 4, 0.02)
    short["curve"] = [
        made.look(i, v) for i, v in ((0, 0.7), (10, 0.5), (20, 0.4))
    ]  # fmt: skip
    short["gaps"] = {"every": 7, "mean": [0.0] * 8}
    given = [made.plane("variational", 3, 0.01), short, made.vae()]
    fig, arrays = saved(figures.chase(given, DATA, ["variational", "VAE", "original"]), tmp_path)
    assert arrays["variational/iteration"].tolist() == [0, 10, 20]
    mean, se = [0.6, 0.4, 0.3], 0.1
    assert arrays["variational/mmd/revised"] == pytest.approx(mean)
    assert arrays["variational/mmd/revised/se"] == pytest.approx([se] * 3)
    assert arrays["variational/mmd/chase"] == pytest.approx([v / 2 for v in mean])
    assert arrays["variational/kl"] == pytest.approx([1 + v for v in mean])
    assert arrays["variational/gap"].tolist() == [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 1.0, 0.5]
    assert {k for k in arrays if k.startswith("VAE")} == {
        "VAE/mmd/revised", "VAE/mmd/revised/se", "VAE/iteration"
    }  # fmt: skip
    assert arrays["VAE/mmd/revised/se"].tolist() == [0] * 4
    revised, chase, kl, gap = fig.axes
    ours = "variational (2 seeds)"
    for ax, key in ((revised, "mmd/revised"), (chase, "mmd/chase"), (kl, "kl")):
        line = lines(ax)[ours]
        assert np.array_equal(line.get_ydata(), arrays[f"variational/{key}"])
        assert line.get_color() == method_style("variational").color
        band = ax.collections[0].get_paths()[0].vertices[:, 1]
        half = INTERVAL * arrays[f"variational/{key}/se"]
        low, high = (arrays[f"variational/{key}"] + sign * half for sign in (-1, 1))
        assert band.min() == pytest.approx(low.min()) and band.max() == pytest.approx(high.max())
    assert "VAE (1 seed)" in lines(revised) and "VAE (1 seed)" not in lines(kl)
    drawn = [line for line in gap.lines if len(line.get_xdata()) == 8]
    assert [list(line.get_xdata()) for line in drawn] == [[1, 3, 5, 7, 9, 11, 13, 15]]


def test_a_chase_of_no_arm(tmp_path: Path) -> None:
    fig, arrays = saved(figures.chase([made.vae()], DATA, ["variational"]), tmp_path)
    says_so((fig, arrays))


def test_the_sweep_is_over_arms_that_change_the_steps_alone(tmp_path: Path) -> None:
    def arm(name: str, steps: int, seed: int, mmd: float) -> Made:
        return made.plane(name, seed, mmd) | {"steps": steps}

    given = [
        arm("variational", 20, 3, 0.01),
        arm("variational", 20, 4, 0.03),
        arm("variational-K5", 5, 3, 0.10),
        arm("variational-K5", 5, 4, 0.14),
        made.lost(arm("variational-K1", 1, 3, 0.9)),
        arm("variational-K40-means", 40, 3, 0.9),
        arm("variational-means", 20, 3, 0.9),
        arm("short-run", 20, 3, 0.05),
        arm("short-run-K40", 40, 3, 0.02),
        arm("fast", 20, 3, 0.7),
        arm("fast-K5", 5, 3, 0.7),
        made.plane("variational-K2", data="pinwheel") | {"steps": 2},
    ]
    fig, arrays = saved(figures.sweep(given, DATA), tmp_path)
    assert {k.split("/")[0] for k in arrays} == {"variational", "short-run"}
    assert arrays["variational/K"].tolist() == [5, 20]
    assert arrays["variational/mmd"] == pytest.approx([0.12, 0.02])
    assert arrays["variational/mmd/se"] == pytest.approx([0.02, 0.01])
    assert arrays["variational/kl"] == pytest.approx([4.8, 0.8])
    assert arrays["short-run/K"].tolist() == [20, 40]
    assert arrays["short-run/kl/se"].tolist() == [0, 0]
    for ax, what in zip(fig.axes, ("mmd", "kl"), strict=True):
        at, values, half = errorbars(ax)["variational (2 seeds)"]
        assert at == [5, 20]
        assert values == pytest.approx(arrays[f"variational/{what}"])
        assert half == pytest.approx(INTERVAL * arrays[f"variational/{what}/se"])
        assert "short-run (1 seed)" in errorbars(ax)


def test_distances_by_steps_at_test_time(tmp_path: Path) -> None:
    given = [
        made.plane("fast", 3, 0.01),
        made.plane("fast", 4, 0.03),
        made.lost(made.plane("fast", 5)),
        made.persistent(),
        made.vae(),
    ]
    fig, arrays = saved(figures.by_steps(given, DATA, ["fast", "persistent", "VAE"]), tmp_path)
    assert arrays["fast/steps"].tolist() == [0.5, 20, 100, 500]
    assert arrays["fast/mmd"] == pytest.approx([0.04, 0.06, 0.08, 0.1])
    assert arrays["fast/se"] == pytest.approx([0.02, 0.03, 0.04, 0.05])
    assert {k.split("/")[0] for k in arrays} == {"fast", "persistent"}
    at, values, half = errorbars(fig.axes[0])["fast (2 seeds)"]
    assert at == [0.5, 20, 100, 500]
    assert values == pytest.approx(arrays["fast/mmd"])
    assert half == pytest.approx(INTERVAL * arrays["fast/se"])


def test_chains_that_became_no_numbers_are_not_drawn() -> None:
    broken = made.plane("fast")
    broken["by_steps"][-1] = broken["by_steps"][-1] | {"mmd": None}
    _, arrays = figures.by_steps([broken, made.persistent()], DATA, ["fast", "persistent"])
    assert {k.split("/")[0] for k in arrays} == {"persistent"}


def test_the_mean_over_seeds_is_cut_to_the_shortest() -> None:
    at, mean, se = figures.over_seeds([0, 1, 2], [[1.0, 2.0, 3.0], [3.0, 6.0]])
    assert (at.tolist(), mean.tolist()) == ([0, 1], [2, 4])
    assert se == pytest.approx([math.sqrt(2) / math.sqrt(2), math.sqrt(8) / math.sqrt(2)])


# ---- images


def stacked(first: int, n: int = 10) -> np.ndarray:
    return np.array(made.images(first, n), dtype=np.uint8).reshape(n, 8, 8)


def rows_of(fig: Any, columns: int) -> list[tuple[str, list[np.ndarray]]]:
    """The label of every row, and its images."""
    axes = np.array(fig.axes).reshape(-1, columns)
    return [
        (line[0].get_ylabel(), [np.asarray(ax.images[0].get_array()) for ax in line])
        for line in axes
    ]


def test_generated_images_are_those_of_the_results(tmp_path: Path) -> None:
    chains = made.digits("persistent")
    chains["pictures"] = {"revised": made.images(60, 17)}
    given = [made.digits("fast", 3), made.digits("fast", 4, pictures={}), chains]
    fig, arrays = saved(pictures.generated(given, "none", ["persistent", "VAE", "fast"]), tmp_path)
    known = [
        ("persistent: revised", 60), ("persistent: 200 steps", 80), ("fast: start", 0),
        ("fast: revised", 20), ("fast: 200 steps", 80),
    ]  # fmt: skip
    assert list(arrays) == [f"{i} {k}".replace(":", "") for i, (k, _) in enumerate(known)]
    for found, (label, first), (name, row) in zip(
        arrays.values(), known, rows_of(fig, 10), strict=True
    ):
        assert np.array_equal(found, stacked(first))
        assert name == label
        assert all(np.array_equal(a, b) for a, b in zip(row, stacked(first), strict=True))
    first_image = fig.axes[0].images[0]
    assert first_image.get_clim() == (0, 255)


def test_reconstructed_images_are_those_of_the_results(tmp_path: Path) -> None:
    vae = made.digits("VAE")
    vae["reconstructed"] = {"test": made.images(100), "decoded": made.images(160)}
    given = [made.digits("variational"), vae, made.without(made.digits("fast"), "reconstructed")]
    drawn = pictures.reconstructed(given, "none", ["variational", "fast", "VAE"])
    fig, arrays = saved(drawn, tmp_path)
    firsts = {"test images": 100, "variational: decoded": 120, "variational: revised": 140,
              "VAE: decoded": 160}  # fmt: skip
    assert [label for label, _ in rows_of(fig, 10)] == list(firsts)
    for found, first in zip(arrays.values(), firsts.values(), strict=True):
        assert np.array_equal(found, stacked(first))


def test_interpolated_images_are_those_of_the_results(tmp_path: Path) -> None:
    given = [made.digits("variational"), made.without(made.digits("short-run"), "paths")]
    drawn = pictures.interpolated(given, "none", ["short-run", "variational"])
    fig, arrays = saved(drawn, tmp_path)
    assert [label for label, _ in rows_of(fig, 17)] == [
        "variational: decoded", "", "variational: revised", ""
    ]  # fmt: skip
    for found, first in zip(arrays.values(), (10, 30, 90, 110), strict=True):
        assert np.array_equal(found, stacked(first, 17))


def test_completed_images_are_those_of_the_results(tmp_path: Path) -> None:
    given = [made.completed("variational"), made.completed("regression")]
    given[1]["completed"] = given[1]["completed"] | {"completed": made.images(220)}
    drawn = pictures.completed(given, "half", ["VAE", "regression", "variational"])
    fig, arrays = saved(drawn, tmp_path)
    firsts = {"test images": 0, "what is seen": 50, "regression": 220, "variational": 200}
    assert [label for label, _ in rows_of(fig, 10)] == list(firsts)
    for found, first in zip(arrays.values(), firsts.values(), strict=True):
        assert np.array_equal(found, stacked(first))


def test_colour_images_are_drawn_in_colour(tmp_path: Path) -> None:
    own = made.digits("fast", data="cifar10", by_steps=[])
    flat = [list(range(256)) * 12] * 3
    own["pictures"] = {"revised": flat}
    fig, arrays = saved(pictures.generated([own], "cifar10", ["fast"]), tmp_path)
    assert arrays["0 fast revised"].shape == (3, 3, 32, 32)
    shown = np.asarray(fig.axes[0].images[0].get_array())
    assert np.array_equal(shown, np.array(flat[0]).reshape(3, 32, 32).transpose(1, 2, 0))
    assert pictures.shape_of(3072) == (3, 32, 32)
    assert pictures.shape_of(784) == (28, 28)
    assert not fig.axes[5].images  # fewer images than columns


def test_frechet_distances_by_steps_at_test_time(tmp_path: Path) -> None:
    given = [
        made.completed("fast", data="none"),
        made.digits("fast", 3, 10.0),
        made.digits("fast", 4, 14.0),
        made.digits("persistent", 3, 20.0),
    ]
    given[3]["by_steps"][-1]["frechet"] = [None, None]
    fig, arrays = saved(pictures.by_steps(given, "none", ["fast", "persistent"]), tmp_path)
    assert arrays["fast/steps"].tolist() == [1, 20, 200]
    assert arrays["fast/fcd"].tolist() == [13, 14, 15]
    assert arrays["fast/se"] == pytest.approx([2, 2, 2])
    assert arrays["persistent/steps"].tolist() == [1, 20]  # until they are no numbers
    assert arrays["persistent/fcd"].tolist() == [21, 22]
    assert arrays["floor"] == 1.5
    at, values, half = errorbars(fig.axes[0])["fast (2 seeds)"]
    assert (at, values) == ([1, 20, 200], [13, 14, 15])
    assert half == pytest.approx([2 * INTERVAL] * 3)
    assert any(list(line.get_ydata()) == [1.5, 1.5] for line in fig.axes[0].lines)


# ---- what was not run


def says_so(drawn: tuple[Any, Made]) -> None:
    fig, arrays = drawn
    assert list(arrays) == ["absent"]
    (text,) = [t.get_text() for t in fig.axes[0].texts]
    assert text.startswith("nothing to draw: ")


def test_figures_of_arms_that_were_not_run_say_so(tmp_path: Path) -> None:
    few = [made.vae(), made.lost(made.plane("variational")), made.lost(made.plane("fast"))]
    digits = [made.lost(made.digits("variational")), made.completed("VAE", data="occluded")]
    arms = ["variational", "fast"]
    for drawn in (
        figures.samples(few, DATA, arms),
        figures.revision(few, DATA, "variational"),
        figures.sweep([*few, made.plane("variational")], DATA),
        figures.by_steps(few, DATA, [*arms, "VAE"]),
        pictures.generated(digits, "none", arms),
        pictures.reconstructed(digits, "none", arms),
        pictures.interpolated(digits, "none", arms),
        pictures.completed(digits, "half", arms),
        pictures.by_steps(digits, "none", arms),
    ):
        says_so(saved(drawn, tmp_path))
    assert not plt.get_fignums()  # saved ones are closed, and none was left over


def test_a_revision_of_an_arm_without_energy_says_so() -> None:
    says_so(figures.revision([made.vae()], DATA, "VAE"))

"""Binary-VAE cells: names, training, resuming, test bounds, meeting times, and the record."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lmcnb.errors import Paused, UsageError, UserError
from lmcnb.experiments import unbiased_vae_cells as cells
from lmcnb.experiments import unbiased_vae_images as images
from lmcnb.experiments import unbiased_vae_meeting as meeting
from lmcnb.experiments import unbiased_vae_record as record
from lmcnb.experiments.unbiased_vae_cells import VaeCell, cells_of, training_of
from lmcnb.lab import config
from lmcnb.lab.files import load_checkpoint, save_checkpoint
from lmcnb.lab.randomness import generator
from lmcnb.methods.unbiased import couple
from lmcnb.methods.unbiased_vae_gradients import row_log_weight
from lmcnb.methods.unbiased_vae_kernels import Coupling, kernels
from lmcnb.methods.unbiased_vae_settings import STATISTICS
from lmcnb.methods.unbiased_vae_training import Trainer
from lmcnb.models.binary_vae import BinaryVAE
from lmcnb.papers.unbiased_vae import Arm, parse_arm

sys.path.append(str(Path(__file__).parent))
from small_vaes import ARMS, FakeRun, evidence, model_1d, settings


@pytest.fixture(scope="module", autouse=True)
def few_images() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "TEACHER", 400)
        yield


@pytest.fixture(scope="module")
def finished(
    few_images: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[FakeRun, list[VaeCell], list[dict[str, Any]]]:
    run = FakeRun(tmp_path_factory.mktemp("run"))
    found = cells_of(run)
    return run, found, images.train(found, 1, "test")


def without_time(result: dict[str, Any]) -> dict[str, Any]:
    kept = json.loads(json.dumps(result))
    del kept["seconds"]
    for point in kept["curve"]:
        del point["seconds"]
    return kept


# ---- names and settings


def test_an_arm_s_name_means_what_it_says() -> None:
    known = {
        "ELBO": Arm("ELBO", None, "strict", False),
        "IWAE-K100": Arm("IWAE", 100, "strict", False),
        "average": Arm("average", None, "strict", False),
        "C-ISIR-index": Arm("C-ISIR", None, "index", False),
        "C-ISIR-DISIR": Arm("C-ISIR-DISIR", None, "strict", False),
        "IWAE+IWAE": Arm("IWAE", None, "strict", True),
        "IWAE+IWAE-K5": Arm("IWAE", 5, "strict", True),
        "IWAE+C-ISIR-DISIR-index": Arm("C-ISIR-DISIR", None, "index", True),
    }
    assert {name: parse_arm(name) for name in known} == known


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("SUMO", "no arm: ELBO, IWAE"),
        ("ELBO+IWAE", "no arm"),
        ("IWAE-K0", "no arm"),
        ("C-ISIR-index-K5", "no arm"),
        ("DISIR", "no arm"),
        ("IWAE+", "no arm"),
        ("IWAE-index", "only coupled chains"),
        ("average-index", "only coupled chains"),
        ("average-K5", "-K is of ELBO and IWAE"),
        ("C-ISIR-DISIR-K5", "-K is of ELBO and IWAE"),
    ],
)
def test_arms_that_mean_nothing_are_refused(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_arm(name)
    with pytest.raises(UsageError, match=why):
        settings(training_arms={"default": [name]})


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"training_arms": {"teacher": ["IWAE"]}}, "needs the key 'default'"),
        ({"training_cap": {"IWAE": 3}}, "needs the key 'default'"),
        ({"training_cap": {"default": 3, "C-ISR": 7}}, "'C-ISR' is no arm"),
        ({"training_updates": {"default": 3, "teachr": 7}}, "did you mean 'teacher'"),
        ({"ppca_replicates": {"default": 3, "teacher": 7}}, "allowed: default, reduced, digits"),
        ({"ppca_studies": []}, "at least one is needed"),
        ({"training_arms": {"default": ["IWAE", "ELBO", "IWAE"]}}, "each may stand there once"),
        ({"training_arms": {"default": []}}, "at least one is needed"),
        ({"training_latent": {"default": [2, 2]}}, "each may stand there once"),
        ({"training_datasets": ["teacher", "teacher"]}, "each may stand there once"),
        ({"training_datasets": []}, "at least one is needed"),
        ({"training_annealing": {"images": 2, "arms": ["IWEA"]}}, "no arm"),
        ({"training_arms": {"default": ["ELBO", "IWAE+ELBO"]}}, "go on from the arm IWAE"),
        ({"training_cap": {"default": 0}}, "training.cap"),
        ({"training_samples": {"default": 1}}, "training.samples"),
        ({"training_beta": 1.0}, "training.beta"),
        ({"training_learning_rate": {"default": 0.0}}, "training.learning_rate"),
        ({"training_datasets": ["mnist"]}, "training.datasets"),
        ({"training_hiden": {"default": [8]}}, "did you mean.*training.hidden"),
        ({"meeting_datasets": ["static_mnist"]}, "'static_mnist' is not in training.datasets"),
        ({"training_arms": {"default": ["ELBO"]}}, "'teacher' has no IWAE model"),
        ({"meeting_betas": [1.0]}, "meeting.betas"),
    ],
)
def test_impossible_settings_are_refused(changed: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        settings(**changed)


def test_an_arm_s_training() -> None:
    base = settings(
        training_updates={"default": 9, "teacher": 25},
        training_cap={"default": 3, "C-ISIR": 7},
    ).training
    t = training_of("IWAE", "teacher", base)
    assert (t.method, t.updates, t.batch, t.samples, t.chains) == ("IWAE", 25, 20, 3, False)
    assert training_of("ELBO-K7", "teacher", base).samples == 7
    assert training_of("IWAE+IWAE", "teacher", base).updates == 12
    assert training_of("IWAE", "static_mnist", base).updates == 9
    t = training_of("IWAE+C-ISIR-DISIR-index", "teacher", base)
    assert (t.method, t.beta) == ("C-ISIR-DISIR", 0.8)
    assert t.coupling == Coupling(3, composite=True, lag=2, cap=3, rule="index")
    t = training_of("C-ISIR", "teacher", base)
    assert t.coupling == Coupling(3, composite=False, lag=2, cap=7)
    t = training_of("average", "teacher", base)
    assert t.coupling == Coupling(3, composite=True, lag=2, cap=0)


@pytest.mark.parametrize("profile", ["quick", "laptop", "paper"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_profile_is_valid_and_its_cells_can_be_named(profile: str, device: str) -> None:
    own = config.resolve("unbiased_vae", profile)
    about = {"directory": Path("x"), "device": device, "deadline": None}
    run = SimpleNamespace(settings=own, seeds=[0, 1, 2], **about)
    found = cells_of(run)
    studied = meeting.cells_of(run, found)
    assert len({c.name for c in found}) == len(found)
    assert len({c.name for c in studied}) == len(studied) > 0
    assert all(c.work > 0 for c in [*found, *studied])


# ---- cells


def test_cells_come_in_order_with_what_they_begin_with(tmp_path: Path) -> None:
    run = FakeRun(
        tmp_path,
        training_arms={"default": ["IWAE+C-ISIR", "IWAE+IWAE", "IWAE", "C-ISIR"]},
        training_latent={"default": [2, 3]},
        training_seeds={"default": 100, "C-ISIR": 1, "IWAE+C-ISIR": 1},
    )
    found = cells_of(run)
    names = [f"{c.arm}/{c.latent}/{c.seeds[0]}" for c in found]
    scratch = [n for d in (2, 3) for n in (f"IWAE/{d}/3", f"IWAE/{d}/4", f"C-ISIR/{d}/3")]
    more = ["IWAE+C-ISIR/{}/3", "IWAE+IWAE/{}/3", "IWAE+IWAE/{}/4"]
    assert names == scratch + [n.format(d) for d in (2, 3) for n in more]
    for c in found:
        if "+" not in c.arm:
            assert c.start == ()
            continue
        (base,) = c.start
        assert (base.arm, base.latent, base.seeds) == ("IWAE", c.latent, c.seeds)
    assert found[0].model == BinaryVAE(64, 2, (8,))
    assert found[0].title == "teacher/D=2/IWAE"


def test_on_cuda_all_seeds_of_a_bound_are_one_cell(tmp_path: Path) -> None:
    run = FakeRun(tmp_path, device="cuda")
    found = {(c.arm, c.seeds): c for c in cells_of(run)}
    assert ("IWAE", (3, 4)) in found
    assert ("IWAE+IWAE", (3, 4)) in found
    for seed in (3, 4):
        for arm in ("C-ISIR-DISIR", "IWAE+average", "IWAE+C-ISIR"):
            assert (arm, (seed,)) in found
        assert found["IWAE+C-ISIR", (seed,)].start == (found["IWAE", (3, 4)],)
    assert len(found) == 2 + 6
    (studied,) = {c.source.name for c in meeting.cells_of(run, list(found.values()))}
    assert studied == "teacher-D2-IWAE-3_4"


def test_arms_with_more_seeds_than_what_they_go_on_from_are_refused(tmp_path: Path) -> None:
    for device in ("cpu", "cuda"):
        with pytest.raises(UsageError, match=r"IWAE\+IWAE goes on from IWAE.*seed 4"):
            cells_of(FakeRun(tmp_path, device=device, training_seeds={"default": 2, "IWAE": 1}))


def test_the_teacher_s_images(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = cells.images("teacher", "train"), cells.images("teacher", "test")
    assert (train.shape, test.shape, train.dtype) == ((400, 64), (1000, 64), torch.uint8)
    assert int(train.max()) == 1
    assert torch.equal(train, cells.images("teacher", "train"))
    monkeypatch.setattr(cells, "TEACHER", 1000)
    assert float((cells.images("teacher", "train") != test).double().mean()) > 0.2
    assert len(test.unique(dim=0)) > 900
    many = [cells.teacher(20_000, generator(i, "x")).double() for i in range(2)]
    gap = many[0].mean(0) - many[1].mean(0)
    assert float(gap.abs().max()) < 5 * math.sqrt(2 * 0.25 / 20_000)
    spread = torch.corrcoef(many[0].T)
    assert float((spread - torch.eye(64)).abs().max()) > 0.3  # one model, with structure
    longer = cells.teacher(50_001, generator(0, "x"))
    assert longer.shape == (50_001, 64)


def test_spaced() -> None:
    x = torch.arange(10)
    assert cells.spaced(x, 4).tolist() == [0, 3, 6, 9]
    assert cells.spaced(x, 10) is x
    assert cells.spaced(x, 50) is x


# ---- training


def test_finished_cells_are_read(
    finished: tuple[FakeRun, list[VaeCell], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _, results = finished
    monkeypatch.setattr(images, "fit", lambda *a, **k: pytest.fail("trained again"))
    assert images.train(cells_of(run), 1, "test") == json.loads(json.dumps(results))
    assert not list((run.directory / "checkpoints").glob("*.pt"))


def test_what_a_result_holds(
    finished: tuple[FakeRun, list[VaeCell], list[dict[str, Any]]],
) -> None:
    _, found, results = finished
    for cell, r in zip(found, results, strict=True):
        assert (r["arm"], r["seeds"], r["diverged_at"]) == (cell.arm, list(cell.seeds), [None])
        assert r["updates"] == cell.training.updates
        state = load_checkpoint(cell.weights)
        assert state is not None
        test = state["test"][0].double()
        assert r["test"]["value"][0] == pytest.approx(float(test.mean()), rel=1e-5)
        assert r["test"]["se"][0] == pytest.approx(float(test.std()) / math.sqrt(60), rel=1e-4)
        assert (r["test"]["n"], r["test"]["samples"]) == (60, 30)
        assert [c["update"] for c in r["curve"]][:2] == [0, 1]
        assert r["curve"][-1]["update"] == r["updates"]
        assert len(r["bound"]["mean"][0]) == r["updates"]
        assert ("chains" in r) == cell.training.chains
    assert results[0]["test"]["value"][0] > results[0]["curve"][0]["test"][0] + 0.3  # it learned
    chain = next(r for r in results if r["arm"] == "C-ISIR-DISIR")["chains"]
    assert set(chain) == set(STATISTICS)
    means = chain["joint_steps"]["curve"]["mean"][0]
    assert chain["joint_steps"]["mean"][0] == pytest.approx(sum(means) / 25, rel=1e-4)


def test_a_paused_cell_goes_on(
    finished: tuple[FakeRun, list[VaeCell], list[dict[str, Any]]], tmp_path: Path
) -> None:
    """Twice paused, ends as the undisturbed one; and does not depend on the other cells."""
    own: dict[str, Any] = {
        "training_arms": {"default": ["IWAE", "C-ISIR-DISIR"]},
        "training_seeds": {"default": 1},
    }

    def cell(deadline: float | None) -> VaeCell:
        return cells_of(FakeRun(tmp_path, deadline=deadline, **own))[1]

    for update in (10, 20):
        with pytest.raises(Paused, match=f"iteration {update} of 25"):
            images.train([cell(0.0)], 1, "test")
        assert cell(None).checkpoint.exists()
        assert not cell(None).result.exists()
    (resumed,) = images.train([cell(None)], 1, "test")
    _, found, results = finished
    at = next(i for i, c in enumerate(found) if (c.arm, c.seeds) == ("C-ISIR-DISIR", (3,)))
    assert without_time(resumed) == without_time(results[at])
    a, b = (load_checkpoint(c.weights) for c in (cell(None), found[at]))
    assert a is not None
    assert b is not None
    for what in ("parameters", "squares"):
        assert all(torch.equal(v, b[what][k]) for k, v in a[what].items())
    assert torch.equal(a["test"], b["test"])
    assert not cell(None).checkpoint.exists()


def test_arms_after_iwae_begin_where_it_ended(
    finished: tuple[FakeRun, list[VaeCell], list[dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a learning rate that moves nothing they stay there."""
    run, found, _ = finished
    begun = []
    step = Trainer.step

    def spied(self: Trainer) -> None:
        if self.done == 0:
            squares = {k: v.clone() for k, v in self.squares.items()}
            begun.append(({k: v.clone() for k, v in self.parameters.items()}, squares))
        step(self)

    monkeypatch.setattr(Trainer, "step", spied)
    still = cells_of(FakeRun(run.directory, training_learning_rate={"default": 1e-30}))
    more = [replace(c, directory=tmp_path) for c in still if c.start]
    results = images.train(more, 1, "test")
    assert len(begun) == len(more) == 6
    order = sorted(range(len(more)), key=lambda i: -more[i].work)
    for (parameters, squares), cell in zip(begun, [more[i] for i in order], strict=True):
        (base,) = [c for c in found if (c.arm, c.seeds) == ("IWAE", cell.seeds)]
        known = load_checkpoint(base.weights)
        ended = load_checkpoint(cell.weights)
        assert known is not None
        assert ended is not None
        for k, v in known["parameters"].items():
            assert torch.equal(parameters[k], v)
            assert torch.equal(ended["parameters"][k], v)
            assert torch.equal(squares[k], known["squares"][k])
        assert float(squares["decoder.b1"].min()) > 0
        assert torch.equal(ended["test"], known["test"])  # the same random numbers
    values = {
        c.arm: r["test"]["value"][0] for c, r in zip(more, results, strict=True) if c.seeds == (3,)
    }
    assert len(set(values.values())) == 1


def test_models_are_taken_by_seed(
    finished: tuple[FakeRun, list[VaeCell], list[dict[str, Any]]], tmp_path: Path
) -> None:
    _, found, _ = finished
    bases = tuple(c for c in found if c.arm == "IWAE")
    (cell,) = [c for c in found if c.arm == "IWAE+IWAE" and c.seeds == (3,)]
    grouped = replace(cell, seeds=(4, 3), start=bases)
    begin, squares = images.start_of(grouped)
    assert begin is not None
    assert squares is not None
    for row, seed in enumerate((4, 3)):
        state = load_checkpoint(bases[[3, 4].index(seed)].weights)
        assert state is not None
        for k, v in state["parameters"].items():
            assert torch.equal(begin[k][row], v[0])
            assert torch.equal(squares[k][row], state["squares"][k][0])
    assert images.start_of(bases[0]) == (None, None)
    lost = replace(cell, start=(replace(bases[0], directory=tmp_path),))
    with pytest.raises(UserError, match="the trained model is missing or damaged; remove"):
        images.start_of(lost)


def test_arms_of_a_seed_are_paired(
    finished: tuple[FakeRun, list[VaeCell], list[dict[str, Any]]],
) -> None:
    """The first look is at the same networks, seed by seed; seeds differ."""
    _, _, results = finished
    first = {(r["arm"], r["seeds"][0]): r["curve"][0]["test"][0] for r in results}
    assert first["IWAE", 3] == first["C-ISIR-DISIR", 3]
    assert first["IWAE+IWAE", 4] == first["IWAE+C-ISIR", 4]
    assert len({first["IWAE", 3], first["IWAE", 4], first["IWAE+IWAE", 3]}) == 3


@pytest.mark.parametrize("arm", ["IWAE", "C-ISIR-DISIR"])
def test_diverged_cells_are_kept_as_such(arm: str, tmp_path: Path) -> None:
    run = FakeRun(
        tmp_path,
        training_arms={"default": ["IWAE", arm][: 1 + (arm != "IWAE")]},
        training_learning_rate={"default": 1e30},
        training_seeds={"default": 1},
    )
    (cell,) = [c for c in cells_of(run) if c.arm == arm]
    (result,) = images.train([cell], 1, "test")
    assert result["diverged_at"] == [2]
    assert result["test"]["value"] == [None]
    record.training(run, [cell], [result])
    entry = run.metrics[f"ll/teacher/D=2/{arm}", 3]
    assert entry["diverged"]
    assert entry["value"] is None
    assert entry["note"] == "diverged at update 2"
    assert all(e.get("diverged") for e in run.metrics.values())
    assert run.counters == {}


# ---- the test bound


def test_the_bound_is_the_direct_one() -> None:
    model, p, x = model_1d()
    found = images.bound(model, p, x, 40, generator(0, "test"))
    noise = torch.randn(12, 40, 1, generator=generator(0, "test"))
    for run in range(2):
        own = {k: v[run : run + 1].double() for k, v in p.items()}
        mean, std = (v[0].unsqueeze(1) for v in model.encode(own, x.double().unsqueeze(0)))
        z = mean + std * noise.double()
        q = torch.distributions.Normal(mean, std).log_prob(z).sum(-1)
        prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
        log_w = model.log_likelihood(own, x.double().unsqueeze(0), z.unsqueeze(0))[0] + prior - q
        known = torch.logsumexp(log_w, -1) - math.log(40)
        torch.testing.assert_close(found.value[run], known, rtol=0, atol=2e-5)
        share = (log_w - known.unsqueeze(-1)).exp()
        se = (share.var(-1, correction=0) / 40).sqrt()
        torch.testing.assert_close(found.se[run], se, rtol=1e-3, atol=1e-5)


def test_the_bound_reaches_the_evidence() -> None:
    model, p, x = model_1d()
    found = images.bound(model, p, x, 20_000, generator(0, "test"))
    error = found.value - evidence(model, p, x)
    assert float((error.abs() - 4 * found.se).max()) < 1e-3
    assert float(found.se.max()) < 0.02
    few = images.bound(model, p, x.repeat(100, 1), 2, generator(0, "test")).value
    gap = few.view(2, 100, 12) - evidence(model, p, x).unsqueeze(1)
    assert float(gap.mean()) < -4 * float(gap.std()) / math.sqrt(gap.numel())


def test_models_are_judged_with_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone or as runs, one after the other or twice the same, over many blocks."""
    monkeypatch.setattr(images, "AT_ONCE", 2000)
    model, p, x = model_1d()
    x = x.repeat(50, 1)  # more than a block of images
    both = images.bound(model, p, x, 9, generator(0, "test")).value
    for run in range(2):
        own = {k: v[run : run + 1] for k, v in p.items()}
        alone = images.bound(model, own, x, 9, generator(0, "test")).value
        torch.testing.assert_close(alone[0], both[run], rtol=0, atol=2e-5)
    same = {k: v[:1].expand(2, *v.shape[1:]) for k, v in p.items()}
    twice = images.bound(model, same, x, 9, generator(0, "test")).value
    torch.testing.assert_close(twice[0], twice[1], rtol=0, atol=2e-5)
    seen: list[float] = []
    images.bound(model, p, x, 9, generator(0, "test"), report=seen.append)
    assert sum(seen) == pytest.approx(1)


def test_curves_are_means_of_blocks() -> None:
    values = torch.arange(1000.0).unsqueeze(-1).repeat(1, 2)
    values[1, 0] = math.nan
    found = images.blocks(values)
    assert found["every"] == 5
    assert found["mean"][0][:2] == [2.25, 7.0]
    assert found["mean"][1][0] == 2.0
    assert len(found["mean"][0]) == 200
    assert images.rounded(torch.tensor([1.23456789, math.nan, math.inf])) == [1.23457, None, None]


# ---- the record


def test_every_metric_of_a_small_run(
    finished: tuple[FakeRun, list[VaeCell], list[dict[str, Any]]], tmp_path: Path
) -> None:
    run, found, results = finished
    run.metrics.clear()
    run.counters.clear()
    record.training(run, found, results)
    D = "teacher/D=2"
    every = {f"{kind}/{D}/{arm}" for kind in ("ll", "seconds") for arm in ARMS}
    every |= {f"cost/{D}/{arm}:IWAE" for arm in ARMS[1:]}
    for arm in ("C-ISIR-DISIR", "IWAE+C-ISIR"):
        every |= {f"chains/{D}/{arm}/{name}" for name in (*STATISTICS, "cut")}
    every |= {f"chains/{D}/IWAE+average/{name}" for name in ("effective", "beta", "decodes")}
    every |= {f"gain/{D}/C-ISIR-DISIR:IWAE"}
    more = ["IWAE+IWAE", "IWAE+average", "IWAE+C-ISIR"]
    every |= {f"gain/{D}/{a}:{b}" for a in more for b in [*more, "IWAE"] if a != b}
    assert set(run.metrics) == {(name, seed) for name in every for seed in (3, 4)}
    decodes = sum(r["chains"]["decodes"]["mean"][0] * 20 * r["updates"] for r in results[2:4])
    others = [r for r in results if r["arm"] in ("IWAE+average", "IWAE+C-ISIR")]
    decodes += sum(r["chains"]["decodes"]["mean"][0] * 20 * r["updates"] for r in others)
    spent = run.counters["decoder evaluations in chains"]
    assert spent == pytest.approx(decodes, rel=1e-4)
    by_arm = {(r["arm"], r["seeds"][0]): r for r in results}
    a, b = by_arm["IWAE+C-ISIR", 4], by_arm["IWAE", 4]
    ratio = a["seconds"] / a["updates"] / (b["seconds"] / b["updates"])
    assert run.metrics[f"cost/{D}/IWAE+C-ISIR:IWAE", 4]["value"] == pytest.approx(ratio)
    own = run.metrics[f"ll/{D}/IWAE", 4]
    assert (own["value"], own["se"], own["n"]) == (b["test"]["value"][0], b["test"]["se"][0], 60)
    assert own["estimator"] == "importance-weighted bound, 30 samples"


def judged(
    directory: Path, tests: dict[str, Tensor], arms: list[str] | None = None
) -> tuple[list[VaeCell], list[dict[str, Any]]]:
    """Cells and results of arms whose test bounds are given."""
    found, results = [], []
    run = FakeRun(directory, device="cuda", training_arms={"default": arms or ARMS})
    for cell in cells_of(run):
        if cell.arm in tests and len(cell.seeds) == len(tests[cell.arm]):
            test = tests[cell.arm]
            save_checkpoint(cell.weights, {"test": test})
            found.append(cell)
            values = images.rounded(test.mean(-1))
            results.append(
                {
                    "dataset": "teacher",
                    "latent": 2,
                    "arm": cell.arm,
                    "title": cell.title,
                    "seeds": list(cell.seeds),
                    "updates": 10,
                    "seconds": 5.0,
                    "diverged_at": [None if v is not None else 7 for v in values],
                    "test": {"value": values, "se": [0.1] * len(test), "n": 50, "samples": 30},
                }
            )
    return found, results


def test_gains_are_paired_by_image_and_seed(tmp_path: Path) -> None:
    stream = torch.Generator().manual_seed(0)
    hard = 20 * torch.randn(2, 50, generator=stream)
    better = hard + torch.tensor([[1.0], [2.0]]) + 0.1 * torch.randn(2, 50, generator=stream)
    found, results = judged(tmp_path, {"IWAE": hard, "IWAE+IWAE": better})
    run = FakeRun(tmp_path)
    record.training(run, found, results)
    for at, seed in enumerate((3, 4)):
        gap = (better - hard)[at].double()
        own = run.metrics["gain/teacher/D=2/IWAE+IWAE:IWAE", seed]
        assert own["value"] == pytest.approx(float(gap.mean()))
        assert own["value"] == pytest.approx(1 + at, abs=0.1)
        assert own["se"] == pytest.approx(float(gap.std()) / math.sqrt(50))
        assert own["se"] < 0.03
        assert (own["n"], own["estimator"]) == (50, "paired by image")
        assert run.metrics["seconds/teacher/D=2/IWAE", seed]["value"] == 2.5
        assert run.metrics["cost/teacher/D=2/IWAE+IWAE:IWAE", seed]["value"] == 1


def test_gains_over_iwae_with_more_samples(tmp_path: Path) -> None:
    test = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    arms = {"IWAE": test, "IWAE+IWAE-K240": test + 1, "IWAE+average": test[:1] + 3}
    run = FakeRun(tmp_path)
    found, results = judged(tmp_path, arms, [*arms])
    record.training(run, found, results)
    own = run.metrics["gain/teacher/D=2/IWAE+average:IWAE+IWAE-K240", 3]
    assert own["value"] == pytest.approx(2)


def test_costs_are_of_programs_with_as_many_runs(tmp_path: Path) -> None:
    """Two seeds of a bound at once cost less than two alone: no ratio with a chain's single run."""
    test = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    found, results = judged(tmp_path, {"IWAE": test, "IWAE+IWAE": test, "IWAE+C-ISIR": test[:1]})
    assert len(found) == 4
    run = FakeRun(tmp_path)
    record.training(run, found, results)
    costs = {name for name, _ in run.metrics if name.startswith("cost/")}
    assert costs == {"cost/teacher/D=2/IWAE+IWAE:IWAE"}
    assert run.metrics["gain/teacher/D=2/IWAE+C-ISIR:IWAE", 4]["value"] is not None


def test_a_lost_seed_has_no_gain_and_is_said(tmp_path: Path) -> None:
    stream = torch.Generator().manual_seed(0)
    base = torch.randn(2, 50, generator=stream)
    other = base + 1
    other[1] = math.nan
    found, results = judged(tmp_path, {"IWAE": base, "IWAE+IWAE": other})
    run = FakeRun(tmp_path)
    record.training(run, found, results)
    assert run.metrics["gain/teacher/D=2/IWAE+IWAE:IWAE", 3]["value"] == pytest.approx(1)
    lost = run.metrics["ll/teacher/D=2/IWAE+IWAE", 4]
    assert lost["diverged"]
    assert lost["note"] == "diverged at update 7"
    assert run.metrics["ll/teacher/D=2/IWAE", 4]["value"] is not None
    gain = run.metrics["gain/teacher/D=2/IWAE+IWAE:IWAE", 4]
    assert gain["diverged"] and gain["value"] is None  # all seeds count


def test_denormal_numbers_are_zero_only_inside(
    finished: tuple[FakeRun, list[VaeCell], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def flushing() -> bool:
        return bool((torch.tensor([1e-40]) * 1).item() == 0)

    seen = []
    with cells.flushed():
        seen.append(flushing())
    with pytest.raises(KeyError), cells.flushed():
        raise KeyError
    assert seen == [True] and not flushing()
    monkeypatch.setattr(images, "read_json", lambda path: seen.append(flushing()))
    monkeypatch.setattr(meeting, "read_json", lambda path: seen.append(flushing()))
    images.train_cell(finished[1][0])
    studied = meeting.cells_of(finished[0], finished[1])
    meeting.study(studied[:1], 1)  # run, if it was not
    meeting.study_cell(studied[0])
    assert len(seen) >= 3 and all(seen)
    assert not flushing()


@pytest.mark.parametrize("in_cache", [1, 300, 1_000_000])
def test_the_bound_does_not_depend_on_what_is_decoded_at_once(
    in_cache: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = BinaryVAE(64, 3, (8,))
    p = model.initial([torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)])
    x = cells.images("teacher", "test")[:70]
    known = images.bound(model, p, x, 90, torch.Generator().manual_seed(3))
    monkeypatch.setattr(images, "IN_CACHE", in_cache)
    found = images.bound(model, p, x, 90, torch.Generator().manual_seed(3))
    torch.testing.assert_close(found.value, known.value, rtol=0, atol=1e-5)


# ---- meeting times


@pytest.fixture(scope="module")
def met(
    finished: tuple[FakeRun, list[VaeCell], list[dict[str, Any]]],
) -> dict[tuple[str, str, float | None], dict[str, Any]]:
    run, found, _ = finished
    studied = meeting.cells_of(run, found)
    assert len({c.name for c in studied}) == len(studied) == 5
    results = meeting.study(studied, 1)
    return {(r["kernel"], r["rule"], r["beta"]): r for r in results}


def test_meeting_cells_are_run_once(
    finished: tuple[FakeRun, list[VaeCell], list[dict[str, Any]]],
    met: dict[tuple[str, str, float | None], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(meeting, "times", lambda *a: pytest.fail("run again"))
    run, found, _ = finished
    again = meeting.study(meeting.cells_of(run, found), 1)
    assert again == json.loads(json.dumps(list(met.values())))


def test_what_a_meeting_cell_finds(
    met: dict[tuple[str, str, float | None], dict[str, Any]],
) -> None:
    both = [("C-ISIR-DISIR", rule, beta) for rule in ("strict", "index") for beta in (0.5, None)]
    assert list(met) == [("C-ISIR", "strict", 0.0), *both]
    for (kernel, _, beta), r in met.items():
        assert (r["n"], r["cap"], r["seed"], r["dataset"], r["latent"]) == (30, 5, 3, "teacher", 2)
        assert 1 / 3 < r["effective"] < 1
        assert 1 <= r["median"] <= r["q90"] <= r["q99"] <= r["largest"] <= 5
        counts, edges = r["counts"]["count"], r["counts"]["from"]
        assert len(counts) == len(edges)
        assert sum(counts) == round(30 * (1 - r["capped"]))
        assert r["se"] > 0
        if kernel == "C-ISIR":
            assert counts[0] == 0  # the full state is one step later
        assert (
            (r["mean_beta"] == pytest.approx(beta)) if beta is not None else r["mean_beta"] != 0.9
        )
    strict, index = (met["C-ISIR-DISIR", rule, 0.5] for rule in ("strict", "index"))
    assert index["mean"] < strict["mean"]
    assert strict["largest"] == 5
    assert strict["capped"] > 0


def test_a_seed_s_model_is_found_in_a_group(
    finished: tuple[FakeRun, list[VaeCell], list[dict[str, Any]]],
    met: dict[tuple[str, str, float | None], dict[str, Any]],
    tmp_path: Path,
) -> None:
    run, found, _ = finished
    cell = meeting.cells_of(run, found)[0]
    (other,) = [c for c in found if c.arm == "IWAE" and c.seeds == (4,)]
    states: list[Any] = [load_checkpoint(c.weights) for c in (other, cell.source)]
    names = states[0]["parameters"]
    both = {k: torch.cat([s["parameters"][k] for s in states]) for k in names}
    source = replace(cell.source, seeds=(4, 3), directory=tmp_path)
    save_checkpoint(source.weights, {"parameters": both})
    again = meeting.study_cell(replace(cell, source=source))
    assert again == met["C-ISIR", "strict", 0.0]


def test_a_model_that_diverged_is_not_studied(
    finished: tuple[FakeRun, list[VaeCell], list[dict[str, Any]]], tmp_path: Path
) -> None:
    """The next seed's is; and without any nothing is."""
    run, found, _ = finished
    models = [replace(c, directory=tmp_path) for c in found if c.arm == "IWAE"]
    lost = []
    for old, new in zip([c for c in found if c.arm == "IWAE"], models, strict=True):
        state: Any = load_checkpoint(old.weights)
        save_checkpoint(new.weights, state)
        state["parameters"]["encoder.W0"][0, 0, 0] = math.nan
        lost.append((new, state))
    for seeds, (cell, state) in zip(({4}, set()), lost, strict=True):
        assert cell.seeds == (3 if seeds else 4,)
        save_checkpoint(cell.weights, state)
        again = meeting.cells_of(run, models)
        assert {c.seed for c in again} == seeds
        assert {c.source.seeds for c in again} == {(s,) for s in seeds}


def study(rows: int = 400) -> tuple[Any, Coupling]:
    """log w of many images at a random model whose encoder is off, and settings."""
    model = BinaryVAE(64, 4, (16,))
    p = model.initial([torch.Generator().manual_seed(1)])
    p["decoder.W0"], p["decoder.W1"] = 2 * p["decoder.W0"], 2 * p["decoder.W1"]
    x = cells.images("teacher", "test")[:rows].float().unsqueeze(0)
    return row_log_weight(model, p, x)[0], Coupling(4, lag=5, cap=20)


def test_times_are_those_of_the_driver() -> None:
    weigh, c = study(200)
    beta = torch.full((200,), 0.8)
    found = meeting.times(weigh, 200, 4, c, beta, generator(0, "times"))
    stream = generator(0, "times")
    kernel, joint = kernels(weigh, c, beta, stream)
    first, second = meeting.begin(weigh, 200, 4, c, stream)
    nothing: Any = lambda *given: None  # noqa: E731
    known = couple(kernel, joint, first, second, nothing, nothing, lag=5, cap=20)
    steps = known.joint_steps.double()
    assert found["mean"] == float(steps.mean())
    assert found["se"] == pytest.approx(float(steps.std()) / math.sqrt(200))
    assert found["median"] == float(steps.quantile(0.5))
    assert found["q99"] == pytest.approx(float(steps.quantile(0.99)))
    assert found["largest"] == float(steps.max())
    assert found["capped"] == pytest.approx(float(known.capped.double().mean()))
    assert 0 < found["capped"] < 1
    assert not torch.equal(first.points, second.points)


def test_the_index_rule_meets_earlier_and_the_cap_holds() -> None:
    weigh, c = study()
    beta = torch.full((400,), 0.9)
    found = {
        rule: meeting.times(weigh, 400, 4, replace(c, rule=rule), beta, generator(0, rule))
        for rule in ("strict", "index")
    }
    strict, index = found["strict"], found["index"]
    assert strict["mean"] - index["mean"] > 4 * math.hypot(strict["se"], index["se"])
    assert index["capped"] < strict["capped"]
    assert strict["largest"] == 20
    tight = meeting.times(weigh, 400, 4, replace(c, cap=3), beta, generator(0, "tight"))
    assert tight["largest"] == 3
    assert tight["capped"] > strict["capped"]


def test_pilot_runs_move_the_ess_to_its_target() -> None:
    """With six samples it lies between what both ends give; every image finds its own beta."""
    weigh, c = study()
    c = replace(c, samples=6)
    beta = meeting.pilot(weigh, 400, 4, c, generator(0, "pilot"))
    assert beta.shape == (400,)
    assert float(((beta > 0.02) & (beta < 0.98)).double().mean()) > 0.9
    assert float(beta.std()) > 0.05

    def share(b: Tensor) -> float:
        stream = generator(0, "after")
        return meeting.times(weigh, 400, 4, replace(c, cap=1), b, stream)["effective"]

    low, start, after = share(torch.full((400,), 1e-6)), share(torch.full((400,), 0.9)), share(beta)
    assert low < 0.26
    assert start > 0.37
    assert abs(after - 0.3) < 0.5 * abs(start - 0.3)


def test_counts_add_up() -> None:
    steps = torch.tensor([1, 1, 2, 29, 30, 31, 33, 36, 5000, 9, 9])
    capped = torch.tensor([False] * 9 + [True, False])
    found = meeting.histogram(steps, capped)
    edges, counts = found["from"], found["count"]
    assert edges[:30] == list(range(1, 31))
    assert edges == sorted(set(edges))
    assert edges[-1] >= 4096
    assert sum(counts) == 10
    known = [0] * len(edges)
    for s in steps[~capped].tolist():
        known[max(i for i, e in enumerate(edges) if e <= s)] += 1
    assert counts == known


def test_meeting_metrics(
    finished: tuple[FakeRun, list[VaeCell], list[dict[str, Any]]],
    met: dict[tuple[str, str, float | None], dict[str, Any]],
) -> None:
    run = FakeRun(finished[0].directory)
    record.meetings(run, list(met.values()))
    D = "meeting/teacher/D=2"
    names = [f"{D}/C-ISIR/strict"]
    for rule in ("strict", "index"):
        names += [f"{D}/C-ISIR-DISIR/beta={b}/{rule}" for b in (0.5, "adapted")]
    whats = ("mean", "median", "q90", "q99", "largest", "capped", "effective", "first")
    every = {f"{n}/{what}" for n in names for what in whats}
    every |= {f"{D}/C-ISIR-DISIR/beta=adapted/{rule}/beta" for rule in ("strict", "index")}
    assert set(run.metrics) == {(name, 3) for name in every}
    for name, r in zip(names, (met["C-ISIR", "strict", 0.0], *list(met.values())[1:]), strict=True):
        least = 2 if "C-ISIR/" in name else 1
        own = run.metrics[f"{name}/first", 3]
        assert own["value"] == sum(r["counts"]["count"][:least]) / 30
        assert own["se"] == pytest.approx((own["value"] * (1 - own["value"]) / 30) ** 0.5)
    assert run.metrics[f"{D}/C-ISIR-DISIR/beta=0.5/index/first", 3]["value"] > 0
    own = run.metrics[f"{D}/C-ISIR-DISIR/beta=0.5/index/mean", 3]
    known = met["C-ISIR-DISIR", "index", 0.5]
    assert (own["value"], own["se"], own["n"]) == (known["mean"], known["se"], 30)
    assert run.metrics[f"{D}/C-ISIR/strict/q90", 3]["se"] is None

"""Records become verdicts: which of them count, cell by cell, and how it is told."""

import json

import pytest

from lmcnb.errors import UsageError, UserError
from lmcnb.lab import claims, facts, report

FACTS = """
scope = ["tables.targets"]
optional = ["schemes"]
[citation]
title = "A paper"
authors = ["A. Author"]
venue = "A venue"
arxiv = "1234.56789"
year = 2020
bibtex = "@misc{author2020}"

[[table]]
id = "paper"
role = "paper"
title = "ELBO"
source = "table 1"
metric = "elbo/{target}/K={K}/{method}"
keys = ["target", "method"]
along = { K = [8, 16] }
seeds = 3
[table.value.sonar]
A = [-3.0, -2.0]
B = [-4.0, nan]
[table.sd.sonar]
A = [0.1, 0.1]

[[table]]
id = "log_z"
role = "reference"
title = "log Z"
source = "quadrature"
metric = "log_z/{target}/reference"
keys = ["target"]
value = { sonar = -1.0 }

[[assumption]]
id = "start"
question = "Where?"
choice = "Here"
why = "Because"
sensitivity = "not run"
"""
ORDER = """
[[claim]]
id = "order"
where = "table 1"
statement = "A above B"
rule = "ordering"
metrics = ["elbo/sonar/K={K}/A", "elbo/sonar/K={K}/B"]
grid = { K = [8, 16] }
seeds = 2
"""


def write(folder, text, name="demo"):
    (folder / f"{name}.toml").write_text(FACTS + text)
    return folder


def entry(seed, value, se=0.01):
    return {"seed": seed, "value": value, "se": se, "diverged": value is None}


def record(metrics, id="a", profile="laptop", finished="2024-01-01T00:00:00+00:00", **more):
    """What judging reads of a record; metrics are `{name: {seed: value}}`."""
    own = {name: [entry(s, v) for s, v in seeds.items()] for name, seeds in metrics.items()}
    base = {"notebook": "demo", "status": "ok", "settings": {"lr": 1.0, "n_seeds": 2}}
    return base | {"id": id, "profile": profile, "finished": finished, "metrics": own} | more


def both(a, b, K=8):
    return {f"elbo/sonar/K={K}/A": a, f"elbo/sonar/K={K}/B": b}


GOOD, BAD = ({0: 3.0, 1: 3.0}, {0: 1.0, 1: 1.0}), ({0: 1.0, 1: 1.0}, {0: 3.0, 1: 3.0})


@pytest.fixture
def order(tmp_path):
    root = write(tmp_path, ORDER)

    def judge(*records, **more):
        return claims.judge_all(["demo"], records, root=root, **more)[0]

    return judge


def test_all_cells_hold(order):
    row = order(record(both(*GOOD) | both(*GOOD, K=16)))
    assert row["verdict"] == "reproduced"
    assert row["ours"]["value"] == pytest.approx(2.0)
    assert (row["ours"]["seeds"], row["ours"]["profile"]) == (2, "laptop")
    assert [c["verdict"] for c in row["cells"]] == ["reproduced", "reproduced"]
    assert row["evidence"] == ["a"]


def test_a_missing_cell_withholds_the_verdict_and_is_told(order):
    row = order(record(both(*GOOD)))
    assert row["verdict"] == "not run"
    assert "1 reproduced, 1 not run" in row["reason"]
    assert "elbo/sonar/K=16/A" in row["reason"]


def test_a_failed_cell_decides_even_if_another_is_missing(order):
    row = order(record(both(*BAD)))
    assert row["verdict"] == "not reproduced"
    assert "K=8 (-2 ± 0.01)" in row["reason"]


def test_share_of_cells_that_must_hold(tmp_path):
    text = ORDER.replace("grid = { K = [8, 16] }", "grid = { K = [1, 2, 3, 4, 5] }\nshare = 0.8")
    root = write(tmp_path, text)
    good = {k: v for K in (1, 2, 3, 4, 5) for k, v in both(*GOOD, K=K).items()}
    one = claims.judge_all(["demo"], [record(good | both(*BAD, K=2))], root=root)[0]
    assert one["verdict"] == "direction only"
    two = claims.judge_all(["demo"], [record(good | both(*BAD, K=2) | both(*BAD, K=3))], root=root)[
        0
    ]
    assert two["verdict"] == "not reproduced"


def test_exceptions_are_shown_and_do_not_count(tmp_path):
    text = ORDER + 'exceptions = [{ K = 16, reason = "a tie in the table" }]\n'
    root = write(tmp_path, text)
    row = claims.judge_all(["demo"], [record(both(*GOOD) | both(*BAD, K=16))], root=root)[0]
    assert row["verdict"] == "reproduced"
    assert row["cells"][1]["verdict"] == "not reproduced"
    assert row["cells"][1]["excepted"] == "a tie in the table"
    assert row["ours"]["value"] > 0


def test_least_profile_and_least_seeds(order):
    whole = both(*GOOD) | both(*GOOD, K=16)
    assert order(record(whole, profile="quick"))["verdict"] == "not run"
    single = {name: {0: seeds[0]} for name, seeds in whole.items()}
    row = order(record(single))
    assert row["verdict"] == "not run"
    assert "1 of 2 seeds" in row["reason"]


def test_seeds_of_two_records_add_up_and_the_newest_wins(order):
    first = {0: 9.0, 1: 9.0}, {0: 10.0, 1: 10.0}
    metrics = both(*first) | both(*first, K=16)
    new = {0: 3.0}, {0: 1.0}
    newest = both(*new) | both(*new, K=16)
    more = {2: 9.0}, {2: 1.0}
    row = order(
        record(newest, "new", finished="2024-02-01T00:00:00+00:00"),
        record(metrics, "old"),
        record(both(*more) | both(*more, K=16), "more"),
    )
    assert row["ours"]["seeds"] == 3
    expected = ((3.0 - 1.0) + (9.0 - 10.0) + (9.0 - 1.0)) / 3
    assert row["ours"]["value"] == pytest.approx(expected)
    assert row["evidence"] == ["more", "new", "old"]


def test_records_of_other_settings_are_not_pooled(order):
    zero = {0: 3.0}, {0: 1.0}
    one = {1: 3.0}, {1: 1.0}
    apart = (
        record(both(*zero) | both(*zero, K=16), "a"),
        record(both(*one) | both(*one, K=16), "b", settings={"lr": 2.0, "n_seeds": 2}),
    )
    assert order(*apart)["verdict"] == "not run"
    scope = {"lr": 1.0, "n_seeds": 1, "tables": {"targets": ["sonar"]}}
    together = (
        record(both(*zero) | both(*zero, K=16), "a", settings=scope),
        record(both(*one) | both(*one, K=16), "b", settings=scope | {"tables": {"targets": ["x"]}}),
    )
    assert order(*together)["verdict"] == "reproduced"


def test_a_part_left_out_does_not_keep_records_apart(order):
    def at(seed, id, schemes):
        values = {seed: 3.0}, {seed: 1.0}
        settings = {"lr": 1.0, "schemes": schemes}
        return record(both(*values) | both(*values, K=16), id, settings=settings)

    whole, without = at(0, "a", {"steps": 5}), at(1, "b", None)
    assert order(whole, without)["verdict"] == order(without, whole)["verdict"] == "reproduced"
    assert order(whole, at(1, "c", {"steps": 6}))["verdict"] == "not run"
    assert order(whole, at(1, "c", {"steps": 5}))["verdict"] == "reproduced"


def test_a_claim_may_be_kept_to_a_lower_profile(tmp_path):
    write(tmp_path, ORDER.replace("seeds = 2", 'seeds = 2\nmost = "laptop"'))
    laptop = record(both(*GOOD) | both(*GOOD, K=16), "laptop")
    paper = record(both(*BAD) | both(*BAD, K=16), "paper", "paper")
    (row,) = claims.judge_all(["demo"], [laptop, paper], root=tmp_path)
    assert row["verdict"] == "reproduced"
    assert row["evidence"] == ["laptop"]


def test_among_protocols_of_one_profile_the_newest_judges(order):
    old = record(both(*BAD) | both(*BAD, K=16), "old")
    new = record(
        both(*GOOD) | both(*GOOD, K=16),
        "new",
        finished="2024-03-01T00:00:00+00:00",
        settings={"lr": 2.0},
    )
    assert order(old, new)["verdict"] == order(new, old)["verdict"] == "reproduced"


def test_changed_settings_are_set_aside(order):
    whole = both(*GOOD) | both(*GOOD, K=16)
    row = order(record(whole, overrides={"lr": 2.0}))
    assert row["verdict"] == "not run"
    assert "1 record that changes settings" in row["reason"]
    for allowed in ({"tables.targets": ["sonar"]}, {"schemes": None}, {"n_seeds": 2}):
        assert order(record(whole, overrides=allowed))["verdict"] == "reproduced"
    assert order(record(whole, overrides={"schemes": {"lr": 1}}))["verdict"] == "not run"
    inside = {"tables": {"targets": ["sonar"]}}  # a table is its entries
    assert order(record(whole, overrides=inside))["verdict"] == "reproduced"
    assert order(record(whole, overrides={"tables": {}}))["verdict"] == "not run"
    both_of = {"tables": {"targets": ["sonar"], "lr": 2.0}}
    assert order(record(whole, overrides=both_of))["verdict"] == "not run"


def test_an_override_that_says_what_the_profile_says_changes_nothing(order, monkeypatch):
    """Values are compared with those of the profile as it is now."""

    class Profile:
        def model_dump(self, mode):
            return {"lr": 2.0, "tables": {"targets": ["sonar"]}}

    whole = both(*GOOD) | both(*GOOD, K=16)
    made = record(whole, overrides={"lr": 2.0}, settings={"lr": 2.0})
    assert order(made)["verdict"] == "not run"
    monkeypatch.setattr("lmcnb.lab.config.resolve", lambda name, profile: Profile())
    assert order(made)["verdict"] == "reproduced"
    other = record(whole, overrides={"lr": 3.0}, settings={"lr": 3.0})
    assert order(other)["verdict"] == "not run"
    gone = record(whole, overrides={"momentum": None}, settings={"momentum": None})
    assert order(gone)["verdict"] == "not run"


def test_a_partial_run_of_a_higher_profile_takes_over_its_cells_only(order):
    laptop = record(both(*GOOD) | both(*GOOD, K=16), "laptop")
    paper = record(both({0: 6.0, 1: 6.0}, {0: 1.0, 1: 1.0}), "paper", "paper")
    row = order(laptop, paper)
    assert [c["ours"]["profile"] for c in row["cells"]] == ["paper", "laptop"]
    assert row["cells"][0]["ours"]["value"] == pytest.approx(5.0)
    assert "judged by paper (1), laptop (1)" in row["reason"]
    half = record({"elbo/sonar/K=8/A": {0: 0.0, 1: 0.0}}, "half", "paper")
    assert {c["ours"]["profile"] for c in order(laptop, half)["cells"]} == {"laptop"}
    few = record(both({0: 0.0}, {0: 1.0}), "few", "paper")
    assert {c["ours"]["profile"] for c in order(laptop, few)["cells"]} == {"laptop"}


@pytest.mark.parametrize("status", ["paused", "error"])
def test_unfinished_records_do_not_judge(order, status):
    assert order(record(both(*GOOD) | both(*GOOD, K=16), status=status))["verdict"] == "not run"


def test_a_diverged_seed_counts(order):
    lost = {0: 3.0, 1: 3.0, 2: None}, {0: 1.0, 1: 1.0, 2: 1.0}
    row = order(record(both(*lost) | both(*GOOD, K=16), status="diverged"))
    assert row["cells"][0]["verdict"] == "direction only"
    assert row["verdict"] == "direction only"
    assert row["cells"][0]["reason"] == "1 of 3 seeds diverged"
    assert report.show_ours(row).endswith("(2 of 3 seeds, others diverged, laptop)")


def test_older_code_is_marked_and_stays_evidence(order):
    whole = record(both(*GOOD) | both(*GOOD, K=16))
    assert order(whole, changed=lambda r: [])["older_code"] == []
    row = order(whole, changed=lambda r: ["lmcnb.kernels.leapfrog"])
    assert row["verdict"] == "reproduced"
    assert row["older_code"] == ["a"]
    assert "older code: lmcnb.kernels.leapfrog changed" in row["reason"]
    assert "older code" in report.cells(row)[-1]


def test_judging_is_a_pure_function(order):
    records = [record(both(*GOOD), "a"), record(both(*BAD, K=16), "b", "paper")]
    before = json.dumps(records)
    assert order(*records) == order(*records) == order(*records[::-1])
    assert json.dumps(records) == before


def test_not_testable(tmp_path):
    root = write(tmp_path, ORDER + 'not_testable = "needs Inception weights"\n')
    row = claims.judge_all(["demo"], [], root=root)[0]
    assert (row["verdict"], row["reason"]) == ("not testable here", "needs Inception weights")


def test_numbers_from_tables(tmp_path):
    text = """
[[claim]]
id = "value"
kind = "value"
where = "table 1"
statement = "ELBO of A"
rule = "interval"
metrics = ["elbo/{target}/K={K}/A"]
grid = { target = ["sonar"], K = [8, 16] }
value = "paper"
tolerance = 0.1
tolerance_reason = "rounding"
[[claim]]
id = "bound"
where = "section 2"
statement = "ELBO of A below log Z"
rule = "at_most"
metrics = ["elbo/{target}/K=8/A"]
grid = { target = ["sonar"] }
value = "log_z:log_z/{target}/reference"
[[claim]]
id = "difference"
where = "table 1"
statement = "A gains over B what the paper's A gains"
rule = "interval"
metrics = ["elbo/sonar/K=8/A", "elbo/sonar/K=8/B"]
value = "paper"
tolerance = 0.1
tolerance_reason = "rounding"
"""
    root = write(tmp_path, text.replace("where", "seeds = 1\nwhere"))
    metrics = {"elbo/sonar/K=8/A": {0: -3.05}, "elbo/sonar/K=16/A": {0: -2.0}}
    metrics["elbo/sonar/K=8/B"] = {0: -4.0}
    value, bound, difference = claims.judge_all(["demo"], [record(metrics)], root=root)
    assert [r["verdict"] for r in (value, bound, difference)] == ["reproduced"] * 3
    assert [c["paper"] for c in value["cells"]] == [-3.0, -2.0]
    assert bound["paper_value"] == -3.0
    assert difference["paper_value"] == 1.0
    metrics["elbo/sonar/K=8/A"] = {0: -0.9}
    value, bound, difference = claims.judge_all(["demo"], [record(metrics)], root=root)
    assert [r["verdict"] for r in (value, bound, difference)] == ["not reproduced"] * 3


def test_compare_puts_tables_beside_our_numbers(tmp_path):
    root = write(tmp_path, ORDER)
    records = [record(both(*GOOD)), record(both(*BAD), "q", "quick")]
    rows = {r["metric"]: r for r in claims.compare("demo", records, "elbo/sonar/", root=root)}
    assert rows["elbo/sonar/K=8/A"]["paper"] == (-3.0, 0.1)
    assert rows["elbo/sonar/K=8/A"]["ours"][0] == pytest.approx(3.0)
    assert rows["elbo/sonar/K=8/A"]["profile"] == "laptop"
    assert rows["elbo/sonar/K=16/A"]["ours"] is None
    assert "elbo/sonar/K=16/B" not in rows  # nan in the table, never run
    quick = claims.compare("demo", records, "elbo/sonar/K=8/A", profile="quick", root=root)
    assert quick[0]["ours"][0] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('rule = "ordering"', 'rule = "order"'), "did you mean 'ordering'"),
        (("seeds = 2", "seed = 2"), "seed: Extra inputs"),
        (("seeds = 2", "tolerance = 0.1"), "takes no tolerance"),
        (('rule = "ordering"', 'rule = "at_least"'), "needs value"),
        (('rule = "ordering"', 'rule = "exact"\ntolerance = 0.1'), "needs tolerance_reason"),
        (("grid = { K", "grid = { k"), "metrics use"),
        (("seeds = 2", "exceptions = [{ K = 8 }]"), "needs keys of the grid and a reason"),
        (('id = "order"', 'id = "order"\nprofile = "huge"'), "'quick', 'laptop' or 'paper'"),
        (("seeds = 2", 'most = "quick"'), "most = 'quick' is below profile = 'laptop'"),
    ],
)
def test_a_broken_claim_is_refused_by_name(tmp_path, change, message):
    assert change[0] in ORDER
    root = write(tmp_path, ORDER.replace(*change))
    with pytest.raises(UserError) as caught:
        claims.load_claims("demo", root)
    assert message in str(caught.value)
    assert "demo.toml" in str(caught.value)
    assert "order" in str(caught.value)


def test_other_broken_facts_are_refused(tmp_path):
    with pytest.raises(UserError, match="stands twice"):
        facts.load("demo", write(tmp_path, ORDER + ORDER))
    with pytest.raises(UserError, match="needs a list of 2"):
        text = (
            ORDER + '[[table]]\nid="t"\nrole="witness"\ntitle="t"\nsource="s"\nmetric="m/{x}/{K}"\n'
        )
        facts.load("demo", write(tmp_path, text + 'keys=["x"]\nalong={K=[1,2]}\nvalue={a=[1.0]}\n'))
    with pytest.raises(UsageError, match="did you mean 'demo'"):
        facts.load("demos", write(tmp_path, ""))
    text = ORDER.replace("ordering", "interval") + 'value = "nowhere"\n'
    with pytest.raises(UserError, match="table 'nowhere' is unknown"):
        claims.judge_all(["demo"], [record(both(*GOOD))], root=write(tmp_path, text))


def whole_record(metrics, run_id, finished="2024-01-01T00:00:00+00:00"):
    """A record that passes the schema of lab/records.py."""
    code = {"fingerprint": "f", "notebook": None, "modules": {}, "commit": None, "dirty": None}
    entries = {
        name: [{"seed": s, "value": v, "se": 0.01} for s, v in seeds.items()]
        for name, seeds in metrics.items()
    }
    return {
        "schema_version": 1, "id": run_id, "notebook": "demo", "profile": "laptop", "seed": 0,
        "seeds": [0, 1], "settings": {}, "status": "ok", "device": {}, "data": {},
        "code": code | {"commits": []}, "versions": {}, "machine": {}, "deterministic": "yes",
        "sessions": [], "started": finished, "finished": finished, "seconds": 1.0,
        "peak_memory": {}, "counters": {}, "metrics": entries, "figures": [],
    }  # fmt: skip


def test_records_are_read_from_results_and_runs(tmp_path):
    results, runs = tmp_path / "results" / "demo", tmp_path / "runs" / "demo" / "b"
    results.mkdir(parents=True)
    runs.mkdir(parents=True)
    (tmp_path / "results" / "benchmarks").mkdir()
    (tmp_path / "results" / "benchmarks" / "demo.json").write_text('{"ratio": 2}')
    (results / "a.json").write_text(json.dumps(whole_record(both(*GOOD), "a")))
    (runs / "record.json").write_text(json.dumps(whole_record(both(*GOOD, K=16), "b")))
    (runs / "progress.json").write_text("{")
    folders = [tmp_path / "results", tmp_path / "runs", tmp_path / "absent"]
    found = claims.read_records(folders)
    assert [r["file"] for r in found] == ["results/demo/a.json", "runs/demo/b/record.json"]
    row = claims.judge_all(["demo"], found, root=write(tmp_path, ORDER))[0]
    assert row["verdict"] == "reproduced"
    assert row["evidence"] == ["results/demo/a.json", "runs/demo/b/record.json"]

    copy = tmp_path / "runs" / "demo" / "a"
    copy.mkdir()
    (copy / "record.json").write_text(json.dumps(whole_record(both(*GOOD), "a")))
    assert len(claims.read_records(folders)) == 2  # one run, kept twice
    assert claims.read_records(folders)[0]["file"] == "results/demo/a.json"

    (results / "half.json").write_text('{"schema_version": 1, "id"')
    with pytest.raises(UserError, match=r"half\.json"):
        claims.read_records(folders)


def test_rendering(order, tmp_path):
    row = order(record(both(*GOOD) | both(*GOOD, K=16)))
    text = report.render([row], "table")
    assert "demo: 1 from the paper: 1 reproduced" in text
    assert report.show_ours(row) == "2.000 ± 0.010, K=8 (2 seeds, laptop)"
    assert "2.000 ± 0.010, K=8 (2 seeds," in text
    parsed = json.loads(report.render([row], "json"))
    wanted = {"paper", "id", "statement", "paper_value", "ours", "verdict", "evidence", "reason"}
    assert wanted <= set(parsed[0])
    assert set(parsed[0]["ours"]) >= {"value", "standard_error", "seeds", "profile"}
    assert "| order | A above B |" in report.render([row], "markdown")
    assert "a \\| b" in report.render([row | {"statement": "a | b"}], "markdown")
    with pytest.raises(UsageError, match="table, json, markdown"):
        report.render([row], "html")


def test_what_decides_is_what_is_shown(tmp_path):
    write(tmp_path, ORDER.replace("grid", "share = 0.5\ngrid"))
    weak = {0: 3.0, 1: 3.0}, {0: 2.999, 1: 2.999}
    metrics = both(*weak) | both({0: 9.0, 1: 9.0}, {0: 1.999, 1: 1.999}, K=16)
    (row,) = claims.judge_all(["demo"], [record(metrics)], root=tmp_path)
    assert row["ours"]["cell"] == {"K": 8}
    assert report.show_verdict(row) == "direction only, 1 of 2 cells hold"
    metrics["elbo/sonar/K=16/A"] = {0: 1.0, 1: 1.0}
    (row,) = claims.judge_all(["demo"], [record(metrics)], root=tmp_path)
    assert row["ours"]["cell"] == {"K": 16}  # the worse verdict
    assert report.show_verdict(row) == "direction only, 0 of 2 cells hold"


def test_our_own_checks_are_counted_apart(tmp_path):
    write(tmp_path, ORDER + ORDER.replace('"order"', '"own"\nkind = "check"'))
    rows = claims.judge_all(["demo"], [record(both(*GOOD) | both(*GOOD, K=16))], root=tmp_path)
    expected = "1 from the paper: 1 reproduced; 1 of our own (checks, findings): 1 reproduced"
    assert report.headline(rows) == expected
    assert "| 1 | 0 | 0 | 0 | 0 | 1 of 1 hold |" in report.notebooks_table(rows, tmp_path)
    rows = claims.judge_all(["demo"], [], root=tmp_path)
    assert "| 0 | 0 | 0 | 1 | 0 | 0 of 0 hold, 1 not run |" in report.notebooks_table(
        rows, tmp_path
    )


def test_reasons_are_told_once(tmp_path):
    write(tmp_path, ORDER + ORDER.replace('"order"', '"second"'))
    none = report.render(claims.judge_all(["demo"], [], root=tmp_path))
    assert "not run, no laptop or paper record has its metrics: order, second" in none
    (half,) = claims.judge_all(["demo"], [record(both(*GOOD))], root=write(tmp_path, ORDER))
    assert "order: 2 cells: 1 reproduced, 1 not run" in report.render([half])
    changed = record(both(*GOOD) | both(*GOOD, K=16), overrides={"lr": 2.0})
    aside = report.render(claims.judge_all(["demo"], [changed], root=tmp_path))
    assert "1 record that changes settings outside of the facts' `scope` set aside" in aside
    write(tmp_path, ORDER + ORDER.replace('"order"', '"second"'))
    whole = [record(both(*GOOD) | both(*GOOD, K=16))]
    rows = claims.judge_all(["demo"], whole, changed=lambda r: ["lmcnb.x"], root=tmp_path)
    text = report.render(rows)
    assert "2 of 2 rest on records of older code" in text
    assert "lmcnb.x" not in text
    assert "across commits" not in text
    whole[0]["code"] = {"mixed": True}
    text = report.render(claims.judge_all(["demo"], whole, root=tmp_path))
    assert "runs continued across commits, which they list: a" in text


def test_readme_blocks_are_replaced(order, tmp_path, monkeypatch):
    monkeypatch.setattr(facts.checkout, "PACKAGE", tmp_path)
    (tmp_path / "papers").mkdir()
    write(tmp_path / "papers", ORDER)
    row = order(record(both(*GOOD) | both(*GOOD, K=16)))
    readme = tmp_path / "README.md"
    readme.write_text(
        "top\n<!-- claims -->\nstale\n<!-- /claims -->\nmiddle\n"
        "<!-- notebooks --><!-- /notebooks -->\nend\n"
    )
    assert report.update_readme(readme, [row]) is True
    text = readme.read_text()
    assert text.startswith("top\n<!-- claims -->\n**demo**: 1 from the paper: 1 reproduced.")
    assert "stale" not in text
    assert "[demo](notebooks/demo.ipynb)" in text
    assert (
        "| [A paper](https://arxiv.org/abs/1234.56789), 2020 | 1 | 0 | 0 | 0 | 0 | 0 of 0 hold |"
        in text
    )
    assert text.endswith("<!-- /notebooks -->\nend\n")
    assert report.update_readme(readme, [row]) is False
    assert readme.read_text() == text
    readme.write_text("<!-- claims -->\n<!-- /claims -->\n")
    with pytest.raises(UserError, match="<!-- notebooks -->"):
        report.update_readme(readme, [row])
    assert readme.read_text() == "<!-- claims -->\n<!-- /claims -->\n"

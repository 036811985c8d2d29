"""Profiles and overrides: what is right resolves, what is wrong is refused by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lmcnb.errors import UsageError, UserError
from lmcnb.lab import checkout, config


def test_a_profile_becomes_typed_settings(toy: Path) -> None:
    quick = config.resolve("toy")
    assert (quick.n_seeds, quick.loop.steps, quick.loop.wait) == (1, 5, 0.0)
    assert not hasattr(quick, "budget")
    paper = config.resolve("toy", "paper")
    assert paper.n_seeds == 3
    assert paper.iterations == {"default": 20, "sonar/LDVI": 60}


@pytest.mark.parametrize(
    "overrides",
    [
        {"loop.steps": 9, "methods": ["LDVI"]},
        {"loop": {"steps": 9}, "methods": ["LDVI"]},
        '{"loop.steps": 9, "methods": ["LDVI"]}',
        config.parse_set(["loop.steps=9", "methods=['LDVI']"]),
        config.parse_set(["loop.steps = 9", 'methods=["LDVI"]']),
    ],
)
def test_overrides_in_every_form(toy: Path, overrides: Any) -> None:
    settings = config.resolve("toy", "quick", overrides)
    assert settings.loop.steps == 9
    assert settings.methods == ["LDVI"]
    assert settings.loop.wait == 0.0  # its neighbours stay


def test_a_table_is_replaced_or_changed_in_one_entry(toy: Path) -> None:
    whole = config.resolve("toy", "paper", {"iterations": {"default": 1}})
    assert whole.iterations == {"default": 1}
    one = config.resolve("toy", "paper", {"iterations.sonar/LDVI": 7})
    assert one.iterations == {"default": 20, "sonar/LDVI": 7}
    default = config.resolve("toy", "quick", {"iterations.brownian": 7})
    assert default.iterations == {"default": 10, "brownian": 7}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"loop.stps": 1}, ["'loop.stps'", "unknown", "did you mean 'loop.steps'?"]),
        ({"n_seed": 1}, ["'n_seed'", "did you mean 'n_seeds'?", "loop.wait"]),
        ({"loop": {"stps": 1}}, ["'loop.stps'", "did you mean 'loop.steps'?"]),
        ({"budget": "1 h"}, ["'budget'", "unknown"]),
        ({"loop.steps": 0}, ["loop.steps = 0", "greater than or equal to 1", ">= 1"]),
        ({"loop.steps": -3}, ["loop.steps = -3", ">= 1"]),
        ({"loop.steps": 1.5}, ["loop.steps = 1.5", "an integer"]),
        ({"loop.steps": "9"}, ["loop.steps = '9'", "an integer"]),
        ({"loop.steps": True}, ["loop.steps = True", "an integer"]),
        ({"loop.steps": None}, ["loop.steps = None", "an integer"]),
        ({"loop.wait": "x"}, ["loop.wait = 'x'", "a number", ">= 0"]),
        ({"loop": 3}, ["loop = 3", "group", "loop.steps"]),
        ({"n_seeds.x": 3}, ["'n_seeds.x'", "single value", "an integer"]),
        ({"methods": ["LDVX"]}, ["methods.0 = 'LDVX'", "ULA, LDVI", "did you mean 'LDVI'?"]),
        ({"methods": []}, ["methods = []", "at least 1"]),
        ({"methods": "LDVI"}, ["methods = 'LDVI'", "a list"]),
        ({"iterations.a": "x"}, ["iterations.a = 'x'", "integer"]),
        ({"n_seeds": 0, "loop.steps": 0}, ["n_seeds = 0", "loop.steps = 0"]),
        ("{", ["overrides = '{'", "not JSON", "images.epochs"]),
        ("[1]", ["overrides", "dict"]),
        ([1], ["overrides = [1]", "dict"]),
        ({1: 2}, ["key 1", "string"]),
    ],
)
def test_what_is_wrong_is_named(toy: Path, overrides: Any, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        config.resolve("toy", "quick", overrides)
    for word in words:
        assert word in str(caught.value)
    assert "quick" not in str(caught.value)  # the profile is not to blame


def test_a_mistake_in_a_profile_names_the_profile(toy: Path) -> None:
    path = toy / "notebooks" / "profiles" / "toy.toml"
    path.write_text("[quick]\nn_seeds = 0\n[paper]\nlop = 3\n")
    with pytest.raises(UsageError, match=r"^\[quick\] of .*/toy.toml: n_seeds = 0"):
        config.resolve("toy")
    with pytest.raises(UsageError, match=r"^\[paper\] of .*/toy.toml: setting 'lop' is unknown"):
        config.resolve("toy", "paper")
    path.write_text("[quick\n")
    with pytest.raises(UserError, match=r"toy\.toml: not valid TOML"):
        config.resolve("toy")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tox",), "notebook 'tox' is unknown; did you mean 'toy'"),
        (("toy", "quik"), "profile 'quik' is unknown; did you mean 'quick'.*quick, paper"),
        (("toy", 3), "profile = 3: must be a string"),
    ],
)
def test_unknown_names_get_a_suggestion(toy: Path, arguments: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config.resolve(*arguments)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("1e-3", 1e-3),
        ("1_000", 1000),
        ("true", True),
        ("[8, 16]", [8, 16]),
        ('{"a": 1}', {"a": 1}),
        ("{ a = 1 }", {"a": 1}),
        ("'q'", "q"),
        ("plain", "plain"),
        ("a=b", "a=b"),
        ("2020-01-01", "2020-01-01"),
        ("", ""),
        ("1\nx = 2", "1\nx = 2"),
    ],
)
def test_values_of_set(text: str, value: Any) -> None:
    parsed = config.parse_set([f"key={text}"])["key"]
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize("items", [["key"], ["=1"], ["a=1", "a=2"]])
def test_a_broken_set_is_refused(items: list[str]) -> None:
    with pytest.raises(UsageError, match="--set"):
        config.parse_set(items)


def test_the_settings_describe_themselves(toy: Path) -> None:
    rows = config.describe(type(config.resolve("toy")))
    assert rows[0] == ("n_seeds", "an integer, >= 1", "seeds in one run")
    assert ("loop.wait", "a number, >= 0", "seconds that a step sleeps") in rows
    assert ("methods", "a list of (one of ULA, LDVI), at least 1 long", "") in rows


def test_without_a_checkout_the_message_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMCNB_ROOT", str(tmp_path))
    with pytest.raises(UserError, match="needs the lmcnb checkout"):
        config.resolve("toy")
    monkeypatch.delenv("LMCNB_ROOT")
    monkeypatch.setattr(checkout, "PACKAGE", tmp_path / "site-packages" / "lmcnb")
    with pytest.raises(UserError, match=r"checkout.*pip install -e"):
        config.resolve("toy")

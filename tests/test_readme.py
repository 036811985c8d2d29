"""What the README shows works: code runs, commands parse, files and make targets exist."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml
from papermill.cli import papermill

from lmcnb.cli import main
from lmcnb.lab import checkout, claims, config, facts, report

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == "python"]
COMMANDS = [
    shlex.split(line, comments=True)
    for language, text in BLOCKS
    if language == "sh"
    for line in text.splitlines()
    if line.split("#")[0].strip()
]
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def of(program: str) -> list[list[str]]:
    return [words[1:] for words in COMMANDS if words[0] == program]


def test_every_command_is_of_a_known_program() -> None:
    assert {words[0] for words in COMMANDS} <= {"git", "make", "lmcnb", "papermill", "source", "cd"}
    assert of("make") and of("lmcnb") and of("papermill")


@pytest.mark.parametrize("code", PYTHON)
def test_python_runs(code: str, tmp_path: Path) -> None:
    lines = [line for line in code.splitlines() if line.strip() and "import" not in line]
    assert len(lines) <= 12, "a reader wants ten lines"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_there_is_an_own_target() -> None:
    assert "log_density" in "".join(PYTHON)


@pytest.mark.parametrize("words", of("lmcnb"), ids=" ".join)
def test_lmcnb_command_parses(words: list[str]) -> None:
    group, context = main, click.Context(main)
    while isinstance(group, click.Group):
        _, command, words = group.resolve_command(context, words)
        assert command is not None
        group = command
    parameters = group.make_context(group.name, list(words)).params
    if parameters.get("name"):
        assert parameters["name"] in checkout.papers()
    if group.name == "run":
        sets = config.parse_set(parameters["sets"])
        config.resolve(parameters["name"], parameters["profile"], sets)


def test_commands_in_the_text_exist() -> None:
    named = set(re.findall(r"`lmcnb ([a-z]+)", README))
    assert named and named <= set(main.commands)
    assert set(re.findall(r"`make ([a-z-]+)", README)) <= set(TARGETS)


@pytest.mark.parametrize("words", of("make"), ids=" ".join)
def test_make_target_exists(words: list[str]) -> None:
    assert words[0] in TARGETS
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words[1:]:
        assert word.partition("=")[0] + " ?=" in makefile


@pytest.mark.parametrize("words", of("papermill"), ids=" ".join)
def test_papermill_command_is_accepted(words: list[str]) -> None:
    parameters = papermill.make_context("papermill", list(words)).params
    assert (ROOT / "notebooks" / parameters["notebook_path"]).exists()
    given = dict(parameters["parameters"])
    assert set(given) <= {"profile", "seed", "device", "out_dir"}
    overrides = [yaml.safe_load(text)["overrides"] for text in parameters["parameters_yaml"]]
    config.resolve("langevin_diffusion", given.get("profile", "quick"), *overrides)


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)\s#]+)[^)]*\)", README))
def test_linked_file_exists(link: str) -> None:
    assert link.startswith("https://") or (ROOT / link).exists()


def test_layout_exists() -> None:
    (layout,) = [text for language, text in BLOCKS if language == "text"]
    paths = [line.split()[0] for line in layout.splitlines()]
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_images_have_alternative_text() -> None:
    assert "![](" not in README and not re.search(r"<img(?![^>]*alt=\"[^\"]+\")", README)


def test_the_tables_are_those_of_the_committed_records(tmp_path: Path) -> None:
    """`make claims` writes them; which records are of older code may change without it."""
    copy = tmp_path / "README.md"
    copy.write_text(README, encoding="utf-8")
    records = claims.read_records([ROOT / "results"])
    report.update_readme(copy, claims.judge_all(facts.papers(), records))
    same = copy.read_text(encoding="utf-8") == README.replace(" (older code)", "")
    assert same, "the tables are out of date: `make claims` writes them"

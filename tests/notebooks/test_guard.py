"""The committed notebooks pass the guard; a notebook spoilt in any way does not."""

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))
from guard import CHECK, MAX_BYTES, MAX_LINES, SECTIONS, problems

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


def test_there_is_a_notebook_for_every_profile_file() -> None:
    profiles = sorted(path.stem for path in (ROOT / "notebooks" / "profiles").glob("*.toml"))
    assert profiles, "no profiles: the guard would guard nothing"
    assert profiles == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_committed_notebook(name: str) -> None:
    assert problems(ROOT / "notebooks" / f"{name}.ipynb") == []


def test_nbval_waits_longer_than_its_five_seconds(request: pytest.FixtureRequest) -> None:
    waits = {i.output_timeout for i in request.session.items if hasattr(i, "output_timeout")}
    if not waits:
        pytest.skip("no notebook cells are collected; make test passes --nbval-lax")
    assert min(waits) >= 60


# A good notebook, and every way to spoil it.

START = """from lmcnb import lab
run = lab.start(
    "good", profile=profile, seed=seed, device=device, overrides=overrides, out_dir=out_dir
)"""
DEFAULTS = """profile: str = "quick"  # quick, laptop or paper
seed: int = 0  # the first seed
device: str = "auto"  # auto, cpu, cuda
overrides: dict = {}  # {"images.epochs": 100}
out_dir = None  # where runs are written"""
IMAGE_OUTPUT = {
    "output_type": "display_data",
    "data": {"image/png": "iVBORw0KGgo=", "text/plain": "a curve"},
    "metadata": {"image/png": {"alt": "a curve that rises"}},
}
HTML_OUTPUT = {
    "output_type": "display_data",
    "data": {"text/html": "<table><td>1/2</td></table> https://arxiv.org/abs/2208.07743"},
    "metadata": {},
}


def _good() -> dict[str, Any]:
    def code(source: str, count: int, *outputs: Any, tags: tuple[str, ...] = ()) -> dict[str, Any]:
        meta = {"tags": list(tags)} if tags else {}
        return {
            "cell_type": "code",
            "id": f"c{count}",
            "metadata": meta,
            "source": source,
            "execution_count": count,
            "outputs": list(outputs),
        }

    titles = ("The idea", "The algorithm", "Exact answers", "The paper's experiments", "Results")
    text = "\n\n".join(f"## {title}" for title in (*titles, "Claims", "What to try next"))
    prose = f"# Title\n\n{text}\n\n## Citation\n\n[profiles](good.ipynb) ![a ring](good.ipynb)"
    told = {"output_type": "stream", "name": "stdout", "text": "elbo/sonar/K=8/LDVI: reproduced\n"}
    cells = [
        {"cell_type": "markdown", "id": "m", "metadata": {}, "source": prose},
        code(DEFAULTS, 1, tags=("parameters",)),
        code(START, 2),
        code("print('told')", 3, told, tags=(CHECK,)),
        code("run.figure()", 4, IMAGE_OUTPUT, HTML_OUTPUT),
    ]
    meta = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return copy.deepcopy({"nbformat": 4, "nbformat_minor": 5, "metadata": meta, "cells": cells})


def _problems(notebook: dict[str, Any], tmp_path: Path) -> str:
    path = tmp_path / "good.ipynb"
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return "\n".join(problems(path))


def test_a_good_notebook_passes(tmp_path: Path) -> None:
    assert _problems(_good(), tmp_path) == ""


def _stream(name: str, text: str) -> dict[str, str]:
    return {"output_type": "stream", "name": name, "text": text}


def _edit(cell: int, key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda notebook: notebook["cells"][cell].update({key: value})


def _add(cell: int, output: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    return lambda notebook: notebook["cells"][cell]["outputs"].append(output)


ERROR = {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": []}
BARE_IMAGE = {**IMAGE_OUTPUT, "metadata": {}}
LONG = "def f():\n" + "    x = 1\n" * MAX_LINES
SPOILT: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "never executed": (_edit(4, "execution_count", None), "code cell 4: never executed"),
    "wrong count": (_edit(4, "execution_count", 7), "execution count 7"),
    "no checked output": (_edit(3, "outputs", []), "has no output"),
    "no checked cell": (_edit(3, "metadata", {}), "no cell is tagged"),
    "stderr": (_add(4, _stream("stderr", "warning")), "stderr: 'warning'"),
    "error": (_add(4, ERROR), "an error: ValueError"),
    "path in text": (_add(4, _stream("stdout", "in /home/me/runs")), "path: /home/me/runs"),
    "path in quotes": (_add(4, _stream("stdout", "'/tmp/x.py'")), "path: /tmp/x.py"),
    "path on Windows": (_add(4, _stream("stdout", "C:\\Users\\me")), "an absolute path"),
    "path in the source": (_edit(4, "source", "open('/data/x/y.csv')"), "path in the source"),
    "image without alt": (_add(4, BARE_IMAGE), "without alternative text"),
    "drawing without alt": (_edit(0, "source", "# T\n![](good.ipynb)"), "without alternative text"),
    "dead link": (_edit(0, "source", "# T\n[x](../gone.md)"), "which does not exist"),
    "too large": (_add(4, _stream("stdout", "x" * MAX_BYTES)), "more than 500000"),
    "no parameters": (_edit(1, "metadata", {}), "tagged parameters"),
    "injected": (_edit(2, "metadata", {"tags": ["injected-parameters"]}), "unknown tags"),
    "other default": (_edit(1, "source", DEFAULTS.replace("quick", "laptop")), "parameters are"),
    "no type": (_edit(1, "source", DEFAULTS.replace(": int", "")), "seed needs a plain type"),
    "no comment": (
        _edit(1, "source", DEFAULTS.replace("# the first seed", "#")),
        "trailing comment",
    ),
    "code": (_edit(1, "source", DEFAULTS + "\nprint(seed)"), "`print(seed)` is not"),
    "other name": (_edit(2, "source", START.replace("good", "bad")), "must call lab.start"),
    "seed ignored": (
        _edit(2, "source", START.replace("seed=seed", "seed=0")),
        "must call lab.start",
    ),
    "skipped cell": (_edit(4, "metadata", {"tags": ["nbval-skip"]}), "unknown tags"),
    "misspelt check": (_edit(3, "metadata", {"tags": ["nbval-check"]}), "unknown tags"),
    "skip by comment": (_edit(4, "source", "# NBVAL_SKIP\nx = 1"), "NBVAL_"),
    "class": (_edit(4, "source", "class A:\n    pass"), "defines class A"),
    "long function": (_edit(4, "source", LONG), "f has 7 lines"),
    "shell": (_edit(4, "source", "!ls"), "not plain Python"),
    "papermill": (lambda n: n["metadata"].update(papermill={}), "not scrubbed: ['papermill']"),
    "timing": (_edit(4, "metadata", {"execution": {}}), "not scrubbed: ['execution']"),
    "version": (lambda n: n["metadata"]["language_info"].update(version="3"), "['version']"),
    "kernel": (lambda n: n["metadata"]["kernelspec"].update(name="mine"), "not python3"),
    "no title": (_edit(0, "source", _good()["cells"][0]["source"][2:]), "a title"),
    "sections": (lambda n: _edit(0, "source", "# T\n\n## Results\n\n## Claims")(n), "'idea'"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_notebook_is_refused(name: str, tmp_path: Path) -> None:
    spoil, told = SPOILT[name]
    notebook = _good()
    spoil(notebook)
    assert told in _problems(notebook, tmp_path)


@pytest.mark.parametrize("absent", range(len(SECTIONS)))
def test_every_section_is_needed(absent: int, tmp_path: Path) -> None:
    notebook = _good()
    headings = notebook["cells"][0]["source"].split("## ")
    del headings[absent + 1]
    notebook["cells"][0]["source"] = "## ".join(headings)
    assert "in its place" in _problems(notebook, tmp_path)

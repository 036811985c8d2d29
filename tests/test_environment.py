"""One set of pins: pyproject.toml, constraints.txt, environment.yml and the Makefile agree."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [
    Requirement(text)
    for text in [*PROJECT["dependencies"], *(text for extra in EXTRAS.values() for text in extra)]
]
LINES = [
    line
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]
PINS = {canonicalize_name(name): version for name, _, version in (x.partition("==") for x in LINES)}
# Torch itself fixes the versions of these, which differ from platform to platform.
TORCHS_OWN = re.compile("nvidia-|cuda-|triton")
IMPORTED_AS = {"sklearn": "scikit-learn", "PIL": "pillow"}
COMES_WITH = {"IPython": "ipykernel", "jupyter_client": "ipykernel", "nbformat": "nbclient"}


def test_every_line_is_a_pin() -> None:
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in LINES)
    assert len(PINS) == len(LINES) and sorted(LINES, key=str.lower) == LINES
    assert PINS["torch"] == "2.13.0"


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_every_dependency_has_a_pin_within_its_range(requirement: Requirement) -> None:
    pin = PINS[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(Version(pin))


def test_what_the_dependencies_install_is_pinned_too() -> None:
    """Walks what is installed here; another version than the pin is allowed (`TORCH=newest`)."""
    seen: set[str] = set()
    todo = [(r.name, frozenset(r.extras)) for r in REQUIREMENTS]
    while todo:
        name, extras = todo.pop()
        try:
            needed = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # the extra `cluster` is not installed by make
        seen.add(canonicalize_name(name))
        for requirement in map(Requirement, needed):
            marker = requirement.marker
            if marker and not any(marker.evaluate({"extra": e}) for e in extras or {""}):
                continue
            if canonicalize_name(requirement.name) not in seen:
                todo.append((requirement.name, frozenset(requirement.extras)))
    assert len(seen) > 60
    assert sorted(name for name in seen - PINS.keys() if not TORCHS_OWN.match(name)) == []


def test_conda_takes_everything_but_python_from_the_same_pins() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, rest = environment["dependencies"]
    assert pip == "pip"
    assert rest == {"pip": ["--constraint constraints.txt", "--editable .[dev]"]}
    lowest = Requirement(python).specifier
    assert all(lowest.contains(version) for version in ("3.11", "3.12", "3.13"))
    assert not lowest.contains("3.10")
    assert PROJECT["requires-python"].startswith(">=3.11")


def test_make_and_ci_use_the_pins() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    installs = [line for line in makefile.splitlines() if "pip install" in line]
    assert installs and all("--constraint $(VENV)/constraints.txt" in line for line in installs)
    assert "cp constraints.txt $(VENV)" in makefile
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert "pip install" not in workflow and yaml.safe_load(workflow)["jobs"]
    assert set(re.findall(r"run: make ([a-z-]+)", workflow)) == {"lint", "test", "run"}


def test_every_import_is_a_dependency() -> None:
    declared = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    imported = set()
    for path in (ROOT / "lmcnb").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                imported.add(node.module.partition(".")[0])
    others = imported - set(sys.stdlib_module_names) - {"lmcnb"} - COMES_WITH.keys()
    missing = {m for m in others if canonicalize_name(IMPORTED_AS.get(m, m)) not in declared}
    assert missing == set()


def test_a_wheel_holds_the_data_files_and_says_that_it_needs_the_checkout(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE", "lmcnb"):
        subprocess.run(["cp", "-r", ROOT / name, tmp_path], check=True)
    build = (
        "import os, setuptools.build_meta as b; os.makedirs('dist');print(b.build_wheel('dist'))"
    )
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    files = [p for p in (ROOT / "lmcnb").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    absent = [p for p in files if not (site / p.relative_to(ROOT)).exists()]
    assert absent == []
    command = [sys.executable, "-c", "import lmcnb.cli as c; c.main(['list'])"]
    place = {"PYTHONPATH": str(site), "PATH": ""}
    told = subprocess.run(command, cwd=tmp_path / "dist", env=place, capture_output=True, text=True)
    assert told.returncode == 1 and "needs the lmcnb checkout" in told.stderr
    assert "Traceback" not in told.stderr

"""Where the checkout is, which papers it holds, and their settings and profiles.

The command and the notebooks need the checkout (notebooks, profiles, records); an installed wheel
has only the package. `LMCNB_ROOT` names another checkout.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from lmcnb.errors import UsageError, UserError

PACKAGE = Path(__file__).resolve().parents[1]


def root() -> Path:
    """The folder of the checkout.

    Raises:
        UserError: the package is not in a checkout (installed from a wheel).
    """
    given = os.environ.get("LMCNB_ROOT")
    folder = Path(given).expanduser().resolve() if given else PACKAGE.parent
    if not (folder / "notebooks").is_dir():
        where = f"LMCNB_ROOT = {given!r} has no folder notebooks" if given else "none was found"
        raise UserError(
            f"this needs the lmcnb checkout ({where}): clone the repository and install it "
            "with `pip install -e .`, or set LMCNB_ROOT to its folder"
        )
    return folder


def runs_folder(out_dir: str | Path | None = None) -> Path:
    """Where runs are written: `out_dir`, else `$LMCNB_RUNS`, else `runs/` of the checkout."""
    chosen = out_dir if out_dir is not None else os.environ.get("LMCNB_RUNS")
    return Path(chosen).expanduser().resolve() if chosen else root() / "runs"


def notebooks() -> list[str]:
    """The names of the notebooks that exist, sorted."""
    return sorted(p.stem for p in (root() / "notebooks").glob("*.ipynb"))


def papers() -> list[str]:
    """The names of the papers that have settings and profiles, sorted."""
    return sorted(p.stem for p in (root() / "notebooks" / "profiles").glob("*.toml"))


def notebook_path(name: str) -> Path:
    """The file of the notebook `name`; an unknown one is refused with the nearest name."""
    if name not in notebooks():
        raise UsageError(unknown("notebook", name, notebooks()))
    return root() / "notebooks" / f"{name}.ipynb"


def profiles(name: str) -> dict[str, dict[str, Any]]:
    """The profiles of a paper as they stand in `notebooks/profiles/NAME.toml`."""
    if name not in papers():
        raise UsageError(unknown("notebook", name, papers()))
    path = root() / "notebooks" / "profiles" / f"{name}.toml"
    table = read_toml(path)
    loose = [key for key, value in table.items() if not isinstance(value, dict)]
    if loose:
        raise UserError(f"{path}: {loose[0]} stands outside a profile; allowed: [quick] and so on")
    return table


def facts(name: str) -> dict[str, Any]:
    """The raw facts of a paper, `lmcnb/papers/NAME.toml`; empty when there are none yet."""
    path = root() / "lmcnb" / "papers" / f"{name}.toml"
    return read_toml(path) if path.is_file() else {}


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; a broken one is refused by name."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML ({error})") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def paper_module(name: str) -> ModuleType:
    """The module `lmcnb.papers.NAME` of the checkout, which defines `Settings`."""
    path = root() / "lmcnb" / "papers" / f"{name}.py"
    if not path.is_file():
        raise UserError(f"{path}: the settings of {name} are missing")
    if path.parent == PACKAGE / "papers":
        return importlib.import_module(f"lmcnb.papers.{name}")
    spec = importlib.util.spec_from_file_location(f"_lmcnb_paper_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # pydantic resolves annotations there
    spec.loader.exec_module(module)
    return module


def nearest(value: Any, names: Iterable[str]) -> str | None:
    """The name most like `value`, or None when nothing is near."""
    near = difflib.get_close_matches(value, list(names), n=1) if isinstance(value, str) else []
    return near[0] if near else None


def unknown(kind: str, value: Any, allowed: Iterable[str]) -> str:
    """The sentence for an unknown name: what is near, and what is allowed."""
    names = list(allowed)
    near = nearest(value, names)
    hint = f"did you mean {near!r}? " if near else ""
    return f"{kind} {value!r} is unknown; {hint}allowed: {', '.join(names) or 'none'}"

"""A fingerprint of the code behind a result: what it does, not how it is commented.

Docstrings, comments and layout are stripped through `ast`, and the tree is written in a form that
is the same for every Python version. The fingerprint covers the notebook's code cells and the
`lmcnb` modules that the run imported, except those that cannot change a number.
"""

from __future__ import annotations

import ast
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lmcnb.errors import UserError
from lmcnb.lab import checkout, config

# These cannot change a number: they show results, or decide settings, which are in the run id.
_SHOW = [
    "bars",
    "claims",
    "compare",
    "console",
    "evidence",
    "facts",
    "figures",
    "keep",
    "report",
    "rules",
    "display",
]
_DECIDE = ["checkout", "config", "execute", "files", "fingerprint", "keep", "lock", "plan"]
_DECIDE += ["records", "run"]
# What they read is in the run id and the record by the digest of its arrays, which `load` compares.
_DATA = ["data", "data_readers", "data_registry", "download", "formats", "checksums"]
LEFT_OUT = frozenset(
    [
        "lmcnb",
        "lmcnb.cli",
        "lmcnb.errors",
        "lmcnb.lab",
    ]
    + [f"lmcnb.lab.{name}" for name in _SHOW + _DECIDE + _DATA]
)
_SKIPPED_TAGS = {"parameters", "injected-parameters", "presentation"}


def of_source(source: str) -> str:
    """The fingerprint of Python source, without docstrings, comments and layout."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return _digest("\n".join(line.strip() for line in source.splitlines() if line.strip()))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(node, body[0]):
            body.pop(0)
    return _digest(_canonical(tree))


def of_notebook(path: Path) -> str | None:
    """The fingerprint of a notebook's code cells, or None when it cannot be read.

    Cells tagged `parameters` (their values are in the run id) or `presentation` are left out.
    """
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    digests = []
    for cell in cells:
        tags = set(cell.get("metadata", {}).get("tags", []))
        if cell.get("cell_type") != "code" or tags & _SKIPPED_TAGS:
            continue
        source = cell.get("source", "")
        text = source if isinstance(source, str) else "".join(source)
        lines = [line for line in text.splitlines() if not line.lstrip().startswith(("%", "!"))]
        digests.append(of_source("\n".join(lines)))
    return _digest("".join(digests))


def modules() -> list[str]:
    """The `lmcnb` modules that this process has imported and that can change a number."""
    return sorted(
        name
        for name, module in list(sys.modules.items())
        if f"{name}.".startswith("lmcnb.")
        and name not in LEFT_OUT
        and not name.endswith("_figures")  # draws what an experiment returned
        and getattr(module, "__file__", None)
    )


def current(name: str, module_names: Iterable[str]) -> dict[str, Any]:
    """The fingerprint of the notebook `name` and of modules, as they stand on the disk now."""
    parts: dict[str, str | None] = {m: _of_module(m) for m in module_names}
    notebook = of_notebook(checkout.root() / "notebooks" / f"{name}.ipynb")
    whole = _digest(json.dumps([notebook, parts], sort_keys=True))
    return {"fingerprint": whole, "notebook": notebook, "modules": parts}


def changed(record: Mapping[str, Any]) -> list[str]:
    """What differs behind a record from now: module names, `notebook`, `profile` (its settings)."""
    code = record["code"]
    now = current(record["notebook"], code["modules"])
    names = [
        m
        for m, digest in code["modules"].items()
        if digest != now["modules"][m] and m not in LEFT_OUT
    ]
    names += ["notebook"] if code["notebook"] != now["notebook"] else []
    return names + ([] if _same_settings(record) else ["profile"])


def _same_settings(record: Mapping[str, Any]) -> bool:
    """Whether the record's profile and overrides still give its settings."""
    try:
        now = config.resolve(record["notebook"], record["profile"], record.get("overrides"))
    except UserError:
        return False
    return bool(now.model_dump(mode="json") == record["settings"])


def package() -> str:
    """A fingerprint of the whole package, cheap: the bytes of its Python files."""
    digest = hashlib.sha256()
    for path in sorted(checkout.PACKAGE.rglob("*.py")):
        digest.update(str(path.relative_to(checkout.PACKAGE)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def commit() -> dict[str, Any]:
    """The commit of the checkout, and whether its code differs from it; None without git."""
    try:
        folder = checkout.root()
        head = _git(folder, "rev-parse", "HEAD")
        status = _git(folder, "status", "--porcelain", "--", "lmcnb", "notebooks")
    except (OSError, UserError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
    return {"commit": head, "dirty": bool(status)}


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    return result.stdout.strip()


def _of_module(name: str) -> str | None:
    path = checkout.PACKAGE.parent.joinpath(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return of_source(candidate.read_text(encoding="utf-8"))
    return None


def _is_docstring(owner: ast.AST, first: ast.AST) -> bool:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return (
        isinstance(owner, kinds)
        and isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    )


def _canonical(node: Any) -> str:
    """A node as text; empty fields are left out, since Python versions differ in them."""
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node))
        inner = (f"{n}={_canonical(v)}" for n, v in fields if v is not None and v != [])
        return f"{type(node).__name__}({','.join(inner)})"
    if isinstance(node, list):
        return f"[{','.join(map(_canonical, node))}]"
    return repr(node)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]

"""What a committed notebook must not hold.

nbval passes a notebook that was never executed without a word. The guard reads a notebook as a
file and refuses what nbval does not see.
"""

import ast
import re
from pathlib import Path
from typing import Any

import nbformat

PARAMETERS = {"profile": "quick", "seed": 0, "device": "auto", "overrides": {}, "out_dir": None}
# A level-2 heading holds each of these words, in this order.
SECTIONS = ("idea", "algorithm", "exact answers", "experiments", "results", "claims", "next", "cit")
CHECK = "nbval-check-output"
TAGS = {CHECK, "parameters", "presentation"}
MAX_BYTES = 500_000
MAX_LINES = 6  # of a function that a notebook defines

EMBEDDED = re.compile(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=]+")
ABSOLUTE = re.compile(r"(?<![\w.:/<>)\]}$\\+-])/(?:[\w.~-]+/)+[\w.~-]*|\b[A-Z]:\\\w+|\bfile://")
IMAGE = re.compile(r"!\[(?P<alt>[^\]]*)\]\((?P<file>[^)\s]+)[^)]*\)")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<file>[^)\s#]+)[^)]*\)")


def problems(path: Path) -> list[str]:
    """Everything that must not be committed, one line each; nothing for a good notebook."""
    if path.stat().st_size > MAX_BYTES:
        return [f"{path.stat().st_size} bytes, more than {MAX_BYTES}"]
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    found = [*_metadata(notebook), *_start(cells, path.stem), *_sections(notebook)]
    for number, cell in enumerate(cells, 1):
        told = [*_execution(cell, number), *_source(cell), *_outputs(cell)]
        found += [f"code cell {number}: {text}" for text in told]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            found += [f"{text}: {cell.source[:40]!r}" for text in _prose(cell, path.parent)]
    if not any(CHECK in cell.metadata.get("tags", []) for cell in cells):
        found.append(f"no cell is tagged {CHECK}: nbval would hold nothing")
    return found


def _metadata(notebook: Any) -> list[str]:
    found = []
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        found.append("the kernel is not python3")
    if extra := set(notebook.metadata) - {"kernelspec", "language_info"}:
        found.append(f"metadata not scrubbed: {sorted(extra)}")
    if extra := set(notebook.metadata.get("language_info", {})) - {"name"}:
        found.append(f"language_info not scrubbed: {sorted(extra)}")
    for cell in notebook.cells:
        if extra := set(cell.metadata) - {"tags"}:
            found.append(f"cell metadata not scrubbed: {sorted(extra)}")
        if unknown := set(cell.metadata.get("tags", [])) - TAGS:
            found.append(f"unknown tags {sorted(unknown)}; allowed: {sorted(TAGS)}")
    return found


def _start(cells: list[Any], name: str) -> list[str]:
    """The first code cell is the parameters with the defaults, the second opens the run."""
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) < 2 or tagged != cells[:1]:
        return ["the first code cell, and no other, must be tagged parameters"]
    values, found = {}, []
    for statement in ast.parse(cells[0].source).body:
        if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
            return [f"parameters: `{ast.unparse(statement)}` is not `name = value`"]
        target = statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]
        values[ast.unparse(target)] = ast.literal_eval(statement.value)
    if values != PARAMETERS:
        found.append(f"parameters are {values}, the defaults are {PARAMETERS}")
    for key in values:  # as `papermill --help-notebook` reads them; it knows no `str | None`
        seen = re.search(rf"^{key}\b(: ?[\w\[\], ]+)? ?= ?.*  # \S", cells[0].source, re.MULTILINE)
        if seen is None or (seen[1] is None and PARAMETERS.get(key) is not None):
            found.append(f"parameters: {key} needs a plain type and a trailing comment")
    calls = [node for node in ast.walk(ast.parse(cells[1].source)) if isinstance(node, ast.Call)]
    given = [_arguments(call) for call in calls if ast.unparse(call.func) == "lab.start"]
    if given != [{"name": repr(name), **{key: key for key in PARAMETERS}}]:
        found.append(f"the second code cell must call lab.start({name!r}, {', '.join(PARAMETERS)})")
    return found


def _arguments(call: ast.Call) -> dict[str, str]:
    """The arguments of a call of lab.start by name."""
    given = dict(zip(["name", *PARAMETERS], map(ast.unparse, call.args), strict=False))
    return given | {word.arg or "**": ast.unparse(word.value) for word in call.keywords}


def _sections(notebook: Any) -> list[str]:
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    headings = "\n".join(re.findall(r"^## (.*)$", prose, re.MULTILINE)).lower()
    at = 0
    for word in SECTIONS:
        at = headings.find(word, at)
        if at < 0:
            return [f"no heading with {word!r} in its place; sections: {', '.join(SECTIONS)}"]
        at = headings.find("\n", at) if "\n" in headings[at:] else len(headings)
    return [] if prose.lstrip().startswith("# ") else ["it does not begin with a title"]


def _execution(cell: Any, number: int) -> list[str]:
    if cell.execution_count is None:
        return ["never executed"]
    if cell.execution_count != number:
        return [f"execution count {cell.execution_count}: run all cells, in order"]
    if CHECK in cell.metadata.get("tags", []) and not cell.outputs:
        return [f"tagged {CHECK}, but has no output"]
    return []


def _source(cell: Any) -> list[str]:
    found = ["an absolute path in the source"] * bool(ABSOLUTE.search(cell.source))
    if "NBVAL_" in cell.source:
        found.append("an NBVAL_ comment; use tags")
    try:
        tree = ast.parse(cell.source)
    except SyntaxError:
        return [*found, "not plain Python (no magics, no shell)"]
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            found.append(f"defines class {node.name}; it belongs in the package")
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > MAX_LINES:
                found.append(f"{node.name} has {lines} lines; it belongs in the package")
    return found


def _outputs(cell: Any) -> list[str]:
    found = []
    for output in cell.outputs:
        if output.output_type == "error":
            found.append(f"an error: {output.ename}")
        if output.get("name") == "stderr":
            found.append(f"stderr: {output.text[:60]!r}")
        texts = {"text/plain": output.get("text", ""), **output.get("data", {})}
        for mime, text in texts.items():
            if mime.startswith("image/"):
                if not output.get("metadata", {}).get(mime, {}).get("alt", "").strip():
                    found.append(f"an {mime} without alternative text (use run.figure)")
            elif hit := ABSOLUTE.search(EMBEDDED.sub("", text if isinstance(text, str) else "")):
                found.append(f"an absolute path: {hit[0]}")
    return found


def _prose(cell: Any, folder: Path) -> list[str]:
    found = ["an image without alternative text"] * any(
        not image["alt"].strip() for image in IMAGE.finditer(cell.source)
    )
    for tag in re.findall(r"<img\b[^>]*>", cell.source):
        if not re.search(r'alt="[^"]+"', tag):
            found.append("an image without alternative text")
    for link in [*IMAGE.finditer(cell.source), *LINK.finditer(cell.source)]:
        local = not re.match(r"\w+:", link["file"])
        if local and not (folder / link["file"]).exists():
            found.append(f"a link to {link['file']}, which does not exist")
    return found

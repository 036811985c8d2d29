"""Verdicts for readers: as a table, JSON or Markdown, and in the README."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmcnb.errors import UsageError, UserError
from lmcnb.lab import facts
from lmcnb.lab.claims import summary
from lmcnb.lab.files import write_text
from lmcnb.lab.rules import VERDICTS

FORMATS = ("table", "json", "markdown")
MARKERS = ("claims", "notebooks")
Row = Mapping[str, Any]

_HEADER = ("claim", "statement", "paper", "ours", "verdict")
_NOTE = (
    '"Ours" is the mean over seeds ± one standard error; of a claim over several cells, the '
    "tightest cell. `lmcnb claims --format json` has every cell and the record files."
)


def render(rows: Sequence[Row], format: str = "table") -> str:
    """The verdicts as text: `table` for a terminal, `json` a list of objects, or `markdown`."""
    if format not in FORMATS:
        raise UsageError(f"format = {format!r} is unknown; allowed: {', '.join(FORMATS)}")
    if format == "json":
        return json.dumps(list(rows), indent=1, ensure_ascii=False, allow_nan=False)
    papers = list(dict.fromkeys(row["paper"] for row in rows))
    parts = [
        _block(paper, [row for row in rows if row["paper"] == paper], format) for paper in papers
    ]
    return "\n\n".join(parts)


def counts_line(counts: Mapping[str, int]) -> str:
    """Such as `51 claims: 30 reproduced, 2 direction only, 19 not run`."""
    parts = [f"{counts[v]} {v}" for v in VERDICTS if counts.get(v)]
    total = sum(counts.values())
    return f"{total} claim{'s' * (total != 1)}: {', '.join(parts)}"


def show_ours(row: Row) -> str:
    """`value ± standard error (seeds, profile)`; a dash when nothing was run."""
    ours = row["ours"]
    if not ours:
        return "–"
    value, error = ours["value"], ours["standard_error"]
    number = "diverged" if value is None else _number(value, error)
    seeds = f"{ours['seeds']} seed{'s' * (ours['seeds'] != 1)}"
    if ours["diverged"] and value is not None:
        seeds = f"{ours['seeds'] - ours['diverged']} of {seeds}, others diverged"
    return f"{number} ({seeds}, {ours['profile']})"


def show_paper(row: Row) -> str:
    """The paper's value as text; a dash when it states none."""
    value = row["paper_value"]
    return "–" if value is None else value if isinstance(value, str) else f"{value:g}"


def cells(row: Row) -> tuple[str, ...]:
    """A row of the claims table: id, statement, paper, ours, verdict."""
    older = " (older code)" if row["older_code"] else ""
    return row["id"], row["statement"], show_paper(row), show_ours(row), row["verdict"] + older


def update_readme(path: str | Path, rows: Sequence[Row]) -> bool:
    """Replace the blocks between `<!-- claims -->`, `<!-- notebooks -->` and their ends.

    Returns:
        Whether the file changed.

    Raises:
        UserError: the file has no such block; nothing is written.
    """
    path = Path(path)
    try:
        old = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path.name}: cannot be read ({error.strerror})") from error
    new = _replace(old, "claims", render(rows, "markdown"), path.name)
    new = _replace(new, "notebooks", notebooks_table(rows), path.name)
    if new != old:
        write_text(path, new)
    return new != old


def notebooks_table(rows: Sequence[Row], root: str | Path | None = None) -> str:
    """A Markdown table of the notebooks with their verdict counts."""
    counts = summary(rows)
    lines = [_line(("notebook", "paper", *VERDICTS)), _line(["---"] * 2 + ["---:"] * len(VERDICTS))]
    for name, found in counts.items():
        citation = facts.load(name, root).citation
        link = f"[{citation.title}](https://arxiv.org/abs/{citation.arxiv}), {citation.year}"
        numbers = [str(found[v]) for v in VERDICTS]
        lines.append(_line((f"[{name}](notebooks/{name}.ipynb)", link, *numbers)))
    return "\n".join(lines)


def _block(paper: str, rows: Sequence[Row], format: str) -> str:
    line = f"{paper}: {counts_line(summary(rows)[paper])}"
    if format == "table":
        return "\n".join([line, "", *_plain([_HEADER, *map(cells, rows)]), "", *_reasons(rows)])
    body = [_line(_HEADER), _line(["---"] * len(_HEADER))]
    body += [_line(cells(row)) for row in rows]
    whole = "\n".join(body)
    return (
        f"**{paper}**: {line.partition(': ')[2]}.\n\n<details><summary>The claims</summary>\n\n"
        f"{whole}\n\n{_NOTE}\n\n</details>"
    )


def _plain(
    rows: Sequence[Sequence[str]], widths: Sequence[int] = (16, 46, 22, 30, 28)
) -> list[str]:
    """Columns of text, wrapped to their widths."""
    used = [
        min(width, max(len(row[column]) for row in rows)) for column, width in enumerate(widths)
    ]
    lines = []
    for number, row in enumerate(rows):
        wrapped = [
            textwrap.wrap(text, width) or [""] for text, width in zip(row, used, strict=True)
        ]
        for depth in range(max(map(len, wrapped))):
            texts = [part[depth] if depth < len(part) else "" for part in wrapped]
            lines.append("  ".join(t.ljust(w) for t, w in zip(texts, used, strict=True)).rstrip())
        if number == 0:
            lines.append("  ".join("-" * width for width in used))
    return lines


def _reasons(rows: Iterable[Row]) -> list[str]:
    told = [f"{row['id']}: {row['reason']}" for row in rows if row["reason"]]
    return [line for text in told for line in textwrap.wrap(text, 150, subsequent_indent="    ")]


def _number(value: float, error: float | None) -> str:
    if error is None or error == 0:
        return f"{value:.3g}"
    digits = min(6, max(0, 1 - _exponent(error)))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _exponent(number: float) -> int:
    return int(f"{abs(number):e}".partition("e")[2])


def _line(texts: Iterable[str]) -> str:
    return "| " + " | ".join(t.replace("|", "\\|").replace("\n", " ") for t in texts) + " |"


def _replace(text: str, marker: str, block: str, file: str) -> str:
    pattern = re.compile(rf"(<!-- {marker} -->).*?(<!-- /{marker} -->)", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise UserError(
            f"{file}: needs one block between <!-- {marker} --> and <!-- /{marker} -->; "
            "nothing was written"
        )
    return pattern.sub(lambda m: f"{m[1]}\n{block}\n{m[2]}", text)

"""Verdicts for readers: as a table, JSON or Markdown, and in the README."""

from __future__ import annotations

import json
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmcnb.errors import UsageError, UserError
from lmcnb.lab import facts
from lmcnb.lab.claims import summary
from lmcnb.lab.files import write_text
from lmcnb.lab.rules import DIRECTION_ONLY, NOT_REPRODUCED, NOT_RUN, REPRODUCED, VERDICTS

FORMATS = ("table", "json", "markdown")
MARKERS = ("claims", "notebooks")
Row = Mapping[str, Any]

_HEADER = ("claim", "statement", "paper", "ours", "verdict")
_NOTE = (
    '"Ours" is the mean over seeds ± one standard error, and the number that it is held against; '
    "of a claim over several cells, the cell that decides (the worst, then the tightest); of an "
    "order, the smallest difference. `lmcnb claims --format json` has every cell and the files."
)
OF_THE_PAPER = ("claim", "value")
"""Kinds of rows that are the paper's; checks and findings are our own."""


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
    """Such as `30 reproduced, 2 direction only, 19 not run`."""
    return ", ".join(f"{counts[v]} {v}" for v in VERDICTS if counts.get(v))


def show_ours(row: Row) -> str:
    """`value ± standard error against number, cell (seeds, profile)`; a dash when not run."""
    ours = row["ours"]
    if not ours:
        return "–"
    value, error = ours["value"], ours["standard_error"]
    number = "diverged" if value is None else _number(value, error)
    seeds = f"{ours['seeds']} seed{'s' * (ours['seeds'] != 1)}"
    if ours["diverged"] and value is not None:
        seeds = f"{ours['seeds'] - ours['diverged']} of {seeds}, others diverged"
    against = f" against {ours['against']:.7g}" if ours.get("against") else ""
    parts = [v if isinstance(v, str) else f"{k}={v:g}" for k, v in ours.get("cell", {}).items()]
    at = f", {' '.join(parts)}" if parts else ""
    return f"{number}{against}{at} ({seeds}, {ours['profile']})"


def show_paper(row: Row) -> str:
    """The paper's value as text; a dash when it states none."""
    value = row["paper_value"]
    return "–" if value is None else value if isinstance(value, str) else f"{value:g}"


def cells(row: Row) -> tuple[str, ...]:
    """A row of the claims table: id, statement, paper, ours, verdict."""
    older = " (older code)" if row["older_code"] else ""
    return row["id"], row["statement"], show_paper(row), show_ours(row), show_verdict(row) + older


def show_verdict(row: Row) -> str:
    """The verdict; where cells differ, how many of those that were run are reproduced."""
    counted = [c for c in row["cells"] if not c["excepted"] and c["verdict"] != NOT_RUN]
    hold = sum(c["verdict"] == REPRODUCED for c in counted)
    told = row["verdict"] in (DIRECTION_ONLY, NOT_REPRODUCED) and len(counted) > 1
    return f"{row['verdict']}, {hold} of {len(counted)} cells hold" if told else row["verdict"]


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
    """A Markdown table of the notebooks' verdict counts, the paper's and our own apart."""
    heads = ("notebook", "paper", *VERDICTS, "our checks and findings")
    lines = [_line(heads), _line(["---"] * 2 + ["---:"] * (len(VERDICTS) + 1))]
    for name in dict.fromkeys(row["paper"] for row in rows):
        theirs, ours = apart([row for row in rows if row["paper"] == name])
        citation = facts.load(name, root).citation
        link = f"[{citation.title}](https://arxiv.org/abs/{citation.arxiv}), {citation.year}"
        found: Mapping[str, int] = summary(theirs).get(name, {})
        numbers = [str(found.get(v, 0)) for v in VERDICTS]
        hold = sum(row["verdict"] == REPRODUCED for row in ours)
        absent = sum(row["verdict"] == NOT_RUN for row in ours)
        own = f"{hold} of {len(ours) - absent} hold" + (f", {absent} not run" if absent else "")
        lines.append(_line((f"[{name}](notebooks/{name}.ipynb)", link, *numbers, own)))
    return "\n".join(lines)


def apart(rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """The rows of the paper (statements and numbers), and our own checks and findings."""
    kept = list(rows)
    theirs = [row for row in kept if row["kind"] in OF_THE_PAPER]
    return theirs, [row for row in kept if row["kind"] not in OF_THE_PAPER]


def headline(rows: Sequence[Row]) -> str:
    """Such as `49 from the paper: 20 reproduced, 29 not run; 34 of our own (…): 34 reproduced`."""
    theirs, ours = apart(rows)
    parts = [
        (theirs, "from the paper"),
        (ours, "of our own (checks, findings)"),
    ]
    return "; ".join(
        f"{len(kept)} {what}: {counts_line(Counter(row['verdict'] for row in kept))}"
        for kept, what in parts
        if kept
    )


def _block(paper: str, rows: Sequence[Row], format: str) -> str:
    line = f"{paper}: {headline(rows)}"
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
    rows: Sequence[Sequence[str]], widths: Sequence[int] = (26, 46, 20, 34, 20)
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
    """Why a row is not simply reproduced; what was not run for one reason, and older code, once."""
    kept = list(rows)
    told = [
        f"{row['id']}: {reason}"
        for row in kept
        if row["verdict"] not in (REPRODUCED, NOT_RUN)
        and (reason := row["reason"].partition("older code:")[0].rstrip("; "))
    ]
    lacking: dict[str, list[str]] = {}
    for row in (row for row in kept if row["verdict"] == NOT_RUN):
        counted = [c for c in row["cells"] if not c["excepted"]]
        absent = [c["reason"] for c in counted if c["verdict"] == NOT_RUN]
        if len(absent) < len(counted) or not absent:
            told.append(f"{row['id']}: {row['reason'].partition('older code:')[0].rstrip('; ')}")
            continue
        record, has, _ = absent[0].partition(" record has ")
        lacking.setdefault(f"{record}{has}its metrics" if has else absent[0], []).append(row["id"])
    told += [f"not run, {reason}: {', '.join(ids)}" for reason, ids in lacking.items()]
    aside = [r for row in kept for r in row["reason"].split("; ") if r.endswith("set aside")]
    told += list(dict.fromkeys(aside))
    older = sum(bool(row["older_code"]) for row in kept)
    mixed = sorted({file for row in kept for file in row["several_commits"]})
    if mixed:
        told.append(f"runs continued across commits, which they list: {', '.join(mixed)}")
    if older:
        told.append(f"{older} of {len(kept)} rest on records of older code (json names them)")
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

"""What a notebook shows besides figures: source code, tables, verdicts, the ledger.

Every output has a plain text twin, and none holds a path or a memory address.
"""

from __future__ import annotations

import html
import inspect
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lmcnb.errors import UsageError
from lmcnb.lab import checkout, facts, report
from lmcnb.lab import claims as lab_claims
from lmcnb.lab.figures import show_picture

Row = Mapping[str, Any]
Format = str | Callable[[Any], str]


def show(*functions: Any) -> None:
    """Show the source of functions or classes, highlighted in a notebook, printed elsewhere."""
    if not functions:
        raise UsageError("show: name at least one function or class")
    source = "\n\n".join(source_of(function) for function in functions)
    _code(source, "python")


def source_of(function: Any) -> str:
    """The source of a function, class or method, without the indentation of its place."""
    try:
        return textwrap.dedent(inspect.getsource(inspect.unwrap(function))).rstrip()
    except (TypeError, OSError) as error:
        name = getattr(function, "__qualname__", type(function).__name__)
        raise UsageError(f"show: {name} has no Python source to show") from error


def table(
    rows: Iterable[Row],
    columns: Sequence[str] | Mapping[str, str] | None = None,
    *,
    digits: int = 2,
    formats: Mapping[str, Format] | None = None,
    caption: str = "",
) -> None:
    """Show rows as a table.

    Args:
        rows: dicts, one a row.
        columns: the keys to show, in order; a mapping gives each its heading. Default: all.
        digits: decimals of numbers; a pair (value, error) is shown as `value ± error`.
        formats: for some keys another format specification (such as `.3e`) or a function.
        caption: stands above the table.
    """
    kept = list(rows)
    keys = columns or list(dict.fromkeys(key for row in kept for key in row))
    heads = dict(keys) if isinstance(keys, Mapping) else {key: key for key in keys}
    chosen = dict(formats or {})
    body = [[format_value(row.get(k), digits, chosen.get(k)) for k in heads] for row in kept]
    numeric = [all(_numeric(row.get(k)) for row in kept) for k in heads]
    titles = list(heads.values())
    plain = _plain(titles, body, numeric)
    _display(
        f"{caption}\n{plain}" if caption else plain,
        {"text/html": _html(titles, body, numeric, caption)},
    )


def format_value(value: Any, digits: int = 2, format: Format | None = None) -> str:
    """A cell's text: a dash for nothing, `value ± error` for a pair, numbers rounded."""
    if callable(format):
        return format(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    specification = format or f".{digits}f"
    if isinstance(value, tuple | list) and len(value) == 2 and _numeric(value[0]):
        number = format_value(value[0], digits, format)
        error = value[1]
        known = value[0] is not None and error is not None and not math.isnan(error)
        rounded = ".2g" if specification.endswith("g") else specification
        return f"{number} ± {error:{rounded}}" if known else number
    if isinstance(value, int):
        return str(value) if format is None else f"{value:{format}}"
    if isinstance(value, float):
        text = f"{value:{specification}}"
        return text.lstrip("-") if not text.strip("-0.") else text
    if hasattr(value, "item") and not getattr(value, "shape", ()):  # a numpy or torch number
        return format_value(value.item(), digits, format)
    if hasattr(value, "__array__"):
        raise UsageError("table: a cell must be a number or text, not an array")
    return str(value)


def recorded_figure(name: str, profile: str, figure: str) -> None:
    """Show a committed figure, `figures/NAME/PROFILE/FIGURE.png`, with its alternative text."""
    from PIL import Image

    path = checkout.root() / "figures" / name / profile / f"{figure}.png"
    try:
        with Image.open(path) as picture:
            alt = str(picture.info.get("Description", figure))
        show_picture(path.read_bytes(), alt)
    except OSError:
        print(f"no figure {figure} of the {profile} profile is recorded")


def claims_table(name: str, records: Iterable[Row], *, kinds: Sequence[str] | None = None) -> None:
    """Show the verdicts of a paper's claims, judged by `records`.

    Args:
        name: the paper.
        records: as `lab.claims.read_records` gives them.
        kinds: only these of claim, value, check, finding.
    """
    rows = lab_claims.judge_all([name], records)
    shown = [row for row in rows if kinds is None or row["kind"] in kinds]
    if not shown:
        raise UsageError(f"claims_table: kinds = {kinds!r} leaves no claim of {name}")
    heads = ("claim", "statement", "paper", "ours", "verdict")
    table(
        [dict(zip(heads, report.cells(row), strict=True)) for row in shown],
        heads,
        caption=report.headline(shown),
    )


def ledger(name: str) -> None:
    """Show what the paper leaves open, or its code does otherwise, and what was chosen."""
    rows = [entry.model_dump() for entry in facts.load(name).assumption]
    table(rows, ["question", "choice", "why", "sensitivity"])


def cite(name: str) -> None:
    """Show the BibTeX of a paper."""
    _code(facts.load(name).citation.bibtex.strip(), "bibtex")


def _code(source: str, language: str) -> None:
    """Colours stand in the tags, since a style sheet does not survive every viewer."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import get_lexer_by_name

    formatter = HtmlFormatter(noclasses=True, nobackground=True, wrapcode=True)
    _display(source, {"text/html": highlight(source, get_lexer_by_name(language), formatter)})


def _display(plain: str, rich: Mapping[str, str]) -> None:
    """Show text with a rich twin in a notebook; print the text elsewhere."""
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython() is None:  # type: ignore[no-untyped-call]
        print(plain)
        return
    display({"text/plain": plain, **rich}, raw=True)  # type: ignore[no-untyped-call]


def _numeric(value: Any) -> bool:
    if isinstance(value, tuple | list) and len(value) == 2:
        return _numeric(value[0]) and _numeric(value[1])
    return value is None or (not isinstance(value, str | bool) and hasattr(value, "__float__"))


def _plain(
    titles: Sequence[str], body: Sequence[Sequence[str]], numeric: Sequence[bool], most: int = 44
) -> str:
    wrapped = [[textwrap.wrap(text, most) or [""] for text in row] for row in [titles, *body]]
    widths = [max(len(line) for row in wrapped for line in row[c]) for c in range(len(titles))]
    lines = []
    for number, row in enumerate(wrapped):
        for depth in range(max((len(cell) for cell in row), default=0)):
            texts = [cell[depth] if depth < len(cell) else "" for cell in row]
            placed = [
                text.rjust(width) if right else text.ljust(width)
                for text, width, right in zip(texts, widths, numeric, strict=True)
            ]
            lines.append("  ".join(placed).rstrip())
        if number == 0:
            lines.append("  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _kept_whole(tag: str, text: str) -> str:
    """A short cell with blanks stays on one line."""
    return ";white-space:nowrap" if tag == "td" and " " in text and len(text) < 24 else ""


def _html(
    titles: Sequence[str], body: Sequence[Sequence[str]], numeric: Sequence[bool], caption: str
) -> str:
    sides = ["right" if right else "left" for right in numeric]

    def line(tag: str, texts: Sequence[str]) -> str:
        cells = zip(texts, sides, strict=True)
        return "".join(
            f'<{tag} style="text-align:{side}{_kept_whole(tag, text)}">{html.escape(text)}</{tag}>'
            for text, side in cells
        )

    above = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    rows = "\n".join(f"<tr>{line('td', row)}</tr>" for row in body)
    head = f"<thead><tr>{line('th', titles)}</tr></thead>"
    return f"<table>{above}\n{head}\n<tbody>\n{rows}\n</tbody></table>"

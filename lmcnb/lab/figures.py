"""Figures: one style, one colour and marker per method, saved with the arrays that drew them.

The colours are Okabe and Ito's, which the colour-blind can tell apart. Methods of one family share
a colour and differ in marker and line; two methods never share all three.
"""

from __future__ import annotations

import io
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmcnb.errors import UsageError
from lmcnb.lab.files import write_bytes

STYLE = Path(__file__).with_name("style.mplstyle")
SVG_LIMIT = 60_000
"""An SVG larger than this many bytes is not kept: the PNG is enough."""

DRAWING = 10_000
"""A PNG with at most so many colours is a drawing, not a picture."""

INTERVAL = 1.96
"""Curves show the value ± this many standard errors (95 percent)."""


@dataclass(frozen=True)
class MethodStyle:
    """How a method is drawn in every figure of every notebook."""

    color: str
    marker: str
    line: str = "-"


_BLACK, _ORANGE, _SKY, _GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
_YELLOW, _BLUE, _RED, _PINK = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
_GREY = "#777777"

METHODS: dict[str, MethodStyle] = {
    "MF": MethodStyle(_GREY, "x", ":"),
    "ULA": MethodStyle(_ORANGE, "s"),
    "MCD": MethodStyle(_GREEN, "^"),
    "UHA": MethodStyle(_BLUE, "D"),
    "LDVI": MethodStyle(_RED, "o"),
    "UHA_EM": MethodStyle(_BLUE, "d", "--"),
    "LDVI_EM": MethodStyle(_RED, "h", "--"),
    "a-lp": MethodStyle(_SKY, "v"),
    "e-lp": MethodStyle(_BLACK, "x", ":"),  # stands on UHA
    "a-lp-sna": MethodStyle(_PINK, ">"),
    "e-lp-sna": MethodStyle(_PINK, "p", "--"),
    "ea-lp-sn": MethodStyle(_BLACK, "P", "--"),
    "me_e": MethodStyle(_BLACK, "*", ":"),
    "VAE": MethodStyle(_BLACK, "s"),
    "VAE-long": MethodStyle(_BLACK, "^", "--"),
    "VAE-float32": MethodStyle(_BLACK, "v", ":"),
    "VAE-flow": MethodStyle(_GREEN, "<"),
    "Hoffman-2": MethodStyle(_BLUE, "s"),
    "Hoffman-10": MethodStyle(_BLUE, "^", "--"),
    "LAE": MethodStyle(_RED, "*"),
    "LAE-float32": MethodStyle(_RED, "P", ":"),
    "LAE-frozen": MethodStyle(_SKY, "s"),
    "LAE-gradient": MethodStyle(_PINK, "P"),
    "LAE-healthy": MethodStyle(_ORANGE, "p"),
    "LAE-1": MethodStyle(_GREEN, "s", "-."),
    "LAE-5": MethodStyle(_PINK, "s", "-."),
    "LAE-unadjusted": MethodStyle(_RED, "x", "--"),
    "LAE-1-unadjusted": MethodStyle(_GREEN, "x", "--"),
    "LAE-5-unadjusted": MethodStyle(_PINK, "*", "--"),
    "SRI": MethodStyle(_BLUE, "o"),
    "SRI-gradient": MethodStyle(_SKY, "o", "--"),
    "SRI-marginal": MethodStyle(_RED, "D"),
    "SRI-L3": MethodStyle(_ORANGE, "o"),
    "SRI-L5": MethodStyle(_ORANGE, "D", "--"),
    "SRI-s0.2": MethodStyle(_BLUE, "P", "--"),
    "SRI-s0.1": MethodStyle(_BLUE, "<", "-."),
    "SRI-s0.05": MethodStyle(_BLUE, "v", "--"),
    "SRI-L5-s0.05": MethodStyle(_ORANGE, "v", "-."),
    "SRI-L3-s0.2": MethodStyle(_ORANGE, "P", "-."),
    "SRI-L3-s0.1": MethodStyle(_ORANGE, "<", "-."),
    "SRI-L3-marginal": MethodStyle(_RED, "s", "--"),
    "SRI-L5-marginal": MethodStyle(_RED, "^", "-."),
    "ABP-s0.1": MethodStyle(_GREEN, "o"),
    "LVAE-L3": MethodStyle(_PINK, "D"),
    "LVAE-L5": MethodStyle(_PINK, "^", "--"),
    "variational": MethodStyle(_RED, "8"),
    "fast": MethodStyle(_SKY, "X"),
    "original": MethodStyle(_GREEN, "X"),
    "short-run": MethodStyle(_BLUE, "X"),
    "persistent": MethodStyle(_PINK, "X", ":"),
}
"""Other papers add their methods here; `_YELLOW` and further markers are free."""

_UNKNOWN = MethodStyle(_GREY, ".", "-.")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.=-]*")


def style() -> None:
    """Activate the project's style for the figures that follow."""
    import matplotlib.pyplot as plt

    plt.style.use(STYLE)


def method_style(name: str) -> MethodStyle:
    """The fixed style of a method; grey for one that has none."""
    return METHODS.get(name, _UNKNOWN)


def curve(
    ax: Any,
    x: Sequence[float] | np.ndarray,
    mean: Sequence[float] | np.ndarray,
    se: Sequence[float] | np.ndarray,
    *,
    seeds: int,
    method: str | None = None,
    label: str | None = None,
    color: str | None = None,
) -> None:
    """Draw a curve with its 95 percent interval; the legend says over how many seeds.

    Args:
        ax: the axes.
        x: places, shape (n,).
        mean: values, shape (n,); NaN where nothing is known.
        se: standard errors, shape (n,).
        seeds: how many seeds stand behind each point.
        method: draws in the method's colour, marker and line, and is the default label.
        label: the legend's text.
        color: instead of the method's.
    """
    x, mean, se = (np.asarray(a, dtype=float) for a in (x, mean, se))
    if not (x.ndim == 1 and x.shape == mean.shape == se.shape):
        shapes = f"{x.shape}, {mean.shape}, {se.shape}"
        raise UsageError(f"curve: x, mean and se must have one shape (n,); got {shapes}")
    look = method_style(method) if method else MethodStyle(color or "C0", "o")
    chosen, text = color or look.color, label or method or ""
    text = f"{text} ({seeds} seed{'s' * (seeds != 1)})".strip()
    half = INTERVAL * se
    if len(x) > 30:
        ax.plot(x, mean, look.line, color=chosen, label=text)
        ax.fill_between(x, mean - half, mean + half, color=chosen, alpha=0.25, linewidth=0)
    else:
        marks = {"marker": look.marker, "linestyle": look.line}
        ax.errorbar(x, mean, yerr=half, color=chosen, label=text, **marks)


def save_figure(
    fig: Any,
    name: str,
    arrays: Mapping[str, Any],
    alt: str,
    directory: str | Path,
    *,
    svg: bool = False,
    show: bool = True,
) -> list[Path]:
    """Save a figure and its arrays, show it with its alternative text, and close it.

    `NAME.npz` holds the arrays, `NAME.png` the picture (the alternative text is in its metadata),
    `NAME.svg` too if asked for and small. Each file is written whole or not at all, and the same
    figure gives the same bytes on the same machine.

    Args:
        fig: the matplotlib figure.
        name: letters, digits, `_ . = -`.
        arrays: the numbers that drew it; `np.load(..., allow_pickle=False)` reads them.
        alt: what the figure shows, for those who do not see it.
        directory: where the files go.
        svg: also write an SVG if it is smaller than `SVG_LIMIT`.
        show: show it in a notebook.

    Returns:
        The files.
    """
    import matplotlib.pyplot as plt

    try:
        stem, numbers = Path(directory) / name, _checked(name, arrays, alt)
        packed = io.BytesIO()
        np.savez_compressed(packed, **numbers)  # type: ignore[arg-type]
        picture = _smaller(_picture(fig, "png", {"Software": None, "Description": alt}), alt)
        saved = [
            write_bytes(stem.with_name(f"{name}.npz"), packed.getvalue()),
            write_bytes(stem.with_name(f"{name}.png"), picture),
        ]
        if svg:
            drawing = _picture(fig, "svg", {"Date": None, "Creator": None, "Description": alt})
            if len(drawing) <= SVG_LIMIT:
                saved.append(write_bytes(stem.with_name(f"{name}.svg"), drawing))
        if show:
            show_picture(picture, alt)
    finally:
        plt.close(fig)
    return saved


def show_picture(png: bytes, alt: str) -> None:
    """Show a PNG in the notebook with alternative text; nothing outside of one.

    The text is the output's `text/plain` and stands in the metadata under `alt`, where nbconvert's
    classic template and screen-reader front ends look for it.
    """
    if "ipykernel" not in sys.modules:
        return
    from IPython.display import display

    bundle = {"image/png": png, "text/plain": alt}
    width, height = _size(png)
    about = {"image/png": {"alt": alt, "width": width, "height": height}}
    display(bundle, raw=True, metadata=about)  # type: ignore[no-untyped-call]


def _checked(name: str, arrays: Mapping[str, Any], alt: str) -> dict[str, np.ndarray]:
    if not _NAME.fullmatch(name):
        raise UsageError(f"figure name {name!r}: allowed are letters, digits and _ . = -")
    if not alt.strip():
        raise UsageError(f"figure {name}: alt is empty; say what the figure shows")
    if not arrays:
        raise UsageError(f"figure {name}: arrays is empty; give the numbers that drew it")
    numbers = {key: np.asarray(value) for key, value in arrays.items()}
    for key, value in numbers.items():
        if value.dtype.hasobject or value.dtype.kind not in "biufcUS":
            raise UsageError(f"figure {name}: array {key} must be numbers or text, not objects")
    return numbers


def _picture(fig: Any, kind: str, metadata: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    fig.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()


def _smaller(png: bytes, alt: str) -> bytes:
    """A drawing with a palette of 64 colours, a quarter of the size; pictures stay as they are."""
    from PIL import Image, PngImagePlugin

    picture = Image.open(io.BytesIO(png)).convert("RGB")
    if picture.getcolors(DRAWING) is None:
        return png
    told = PngImagePlugin.PngInfo()
    told.add_text("Description", alt)
    packed = io.BytesIO()
    reduced = picture.quantize(64, dither=Image.Dither.NONE)
    reduced.save(packed, "png", optimize=True, pnginfo=told)
    return packed.getvalue()


def _size(png: bytes) -> tuple[int, int]:
    """Width and height, from the PNG's header."""
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    if not png.startswith(b"\x89PNG") or math.prod((width, height)) == 0:
        raise UsageError("not a PNG picture")
    return width, height

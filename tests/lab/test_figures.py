"""Figures: the files, the style, the alternative text, and colours that everyone can tell apart."""

import io
import itertools
import os
import subprocess
import sys

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import pytest

from lmcnb.errors import UsageError
from lmcnb.lab import figures

mpl.use("Agg")


@pytest.fixture(autouse=True)
def styled():
    with mpl.rc_context():
        figures.style()
        yield
    plt.close("all")


def draw(**options):
    fig, ax = plt.subplots()
    figures.curve(ax, [8, 16], [-3.0, -2.0], [0.1, 0.2], seeds=3, method="LDVI", **options)
    ax.set(xlabel="bridges", ylabel="ELBO (nats)")
    return fig, ax


def test_the_files_and_their_content(tmp_path):
    fig, _ = draw()
    arrays = {"bridges": [8, 16], "LDVI": np.array([[-3.0, -2.0], [0.1, 0.2]]), "who": ["a", "bc"]}
    saved = figures.save_figure(
        fig, "elbo_sonar", arrays, "ELBO rises with bridges", tmp_path / "f"
    )
    assert [p.relative_to(tmp_path).as_posix() for p in saved] == [
        "f/elbo_sonar.npz",
        "f/elbo_sonar.png",
    ]
    assert sorted(p.name for p in (tmp_path / "f").iterdir()) == [
        "elbo_sonar.npz",
        "elbo_sonar.png",
    ]
    with np.load(saved[0], allow_pickle=False) as read:
        assert sorted(read) == ["LDVI", "bridges", "who"]
        assert np.array_equal(read["LDVI"], arrays["LDVI"])
    assert saved[1].stat().st_size < 20_000
    with PIL.Image.open(saved[1]) as picture:
        assert picture.info["Description"] == "ELBO rises with bridges"
        assert abs(picture.size[0] - 576) < 20
    assert not plt.fignum_exists(fig.number)


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    once, again = (
        figures.save_figure(draw()[0], "f", {"x": [1.0]}, "alt", tmp_path / n, svg=True)
        for n in "ab"
    )
    assert [p.name for p in once] == ["f.npz", "f.png", "f.svg"]
    assert [p.read_bytes() for p in once] == [p.read_bytes() for p in again]


def test_colours_survive_and_photographs_are_left_alone(tmp_path):
    fig, _ = draw()
    saved = figures.save_figure(fig, "f", {"x": [1.0]}, "alt", tmp_path)
    with PIL.Image.open(saved[1]) as picture:
        colors = {c for _, c in picture.convert("RGB").getcolors(100_000)}
    wanted = np.array(mpl.colors.to_rgb(figures.METHODS["LDVI"].color)) * 255
    assert min(np.abs(np.subtract(c, wanted)).max() for c in colors) < 6
    noise = np.random.default_rng(0).random((300, 400, 3))
    fig, ax = plt.subplots()
    ax.imshow(noise)
    saved = figures.save_figure(fig, "noise", {"x": [1.0]}, "alt", tmp_path)
    with PIL.Image.open(saved[1]) as picture:
        assert picture.mode == "RGBA"


def test_a_large_svg_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "SVG_LIMIT", 100)
    saved = figures.save_figure(draw()[0], "f", {"x": [1.0]}, "alt", tmp_path, svg=True)
    assert [p.suffix for p in saved] == [".npz", ".png"]


@pytest.mark.parametrize(
    ("name", "arrays", "alt", "message"),
    [
        ("../f", {"x": [1]}, "alt", "figure name"),
        ("f", {"x": [1]}, "  ", "alt is empty"),
        ("f", {}, "alt", "arrays is empty"),
        ("f", {"x": np.array([object()])}, "alt", "array x must be numbers"),
    ],
)
def test_what_is_refused_writes_nothing_and_closes_the_figure(tmp_path, name, arrays, alt, message):
    fig, _ = draw()
    with pytest.raises(UsageError, match=message):
        figures.save_figure(fig, name, arrays, alt, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert not plt.fignum_exists(fig.number)


def test_a_curve_shows_its_interval_and_its_seeds():
    _, ax = draw()
    (container,) = ax.containers
    bars = container.lines[2][0].get_segments()
    half = [(high - low) / 2 for (_, low), (_, high) in bars]
    assert half == pytest.approx([figures.INTERVAL * 0.1, figures.INTERVAL * 0.2])
    assert ax.get_legend_handles_labels()[1] == ["LDVI (3 seeds)"]
    line = container.lines[0]
    look = figures.METHODS["LDVI"]
    assert (line.get_color(), line.get_marker()) == (look.color, look.marker)


def test_a_long_curve_has_a_band():
    _, ax = plt.subplots()
    x = np.arange(50.0)
    figures.curve(ax, x, x, np.full(50, 0.5), seeds=1, label="chain")
    (band,) = ax.collections
    height = np.ptp(band.get_paths()[0].vertices[:, 1])
    assert height == pytest.approx(49 + 2 * figures.INTERVAL * 0.5)
    assert ax.get_legend_handles_labels()[1] == ["chain (1 seed)"]


def test_a_curve_of_unequal_lengths_is_refused():
    _, ax = plt.subplots()
    with pytest.raises(UsageError, match="one shape"):
        figures.curve(ax, [1, 2], [1, 2], [0.1], seeds=1)


def test_no_two_methods_look_alike():
    looks = [(s.color, s.marker, s.line) for s in figures.METHODS.values()]
    assert len(set(looks)) == len(looks)
    assert len({(s.color, s.marker) for s in figures.METHODS.values()}) == len(looks)
    assert figures.method_style("not yet known") not in figures.METHODS.values()


# Machado, Oliveira, Fernandes 2009: linear RGB as seen with severity 1.
SEEN = {
    "normal": np.eye(3),
    "protanopia": [[0.1523, 1.0523, -0.2046], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0519]],
    "deuteranopia": [[0.3673, 0.8606, -0.228], [0.2801, 0.6727, 0.0472], [-0.0118, 0.043, 0.9689]],
    "tritanopia": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}


def lab(color, sight):
    """CIE Lab of a colour as it is seen."""
    srgb = np.array(mpl.colors.to_rgb(color))
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(SEEN[sight]) @ linear, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    ratio = np.array(to_xyz) @ seen / np.array([0.9505, 1.0, 1.089])
    f = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("sight", SEEN)
def test_the_four_methods_differ_for_the_colour_blind(sight):
    main = ["ULA", "MCD", "UHA", "LDVI"]
    for a, b in itertools.combinations(main, 2):
        colors = (lab(figures.METHODS[m].color, sight) for m in (a, b))
        assert np.linalg.norm(np.subtract(*colors)) > 15, (a, b)


def test_the_style_is_small_enough_for_notebooks():
    assert mpl.rcParams["savefig.dpi"] <= 100
    assert mpl.rcParams["axes.grid"] is True


def test_a_notebook_shows_it_once_with_alternative_text(tmp_path):
    """In a kernel: one output, its text is the alternative text, no path, no address."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    source = (
        "import matplotlib.pyplot as plt\nfrom lmcnb.lab import figures\nfigures.style()\n"
        "fig, ax = plt.subplots(figsize=(2, 1))\n"
        f"folder = {str(tmp_path)!r}\n"
        "saved = figures.save_figure(fig, 'f', {'x': [1.0]}, 'An <empty> plot', folder)"
    )
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    nbclient.NotebookClient(book, kernel_name="python3", timeout=120).execute(cwd=os.getcwd())
    (output,) = book.cells[0].outputs
    assert output["output_type"] == "display_data"
    assert output["data"]["text/plain"] == "An <empty> plot"
    assert output["metadata"]["image/png"]["alt"] == "An <empty> plot"
    assert set(output["data"]) == {"image/png", "text/plain"}
    exporters = pytest.importorskip("nbconvert.exporters")
    body, _ = exporters.HTMLExporter(template_name="classic").from_notebook_node(book)
    assert 'alt="An &lt;empty&gt; plot"' in body or 'alt="An <empty> plot"' in body


def test_outside_a_notebook_nothing_is_printed(tmp_path):
    script = (
        "import matplotlib; matplotlib.use('Agg'); import matplotlib.pyplot as plt\n"
        "from lmcnb.lab import figures\n"
        f"figures.save_figure(plt.figure(), 'f', {{'x': [1.0]}}, 'alt', {str(tmp_path)!r})\n"
    )
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout == ""
    assert (tmp_path / "f.png").exists()


def test_pictures_are_pngs():
    with pytest.raises(UsageError, match="not a PNG"):
        figures._size(io.BytesIO(b"x" * 40).getvalue())

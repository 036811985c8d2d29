"""What notebooks show: source, tables, verdicts, the ledger; never a path or an address."""

import functools
import html
import re

import numpy as np
import pytest

from lmcnb.errors import UsageError
from lmcnb.kernels import leapfrog as module
from lmcnb.lab import facts, rules
from lmcnb.lab.display import claims_table, format_value, ledger, show, source_of, table

UNWANTED = re.compile(r"0x[0-9a-f]{6,}|/(home|work|tmp|root|usr)/|site-packages")


@pytest.fixture
def displayed(monkeypatch):
    """What a notebook would be given: a list of bundles."""
    import IPython
    import IPython.display

    bundles = []
    monkeypatch.setattr(IPython, "get_ipython", lambda: object())
    monkeypatch.setattr(IPython.display, "display", lambda data, raw: bundles.append(data))
    return bundles


def test_show_gives_the_source_that_runs(displayed):
    show(module.leapfrog, rules.Estimate)
    (bundle,) = displayed
    assert bundle["text/plain"].startswith("def leapfrog(")
    assert "\n\n@dataclass(frozen=True)\nclass Estimate:" in bundle["text/plain"]
    text = html.unescape(re.sub(r"<[^>]*>", "", bundle["text/html"]))
    assert text.strip() == bundle["text/plain"]
    assert re.search(r'<pre[^>]*>.*<span style="color: #[0-9A-F]+', bundle["text/html"])  # coloured
    assert not UNWANTED.search(bundle["text/plain"])


def test_show_prints_outside_a_notebook(capsys):
    show(rules.exact)
    assert capsys.readouterr().out.startswith("def exact(")


def test_source_of_methods_and_wrapped_functions():
    class Inner:
        def method(self):
            return 1

    assert source_of(Inner.method) == "def method(self):\n    return 1"

    @functools.wraps(rules.exact)
    def wrapped(*args):
        return rules.exact(*args)

    assert source_of(wrapped).startswith("def exact(")


@pytest.mark.parametrize("thing", [len, 3, np.float64], ids=["builtin", "number", "compiled"])
def test_what_has_no_source_is_refused(thing):
    with pytest.raises(UsageError, match="no Python source"):
        show(thing)
    with pytest.raises(UsageError, match="at least one"):
        show()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (1.005, "1.00"),
        (-0.0001, "0.00"),
        (-1.239, "-1.24"),
        (3, "3"),
        (True, "yes"),
        ("sonar", "sonar"),
        ((-116.275, 0.168), "-116.28 ± 0.17"),
        ((-116.275, None), "-116.28"),
        ((None, None), "–"),
        (np.float32(2.5), "2.50"),
        (np.int64(7), "7"),
        (["a", "b"], "['a', 'b']"),
    ],
)
def test_cells(value, text):
    assert format_value(value) == text


def test_cells_with_another_format():
    assert format_value(1234.5, 2, ".1e") == "1.2e+03"
    assert format_value(8, 2, lambda v: f"K={v}") == "K=8"
    with pytest.raises(UsageError, match="not an array"):
        format_value(np.zeros(2))


def test_table(displayed):
    rows = [
        {"method": "LDVI", "elbo": (-116.275, 0.1), "n": 3, "hidden": 1},
        {"method": "<UHA>", "elbo": None, "n": 12, "hidden": 1},
    ]
    table(
        rows, {"method": "Method", "elbo": "ELBO (nats)", "n": "seeds"}, digits=1, caption="T & 1"
    )
    (bundle,) = displayed
    assert bundle["text/plain"].splitlines() == [
        "T & 1",
        "Method   ELBO (nats)  seeds",
        "------  ------------  -----",
        "LDVI    -116.3 ± 0.1      3",
        "<UHA>              –     12",
    ]
    shown = bundle["text/html"]
    assert "&lt;UHA&gt;" in shown
    assert "<caption>T &amp; 1</caption>" in shown
    assert '<th style="text-align:right">ELBO (nats)</th>' in shown
    assert shown.count("<tr>") == 3
    assert "hidden" not in shown


def test_table_of_all_columns_and_of_nothing(displayed):
    table([{"a": 1}, {"b": 2.0}])
    table([], ["a"])
    assert [b["text/plain"].splitlines()[0] for b in displayed] == ["a     b", "a"]


def test_claims_table_and_ledger(displayed):
    claims_table("langevin_diffusion", [])
    claims_table("langevin_diffusion", [], kinds=["finding"])
    ledger("langevin_diffusion")
    everything, findings, book = (bundle["text/plain"] for bundle in displayed)
    claims = facts.load("langevin_diffusion").claim
    own = sum(claim.kind in ("claim", "value") for claim in claims)
    rest = len(claims) - own
    assert everything.splitlines()[0] == (
        f"{own} from the paper: {own} not run; {rest} of our own (checks, findings): {rest} not run"
    )
    assert "C1.sonar" in everything
    assert "C1.sonar" not in findings
    assert "F3" in findings
    assert "Where does the damping start?" in book
    assert not any(UNWANTED.search(text) for b in displayed for text in b.values())
    with pytest.raises(UsageError, match="kinds"):
        claims_table("langevin_diffusion", [], kinds=["none"])

"""The facts of a paper, `lmcnb/papers/NAME.toml`: citation, tables, claims, assumptions.

A claim names its metrics by templates and ranges over a grid:

    [[claim]]
    id = "C1.sonar"
    kind = "claim"                      # claim, value (a number of the paper), check, finding
    where = "section 5, table 1"
    statement = "LDVI has a higher ELBO than ULA, MCD and UHA"
    rule = "ordering"                   # a rule of lab/rules.py; its parameters stand beside it
    metrics = ["elbo/{target}/K={K}/LDVI", "elbo/{target}/K={K}/{other}"]
    grid = { target = ["sonar"], K = [8, 16], other = ["ULA", "MCD"] }
    exceptions = [{ K = 8, other = "MCD", reason = "a tie in the paper's table" }]
    profile = "laptop"                  # the least that can judge it
    most = "laptop"                     # the highest that may; default paper
    seeds = 3                           # the fewest distinct seeds

Every combination of the grid is a cell. `along = { K = [64, 32] }` repeats the metric inside a cell
instead (a slope, or an order in K). `value` and `offset` are numbers, or name a number of a table:
"paper" (the entries of the claim's own metrics), "log_z:log_z/{target}/reference" (that entry).
"""

from __future__ import annotations

import inspect
import itertools
import math
import string
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lmcnb.errors import UsageError, UserError
from lmcnb.lab import checkout
from lmcnb.lab.rules import RULES

PROFILES = ("quick", "laptop", "paper")
Number = int | float
Coordinates = dict[str, str | Number]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ignored_types=(cached_property,))


class Citation(_Strict):
    """What `lmcnb cite` prints."""

    title: str
    authors: list[str]
    venue: str
    arxiv: str
    year: int
    code: str | None = None
    bibtex: str


class Assumption(_Strict):
    """A setting that the paper leaves open, or on which paper and code disagree."""

    id: str
    question: str
    choice: str
    why: str
    sensitivity: str


class Table(_Strict):
    """Numbers printed elsewhere, nested by `keys`; a leaf is a number or a list `along` an axis."""

    id: str
    role: Literal["paper", "witness", "reference"]
    title: str
    source: str
    metric: str
    keys: list[str]
    along: dict[str, list[Number]] = {}
    unit: str = "nats"
    seeds: int | None = None
    value: dict[str, Any]
    sd: dict[str, Any] = {}
    note: str | None = None

    @cached_property
    def entries(self) -> dict[str, dict[str, float | None]]:
        """`{metric name: {value, sd}}`; a list's places are those of `along`, NaN is left out."""
        values = dict(self._flat(self.value))
        spreads = {k: v for k, v in self._flat(self.sd) if not math.isnan(v)}
        return {
            k: {"value": v, "sd": spreads.get(k)} for k, v in values.items() if not math.isnan(v)
        }

    def _flat(self, nested: dict[str, Any]) -> list[tuple[str, float]]:
        rows: list[tuple[dict[str, Any], Any]] = [({}, nested)] if nested else []
        for key in self.keys:
            rows = [({**at, key: name}, inner) for at, part in rows for name, inner in part.items()]
        flat: list[tuple[str, float]] = []
        for at, leaf in rows:
            if not self.along:
                flat.append((self.metric.format(**at), float(leaf)))
                continue
            axis, places = next(iter(self.along.items()))
            if not isinstance(leaf, list) or len(leaf) != len(places):
                raise ValueError(f"table {self.id}: {at} needs a list of {len(places)}, has {leaf}")
            for place, number in zip(places, leaf, strict=True):
                flat.append((self.metric.format(**at, **{axis: place}), float(number)))
        return flat

    @model_validator(mode="after")
    def _whole(self) -> Table:
        stray = set(dict(self._flat(self.sd))) - set(dict(self._flat(self.value)))
        if stray:
            raise ValueError(f"table {self.id}: sd without a value: {min(stray)}")
        return self


class Claim(_Strict):
    """A statement, and how the records judge it (see the top of this file)."""

    id: str
    kind: Literal["claim", "value", "check", "finding"] = "claim"
    where: str
    statement: str
    paper_value: str | float | None = None
    not_testable: str | None = None
    rule: str | None = None
    metrics: list[str] = Field(default=[])
    grid: dict[str, list[str | Number]] = {}
    along: dict[str, list[Number]] = {}
    exceptions: list[dict[str, str | Number]] = []
    profile: Literal["quick", "laptop", "paper"] = "laptop"
    most: Literal["quick", "laptop", "paper"] = "paper"
    seeds: int = Field(default=3, ge=1)
    share: float = Field(default=0.9, gt=0.0, le=1.0)
    tolerance_reason: str | None = None
    # The rules' parameters; each rule takes its own (the signatures in lab/rules.py).
    value: float | str | None = None
    tolerance: float | None = Field(default=None, ge=0.0)
    standard_errors: float | None = Field(default=None, ge=0.0)
    direction: float | str | None = None
    below: float | None = Field(default=None, ge=0.0)
    above: float | None = Field(default=None, ge=0.0)
    margin: float | None = None
    low: float | None = None
    high: float | None = None
    offset: float | str | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """The rule's parameters that the claim sets."""
        found = {name: getattr(self, name) for name in _PARAMETERS}
        return {name: value for name, value in found.items() if value is not None}

    def cells(self) -> list[Coordinates]:
        """Every combination of the grid, in order; one empty cell without a grid."""
        combinations = itertools.product(*self.grid.values())
        return [dict(zip(self.grid, values, strict=True)) for values in combinations]

    def exception(self, cell: Mapping[str, Any]) -> str | None:
        """Why the paper itself excepts this cell, or None."""
        for item in self.exceptions:
            if all(cell.get(key) == value for key, value in item.items() if key != "reason"):
                return str(item["reason"])
        return None

    def names(self, cell: Mapping[str, Any]) -> list[str]:
        """The metrics of a cell, in order; the first template is repeated along the axis."""
        if not self.along:
            return [template.format(**cell) for template in self.metrics]
        axis, places = next(iter(self.along.items()))
        return [t.format(**cell, **{axis: place}) for t in self.metrics for place in places]

    @model_validator(mode="after")
    def _judgeable(self) -> Claim:
        if self.not_testable:
            return self
        if self.rule not in RULES:
            raise ValueError(checkout.unknown("rule", self.rule, RULES))
        accepted = inspect.signature(RULES[self.rule]).parameters
        stray = set(self.parameters) - set(accepted)
        if stray:
            raise ValueError(f"rule {self.rule} takes no {', '.join(sorted(stray))}")
        required = {
            k for k, p in accepted.items() if p.kind is p.KEYWORD_ONLY and p.default is p.empty
        }
        lacking = required - set(self.parameters) - {"x"}
        if lacking:
            raise ValueError(f"rule {self.rule} needs {', '.join(sorted(lacking))}")
        if not self.metrics:
            raise ValueError("metrics: at least one is needed")
        if PROFILES.index(self.most) < PROFILES.index(self.profile):
            raise ValueError(f"most = {self.most!r} is below profile = {self.profile!r}")
        if any(self.parameters.get(k) for k in _ALLOWANCES) and not self.tolerance_reason:
            raise ValueError("a tolerance needs tolerance_reason")
        fits = bool(self.along) == ("x" in accepted) or self.rule == "ordering"
        if len(self.along) > 1 or not fits:
            raise ValueError(f"rule {self.rule}: along needs one axis exactly when the rule has x")
        keys = {*self.grid, *self.along}
        used = {field for template in self.metrics for field in fields(template)}
        if used != keys:
            raise ValueError(f"metrics use {sorted(used)}, grid and along have {sorted(keys)}")
        for item in self.exceptions:
            if "reason" not in item or not set(item) - {"reason"} <= set(self.grid):
                raise ValueError(f"exception {item}: needs keys of the grid and a reason")
        return self


_PARAMETERS = (
    *("value", "tolerance", "standard_errors", "direction", "below", "above"),
    *("margin", "low", "high", "offset"),
)
_ALLOWANCES = ("tolerance", "standard_errors", "below", "above")


class Facts(_Strict):
    """Everything in `lmcnb/papers/NAME.toml`."""

    name: str
    scope: list[str] = []
    """Settings that say what is run and not how: records that differ only here judge together."""
    optional: list[str] = []
    """Settings that leave a part out when null or 0: such an override does not change a profile."""
    citation: Citation
    claim: list[Claim] = []
    table: list[Table] = []
    assumption: list[Assumption] = []

    def lookup(self, reference: str, names: list[str], cell: Mapping[str, Any]) -> float:
        """The number behind `TABLE` (the metric, or first minus second) or `TABLE:metric`."""
        table, colon, template = reference.partition(":")
        found = [t for t in self.table if t.id == table]
        if not found:
            raise UserError(f"{self.name}: " + checkout.unknown("table", table, _ids(self.table)))
        wanted = [template.format(**cell)] if colon else names[:2]
        numbers = []
        for name in wanted:
            if name not in found[0].entries:
                raise UserError(f"{self.name}: table {table} has no {name}")
            numbers.append(float(found[0].entries[name]["value"] or 0.0))
        return numbers[0] - sum(numbers[1:])

    @model_validator(mode="after")
    def _consistent(self) -> Facts:
        for items in (self.claim, self.table, self.assumption):
            for id_, count in Counter(_ids(items)).items():
                if count > 1:
                    raise ValueError(f"id {id_!r} stands twice")
        return self


def fields(template: str) -> list[str]:
    """The placeholders of a template."""
    return [field for _, field, _, _ in string.Formatter().parse(template) if field]


def load(name: str, root: str | Path | None = None) -> Facts:
    """Read `papers/NAME.toml` of the package, or `ROOT/NAME.toml`.

    Raises:
        UsageError: there is no such paper.
        UserError: the file is broken; the entry is named.
    """
    folder = Path(root) if root is not None else checkout.PACKAGE / "papers"
    path = folder / f"{name}.toml"
    if not path.is_file():
        raise UsageError(checkout.unknown("paper", name, papers(root)))
    content = checkout.read_toml(path)
    try:
        return Facts.model_validate({"name": name, **content})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        kind, *rest = first["loc"] or ("file",)
        item = content[str(kind)][rest[0]] if rest and isinstance(rest[0], int) else {}
        where = f"[{kind}] {item.get('id', '')}".strip() if isinstance(item, dict) else str(kind)
        inner = ".".join(str(part) for part in rest[1:])
        raise UserError(
            f"{path.name}: {where}: {inner + ': ' if inner else ''}{first['msg']}"
        ) from None


def papers(root: str | Path | None = None) -> list[str]:
    """The papers whose facts are there, sorted."""
    folder = Path(root) if root is not None else checkout.PACKAGE / "papers"
    return sorted(path.stem for path in folder.glob("*.toml"))


def _ids(items: Any) -> list[str]:
    return [item.id for item in items]

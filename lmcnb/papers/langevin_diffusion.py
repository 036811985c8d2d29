"""Settings of the notebook `langevin_diffusion`: what can be changed, its type and its range.

Values stand in notebooks/profiles/langevin_diffusion.toml. A table "by cell" maps keys to values;
a cell is a target, a method and a number of bridges, and the most specific key wins:
`sonar/LDVI/8`, then `sonar/LDVI`, `sonar/8`, `LDVI/8`, `sonar`, `LDVI`, `8`, then `default`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Annotated, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

TargetName = Literal[
    "ionosphere",
    "sonar",
    "seeds",
    "brownian",
    "lorenz",
    "banana",
    "a1a",
    "breast_cancer",
    "gaussian",
    "mixture",
    "ring",
]
MethodName = Literal[
    "ULA",
    "MCD",
    "UHA",
    "LDVI",
    "UHA_EM",
    "LDVI_EM",
    "a-lp",
    "a-lp-sna",
    "e-lp",
    "e-lp-sna",
    "ea-lp-sn",
    "me_e",
]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]
DATA = {"ionosphere", "sonar", "seeds", "brownian", "lorenz", "a1a", "breast_cancer"}
V = TypeVar("V")


class Group(BaseModel):
    """A group of settings; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Grid(Group):
    """Cells to train: target x method x number of bridges; seeds and learning rates at once."""

    targets: list[TargetName] = Field(description="targets")
    methods: list[MethodName] = Field(description="methods")
    bridges: list[Count] = Field(description="numbers of bridging densities K")
    chains: dict[str, Count] = Field(description="chains per run and iteration, by cell")
    iterations: dict[str, Count] = Field(description="Adam steps, by cell")
    learning_rates: dict[str, list[Rate]] = Field(description="learning rates to try, by cell")
    damping: dict[str, Annotated[float, Field(ge=1e-3)]] = Field(
        default={"default": 10.0}, description="initial damping gamma, by cell"
    )
    step_size: dict[str, Annotated[float, Field(ge=1e-7, le=0.5)]] = Field(
        default={"default": 1e-5}, description="initial step size, by cell"
    )
    decay: Share = Field(
        default=0.3, description="share of iterations with a falling learning rate"
    )

    @field_validator("targets", "methods", "bridges")
    @classmethod
    def _each_once(cls, values: list[V]) -> list[V]:
        if not values:
            raise ValueError("at least one is needed")
        if len(set(values)) < len(values):
            raise ValueError("each may stand there once")
        return values

    @field_validator("chains", "iterations", "learning_rates", "damping", "step_size")
    @classmethod
    def _has_default(cls, table: dict[str, V]) -> dict[str, V]:
        if "default" not in table:
            raise ValueError("a table by cell needs the key 'default'")
        for key in table:
            for part in () if key == "default" else key.split("/"):
                known = (
                    part.isdigit() or part in get_args(TargetName) or part in get_args(MethodName)
                )
                if not known:
                    raise ValueError(
                        f"key {key!r}: {part!r} is no target, method or number of bridges"
                    )
        if any(value == [] for value in table.values()):
            raise ValueError("an empty list of learning rates")
        if any(isinstance(value, list) and len({*value}) < len(value) for value in table.values()):
            raise ValueError("a learning rate stands twice in one list")
        return table


class Pretrain(Group):
    """Mean-field Gaussian VI, the common start of every method."""

    iterations: Count = Field(description="Adam steps")
    chains: Count = Field(description="samples per run and iteration")
    learning_rate: Rate = Field(description="learning rate")
    decay: Share = Field(description="share of iterations with a falling learning rate")
    laplace: list[TargetName] = Field(
        default=[], description="targets started at the Laplace point instead"
    )


class Evaluation(Group):
    """Fresh chains after training."""

    chains: Annotated[int, Field(ge=100)] = Field(default=20_000, description="chains per run")
    selection_chains: Annotated[int, Field(ge=100)] = Field(
        default=5_000, description="chains that choose among learning rates, not reported"
    )


class Exact(Group):
    """Cases whose answer is known."""

    chains: Annotated[int, Field(ge=1000)] = Field(
        description="chains for the golden linear-Gaussian values"
    )
    score_iterations: Count = Field(description="Adam steps towards the known optimum of the score")


class Lorenz(Group):
    """The Lorenz subsection."""

    particles: Annotated[int, Field(ge=0)] = Field(
        description="particles of the filter; 0 skips the subsection"
    )
    stall_iterations: Annotated[int, Field(ge=0)] = Field(
        description="Adam steps of mean-field VI by the published protocol; 0 skips it"
    )


class Settings(Group):
    """Everything that decides the numbers, but the seed."""

    n_seeds: Count = Field(description="seeds seed ... seed + n_seeds - 1")
    threads: Count = Field(default=1, description="threads of each process")
    workers: Count = Field(default=2, description="processes that train cells side by side")
    exact: Exact
    pretrain: Pretrain
    tables: Grid = Field(description="tables 1 to 3: four methods, ELBO against bridges")
    schemes: Grid | None = Field(default=None, description="tables 4 to 9 and the refresh ablation")
    lorenz: Lorenz
    evaluation: Evaluation = Evaluation()

    def datasets(self) -> list[str]:
        """Data sets that the run reads."""
        grids = [self.tables] + ([self.schemes] if self.schemes else [])
        names = {target for grid in grids for target in grid.targets}
        if self.lorenz.particles or self.lorenz.stall_iterations:
            names.add("lorenz")
        return sorted(names & DATA)


def by_cell(table: Mapping[str, V], target: str, method: str, bridges: int) -> V:
    """The value of the most specific key of a table by cell."""
    parts = (target, method, str(bridges))
    for size in (3, 2, 1):
        for key in combinations(parts, size):
            if "/".join(key) in table:
                return table["/".join(key)]
    return table["default"]

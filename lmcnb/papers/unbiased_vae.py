"""The settings of `unbiased_vae`; `notebooks/profiles/unbiased_vae.toml` has their values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

from lmcnb.lab.checkout import unknown

V = TypeVar("V")
DataSet = Literal["teacher", "static_mnist"]
Study = Literal["reduced", "digits"]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Correlation = Annotated[float, Field(ge=0, lt=1)]

_ARM = re.compile(
    r"(?P<after>IWAE\+)?(?P<model>ELBO|IWAE|average|C-ISIR-DISIR|C-ISIR)"
    r"(?:-K(?P<samples>[1-9]\d*))?(?:-(?P<rule>index))?"
)
GRAMMAR = (
    "ELBO, IWAE, average (one chain of L iterations, not coupled), C-ISIR or C-ISIR-DISIR; then "
    "-K100 (another number of samples, of ELBO and IWAE), -index (the biased meeting rule, of the "
    "coupled ones). IWAE+ before any: it goes on from the model that the arm IWAE ended with"
)


@dataclass(frozen=True)
class Arm:
    """What an arm's name says."""

    model: str
    samples: int | None
    rule: str
    switched: bool
    """Whether it goes on from the IWAE's model."""


def parse_arm(name: str) -> Arm:
    """The options in an arm's name.

    Raises:
        ValueError: a name outside the grammar, or a combination that means nothing.
    """
    found = _ARM.fullmatch(name)
    if found is None:
        raise ValueError(f"{name!r} is no arm: {GRAMMAR}")
    part = found.groupdict()
    coupled = part["model"].startswith("C-")
    if part["rule"] and not coupled:
        raise ValueError(f"{name!r}: only coupled chains have a meeting rule")
    if part["samples"] and part["model"] not in ("ELBO", "IWAE"):
        raise ValueError(f"{name!r}: -K is of ELBO and IWAE; chains have training.samples")
    samples = int(part["samples"]) if part["samples"] else None
    rule = "index" if part["rule"] else "strict"
    return Arm(part["model"], samples, rule, part["after"] is not None)


def each_once(values: list[V]) -> list[V]:
    """The values, if there is one at least and none stands there twice."""
    if not values:
        raise ValueError("at least one is needed")
    if len(set(values)) < len(values):
        raise ValueError("each may stand there once")
    return values


def with_default(table: dict[str, V], names: Iterable[str]) -> dict[str, V]:
    """The table, if it has a value for what it does not name, and no other keys than `names`."""
    if "default" not in table:
        raise ValueError("a table by name needs the key 'default'")
    for key in table:
        if key not in (known := ["default", *names]):
            raise ValueError(unknown("the key", key, known))
    return table


class Group(BaseModel):
    """A group of settings; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Annealing(Group):
    """Annealed importance sampling of some test images, to check the bound by."""

    images: Annotated[int, Field(ge=0)] = Field(description="test images; 0: none")
    arms: list[str] = Field(description="arms whose models are checked, where they are trained")
    chains: Annotated[int, Field(ge=2)] = Field(default=16, description="chains an image")
    temperatures: Annotated[int, Field(ge=2)] = Field(default=1000, description="temperatures")
    leapfrogs: Count = Field(default=10, description="leapfrogs of a transition")
    longer_images: Annotated[int, Field(ge=0)] = Field(
        default=0, description="of them also with four times the temperatures, one seed; 0: none"
    )

    @field_validator("arms")
    @classmethod
    def _known_arms(cls, names: list[str]) -> list[str]:
        for name in names:
            parse_arm(name)
        return names


class Training(Group):
    """Learning VAEs of binary images."""

    datasets: list[DataSet] = Field(description="data sets; teacher: fresh images of a known model")
    arms: dict[str, list[str]] = Field(description=f"gradients of theta, by data set: {GRAMMAR}")
    latent: dict[str, list[Count]] = Field(description="dimensions D of z, by data set")
    hidden: dict[str, list[Count]] = Field(
        description="widths of the decoder's hidden layers, by data set"
    )
    updates: dict[str, Count] = Field(description="updates of arms from scratch, by data set")
    more: dict[str, Count] = Field(description="updates of arms that go on, by data set")
    seeds: dict[str, Count] = Field(
        default={"default": 100}, description="at most this many of the seeds, by arm"
    )
    samples: dict[str, Annotated[int, Field(ge=2)]] = Field(
        description="K of bounds and chains, by data set"
    )
    batch: Count = Field(default=100, description="images an update")
    learning_rate: dict[str, Positive] = Field(description="of RMSProp, by data set")
    lag: Count = Field(default=10, description="L, iterations of the lag and of the window")
    cap: dict[str, Annotated[int, Field(ge=1)]] = Field(
        description="most correction terms of a row, by arm"
    )
    beta: Correlation = Field(default=0.9, description="correlation of DISIR at the start")
    test_images: Annotated[int, Field(ge=2)] = Field(
        default=10_000, description="at most this many test images"
    )
    bound_samples: Annotated[int, Field(ge=2)] = Field(
        default=5_000, description="samples of the test bound"
    )
    annealing: Annealing

    @field_validator("arms", "latent", "hidden", "updates", "more", "samples", "learning_rate")
    @classmethod
    def _by_data_set(cls, table: dict[str, V]) -> dict[str, V]:
        return with_default(table, get_args(DataSet))

    @field_validator("seeds", "cap")
    @classmethod
    def _by_arm(cls, table: dict[str, V]) -> dict[str, V]:
        for name in set(table) - {"default"}:
            parse_arm(name)
        return with_default(table, table)

    @field_validator("datasets")
    @classmethod
    def _each_once(cls, values: list[V]) -> list[V]:
        return each_once(values)

    @field_validator("latent")
    @classmethod
    def _each_latent_once(cls, table: dict[str, list[int]]) -> dict[str, list[int]]:
        return {name: each_once(values) for name, values in table.items()}

    @field_validator("arms")
    @classmethod
    def _known_arms(cls, table: dict[str, list[str]]) -> dict[str, list[str]]:
        for names in table.values():
            for name in names:
                parse_arm(name)
            each_once(names)
            if any(parse_arm(name).switched for name in names) and "IWAE" not in names:
                raise ValueError("arms with IWAE+ go on from the arm IWAE, which is not there")
        return table


class Meeting(Group):
    """Meeting times on trained, frozen VAEs."""

    datasets: list[DataSet] = Field(description="data sets whose IWAE models are looked at")
    images: Count = Field(description="test images, each with one pair of chains")
    cap: Count = Field(description="joint steps after which a pair is given up")
    betas: list[Correlation] = Field(description="correlations of the composite kernel")


class Exact(Group):
    """Cases whose answer is known, and the one-dimensional illustration."""

    replicates: Annotated[int, Field(ge=2_000)] = Field(
        description="independent replicates of an estimator"
    )
    chains: Annotated[int, Field(ge=10)] = Field(
        default=100, description="chains of the illustration that are measured"
    )


class Ppca(Group):
    """Gradients of probabilistic PCA beside the exact gradient."""

    studies: list[Study] = Field(
        description="reduced: D = 20, 200 pixels, K = 10, one image of the model; digits: the "
        "paper's, D = 100, 784 pixels, K = 100, a batch of binarized digits"
    )
    replicates: dict[str, Annotated[int, Field(ge=2)]] = Field(
        description="runs of every estimator, by study"
    )
    seeds: dict[str, Count] = Field(
        default={"default": 100}, description="at most this many of the seeds, by study"
    )
    images: Count = Field(default=100, description="images of the batch of digits")
    scale: dict[str, Positive] = Field(
        default={"default": 0.1, "digits": 0.03},
        description="standard deviation of theta's entries, by study",
    )
    sizes: dict[str, list[Count]] = Field(
        description="K of IWAE in the study of its bias, by study"
    )
    betas: dict[str, list[Correlation]] = Field(
        description="further correlations of the composite kernel, by study"
    )

    @field_validator("replicates", "sizes", "betas", "seeds", "scale")
    @classmethod
    def _by_study(cls, table: dict[str, V]) -> dict[str, V]:
        return with_default(table, get_args(Study))

    @field_validator("studies")
    @classmethod
    def _each_once(cls, values: list[V]) -> list[V]:
        return each_once(values)


class Settings(Group):
    """Everything that decides the numbers, but the seed."""

    n_seeds: Count = Field(description="seeds seed ... seed + n_seeds - 1")
    threads: Count = Field(default=1, description="threads of each process")
    workers: Count = Field(default=2, description="processes that train side by side")
    exact: Exact
    ppca: Ppca
    training: Training
    meeting: Meeting

    def datasets(self) -> list[str]:
        """Data sets that the run reads."""
        digits = ["static_mnist"] if "digits" in self.ppca.studies else []
        found = {*self.training.datasets, *self.meeting.datasets, *digits}
        return sorted(found - {"teacher"})

    def model_post_init(self, context: Any) -> None:
        """The meeting study has models."""
        for dataset in self.meeting.datasets:
            if dataset not in self.training.datasets:
                raise ValueError(f"meeting.datasets: {dataset!r} is not in training.datasets")
            if "IWAE" not in by_name(self.training.arms, dataset):
                raise ValueError(f"meeting.datasets: {dataset!r} has no IWAE model in training")


def by_name(table: Mapping[str, V], name: str) -> V:
    """The value of `name`, else the default."""
    return table.get(name, table["default"])

"""Settings of the notebook `short_run`: what can be changed, its type and its range.

Values stand in notebooks/profiles/short_run.toml. A table "by data set" maps names to values and
needs the key `default`. An arm is a model and its options: `parse_arm`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

DataSet = Literal[
    "digits", "coloured_digits", "mnist", "fashion_mnist", "cifar10", "svhn", "celeba32"
]
COLOUR = ("cifar10", "svhn", "celeba32")  # 32 x 32 x 3
Network = Literal["mlp", "conv"]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, lt=float("inf"))]
Share = Annotated[float, Field(gt=0, lt=1)]
V = TypeVar("V")

GRAMMAR = (
    "MODEL[-L3][-K10][-s0.1 | -gradient | -marginal][-noisefree][-wide | -ladder][-x4], in this "
    "order, with MODEL "
    "one of SRI, ABP, VAE, LVAE; L: layers, K: chain steps, s: a fixed step size (otherwise chosen "
    "by the published objective on a grid, or by gradient, or by the bound of the chain's marginal "
    "law), x: times as many epochs"
)
_ARM = re.compile(
    r"(?P<model>SRI|ABP|VAE|LVAE)(?:-L(?P<layers>[1-9]))?(?:-K(?P<steps>[1-9]\d*))?"
    r"(?:-s(?P<step_size>\d*\.?\d+)|-(?P<search>gradient|marginal))?(?P<free>-noisefree)?"
    r"(?:-(?P<variant>wide|ladder))?(?:-x(?P<times>\d*\.?\d+))?"
)


class Arm(NamedTuple):
    """What an arm's name says."""

    model: str
    layers: int
    steps: int | None
    step_size: float | None
    search: str
    noisy: bool
    variant: str
    times: float


def parse_arm(name: str) -> Arm:
    """The options in an arm's name.

    Raises:
        ValueError: a name outside the grammar, or a combination that means nothing.
    """
    found = _ARM.fullmatch(name)
    if found is None:
        raise ValueError(f"{name!r} is no arm: {GRAMMAR}")
    part = found.groupdict()
    chain = part["model"] in ("SRI", "ABP")
    if not chain and (part["steps"] or part["step_size"] or part["search"] or part["free"]):
        raise ValueError(
            f"{name!r}: an autoencoder has no chain, so no K, s, gradient, marginal, noisefree"
        )
    if part["search"] == "marginal" and part["free"]:
        raise ValueError(f"{name!r}: the bound of the marginal law needs a chain with noise")
    if part["model"] == "ABP" and not part["step_size"]:
        raise ValueError(f"{name!r}: persistent chains need a fixed step size, such as ABP-s0.1")
    if part["model"] == "LVAE" and part["variant"] == "ladder":
        raise ValueError(f"{name!r}: the layers of the ladder variant have no density for an LVAE")
    step_size = float(part["step_size"]) if part["step_size"] else None
    if step_size == 0 or (part["times"] and float(part["times"]) == 0):
        raise ValueError(f"{name!r}: s and x must be positive")
    search = "none" if step_size or not chain else part["search"] or "grid"
    return Arm(
        part["model"],
        int(part["layers"] or 1),
        int(part["steps"]) if part["steps"] else None,
        step_size,
        search,
        not part["free"],
        part["variant"] or "gaussian",
        float(part["times"] or 1),
    )


class Group(BaseModel):
    """A group of settings; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Exact(Group):
    """Cases whose answer is known."""

    draws: Annotated[int, Field(ge=1000)] = Field(description="chains of a Monte-Carlo check")
    updates: Annotated[int, Field(ge=20)] = Field(
        description="updates of the learning fixed point, a third of them dropped"
    )


class Images(Group):
    """Learning generators of images."""

    datasets: list[DataSet] = Field(description="data sets")
    arms: dict[str, list[str]] = Field(description=f"models, by data set: {GRAMMAR}")
    seeds: dict[str, Count] = Field(
        default={"default": 100}, description="at most this many of the seeds, by data set"
    )
    train_images: dict[str, Annotated[int, Field(ge=0)]] = Field(
        default={"default": 0}, description="the first so many training images, by data set; 0: all"
    )
    network: dict[str, Network] = Field(
        default={"default": "mlp"},
        description="the generator, by data set: mlp (any image) or the released conv (32x32x3)",
    )
    epochs: dict[str, Positive] = Field(description="passes through the images, by data set")
    width: dict[str, Annotated[int, Field(ge=2)]] = Field(
        description="units of the mlp's layers, or channels of the conv, by data set"
    )
    latent: dict[str, list[Count]] = Field(
        description="dimensions from the top to the bottom, by number of layers"
    )
    sigma: Positive = Field(default=0.3, description="standard deviation of a pixel's noise")
    batch: Count = Field(default=100, description="images an update")
    learning_rate: Positive = Field(default=1e-3, description="of Adam, at the start")
    decay: list[tuple[Share, Positive]] = Field(
        default=[(0.6, 0.3), (0.85, 0.1)],
        description="from these shares of training on, the learning rate's factor",
    )
    steps: Count = Field(default=25, description="K")
    step_size: dict[str, Positive] = Field(
        description="s until it is chosen, and of arms that choose it, by data set"
    )
    grid: dict[str, Annotated[list[Positive], Field(min_length=1)]] = Field(
        description="step sizes of the grid, by data set; the marginal bound takes their doubles"
    )
    search_from: dict[str, Annotated[float, Field(ge=0)]] = Field(
        description="epochs before s is chosen first, by data set"
    )
    search_every: dict[str, Positive] = Field(
        description="epochs between choices of s, by data set"
    )
    search_images: Count = Field(default=64, description="training images on which s is chosen")
    search_chains: Annotated[int, Field(ge=2)] = Field(
        default=64, description="chains an image of the marginal bound"
    )
    curves: list[str] = Field(description="arms whose J(s) is kept during training")
    curve_shares: list[Annotated[float, Field(ge=0, le=1)]] = Field(
        default=[0.0, 1 / 3, 2 / 3, 1.0],
        description="after which shares of training, to the nearest twelfth",
    )
    samples: Annotated[int, Field(ge=1500)] = Field(
        default=5_000, description="generated images for the Frechet distances"
    )
    classifiers: Count = Field(default=3, description="classifiers whose features are compared")
    test_images: dict[str, Annotated[int, Field(ge=2)]] = Field(
        default={"default": 10_000}, description="at most this many test images, by data set"
    )
    persistent_test: Count = Field(
        default=10,
        description="times as many chain steps for up to 1,000 test images; with a fixed s, ABP",
    )

    @field_validator("datasets", "curves", "curve_shares")
    @classmethod
    def _each_once(cls, values: list[V], info: ValidationInfo) -> list[V]:
        if not values and info.field_name == "datasets":
            raise ValueError("at least one is needed")
        if len(set(values)) < len(values):
            raise ValueError("each may stand there once")
        return values

    @field_validator("curves")
    @classmethod
    def _arms_of_the_grammar(cls, names: list[str]) -> list[str]:
        for name in names:
            parse_arm(name)
        return names

    @field_validator("arms")
    @classmethod
    def _known_arms(cls, table: dict[str, list[str]]) -> dict[str, list[str]]:
        for names in table.values():
            if not names:
                raise ValueError("at least one arm is needed")
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{', '.join(map(repr, twice))} stands there more than once")
            for name in names:
                parse_arm(name)
        return table

    @field_validator("latent")
    @classmethod
    def _as_many_as_said(cls, table: dict[str, list[int]]) -> dict[str, list[int]]:
        for layers, dims in table.items():
            if layers != str(len(dims)):
                raise ValueError(f"{layers!r} has {len(dims)} dimensions; one a layer is needed")
        return table

    @field_validator(
        "arms",
        "seeds",
        "train_images",
        "network",
        "epochs",
        "width",
        "step_size",
        "grid",
        "search_from",
        "search_every",
        "test_images",
    )
    @classmethod
    def _has_default(cls, table: dict[str, V]) -> dict[str, V]:
        if "default" not in table:
            raise ValueError("a table by data set needs the key 'default'")
        known: tuple[str, ...] = get_args(DataSet)
        for key in table:
            if key not in ("default", *known):
                near = difflib.get_close_matches(key, known, 1, 0.5)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"{key!r} is none of {', '.join(known)}{hint}")
        return table

    def model_post_init(self, context: Any) -> None:
        """Every arm's number of layers has its dimensions, and every network its images."""
        for dataset in self.datasets:
            for name in by_name(self.arms, dataset):
                layers = str(parse_arm(name).layers)
                if layers not in self.latent:
                    raise ValueError(
                        f"arm {name!r} has {layers} layers; images.latent has {sorted(self.latent)}"
                    )
            if by_name(self.network, dataset) == "conv" and dataset not in COLOUR:
                raise ValueError(
                    f"images.network of {dataset} is 'conv', which has 32x32x3 images "
                    f"({', '.join(COLOUR)}); 'mlp' is needed"
                )


class Settings(Group):
    """Everything that decides the numbers, but the seed."""

    n_seeds: Count = Field(description="seeds seed ... seed + n_seeds - 1")
    threads: Count = Field(default=1, description="threads of each process")
    workers: Count = Field(default=2, description="processes that train side by side")
    exact: Exact
    images: Images

    def datasets(self) -> list[str]:
        """Data sets that the run reads."""
        return sorted({d.removeprefix("coloured_") for d in self.images.datasets})


def by_name(table: Mapping[str, V], name: str) -> V:
    """The value of `name`, else the default."""
    return table.get(name, table["default"])

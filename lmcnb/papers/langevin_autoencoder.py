"""Settings of the notebook `langevin_autoencoder`: what can be changed, its type and its range.

Values stand in notebooks/profiles/langevin_autoencoder.toml. A table "by data set" or "by arm" maps
names to values and needs the key `default`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

DataSet = Literal["digits", "mnist", "fashion_mnist", "svhn", "cifar10", "celeba32"]
Arm = Literal[
    "VAE",
    "VAE-flow",
    "Hoffman-2",
    "Hoffman-10",
    "LAE",
    "LAE-frozen",
    "LAE-healthy",
    "LAE-gradient",
    "LAE-1",
    "LAE-5",
    "LAE-unadjusted",
    "LAE-1-unadjusted",
    "LAE-5-unadjusted",
    "VAE-long",
    "VAE-float32",
    "LAE-float32",
]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, lt=float("inf"))]
Share = Annotated[float, Field(gt=0, lt=1)]
V = TypeVar("V")


class Group(BaseModel):
    """A group of settings; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Exact(Group):
    """Cases whose answer is known."""

    draws: Annotated[int, Field(ge=1000)] = Field(
        description="moves of the long chains that are held to exact moments"
    )


class Conjugate(Group):
    """The conjugate Gaussian of figure 2: three points, a sweep over the width of the features."""

    widths: list[Count] = Field(description="numbers of features d")
    display_moves: Annotated[int, Field(ge=10)] = Field(
        default=3_000, description="the first moves: a third dropped, the rest of one chain shown"
    )
    moves: Annotated[int, Field(ge=100)] = Field(description="moves after those, judged")
    chains: Annotated[int, Field(ge=8)] = Field(default=64, description="parallel chains judged")
    step_size: Positive = Field(default=4e-4, description="eta")
    trace: Positive = Field(
        default=100.0, description="the features are scaled to tr(K) = this x n"
    )
    covariance: Literal["symmetric", "lower triangle"] = Field(
        default="symmetric",
        description="the paper prints [[0.7, 0.6], [0.7, 0.8]]; which entry is the misprint",
    )


class Neural(Group):
    """Posteriors under a random network (figures 3 and 5)."""

    networks: Count = Field(description="random networks, each with its own points, per seed")
    points: Annotated[int, Field(ge=1, le=100)] = Field(default=3, description="points a network")
    chains: Annotated[int, Field(ge=8)] = Field(default=64, description="parallel chains")
    display_moves: Annotated[int, Field(ge=10)] = Field(
        default=3_000, description="the first moves: a third dropped, the rest of one chain shown"
    )
    moves: Annotated[int, Field(ge=30)] = Field(description="moves after those, judged")
    step_size: Positive = Field(default=4e-4, description="eta")
    trace: Positive = Field(default=30.0, description="the features are scaled to tr(K) = this x n")
    vi_iterations: Count = Field(default=600, description="Adam steps of variational inference")
    vi_restarts: Count = Field(default=3, description="starts, of which the best bound is kept")


class Images(Group):
    """Image modelling (tables 1 and 2, figure 4)."""

    datasets: list[DataSet] = Field(description="data sets")
    arms: list[Arm] = Field(
        description="LAE, LAE-T with T moves, -unadjusted without the accept test, LAE-frozen "
        "whose head never moves, LAE-gradient whose head is trained instead, LAE-healthy whose "
        "step size follows an acceptance rate, Hoffman-T, "
        "VAE-long trained for more epochs, -float32 with full-precision products"
    )
    seeds: dict[str, Count] = Field(
        default={"default": 100}, description="at most this many of the seeds, by arm"
    )
    train_images: dict[str, Annotated[int, Field(ge=0)]] = Field(
        default={"default": 0}, description="the first so many training images, by data set; 0: all"
    )
    epochs: dict[str, Positive] = Field(description="passes through the images, by data set")
    long: Positive = Field(default=2.24, description="VAE-long: times as many epochs")
    width: Annotated[int, Field(ge=2)] = Field(description="units of each hidden layer")
    latent: dict[str, Count] = Field(description="dimension of z, by data set")
    batch: Count = Field(default=100, description="images a step")
    learning_rate: Positive = Field(description="of plain SGD")
    step_size: Positive = Field(
        default=1e-4, description="ALD's step on the batch mean; eta = step_size / batch"
    )
    extra_step: bool = Field(default=True, description="a move after the T, as in the code")
    healthy_acceptance: Share = Field(default=0.75, description="LAE-healthy: what it aims at")
    refinement_step: Positive = Field(default=0.005, description="Hoffman: Langevin step on z")
    products: Literal["float32", "bfloat16"] = Field(
        default="float32", description="factors of the matrix products in training"
    )
    posterior_widths: list[Positive] = Field(
        default=[0.02, 0.05, 0.1, 0.2], description="sigma of LAE's posterior at evaluation"
    )
    posterior_width: Positive = Field(default=0.05, description="the paper's sigma")
    importance_samples: Count = Field(default=128, description="samples of the weighted bound")
    importance_images: dict[str, Count] = Field(
        default={"default": 1000}, description="evenly spaced test images for it, by data set"
    )

    refined_images: dict[str, Count] = Field(
        default={"default": 500}, description="of those, for posteriors fitted image by image"
    )

    @field_validator("datasets", "arms", "posterior_widths")
    @classmethod
    def _each_once(cls, values: list[V]) -> list[V]:
        if not values:
            raise ValueError("at least one is needed")
        if len(set(values)) < len(values):
            raise ValueError("each may stand there once")
        return values

    @field_validator(
        "seeds", "train_images", "epochs", "latent", "importance_images", "refined_images"
    )
    @classmethod
    def _has_default(cls, table: dict[str, V], info: ValidationInfo) -> dict[str, V]:
        if "default" not in table:
            raise ValueError("a table by name needs the key 'default'")
        known: tuple[str, ...] = get_args(Arm if info.field_name == "seeds" else DataSet)
        for key in table:
            if key not in ("default", *known):
                near = difflib.get_close_matches(key, known, 1, 0.5)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"{key!r} is none of {', '.join(known)}{hint}")
        return table


class Settings(Group):
    """Everything that decides the numbers, but the seed."""

    n_seeds: Count = Field(description="seeds seed ... seed + n_seeds - 1")
    threads: Count = Field(default=1, description="threads of each process")
    workers: Count = Field(default=2, description="processes that train side by side")
    exact: Exact
    conjugate: Conjugate
    neural: Neural
    images: Images

    def datasets(self) -> list[str]:
        """Data sets that the run reads."""
        return sorted(self.images.datasets)


def by_name(table: Mapping[str, V], name: str) -> V:
    """The value of `name`, else the default."""
    return table.get(name, table["default"])

"""The settings of `mcmc_teaching`; `notebooks/profiles/mcmc_teaching.toml` has their values."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Literal, TypeVar, get_args

from pydantic import Field, field_validator, model_validator

from lmcnb.errors import UsageError
from lmcnb.methods.mcmc_teaching_settings import Teaching
from lmcnb.papers.mcmc_teaching_arms import GRAMMAR, REGRESSION, checked_arms, parse_arm
from lmcnb.papers.unbiased_vae import Count, Group, Positive, by_name, each_once, with_default

V = TypeVar("V")
Density = Literal["eight_gaussians", "checkerboard", "pinwheel"]
Task = Literal["none", "label", "half", "occluded"]
DataSet = Literal["mnist14", "mnist", "fashion_mnist", "cifar10", "pairs"]
Learner = Literal[
    "variational", "variational, from g(z)", "short-run", "fast", "original", "persistent"
]


class Knobs(Group):
    """How a model is taught; an arm's name changes some."""

    iterations: Count = Field(description="updates of the energy")
    batch: Count = Field(description="data points an iteration")
    chains: Count = Field(description="M: chains an iteration")
    steps: Count = Field(description="K: Langevin steps")
    step_size: Positive = Field(description="d: step size in x")
    noisy: bool = Field(default=True, description="noise in the revision; the code has none")
    reference: Positive | None = Field(description="s_ref: width of the reference, null: none")
    sigma: Positive = Field(description="s: decoder's standard deviation; KL weight is 2 s^2")
    ancestral: bool = Field(description="chains start from g(z) + s e, else from g(z)")
    energy_rate: Positive = Field(description="Adam's learning rate of the energy")
    generator_rate: Positive = Field(description="Adam's learning rate of generator and encoder")
    first_beta: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.5, description="Adam's first beta"
    )
    generator_steps: Count = Field(default=1, description="generator's updates an iteration")
    decay: Literal["none", "linear", "exponential"] = Field(
        default="linear", description="of the rates; linear from half of the run to 2 percent"
    )
    decay_every: Positive = Field(default=3000.0, description="iterations of a factor 0.98")
    data_noise: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="standard deviation of noise on the data that the energy sees"
    )
    start: Literal["normal", "uniform"] = Field(
        default="normal", description="of chains that start from noise"
    )
    start_std: Positive = Field(default=1.0, description="its standard deviation or half width")
    pool: Count = Field(default=4000, description="chains that persist")
    inference_steps: Count = Field(default=10, description="L: steps on latents (original)")
    inference_step_size: Positive = Field(default=0.1, description="their step size")
    explosion: Positive = Field(default=1e4, description="gap of energies that is a divergence")

    @model_validator(mode="after")
    def _possible(self) -> Knobs:
        own = {f.name: getattr(self, f.name) for f in fields(Teaching) if f.name != "teacher"}
        try:
            Teaching(**own)
        except UsageError as error:
            raise ValueError(str(error)) from error
        return self


def teaching_of(arm: str, knobs: Knobs) -> Teaching:
    """The settings that an arm's name stands for (of `regression`, a VAE's: for the bar alone).

    Raises:
        UsageError: settings that cannot be.
    """
    teacher, changed = ("VAE", {}) if arm == REGRESSION else parse_arm(arm)
    own = {f.name: getattr(knobs, f.name) for f in fields(Teaching) if f.name != "teacher"}
    return Teaching(teacher, **(own | changed))


def checked_teaching(arm: str, knobs: Knobs, samples: int, task: str = "none") -> None:
    """Refuse an arm that cannot be trained with these settings, or whose width has no effect."""
    try:
        t = teaching_of(arm, knobs)
    except UsageError as error:
        raise ValueError(f"{arm}: {error}") from error
    if t.teacher == "fast" and "sigma" in parse_arm(arm)[1] and not t.ancestral:
        raise ValueError(f"{arm!r}: -s has no effect on fast teaching from g(z); add -draws")
    if t.teacher == "persistent" and t.pool < samples:
        raise ValueError(f"pool={t.pool} ({arm}): at least samples={samples} chains are needed")
    if task == "none" or arm == REGRESSION:
        return
    if t.teacher == "persistent":
        raise ValueError(f"{arm}: chains that persist have no conditions, as the task {task} asks")
    if t.chains != t.batch:
        raise ValueError(f"chains={t.chains}, batch={t.batch}: equal numbers for the task {task}")


class Plane(Knobs):
    """Densities in the plane, whose truth is known."""

    densities: list[Density] = Field(description="data")
    arms: dict[str, list[str]] = Field(description=f"methods, by density: {GRAMMAR}")
    width: Count = Field(default=128, description="units of the two hidden layers")
    latent: Count = Field(default=2, description="dimension of z")
    samples: Annotated[int, Field(ge=100)] = Field(
        default=4000, description="samples of an evaluation"
    )
    looks: Count = Field(default=20, description="points of a learning curve")
    longest: Count = Field(default=2000, description="Langevin steps of the long chains")

    @field_validator("densities")
    @classmethod
    def _each_once(cls, values: list[V]) -> list[V]:
        return each_once(values)

    @field_validator("arms")
    @classmethod
    def _known_arms(cls, table: dict[str, list[str]]) -> dict[str, list[str]]:
        for names in with_default(table, get_args(Density)).values():
            checked_arms(names)
        return table

    @model_validator(mode="after")
    def _stable(self) -> Plane:
        narrowest = {"eight_gaussians": 0.2}
        for density in self.densities:
            for arm in by_name(self.arms, density):
                checked_teaching(arm, self, self.samples)
                d = parse_arm(arm)[1].get("step_size", self.step_size)
                sd = narrowest.get(density, float("inf"))
                if d >= 2 * sd:
                    raise ValueError(
                        f"step_size={d} ({arm}): past the bound of stability of {density}, whose "
                        f"modes have standard deviation {sd}: step_size < {2 * sd} is needed"
                    )
        return self


class Digits(Knobs):
    """Digits of 8 x 8 pixels."""

    tasks: list[Task] = Field(
        description="none: images; label: given the class; half: the lower half given the upper; "
        "occluded: the image given itself with a block hidden"
    )
    arms: dict[str, list[str]] = Field(
        description=f"methods, by task: {GRAMMAR}; regression (a perceptron) of half and occluded"
    )
    once: list[str] = Field(default=[], description="arms that run with the first seed alone")
    width: Count = Field(default=256, description="units of the two hidden layers")
    latent: Count = Field(default=16, description="dimension of z")
    samples: Annotated[int, Field(ge=100)] = Field(
        default=2000, description="samples of an evaluation"
    )
    classifiers: Count = Field(default=3, description="classifiers of the Frechet distances")
    looks: Count = Field(default=12, description="points of a learning curve")
    longest: Count = Field(default=1000, description="Langevin steps of the long chains")
    train_images: Annotated[int, Field(ge=0)] = Field(
        default=0, description="the first so many training images; 0: all"
    )

    @field_validator("tasks")
    @classmethod
    def _each_once(cls, values: list[V]) -> list[V]:
        return each_once(values)

    @field_validator("arms")
    @classmethod
    def _known_arms(cls, table: dict[str, list[str]]) -> dict[str, list[str]]:
        for task, names in with_default(table, get_args(Task)).items():
            checked_arms(names, regression=task in ("half", "occluded"))
        return table

    @model_validator(mode="after")
    def _trainable(self) -> Digits:
        for task in self.tasks:
            for arm in by_name(self.arms, task):
                checked_teaching(arm, self, self.samples, task)
        return self

    @field_validator("once")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        return checked_arms(names) if names else names


class ImageModel(Knobs):
    """One data set of the image models."""

    arms: list[str] = Field(description=f"methods: {GRAMMAR}")
    task: Task = Field(default="none", description="condition: none, label, half or occluded")
    latent: Count = Field(default=100, description="dimension of z")
    conv_std: Positive = Field(default=0.005, description="of the convolutions' first weights")
    train_images: Annotated[int, Field(ge=0)] = Field(
        default=0, description="the first so many training images; 0: all"
    )
    samples: Annotated[int, Field(ge=100)] = Field(
        default=10_000, description="samples of an evaluation"
    )
    classifiers: Count = Field(default=3, description="classifiers of the Frechet distances")
    looks: Count = Field(default=12, description="points of a learning curve")
    longest: Count = Field(default=1000, description="Langevin steps of the long chains")
    folder: str | None = Field(default=None, description="of paired images, of the set pairs")

    @field_validator("arms")
    @classmethod
    def _known_arms(cls, names: list[str]) -> list[str]:
        return checked_arms(names)

    @model_validator(mode="after")
    def _trainable(self) -> ImageModel:
        for arm in self.arms:
            checked_teaching(arm, self, self.samples, self.task)
        return self


class Images(Group):
    """Images by convolutional networks."""

    datasets: list[DataSet] = Field(description="data sets; none: []")
    models: dict[DataSet, ImageModel] = Field(default={}, description="settings, by data set")

    @model_validator(mode="after")
    def _there(self) -> Images:
        for dataset in self.datasets:
            if dataset not in self.models:
                raise ValueError(f"images.datasets: {dataset!r} has no settings in images.models")
        if "pairs" in self.datasets:
            pairs = self.models["pairs"]
            if pairs.folder is None:
                raise ValueError("images.models.pairs.folder: the folder of the images is needed")
            if pairs.task != "none":
                raise ValueError(f"images.models.pairs.task={pairs.task!r}: pairs are a task, none")
            for arm in pairs.arms:
                checked_teaching(arm, pairs, pairs.samples, "pairs")
        return self


class Exact(Group):
    """Cases whose answer is known."""

    draws: Annotated[int, Field(ge=1000)] = Field(description="chains and samples of a check")
    learning: Annotated[int, Field(ge=100)] = Field(
        description="iterations of learning in one dimension"
    )
    learning_chains: Annotated[int, Field(ge=100)] = Field(description="chains of it")
    learning_names: list[Learner] | None = Field(
        default=None, description="which of the teachers learn; null: all"
    )
    tolerance: Positive = Field(description="of what they learn, relative")


class Settings(Group):
    """Everything that decides the numbers, but the seed."""

    n_seeds: Count = Field(description="seeds seed ... seed + n_seeds - 1")
    threads: Count = Field(default=1, description="threads of each process")
    workers: Count = Field(default=2, description="processes that train side by side")
    exact: Exact
    plane: Plane
    digits: Digits
    images: Images

    def datasets(self) -> list[str]:
        """Data sets that the run reads."""
        found = {"mnist" if d == "mnist14" else d for d in self.images.datasets}
        return sorted({"digits", *(found - {"pairs"})})

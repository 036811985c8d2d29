"""The settings of the toy paper that the tests of the laboratory run."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Loop(BaseModel):
    """The random walk."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(5, ge=1, le=100_000, description="number of steps")
    wait: float = Field(0.0, ge=0, description="seconds that a step sleeps")
    fail: Literal["no", "bug", "user", "usage", "exit", "diverge"] = "no"


class Settings(BaseModel):
    """All settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n_seeds: int = Field(1, ge=1, description="seeds in one run")
    loop: Loop = Loop()
    methods: list[Literal["ULA", "LDVI"]] = Field(["ULA"], min_length=1)
    iterations: dict[str, int] = Field({"default": 10}, description="per target")

    def datasets(self) -> list[str]:
        """The toy reads no data."""
        return []

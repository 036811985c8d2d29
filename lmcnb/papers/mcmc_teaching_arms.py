"""The names of what `mcmc_teaching` trains: a teacher, and options that change its settings."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from lmcnb.methods.mcmc_teaching_teachers import TEACHERS
from lmcnb.papers.unbiased_vae import each_once

REGRESSION = "regression"  # a baseline of completion, no teacher
_NUMBERS: dict[str, tuple[str, Callable[[str], int | float]]] = {
    "K": ("steps", int),
    "s": ("sigma", float),
    "d": ("step_size", float),
    "v": ("generator_steps", int),
    "e": ("energy_rate", float),
    "g": ("generator_rate", float),
    "L": ("inference_steps", int),
}
_WORDS: dict[str, tuple[str, bool]] = {
    "means": ("ancestral", False),
    "draws": ("ancestral", True),
    "still": ("noisy", False),
}
_USEFUL = {  # options that change what a teacher does
    "variational": "K s d v e g means draws still",
    "fast": "K s d v e g means draws still",
    "original": "K s d v e g L means draws still",
    "short-run": "K d e still",
    "persistent": "K d e still",
    "VAE": "s v g",
}
_OPTION = re.compile(rf"-(?:([{''.join(_NUMBERS)}])(\d+(?:\.\d+)?(?:e-\d+)?)|({'|'.join(_WORDS)}))")
_ARM = re.compile(rf"({'|'.join(TEACHERS)})((?:{_OPTION.pattern})*)")
GRAMMAR = (
    "variational, fast, original, short-run, persistent or VAE, then any of -K5 (Langevin steps), "
    "-s0.3 (decoder's standard deviation), -d0.1 (step size), -v3 (generator's updates an "
    "iteration), -e3e-4 and -g1e-3 (learning rates of energy and generator), -L50 (steps of the "
    "latents' inference), -means (chains start from g(z)), -draws (from g(z) + s e), -still (no "
    "noise in the revision)"
)


def parse_arm(name: str) -> tuple[str, dict[str, Any]]:
    """The teacher, and the settings that an arm's name changes.

    Raises:
        ValueError: a name outside the grammar, an option twice or without effect.
    """
    found = _ARM.fullmatch(name)
    if found is None:
        raise ValueError(f"{name!r} is no arm: {GRAMMAR}")
    changed: dict[str, Any] = {}
    for letter, number, word in _OPTION.findall(found.group(2)):
        if (letter or word) not in _USEFUL[found.group(1)].split():
            raise ValueError(f"{name!r}: -{letter or word} has no effect on {found.group(1)}")
        key, value = _WORDS[word] if word else (_NUMBERS[letter][0], number)
        if key in changed:
            raise ValueError(f"{name!r}: {key} is said twice")
        try:
            changed[key] = value if word else _NUMBERS[letter][1](number)
        except ValueError as error:
            raise ValueError(f"{name!r}: -{letter} takes a whole number") from error
    return found.group(1), changed


def checked_arms(names: list[str], *, regression: bool = False) -> list[str]:
    """The names, if each is an arm (or `regression`, where allowed) and stands there once."""
    for name in names:
        if not (regression and name == REGRESSION):
            parse_arm(name)
    return each_once(names)

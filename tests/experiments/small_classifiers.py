"""Classifiers of images that are trained in a moment, in place of the experiments' own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import pytest

from lmcnb.evaluation.classifier import Classifier
from lmcnb.experiments import mcmc_teaching_evaluation as measure
from lmcnb.experiments.mcmc_teaching_sets import read

MOST = 700  # images of their training
REAL = measure.classifiers


@cache
def quick(dataset: str, count: int) -> list[Classifier]:
    """Seeds 0, 1, ..., few images and epochs."""
    train = read(dataset, "train")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [
            Classifier.fit(train.images[:MOST], train.labels[:MOST], seed=seed, epochs=15)
            for seed in range(count)
        ]


@contextmanager
def small_measures() -> Iterator[pytest.MonkeyPatch]:
    """Quick classifiers and small numbers inside; what was kept before and after is forgotten."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "classifiers", quick)
        patch.setattr(measure, "REFERENCE", 300)
        patch.setattr(measure, "PATHS", 5)
        patch.setattr(measure, "ANSWERS", 3)
        forget()
        yield patch
    forget()


def forget() -> None:
    """Empty the caches that know data sets by name."""
    for kept in (read, measure.reference, measure.limits, quick):
        kept.cache_clear()

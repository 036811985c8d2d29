"""The small classifier whose features the Frechet distance compares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.evaluation.classifier import Classifier
from lmcnb.lab.data import load


def digits(split: str) -> tuple[Tensor, Tensor]:
    data = load("digits", split)
    images = torch.from_numpy(data["images"]).flatten(1).float() / 8 - 1
    return images, torch.from_numpy(data["labels"]).long()


@pytest.fixture(scope="module")
def fitted() -> Classifier:
    return Classifier.fit(*digits("train"), seed=0)


def test_it_tells_digits_apart(fitted: Classifier) -> None:
    assert fitted.accuracy(*digits("test")) > 0.88
    assert fitted.accuracy(*digits("train")) > 0.97


def test_features_lead_to_the_networks_own_predictions(fitted: Classifier) -> None:
    images, _ = digits("test")
    features = fitted.features(images)
    assert features.shape == (len(images), 32)
    assert features.dtype == torch.float64
    assert float(features.min()) == 0
    own = fitted._network.predict_proba(images.double().numpy())
    assert np.allclose(own, fitted.probabilities(images).numpy(), atol=1e-9)
    assert (
        fitted._network.predict(images.double().numpy()) == fitted.predict(images).numpy()
    ).all()


def test_seeds_decide_and_global_randomness_is_untouched(fitted: Classifier) -> None:
    images, labels = digits("test")
    numbers = np.random.get_state()[1].copy()  # noqa: NPY002
    torch_state = torch.get_rng_state()
    first, again, other = (
        Classifier.fit(images, labels, seed=s, epochs=3).features(images) for s in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (np.random.get_state()[1] == numbers).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_of_many_images_evenly_spaced_ones_are_used() -> None:
    images, labels = digits("train")
    few = Classifier.fit(images, labels, seed=0, epochs=2, most=300)
    kept = torch.linspace(0, len(images) - 1, 300).round().long()
    same = Classifier.fit(images[kept], labels[kept], seed=0, epochs=2)
    assert torch.equal(few.features(images), same.features(images))


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(UsageError, match="labels"):
        Classifier.fit(torch.zeros(5, 4), torch.zeros(4), seed=0)

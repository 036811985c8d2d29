"""A small classifier trained here, whose last hidden layer gives features of images.

scikit-learn's MLPClassifier with hidden layers of 128 and 32 units. Guaranteed: the same seed and
images give the same classifier on the same machine; no global random state is touched. Not
guaranteed: that its features mean anything beyond telling these classes apart.
"""

from __future__ import annotations

import warnings

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from torch import Tensor

from lmcnb.errors import UsageError


class Classifier:
    """A trained classifier of flattened images in [-1, 1]."""

    def __init__(self, network: MLPClassifier) -> None:
        """Around a fitted network."""
        self._network = network
        self._layers = [
            (torch.from_numpy(w).double(), torch.from_numpy(b).double())
            for w, b in zip(network.coefs_, network.intercepts_, strict=True)
        ]

    @classmethod
    def fit(
        cls, images: Tensor, labels: Tensor, *, seed: int, epochs: int = 40, most: int = 10_000
    ) -> Classifier:
        """Train on images `(n, pixels)` with labels `(n)`.

        Args:
            images: in [-1, 1].
            labels: integers.
            seed: of the weights and the order.
            epochs: passes through the images.
            most: of more images than this, so many evenly spaced ones are used.

        Raises:
            UsageError: shapes that do not match.
        """
        if images.dim() != 2 or labels.shape != images.shape[:1]:
            raise UsageError(
                f"images {tuple(images.shape)} and labels {tuple(labels.shape)}: (n, pixels) and "
                "(n,) are needed"
            )
        if len(images) > most:
            kept = torch.linspace(0, len(images) - 1, most).round().long()
            images, labels = images[kept], labels[kept]
        network = MLPClassifier((128, 32), random_state=seed, max_iter=epochs, alpha=1e-3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            network.fit(images.double().numpy(), labels.numpy())
        return cls(network)

    def features(self, images: Tensor) -> Tensor:
        """Values of the last hidden layer, `(n, 32)` float64."""
        h = images.detach().cpu().double()
        for w, b in self._layers[:-1]:
            h = torch.relu(h @ w + b)
        return h

    def probabilities(self, images: Tensor) -> Tensor:
        """Of the classes, `(n, classes)` float64."""
        w, b = self._layers[-1]
        return torch.softmax(self.features(images) @ w + b, -1)

    def predict(self, images: Tensor) -> Tensor:
        """Labels, `(n)`."""
        classes = torch.from_numpy(self._network.classes_)
        return classes[self.probabilities(images).argmax(-1)]

    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Share of images whose label is predicted."""
        return float((self.predict(images) == labels.cpu()).double().mean())

"""What an image is conditioned on, the images themselves, and the PSNR of restored pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from lmcnb.errors import UsageError
from lmcnb.experiments import mcmc_teaching_sets as sets
from lmcnb.experiments import mcmc_teaching_tasks as tasks


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(n: int, *shape: int) -> Tensor:
    """Images whose values all differ, in [-1, 1]."""
    size = n * math.prod(shape)
    return torch.linspace(-1, 1, size).view(n, -1)


LABELS = torch.tensor([3, 0, 9, 3, 1])


# ---- tasks


def test_nothing_is_conditioned_on() -> None:
    x = numbered(5, 4, 4)
    found = tasks.arrange("none", x, LABELS, (4, 4), stream())
    assert found.x is x
    assert found.c is None and found.hidden is None


def test_a_class_is_one_of_ten() -> None:
    x = numbered(5, 4, 4)
    found = tasks.arrange("label", x, LABELS, (4, 4), stream())
    assert found.x is x
    assert found.hidden is None
    assert found.c is not None
    assert (found.c.shape, found.c.dtype) == ((5, 10), x.dtype)
    assert found.c.argmax(1).tolist() == LABELS.tolist()
    assert bool((found.c.sum(1) == 1).all()) and bool((found.c.amax(1) == 1).all())


@pytest.mark.parametrize(
    ("task", "images", "labels", "why"),
    [
        ("label", torch.zeros(2, 16), torch.tensor([0, 10]), "a class from 0 to 9"),
        ("label", torch.zeros(2, 16), torch.tensor([-1, 3]), "a class from 0 to 9"),
        ("label", torch.zeros(2, 16), torch.tensor([1, 2, 3]), "a class from 0 to 9"),
        ("none", torch.full((2, 16), 1.01), torch.zeros(2).long(), "values from 1.01"),
        ("half", torch.full((2, 16), -255.0), torch.zeros(2).long(), r"\[-1, 1\] is needed"),
        ("none", torch.full((2, 16), math.nan), torch.zeros(2).long(), "values from nan"),
        ("third", torch.zeros(2, 16), torch.zeros(2).long(), "task='third': none, label"),
    ],
)
def test_what_cannot_be_is_refused(task: str, images: Tensor, labels: Tensor, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        tasks.arrange(task, images, labels, (4, 4), stream())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("rows", [4, 5])
def test_the_lower_half_given_the_upper(channels: int, rows: int) -> None:
    """Of odd rows the middle one is below."""
    x = numbered(5, channels, rows, 6)
    shape = (rows, 6) if channels == 1 else (channels, rows, 6)
    found = tasks.arrange("half", x, LABELS, shape, stream())
    square = x.view(5, channels, rows, 6)
    assert found.c is not None and found.hidden is not None
    assert torch.equal(found.c, square[:, :, :2].flatten(1))
    assert torch.equal(found.x, square[:, :, 2:].flatten(1))
    assert torch.equal(found.hidden, torch.ones_like(found.x))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("rows", [4, 5])
def test_the_whole_image_given_its_upper_half(channels: int, rows: int) -> None:
    x = numbered(5, channels, rows, 6)
    found = tasks.arrange("half", x, LABELS, (channels, rows, 6), stream(), whole=True)
    assert torch.equal(found.x, x)
    assert found.c is not None and found.hidden is not None
    assert found.c.shape == (5, (channels + 1) * rows * 6)
    seen = torch.zeros(5, channels, rows, 6)
    seen[:, :, :2] = 1
    hidden = found.hidden.view(5, channels, rows, 6)
    assert torch.equal(hidden, 1 - seen)
    given = found.c[:, : channels * rows * 6].view(5, channels, rows, 6)
    assert torch.equal(given, x.view(5, channels, rows, 6) * seen)
    assert torch.equal(found.c[:, channels * rows * 6 :].view(5, rows, 6), seen[:, 0])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("whole", [False, True])
def test_the_image_given_itself_with_a_block_hidden(channels: int, whole: bool) -> None:
    """A block of 3 x 2 pixels of 6 x 4 (of 7 x 5, too), the same in every channel."""
    for rows, columns in ((6, 4), (7, 5)):
        x = numbered(200, channels, rows, columns)
        labels = torch.zeros(200).long()
        shape = (channels, rows, columns)
        found = tasks.arrange("occluded", x, labels, shape, stream(), whole=whole)
        assert torch.equal(found.x, x)
        assert found.c is not None and found.hidden is not None
        hidden = found.hidden.view(200, channels, rows, columns)
        assert bool((hidden == hidden[:, :1]).all())
        places = set()
        for block in hidden[:, 0]:
            at = block.nonzero()
            (a, b), (c, d) = at.amin(0).tolist(), at.amax(0).tolist()
            assert (c - a + 1, d - b + 1, len(at)) == (3, 2, 6)
            places.add((a, b))
        assert places == {(a, b) for a in range(rows - 2) for b in range(columns - 1)}
        pixels = x.shape[1]
        assert torch.equal(found.c[:, :pixels], x * (1 - found.hidden))
        assert torch.equal(found.c[:, pixels:], 1 - hidden[:, 0].flatten(1))


def test_blocks_come_from_the_stream() -> None:
    a, b, c = (tasks.blocks(50, 8, 8, stream(seed)) for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


# ---- PSNR


def test_psnr_by_hand() -> None:
    """Squared errors 0.04 and 0.16: their mean is 0.1, its standard error 0.06."""
    x = torch.zeros(2, 6)
    hidden = torch.tensor([[1.0, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1]])
    restored = torch.tensor([[0.2, -0.2, 9, 9, 9, 9], [9, 9, 0.4, -0.4, 0.4, 0.4]])
    value, se = tasks.psnr(restored, x, hidden)
    assert value == pytest.approx(10 * math.log10(40), abs=1e-5)
    assert se == pytest.approx(10 / math.log(10) * 0.06 / 0.1, rel=1e-5)


def test_psnr_is_over_hidden_pixels_alone() -> None:
    x = torch.zeros(4, 8)
    hidden = torch.zeros(4, 8)
    hidden[:, :3] = 1
    restored = 0.02 * hidden + 5 * (1 - hidden)
    value, se = tasks.psnr(restored, x, hidden)
    assert value == pytest.approx(40, abs=1e-4)
    assert se == pytest.approx(0, abs=1e-6)


def test_the_standard_error_is_the_spread_of_repetitions() -> None:
    n, repeats = 100, 400
    x, hidden = torch.zeros(n, 5), torch.ones(n, 5)
    noise = torch.randn(repeats, n, 5, generator=stream())
    scale = torch.rand(repeats, n, 1, generator=stream(1))
    found = [tasks.psnr(0.3 * s * e, x, hidden) for s, e in zip(scale, noise, strict=True)]
    values, errors = torch.tensor(found).T
    assert float(values.std()) == pytest.approx(float(errors.mean()), rel=0.12)


def test_psnr_of_what_is_restored_without_error() -> None:
    x = torch.rand(3, 4, generator=stream())
    assert tasks.psnr(x, x, torch.ones(3, 4))[0] > 100


# ---- sets


@pytest.fixture
def raw(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, dict[str, np.ndarray]]]:
    """Data sets that `load` finds, by name and split; what was read before is forgotten."""
    found: dict[str, dict[str, np.ndarray]] = {}
    sets.read.cache_clear()
    monkeypatch.setattr(sets, "load", lambda name, split: found[f"{name}/{split}"])
    yield found
    sets.read.cache_clear()


def test_digits_are_scaled_to_one() -> None:
    sets.read.cache_clear()
    train, test = sets.read("digits", "train"), sets.read("digits", "test")
    own = load_digits()
    assert (train.images.shape, test.images.shape) == ((1500, 64), (297, 64))
    for found, rows in ((train, slice(1500)), (test, slice(1500, None))):
        assert found.images.numpy() == pytest.approx(own.data[rows] / 8 - 1)
        assert found.labels.tolist() == own.target[rows].tolist()
        assert (float(found.images.min()), float(found.images.max())) == (-1, 1)
        assert found.shape == (8, 8)
        assert (found.images.dtype, found.labels.dtype) == (torch.float32, torch.int64)


def test_images_of_bytes_are_scaled_and_flattened_channel_first(
    raw: dict[str, dict[str, np.ndarray]],
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 6)).astype(np.uint8)
    images[0, 0, 0, :2] = (0, 255)
    raw["cifar10/test"] = {"images": images, "labels": np.arange(5, dtype=np.uint8)}
    found = sets.read("cifar10", "test")
    assert found.shape == (3, 4, 6)
    assert found.images.numpy() == pytest.approx(images.reshape(5, -1) / 127.5 - 1, abs=1e-6)
    assert found.images[0, :2].tolist() == [-1, 1]
    assert found.labels.tolist() == [0, 1, 2, 3, 4]


def test_small_mnist_has_means_of_four_pixels(raw: dict[str, dict[str, np.ndarray]]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 28, 28)).astype(np.uint8)
    raw["mnist/train"] = {"images": images, "labels": np.arange(7, dtype=np.uint8)}
    found = sets.read("mnist14", "train")
    assert found.shape == (14, 14)
    means = images.astype(float).reshape(7, 14, 2, 14, 2).mean((2, 4))
    assert found.images.numpy() == pytest.approx(means.reshape(7, -1) / 127.5 - 1, abs=1e-6)
    whole = sets.read("mnist", "train")
    assert (whole.shape, whole.images.shape) == ((28, 28), (7, 784))


def test_a_split_is_read_once(raw: dict[str, dict[str, np.ndarray]]) -> None:
    raw["mnist/train"] = {"images": np.zeros((2, 28, 28), np.uint8), "labels": np.zeros(2, int)}
    first = sets.read("mnist", "train")
    raw.clear()
    assert sets.read("mnist", "train") is first


def paired(folder: Path, n: int) -> None:
    """Files of two halves, 4 x 4 pixels each: input i + 1 all over, target 255 - i."""
    folder.mkdir(exist_ok=True)
    for i in range(n):
        halves = np.full((4, 8, 3), i + 1, np.uint8)
        halves[:, 4:] = 255 - i
        Image.fromarray(halves).save(folder / f"{i:03}.png")


def test_of_pairs_every_tenth_is_held_out(tmp_path: Path) -> None:
    paired(tmp_path, 23)
    train, test = sets.pairs(str(tmp_path), 2)
    assert train.x.shape == (21, 12) and test.x.shape == (2, 12)
    for found, rows in ((test, [9, 19]), (train, [i for i in range(23) if i % 10 != 9])):
        assert found.c is not None and found.hidden is not None
        i = torch.tensor(rows).unsqueeze(1).expand(-1, 12)
        assert torch.allclose(found.c, (i + 1) / 127.5 - 1, atol=1e-6)
        assert torch.allclose(found.x, (255 - i) / 127.5 - 1, atol=1e-6)
        assert torch.equal(found.hidden, torch.ones_like(found.x))


def test_too_few_pairs_are_refused(tmp_path: Path) -> None:
    paired(tmp_path / "few", 19)
    with pytest.raises(UsageError, match="few: 19 pairs; at least 20 are needed"):
        sets.pairs(str(tmp_path / "few"), 2)
    paired(tmp_path / "few", 20)
    assert len(sets.pairs(str(tmp_path / "few"), 2)[1].x) == 2

"""Data sets by name, and those that users bring, as `Images`."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from nasplug.errors import NasplugError
from nasplug.nn.data import Arrays, Images, from_datasets
from nasplug.nn.task import CLASSIFICATION, METRICS, Loss, Optimizer, Task, relative_l2


@dataclass(frozen=True)
class Given:
    """Data of the user's own, as `load` takes them, with what is to be learned of them where that
    is not the usual: see `Task.of`."""

    data: Any
    loss: Loss | type[nn.Module] | str | None = None
    metric: Callable[[Any, Any], Any] | str | None = None
    optimizer: Optimizer | None = None
    maximize: bool = True

    def task(self, labels: Any) -> Task:
        return Task.of(labels, self.loss, self.metric, self.optimizer, self.maximize)


def load(data: Any, seed: int = 0) -> Images:
    """What to train on: by name, or a torch Dataset of (image, label) pairs, or a pair of arrays
    (all inputs, all labels), or a tuple of two or three of those for training, validation and test;
    or Images as they are. A DataLoader will do for its Dataset. Inputs may also be vectors (n,),
    series (channels, n) or tokens, int64 (n,), or tuples or dicts of arrays; labels have any shape.
    `Given` adds a loss, a metric and an optimiser."""
    given = data if isinstance(data, Given) else Given(data)
    data = given.data
    if isinstance(data, str | Images):
        images = by_name(data, seed) if isinstance(data, str) else data
        return images if given == Given(data) else replace(images, task=given.task(images.train[1]))
    parts = data if isinstance(data, tuple) and 0 < len(data) <= 3 else (data,)
    if is_arrays(parts) or is_pair(parts[0]):
        parts = (data,)
    return from_datasets(*map(dataset, parts), seed=seed, task=given.task)


def dataset(part: Any) -> Any:
    """Something with pairs of input and label, of what a part of the data may be given as."""
    if isinstance(part, DataLoader):
        plain = isinstance(part.sampler, SequentialSampler | RandomSampler)
        if not plain or part.batch_size is None or part.collate_fn is not default_collate:
            raise NasplugError(
                "a DataLoader with a sampler or a collate_fn of its own cannot be followed: give a "
                "Dataset that has what it draws, such as torch.utils.data.Subset"
            )
        part = part.dataset
    if is_arrays(part):
        return Arrays(*part)
    indexed = hasattr(part, "__getitem__") and not isinstance(part, Mapping | str | Tensor)
    if not (indexed and hasattr(part, "__len__") and len(part)):
        raise NasplugError(
            "data takes a torch Dataset of (image, label) pairs, arrays (inputs, labels), "
            f"a tuple of those for training and validation, or nasplug.nn.Images, got {part!r}"
        )
    return part


def is_arrays(part: Any) -> bool:
    """Whether it is a pair of arrays, of all inputs and all labels; instead of an array of inputs
    there may be a tuple or a dict of them, and a dict for the labels."""
    if not (isinstance(part, tuple) and len(part) == 2):
        return False
    inputs, labels = part
    inputs = inputs if isinstance(inputs, tuple) else _arrays(inputs)
    found = [*inputs, *_arrays(labels)]
    shaped = all(hasattr(x, "__array__") and np.ndim(x) > 0 for x in found)
    return bool(shaped and inputs and (len(inputs) > 1 or np.ndim(inputs[0]) > 1))


def _arrays(tree: Any) -> list[Any]:
    return [*tree.values()] if isinstance(tree, Mapping) else [tree]


def is_pair(item: Any) -> bool:
    """Whether it is an (image, label) pair, and not a data set of them."""
    try:
        index(item[1])
    except (TypeError, IndexError, KeyError):
        return False
    return True


def by_name(name: str, seed: int = 0) -> Images:
    """A data set by name: digits, darcy, japanese-vowels, cifar10, cifar100, or a folder of images
    by class.

    digits come with scikit-learn, darcy is solved here, japanese-vowels come with aeon. The others
    are looked for under NASPLUG_DATA: CIFAR-10 in parquet or as torchvision keeps it, CIFAR-100 as
    torchvision keeps it, others as NAME/train/CLASS/*.jpg (and NAME/val/...).
    """
    if name in AT_HAND:
        return AT_HAND[name](seed)
    folder = Path(os.environ.get("NASPLUG_DATA", "."))
    if name == "cifar10" and (folder / "cifar10" / "train.parquet").exists():
        return cifar10(folder)
    if name not in ("cifar10", "cifar100") and not (folder / name / "train").is_dir():
        raise NasplugError(
            f"no images for {name!r}: set NASPLUG_DATA to a folder with {name}/train/CLASS/*.jpg "
            "in it, or give a torch Dataset as data="
        )
    try:
        from torchvision import datasets, transforms
    except (ImportError, RuntimeError) as error:  # RuntimeError: made for another build of torch
        raise NasplugError(
            f"reading {name} needs a torchvision made for torch {torch.__version__}: "
            f"pip install 'nasplug[vision]' ({error})"
        ) from None
    if name in ("cifar10", "cifar100"):
        kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
        pixels = transforms.PILToTensor()
        try:
            train, test = (kind(folder, train=t, transform=pixels) for t in (True, False))
        except RuntimeError:
            raise NasplugError(
                f"{name} is not in {folder.absolute()}: "
                f'python -c "from torchvision.datasets import {kind.__name__} as C; '
                f"C('{folder}', download=True)\""
            ) from None
        return from_datasets(train, test=test, padding=4, seed=seed)
    steps = [transforms.Resize(256), transforms.CenterCrop(224), transforms.PILToTensor()]
    make: Callable[[str], Any] = lambda part: datasets.ImageFolder(  # noqa: E731
        str(folder / name / part), transforms.Compose(steps)
    )
    test = make("val") if (folder / name / "val").is_dir() else None
    return from_datasets(make("train"), test=test, padding=28, seed=seed)


def digits(seed: int = 0) -> Images:
    """scikit-learn's 1,797 handwritten digits, 8x8 grey: 797 to train on, 500 and 500 to score.

    The split is stratified and fixed by the seed.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    rest, test = train_test_split(
        np.arange(len(labels)), test_size=500, random_state=seed, stratify=labels
    )
    train, val = train_test_split(rest, test_size=500, random_state=seed, stratify=labels[rest])
    x = torch.from_numpy(images).float().reshape(-1, 1, 8, 8)
    y = torch.from_numpy(labels).long()
    x = (x - x[train].mean()) / x[train].std()
    return Images(
        train=(x[train], y[train]),
        val=(x[val], y[val]),
        test=(x[test], y[test]),
        num_classes=10,
        mean=torch.zeros(1, 1, 1),
        std=torch.ones(1, 1, 1),
    )


def darcy(seed: int = 0) -> Images:
    """Darcy flow, of `nasplug.nn.darcy`: 400 fields to train on, 100 and 200 to score.

    Inputs are the permeabilities (1, 29, 29), labels the pressures (29, 29) in units of 0.01, of
    which the networks' outputs are, too; the relative error does not depend on the unit. The test
    part is the same for all seeds.
    """
    from nasplug.nn.darcy import darcy

    a, u = map(torch.from_numpy, darcy())
    known = 5 * len(a) // 7
    order = np.random.default_rng(seed).permutation(known)
    split = 4 * known // 5
    parts = (order[:split], order[split:], np.arange(known, len(a)))
    train, val, test = ((a[rows, None], 100 * u[rows]) for rows in parts)
    std, mean = torch.std_mean(train[0])
    return Images(
        train, val, test, num_classes=1, mean=mean.view(1, 1, 1), std=std.view(1, 1, 1),
        task=TASKS["darcy"],
    )  # fmt: skip


def japanese_vowels(seed: int = 0) -> Images:
    """Nine speakers told apart by how they say a vowel: 12 channels, 7 to 29 steps long; 180 series
    to train on, 90 and 370 to score. Kudo et al., of the UEA archive.

    As images (1, 12, 32), with zeros after the end of a series; each channel has a mean of 0 and a
    spread of 1 over the training series. The split is stratified and fixed by the seed.
    """
    from sklearn.model_selection import train_test_split

    from nasplug.nn.series import series

    (known, speakers), (last, theirs) = series("JapaneseVowels", 32)
    train, val = train_test_split(
        np.arange(len(speakers)), test_size=1 / 3, random_state=seed, stratify=speakers
    )
    mean, std = (f(known[train], axis=(0, 2))[:, None] for f in (np.nanmean, np.nanstd))
    x, x_test = (
        torch.from_numpy(np.nan_to_num((part - mean) / std)).float()[:, None]
        for part in (known, last)
    )
    names = sorted(set(speakers))
    y, y_test = (torch.tensor([*map(names.index, part)]) for part in (speakers, theirs))
    return Images(
        train=(x[train], y[train]), val=(x[val], y[val]), test=(x_test, y_test),
        num_classes=len(names), mean=torch.zeros(1, 1, 1), std=torch.ones(1, 1, 1),
    )  # fmt: skip


# By the seed of the split; nothing is downloaded.
AT_HAND = {"digits": digits, "darcy": darcy, "japanese-vowels": japanese_vowels}
TASKS = {"darcy": Task(relative_l2, METRICS["relative_l2"])}  # that are no classification
TOGETHER = 500  # images that a thread decodes at a time


def task_of(name: str) -> Task:
    """What is learned of a data set by name, which is not read."""
    return TASKS.get(name, CLASSIFICATION)


def cifar10(folder: str | Path) -> Images:
    """CIFAR-10 from `folder`/cifar10/{train,test}.parquet, 25,000 images each to train and val.

    The files hold 32x32 JPEG bytes (`image`) and 0 to 9 (`label`) in a fixed shuffled order,
    so the split is the first and the second half.
    """
    (images, labels), test = (
        _read(Path(folder) / "cifar10" / f"{part}.parquet") for part in ("train", "test")
    )
    half = len(labels) // 2
    return Images(
        train=(images[:half], labels[:half]),
        val=(images[half:], labels[half:]),
        test=test,
        num_classes=10,
        mean=torch.tensor([125.3, 123.0, 113.9]).reshape(3, 1, 1),
        std=torch.tensor([63.0, 62.1, 66.7]).reshape(3, 1, 1),
        padding=4,
    )


def _read(path: Path) -> tuple[Tensor, Tensor]:
    """A parquet file of JPEG bytes -> (n, 3, 32, 32) uint8 images and (n,) labels."""
    if not path.exists():
        raise NasplugError(f"{path} is missing: set NASPLUG_DATA to the folder with cifar10/ in it")
    try:
        from PIL import Image
        from pyarrow import parquet
    except ImportError as error:
        raise NasplugError(f"CIFAR-10 needs {error.name}: pip install pillow pyarrow") from None

    def decode(some: list[bytes]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        return np.stack([np.asarray(Image.open(io.BytesIO(one)).convert("RGB")) for one in some])

    table = parquet.read_table(path, columns=["image", "label"])
    jpegs = table["image"].to_pylist()
    parts = [jpegs[i : i + TOGETHER] for i in range(0, len(jpegs), TOGETHER)]
    with ThreadPoolExecutor() as pool:  # decoding JPEG releases the interpreter lock
        images = np.concatenate(list(pool.map(decode, parts)))
    labels = torch.tensor(table["label"].to_pylist())
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels

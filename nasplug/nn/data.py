"""Data sets of images, and of whatever else a network takes, ready to train on."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from nasplug.errors import NasplugError
from nasplug.kernel.space import Space
from nasplug.nn.task import CLASSIFICATION, Loss, Optimizer, Task, count_of, rows_of, shapes, to

IN_MEMORY = 2**31  # bytes of a user's data set that are read into one tensor
READERS = 8  # processes, at most, that read one that is larger
PAIRS = "a Dataset gives pairs of an input and a label: (image, 3), ((image, text), tensor), ..."
NUMBERS = "must be numbers, arrays or tensors, or tuples or dicts of those"
CHECKED = 32  # examples on which a network, a loss and a metric are tried before a search
SAMPLE = 5000  # images from which the mean and the spread of a user's data set are taken


class OnDisk(Dataset[Any]):
    """The inputs of a torch ``Dataset`` that are read when they are needed."""

    def __init__(self, dataset: Any, indices: Tensor) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, row: int) -> Any:
        return tensors(pair(self.dataset[int(self.indices[row])])[0], "inputs")

    def to(self, device: torch.device | str) -> OnDisk:
        return self


# Inputs and labels of n examples: (n, ...) tensors, or tuples, lists or dicts of them. Images are
# (n, c, h, w) of any type, class labels (n,) int64; inputs may be OnDisk.
Part = tuple[Any, Any]


def read(inputs: Any, batches: Iterable[Tensor]) -> Iterator[Any]:
    """The inputs (b, ...) for each of some batches of rows (b,); what lies on disk is read by
    processes, a few batches ahead."""
    if not isinstance(inputs, OnDisk):
        device = tree_leaves(inputs)[0].device
        yield from (rows_of(inputs, rows.to(device)) for rows in batches)
        return
    loader = DataLoader(
        inputs, batch_sampler=(rows.tolist() for rows in batches),  # type: ignore[arg-type]
        num_workers=min(READERS, os.cpu_count() or 1), collate_fn=_stack,
        generator=torch.Generator(),
    )  # fmt: skip
    yield from map(_whole, loader)


def _stack(samples: list[Any]) -> Any:
    """One batch of them; text that says what shapes there are, if that is more than one."""
    try:
        return tree_map(lambda *leaves: torch.stack(leaves), *samples)
    except (RuntimeError, ValueError):  # shapes differ, or what is in a tuple or a dict
        return f"got {', '.join(sorted({shapes(sample) for sample in samples})[:3])}"


def _whole(batch: Any) -> Any:
    if isinstance(batch, str):
        raise NasplugError(
            f"a Dataset must give inputs and labels of one shape: resize, crop or pad them, {batch}"
        )
    return batch


def tensors(sample: Any, what: str) -> Any:
    """Numbers, arrays and lists of numbers as tensors, in tuples and dicts as they are."""

    def tensor(leaf: Any) -> Tensor:
        return leaf if isinstance(leaf, Tensor) else torch.tensor(np.asarray(leaf))

    def numbers(tree: Any) -> bool:
        if isinstance(tree, list | tuple):
            return bool(tree) and all(map(numbers, tree))
        return isinstance(tree, int | float | np.generic)

    try:
        sample = dict(sample) if isinstance(sample, Mapping) else sample
        return tree_map(tensor, sample, is_leaf=numbers)
    except (TypeError, ValueError) as error:  # of text, of objects
        raise NasplugError(f"{what} {NUMBERS}: {error}") from None


def pair(item: Any) -> Any:
    """An item of a Dataset as it is, if it is a pair."""
    if not (isinstance(item, tuple | list) and len(item) == 2):
        kind = f"{len(item)} of them" if isinstance(item, tuple | list) else type(item).__name__
        raise NasplugError(f"{PAIRS}, got {kind}")
    return item


@dataclass(frozen=True)
class Images:
    """Images, or other inputs, in three parts: to train on, to reward by, to report.

    task: what is learned of them. num_classes: how many there are; if labels are real numbers, how
    many each has; 0 if they are something else.
    """

    train: Part
    val: Part
    test: Part
    num_classes: int
    mean: Tensor  # (c, 1, 1), of the stored values
    std: Tensor
    padding: int = 0  # > 0: training crops at random from images padded so, and mirrors them
    task: Task = CLASSIFICATION

    @property
    def in_channels(self) -> int:
        return int(self.example.shape[1])

    @property
    def resolution(self) -> int:
        return int(self.example.shape[2])

    def size(self, space: Space) -> Space:
        """A space with networks for these; NasplugError if it has none."""
        return space.suited(self.example, self.num_classes)

    @property
    def example(self) -> Any:
        """(1, ...) the first one to train on, as networks see it."""
        return self.normalise(tree_map(lambda x: x[None], rows_of(self.train[0], 0)))

    def check(self, model: nn.Module) -> None:
        """NasplugError that says why a network, on the CPU, cannot learn the task of these."""
        n = min(CHECKED, count_of(self.train[1]))
        rows = torch.arange(n)
        if isinstance(labels := self.train[1], Tensor) and labels.ndim == 1:
            rows[-1] = labels.argmax()  # the largest class is there
        inputs = self.normalise(next(read(self.train[0], [rows])))
        self.task.check(model, inputs, rows_of(self.train[1], rows), self.num_classes)

    def as_given(self) -> Images:
        """The same, not normalised."""
        return replace(self, mean=torch.zeros_like(self.mean), std=torch.ones_like(self.std))

    @property
    def digest(self) -> str:
        """Tells this split from others: of what lies in memory all, else the rows and labels."""
        found = hashlib.sha256()
        for leaf in tree_leaves((self.train, self.val, self.test)):
            tensor = leaf.indices if isinstance(leaf, OnDisk) else leaf
            found.update(tensor.cpu().contiguous().numpy().tobytes())
        return found.hexdigest()[:16]

    @property
    def learning(self) -> Images:
        """The same, with all that is not for the test to train on; `val` is the test then, too."""
        if self.test is self.val:
            return self
        return replace(self, train=_joined(self.train, self.val), val=self.test)

    def to(self, device: torch.device | str) -> Images:
        """The same on a device, where batches are then made without waiting for the host."""
        train, val, test = (to(part, device) for part in (self.train, self.val, self.test))
        mean, std = self.mean.to(device), self.std.to(device)
        task = self.task.to(device)
        return replace(self, train=train, val=val, test=test, mean=mean, std=std, task=task)

    def normalise(self, images: Any) -> Any:
        """(b, c, ...) as stored -> float32, mean 0 and standard deviation 1 per channel; sequences
        of whole numbers (b, n), which are tokens, as they are. Several inputs are only made
        float32, and whole numbers not even that, but bytes."""
        if not isinstance(images, Tensor):
            return tree_map(_as_float, images)
        if is_tokens(images):
            return images
        return (images.float() - self.mean) / self.std

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """(b, c, h, w) normalised -> the same shape, cropped and mirrored at random."""
        if not self.padding:
            return images
        b, _, h, w = images.shape
        padded = functional.pad(images, [self.padding] * 4)
        top, left = torch.randint(2 * self.padding + 1, (2, b, 1), generator=generator)
        mirror = torch.randint(2, (b, 1), generator=generator).bool()
        rows = (top + torch.arange(h)).to(images.device)
        columns = left + torch.where(mirror, torch.arange(w).flip(0), torch.arange(w))
        columns = columns.to(images.device)
        which = torch.arange(b, device=images.device)
        # Index arrays of (b, h, w) around a slice put the channels last.
        crops = padded[which[:, None, None], :, rows[:, :, None], columns[:, None]]
        return crops.permute(0, 3, 1, 2).contiguous()


def layout(example: Any) -> dict[str, Any]:
    """What JSON holds of an input, a batch of one: shape and type of its tensors.

    >>> layout(torch.zeros(1, 3, 8, 8))
    {'shape': [3, 8, 8], 'type': 'float32'}
    """
    if isinstance(example, Tensor):
        return {"shape": [*example.shape[1:]], "type": str(example.dtype).removeprefix("torch.")}
    if isinstance(example, Mapping):
        return {"named": {name: layout(one) for name, one in example.items()}}
    return {"several": [layout(one) for one in example]}


def of_layout(found: Mapping[str, Any], n: int = 1, seed: int = 0) -> Any:
    """n inputs of a layout: normal numbers; whole ones are 0 or 1."""
    if "named" in found:
        return {name: of_layout(one, n, seed) for name, one in found["named"].items()}
    if "several" in found:
        return tuple(of_layout(one, n, seed + i) for i, one in enumerate(found["several"]))
    generator, shape = torch.Generator().manual_seed(seed), (n, *found["shape"])
    dtype = getattr(torch, found["type"])
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(2, shape, generator=generator).to(dtype)


def _joined(*parts: Part) -> Part:
    """All of some parts as one."""
    labels = tree_map(lambda *leaves: torch.cat(leaves), *(labels for _, labels in parts))
    if not any(isinstance(inputs, OnDisk) for inputs, _ in parts):
        return tree_map(lambda *leaves: torch.cat(leaves), *(inputs for inputs, _ in parts)), labels
    # Of one that lies on disk and others that do not, all are data sets of inputs alone.
    every: Any = ConcatDataset([Alone(inputs) for inputs, _ in parts])
    return OnDisk(every, torch.arange(len(every))), labels


class Alone(Dataset[Any]):
    """Inputs as a data set of pairs without labels."""

    def __init__(self, inputs: Any) -> None:
        self.inputs = inputs

    def __len__(self) -> int:
        return len(tree_leaves(self.inputs)[0])

    def __getitem__(self, row: int) -> Any:
        return tree_map(lambda leaf: leaf[row], self.inputs), None


class Stream:
    """Endless shuffled batches of a part of the data, augmented.

    Batch n is a function of the seed and n alone, so its number is all that a checkpoint needs.
    `share` is (rank, of how many): the share of each batch that this process takes.
    """

    def __init__(
        self, data: Images, part: Part, batch: int, seed: int, share: tuple[int, int] = (0, 1)
    ) -> None:
        self.data, self.part, self.seed, self.share = data, part, seed, share
        n = count_of(part[1])
        self.steps = max(1, n // batch)  # per epoch; what does not fill a batch waits
        self.batch = min(batch, n)
        self._epoch, self._order = -1, torch.zeros(0)
        self._next = -1
        self._images: Iterator[Any] = iter(())

    def __getitem__(self, n: int) -> tuple[Any, Any]:
        """(b, c, h, w) float32 images and (b,) labels, or whatever else the data are."""
        rows = self._rows(n)
        if n != self._next:
            self._images = read(self.part[0], map(self._rows, count(n)))
        self._next = n + 1
        labels = self.part[1]
        device = tree_leaves(labels)[0].device
        x = self.data.normalise(to(next(self._images), device))
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, n, 1))
        return self.data.augment(x, generator), rows_of(labels, rows.to(device))

    def _rows(self, n: int) -> Tensor:
        """The rows of batch n that are this process's share."""
        epoch, i = divmod(n, self.steps)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(mixed_seed(self.seed, epoch, 0))
            self._order = torch.randperm(count_of(self.part[1]), generator=generator)
            self._epoch = epoch
        rows = self._order[i * self.batch : (i + 1) * self.batch]
        return rows.tensor_split(self.share[1])[self.share[0]]


def mixed_seed(*numbers: int) -> int:
    """One seed out of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def is_tokens(inputs: Any) -> bool:
    """Whether they are sequences of numbers that stand for something, such as words."""
    return isinstance(inputs, Tensor) and inputs.ndim == 2 and inputs.dtype == torch.int64


def _as_float(x: Tensor) -> Tensor:
    return x.float() if x.is_floating_point() or x.dtype == torch.uint8 else x


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


class Arrays(Dataset[Any]):
    """All inputs and all labels, as trees of tensors."""

    def __init__(self, inputs: Any, labels: Any) -> None:
        self.inputs, self.labels = tensors(inputs, "inputs"), tensors(labels, "labels")
        n = len(tree_leaves(self.labels)[0])
        for leaf in tree_leaves(self.inputs):
            if len(leaf) != n:
                raise NasplugError(f"there are {len(leaf)} inputs and {n} labels")

    def __len__(self) -> int:
        return count_of(self.labels)

    def __getitem__(self, row: int) -> Any:
        return rows_of(self.inputs, row), rows_of(self.labels, row)


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
    """A data set by name: digits, cifar10, cifar100, or a folder of images by class.

    All but digits are looked for under NASPLUG_DATA: CIFAR-10 in parquet or as torchvision keeps
    it, CIFAR-100 as torchvision keeps it, others as NAME/train/CLASS/*.jpg (and NAME/val/...).
    """
    if name == "digits":
        return digits(seed)
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


def from_datasets(
    train: Any, val: Any = None, test: Any = None, *, padding: int = 0, seed: int = 0,
    task: Callable[[Any], Task] = Task.of,
) -> Images:  # fmt: skip
    """Any torch ``Dataset`` of (image, label) -> Images; an image is a (c, h, w) tensor or array.

    A vector (n,), a series (channels, n) or several inputs will do, too. task: of the labels.

    Without `val`, a random half of `train` is it; without `test`, `val` is. Transforms should not
    be random: `padding` asks for the usual crops and mirroring.
    """
    labels = _labels(train)
    n = count_of(labels)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    if val is None:
        first, second = _part(train, labels, order[: n // 2]), _part(train, labels, order[n // 2 :])
    else:
        first, second = _part(train, labels, order), _part(val, _labels(val))
    third = second if test is None else _part(test, _labels(test))
    sample = next(read(first[0], [torch.arange(min(SAMPLE, count_of(first[1])))]))
    mean, std = torch.zeros(1), torch.ones(1)
    if isinstance(sample, Tensor):
        if sample.ndim < 2:
            raise NasplugError("a Dataset must give inputs with a shape, got single numbers")
        std, mean = torch.std_mean(sample.float(), (0, *range(2, sample.ndim)), keepdim=True)
        std, mean = std[0].clamp(min=1e-6), mean[0]
    outputs = _outputs([labels for _, labels in (first, second, third)])
    return Images(first, second, third, outputs, mean, std, padding, task(labels))


def _outputs(labels: list[Any]) -> int:
    """How many classes there are, or numbers in a label; 0 if labels are something else."""
    if not isinstance(labels[0], Tensor):
        return 0
    if labels[0].is_floating_point():
        return labels[0][0].numel()
    return 1 + int(max(part.max() for part in labels))


def _labels(dataset: Any) -> Any:
    """(n, ...) int64 or float32, without reading the images where the data set says."""
    if isinstance(dataset, Arrays):
        labels = dataset.labels
    elif (known := getattr(dataset, "targets", None)) is not None:
        labels = tensors(known, "labels")
    else:
        rows = range(len(dataset))
        labels = _whole(_stack([tensors(pair(dataset[i])[1], "labels") for i in rows]))
    return tree_map(_label, labels)


def _label(labels: Tensor) -> Tensor:
    if labels.is_floating_point():
        return labels.float()
    return (labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels).long()


def _part(dataset: Any, labels: Any, rows: Tensor | None = None) -> Part:
    rows = torch.arange(count_of(labels)) if rows is None else rows
    if isinstance(dataset, Arrays):
        return rows_of(dataset.inputs, rows), rows_of(labels, rows)
    inputs: Any = OnDisk(dataset, rows)
    if len(rows) * sum(leaf.nbytes for leaf in tree_leaves(inputs[0])) < IN_MEMORY:
        inputs = _whole(_stack([inputs[row] for row in range(len(rows))]))
    return inputs, rows_of(labels, rows)


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

    def decode(jpeg: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))

    table = parquet.read_table(path, columns=["image", "label"])
    with ThreadPoolExecutor() as pool:  # decoding JPEG releases the interpreter lock
        images = np.stack(list(pool.map(decode, table["image"].to_pylist(), chunksize=256)))
    labels = torch.tensor(table["label"].to_pylist())
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels

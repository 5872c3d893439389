"""Data sets of images, and of whatever else a network takes, ready to train on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
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
)

from nasplug.errors import NasplugError
from nasplug.kernel.space import Space
from nasplug.nn.task import CLASSIFICATION, Task, count_of, rows_of, shapes, to

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
    many each has, or each pixel of them if they are `dense`; 0 if they are something else.
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

    @property
    def dense(self) -> bool:
        """Whether labels are as large as their images: (n, h, w) classes, or real numbers, which
        may be (n, k, h, w)."""
        return is_dense(self.train[1], self.example)

    def size(self, space: Space) -> Space:
        """A space with networks for these; NasplugError if it has none."""
        return space.suited(self.example, self.num_classes, self.dense)

    @property
    def example(self) -> Any:
        """(1, ...) the first one to train on, as networks see it."""
        return self.normalise(tree_map(lambda x: x[None], rows_of(self.train[0], 0)))

    def check(self, model: nn.Module) -> None:
        """NasplugError that says why a network, on the CPU, cannot learn the task of these, which
        may lie on a GPU."""
        n = min(CHECKED, count_of(self.train[1]))
        rows = torch.arange(n)
        if isinstance(labels := self.train[1], Tensor) and labels.ndim == 1:
            rows[-1] = labels.argmax()  # the largest class is there
        inputs = to(self.normalise(next(read(self.train[0], [rows]))), "cpu")
        labels = to(rows_of(self.train[1], rows), "cpu")
        self.task.to("cpu").check(model, inputs, labels, self.num_classes)

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
    outputs = _outputs([labels for _, labels in (first, second, third)], sample)
    return Images(first, second, third, outputs, mean, std, padding, task(labels))


def is_dense(labels: Any, images: Any) -> bool:
    """Whether each pixel has its own label: (n, h, w) or (n, k, h, w) for images (b, c, h, w)."""
    if not (isinstance(labels, Tensor) and isinstance(images, Tensor) and images.ndim == 4):
        return False
    return labels.ndim in (3, 4) and labels.shape[-2:] == images.shape[-2:]


def _outputs(labels: list[Any], inputs: Any) -> int:
    """How many classes there are, or numbers in a label, or in each pixel of it; 0 if labels are
    something else."""
    if not isinstance(labels[0], Tensor):
        return 0
    if labels[0].is_floating_point():
        pixels = inputs.shape[-2:].numel() if is_dense(labels[0], inputs) else 1
        return labels[0][0].numel() // pixels
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

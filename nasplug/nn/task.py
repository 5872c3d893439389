"""Task: what networks learn by, a loss, and what they are judged by, a metric."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves, tree_map

from nasplug.errors import NasplugError, unknown

logger = logging.getLogger("nasplug")

Loss = Callable[[Any, Any], Tensor]  # (output, labels) of a batch -> a scalar
Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

# ---- trees of tensors: tensors, and tuples, lists and dicts of them


def rows_of(tree: Any, rows: Any) -> Any:
    """The tree with ``leaf[rows]`` for every leaf."""
    return tree_map(lambda leaf: leaf[rows], tree)


def to(tree: Any, device: torch.device | str) -> Any:
    """The tree on a device."""
    return tree_map(lambda leaf: leaf.to(device), tree)


def count_of(tree: Any) -> int:
    """How many examples it holds."""
    return len(tree_leaves(tree)[0])


def shapes(tree: Any) -> str:
    """For messages: ``(8, 3)``, or what else there is; the first number counts examples."""
    found = tree_map(lambda x: tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__, tree)
    return str(found)


def call(model: nn.Module, inputs: Any, half: bool = False) -> Any:
    """The output for a batch: a dict of tensors is passed by name, a tuple by position.

    half: in bfloat16 where torch's autocast says so; the output is float32 again.
    """
    args = (
        inputs if isinstance(inputs, tuple | list) else () if isinstance(inputs, dict) else [inputs]
    )
    keywords = inputs if isinstance(inputs, dict) else {}
    if not half:
        return model(*args, **keywords)
    with torch.autocast(tree_leaves(inputs)[0].device.type, torch.bfloat16):
        output = model(*args, **keywords)
    return tree_map(lambda x: x.float() if x.dtype == torch.bfloat16 else x, output)


# ---- metrics and losses


class Metric(NamedTuple):
    """function: (outputs, labels) of all examples -> a number. kept: what of the outputs of a batch
    it needs, so that no more is kept until then."""

    name: str
    function: Callable[[Any, Any], Any]
    maximize: bool = True
    kept: Callable[[Any], Any] = lambda output: output


def classes_of(output: Any) -> Tensor:
    """(b, classes, ...) scores -> (b, ...) the class with the highest."""
    if not isinstance(output, Tensor) or output.ndim < 2:
        raise NasplugError(
            f"networks must give a score for each class, got {shapes(output)}; or give metric="
        )
    return output.argmax(1)


def accuracy(found: Tensor, labels: Tensor) -> float:
    """The share of labels that are right, in %."""
    return 100 * (found == labels).sum().item() / labels.numel()


def balanced_accuracy(found: Tensor, labels: Tensor) -> float:
    """The mean over the classes of the share of each that is right, in %."""
    shares = [(found[labels == k] == k).double().mean() for k in set(labels.flatten().tolist())]
    return 100 * torch.stack(shares).mean().item()


def r2(output: Tensor, labels: Tensor) -> float:
    """1 - the squared error by the variance of the labels, each summed over all numbers of a label:
    1 is perfect, 0 no better than the mean."""
    error, spread = (labels - output).square().sum(), (labels - labels.mean(0)).square().sum()
    return 1 - (error / spread).item()


def rmse(output: Tensor, labels: Tensor) -> float:
    """The root of the mean squared error."""
    return (output - labels).square().mean().sqrt().item()


def mae(output: Tensor, labels: Tensor) -> float:
    """The mean absolute error."""
    return (output - labels).abs().mean().item()


def relative_l2(output: Any, labels: Tensor) -> Tensor:
    """||output - label|| / ||label||, the mean over the examples: a loss, and a metric."""
    error, size = (x.flatten(1).norm(dim=1) for x in (same_shape(output, labels) - labels, labels))
    return (error / size).mean()


ACCURACY = Metric("acc", accuracy, kept=classes_of)
METRICS = {
    "accuracy": ACCURACY,
    "balanced_accuracy": Metric("balanced_acc", balanced_accuracy, kept=classes_of),
    "r2": Metric("r2", r2),
    "rmse": Metric("rmse", rmse, maximize=False),
    "mae": Metric("mae", mae, maximize=False),
    "relative_l2": Metric("relative_l2", relative_l2, maximize=False),
}
FAR = 10  # from 0, where labels are hardly learned within a few epochs
LOSS = "loss"  # the metric of this name is the loss itself, on validation data


class CrossEntropy(nn.CrossEntropyLoss):
    """The loss of class labels unless another is given: ``(b, classes, ...)`` scores."""


def aligned(output: Any, labels: Any) -> Any:
    """Labels (b,) as (b, 1), or the reverse, if the output is so and both are real numbers."""
    if not (isinstance(output, Tensor) and isinstance(labels, Tensor)):
        return labels
    real = labels.is_floating_point() and output.shape[:1] == labels.shape[:1]
    same = [n for n in output.shape[1:] if n != 1] == [n for n in labels.shape[1:] if n != 1]
    return labels.reshape(output.shape) if real and same else labels


# ---- the task


@dataclass(frozen=True)
class Task:
    """What networks learn by, and are judged by.

    loss: (output, labels) of a batch -> a scalar. metric: what is rewarded and reported. optimizer:
    parameters -> a torch optimizer, in the place of the SGD that a training has; its learning rates
    fall by the training's schedule.
    """

    loss: Loss = field(default_factory=CrossEntropy)
    metric: Metric = ACCURACY
    optimizer: Optimizer | None = None

    @classmethod
    def of(
        cls,
        labels: Any,
        loss: Loss | type[nn.Module] | str | None = None,
        metric: Callable[[Any, Any], Any] | str | None = None,
        optimizer: Optimizer | None = None,
        maximize: bool = True,
    ) -> Task:
        """The task of some labels, as far as its parts are not given.

        Whole numbers are classes: cross-entropy, and the accuracy in %. Real numbers: the mean
        squared error, and R². Of anything else the loss has to be given; where that is so, and of
        real numbers with a loss of their own, the metric is the loss on validation data.

        loss: a function, a module, or "balanced", the cross-entropy with each class weighed by the
        inverse of its frequency. metric: the name of one of `METRICS`, "loss", or a function of
        (outputs, labels) of all examples at once, on the CPU; maximize is about that.
        """
        one = isinstance(labels, Tensor)
        classes = one and not labels.is_floating_point()
        if loss is None and not one:
            raise NasplugError(
                "labels of several tensors need a loss of yours: loss=, a function of (output, "
                "labels) that returns a scalar tensor"
            )
        found = _loss(loss, labels, classes)
        if found is squared_error and (labels.std() > FAR or labels.mean().abs() > FAR):
            logger.warning(
                "labels of mean %.3g and spread %.3g are hard to learn as they are: scale them to "
                "about 0 and 1", labels.mean(), labels.std(),
            )  # fmt: skip
        if metric is None:
            metric = "accuracy" if classes else "r2" if loss is None else LOSS
        judged = _metric(metric, found, maximize)
        if not maximize and judged.maximize:
            raise NasplugError(
                f"{judged.name} is better when it is higher, and direction is 'minimize': that is "
                "for a metric= of yours"
            )
        if not (optimizer is None or callable(optimizer)):
            raise NasplugError(
                "optimizer must be a function of the parameters that returns a torch optimizer, "
                f"such as lambda parameters: torch.optim.AdamW(parameters, 1e-3); got {optimizer!r}"
            )
        return cls(found, judged, optimizer)

    @property
    def maximize(self) -> bool:
        return self.metric.maximize

    def cost(self, output: Any, labels: Any) -> Tensor:
        """The loss of a batch."""
        classes = (
            isinstance(self.loss, nn.CrossEntropyLoss) or self.loss is functional.cross_entropy
        )
        return self.loss(output, labels if classes else aligned(output, labels))

    def score(self, outputs: list[Any], labels: Any) -> float:
        """The metric, of what it has kept of the outputs of all batches; NasplugError if it is no
        number."""
        joined = to(tree_map(lambda *parts: torch.cat(parts), *outputs), "cpu")
        labels = aligned(joined, to(labels, "cpu"))
        number = self.metric.function(joined, labels)
        try:
            return float(number)
        except (TypeError, ValueError):
            raise NasplugError(f"metric {self.metric.name} returns {number!r}, no number") from None

    def to(self, device: torch.device | str) -> Task:
        """The same, with the tensors of its loss on a device."""
        if not isinstance(self.loss, nn.Module):
            return self
        return replace(self, loss=copy.deepcopy(self.loss).to(device))

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer | None:
        """The user's own, if there is one; NasplugError if what that makes is none."""
        if self.optimizer is None:
            return None
        found = self.optimizer(parameters)
        if not isinstance(found, torch.optim.Optimizer):
            raise NasplugError(
                f"optimizer={_name(self.optimizer)} returns {type(found).__name__}, no torch "
                "optimizer"
            )
        return found

    def check(self, model: nn.Module, inputs: Any, labels: Any, classes: int) -> None:
        """NasplugError that says what does not fit, if a network cannot learn this from these
        examples, of so many classes if that is what labels are."""
        try:
            output = call(model, inputs)
        except Exception as error:
            raise NasplugError(
                f"a network does not run on inputs of {shapes(inputs)}: {_said(error)}"
            ) from error
        given = f"outputs of {shapes(output)} and labels of {shapes(labels)}"
        if isinstance(self.loss, CrossEntropy):
            wanted = (classes, *labels.shape[1:])
            got = output.shape[1:] if isinstance(output, Tensor) else (0,)
            if not got or got[0] < wanted[0] or got[1:] != wanted[1:]:
                raise NasplugError(
                    f"labels of {shapes(labels)} with {wanted[0]} classes need an output of "
                    f"{(len(labels), *wanted)}, a score for each; it is {shapes(output)}"
                )
        try:
            loss = self.cost(output, labels)
        except NasplugError:
            raise
        except Exception as error:
            raise NasplugError(
                f"loss {_name(self.loss)} fails on {given}: {_said(error)}"
            ) from error
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise NasplugError(
                f"loss {_name(self.loss)} returns "
                f"{'a tensor of ' + shapes(loss) if isinstance(loss, Tensor) else repr(loss)} on "
                f"{given}: it must be one number, a scalar tensor"
            )
        if not loss.requires_grad:
            raise NasplugError(
                f"loss {_name(self.loss)} does not depend on the network by anything that has a "
                "gradient"
            )
        try:
            self.score([tree_map(Tensor.detach, self.metric.kept(output))], labels)
        except NasplugError:
            raise
        except Exception as error:
            raise NasplugError(
                f"metric {self.metric.name} fails on {given}: {_said(error)}"
            ) from error


CLASSIFICATION = Task()


def _loss(loss: Any, labels: Any, classes: bool) -> Loss:
    """A loss as it was given, or the usual one of such labels."""
    if classes and loss in (None, "balanced") and int(labels.min()) < 0:
        raise NasplugError(
            f"class labels are whole numbers from 0 on, 0, 1, 2, ..., got {int(labels.min())}; "
            "other numbers are given as floats"
        )
    if loss is None:
        return CrossEntropy() if classes else squared_error
    if loss == "balanced":
        if not classes:
            raise NasplugError("loss='balanced' is about class labels, whole numbers: 0, 1, 2, ...")
        counts = labels.flatten().bincount()
        return CrossEntropy(len(labels.flatten()) / (len(counts) * counts.clamp(min=1)))
    loss = loss() if isinstance(loss, type) and issubclass(loss, nn.Module) else loss
    if not callable(loss):
        raise NasplugError(
            "loss must be a function of (output, labels) that returns a scalar tensor, a module "
            f"such as torch.nn.HuberLoss(), or 'balanced'; got {loss!r}"
        )
    found: Loss = loss
    return found


def _metric(metric: Any, loss: Loss, maximize: bool) -> Metric:
    """A metric by name, or the user's own."""
    if isinstance(metric, str):
        named = {**METRICS, LOSS: Metric(LOSS, loss, maximize=False)}
        if metric not in named:
            raise unknown("metric", metric, named, "or a function of yours")
        return named[metric]
    if not callable(metric):
        raise NasplugError(f"metric must be a function or a name, got {metric!r}")
    name = getattr(metric, "__name__", type(metric).__name__)
    return Metric(name if name.isidentifier() else "metric", metric, maximize)


def squared_error(output: Any, labels: Tensor) -> Tensor:
    """The mean squared error."""
    return functional.mse_loss(same_shape(output, labels), labels)


def same_shape(output: Any, labels: Tensor) -> Tensor:
    """The output; NasplugError if its shape is another, which torch would broadcast."""
    if not isinstance(output, Tensor) or output.shape != labels.shape:
        raise NasplugError(
            f"labels of {shapes(labels)} real numbers need an output of that shape; it is "
            f"{shapes(output)}"
        )
    return output


def _name(function: Any) -> str:
    name = getattr(function, "__name__", type(function).__name__)
    return "of yours" if name == "<lambda>" else str(name)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"

"""Recipes: how a found network is trained in earnest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from nasplug.errors import NasplugError
from nasplug.nn.data import Images


@dataclass(frozen=True)
class Recipe:
    """SGD with momentum 0.9 and a learning rate that falls by a cosine to 0.

    warmup: epochs in which the learning rate rises from 0. smoothing: of the labels. clip: the
    largest norm of the gradient. cutout: the side of the square that is blanked in each image, as
    a share of its own. drop_path: how likely a branch is dropped in the last epoch, which rises
    from 0. auxiliary: the weight of the auxiliary head's loss. augment: (operations, magnitude) of
    RandAugment. average: the decay of the exponential moving average of the weights, which then is
    the network. 0 or None is without.
    """

    epochs: int
    batch: int
    lr: float
    weight_decay: float
    nesterov: bool = True
    warmup: int = 0
    smoothing: float = 0.0
    clip: float = 0.0
    cutout: float = 0.0
    drop_path: float = 0.0
    auxiliary: float = 0.0
    augment: tuple[int, int] | None = None
    average: float = 0.0


RECIPES = {
    # NAS-Bench-201's (Dong and Yang, ICLR 2020, table 1)
    "plain": Recipe(epochs=200, batch=256, lr=0.1, weight_decay=5e-4),
    # DARTS (Liu, Simonyan and Yang, ICLR 2019, appendix A.2)
    "darts": Recipe(
        epochs=600, batch=96, lr=0.025, weight_decay=3e-4, nesterov=False, clip=5.0, cutout=0.5,
        drop_path=0.2, auxiliary=0.4,
    ),
    # as MnasNet, MobileNetV3 and EfficientNet train, with SGD in the place of RMSProp
    "mobile": Recipe(
        epochs=300, batch=128, lr=0.05, weight_decay=4e-5, warmup=5, smoothing=0.1, drop_path=0.2,
        augment=(2, 9), average=0.9999,
    ),
}  # fmt: skip


def branches(model: nn.Module) -> Iterator[nn.Module]:
    """What drop-path may drop: what modules list as their `branches`."""
    for module in model.modules():
        yield from getattr(module, "branches", ())


class DropPath:
    """A forward hook: drops the output for single images, and scales up that for the others.

    Larsson, Maire and Shakhnarovich, "FractalNet", ICLR 2017, as DARTS has it.
    """

    share = 0.0

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if not module.training or not self.share:
            return output
        kept = 1 - self.share
        mask = torch.rand((len(output), *[1] * (output.ndim - 1)), device="cpu") < kept
        return output * (mask.to(output.device) / kept)


class Auxiliary(nn.Module):
    """The auxiliary head of a network that has one, on the output of one of its modules.

    `head` learns beside the network, and is no part of it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        watched, self.head = model.auxiliary()  # type: ignore[operator]
        self.seen: Tensor | None = None
        watched.register_forward_hook(self._see)

    def _see(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.seen = output if module.training else None

    def forward(self) -> Tensor:
        """What the head says of the batch that has just gone through the network."""
        seen, self.seen = self.seen, None
        return self.head(seen)


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """The moving average of a network's weights and statistics; its decay rises to what it shall
    be, so that few steps will do: min(decay, (1 + n) / (10 + n)) after n."""

    def average(mean: Tensor, new: Tensor, n: Tensor | int) -> Tensor:
        rate = min(decay, (1 + int(n)) / (10 + int(n)))
        return mean + (1 - rate) * (new - mean)

    return AveragedModel(model, avg_fn=average, use_buffers=True)


def cut_out(images: Tensor, share: float) -> Tensor:
    """(b, c, h, w) with a square of each image, of a share of its side, blanked at random.

    DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout",
    2017: squares reach over the border.
    """
    b, _, h, w = images.shape
    side = round(share * min(h, w))
    tops, lefts = ((torch.rand(b, 1) * n).long() - side // 2 for n in (h, w))
    rows, columns = (
        (torch.arange(n) >= first) & (torch.arange(n) < first + side)
        for n, first in ((h, tops), (w, lefts))
    )
    hole = rows[:, None, :, None] & columns[:, None, None, :]
    return images.masked_fill(hole.to(images.device), 0.0)


class RandAugment:
    """torchvision's RandAugment on the images of a data set, as they are stored.

    Of what is not stored in bytes the range of its values is made one for it.
    """

    def __init__(self, data: Images, operations: int, magnitude: int) -> None:
        try:
            from torchvision.transforms import RandAugment as Transform
        except (ImportError, RuntimeError) as error:  # made for another build of torch
            raise NasplugError(
                f"RandAugment needs a torchvision made for torch {torch.__version__}: "
                f"pip install 'nasplug[vision]' ({error})"
            ) from None
        self.transform = Transform(operations, magnitude)
        first = data.example
        if not (is_image(first) and first.shape[1] in (1, 3)):
            raise NasplugError(
                "the recipe mobile augments images of 1 or 3 channels, not inputs of "
                f"{tuple(first.shape[1:])}: take plain"
            )
        spread = 3 * data.std.amax()
        self.low, self.high = (data.mean.amin() - spread).item(), (data.mean.amax() + spread).item()

    def __call__(self, images: Tensor) -> Tensor:
        """(b, c, h, w) of any type -> the same, each image augmented by itself."""
        if images.dtype == torch.uint8:
            return torch.stack([self.transform(image) for image in images])
        scale = (self.high - self.low) / 255
        pixels = ((images.float() - self.low) / scale).round().clamp(0, 255).to(torch.uint8)
        return torch.stack([self.transform(image) for image in pixels]) * scale + self.low


def is_image(batch: Any) -> bool:
    """Whether it is (b, c, h, w)."""
    return isinstance(batch, Tensor) and batch.ndim == 4

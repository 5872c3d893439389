"""A marked network of two convolutions on digits: a method of each kind finds a better one than
chance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import nasplug

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from torch import nn  # noqa: E402

from nasplug import nn as nnas  # noqa: E402

RANDOM = 20
MIDDLE = {"width1": 4, "width2": 8}  # where differentiable methods search: these cannot be mixed


class TwoConv(nn.Module):
    """(b, 1, 8, 8) -> (b, 10)."""

    def __init__(self):
        super().__init__()
        first = nnas.Choice([2, 4, 8], "width1")
        second = nnas.Choice([4, 8, 16], "width2")
        act = nnas.Choice({"relu": nn.ReLU(), "tanh": nn.Tanh(), "none": nn.Identity()}, "act")
        self.body = nn.Sequential(
            self.conv(1, first, "conv1"), nnas.BatchNorm2d(first), act,
            nnas.Choice({"max": nn.MaxPool2d(2), "avg": nn.AvgPool2d(2)}, "pool"),
            self.conv(first, second, "conv2"), nnas.BatchNorm2d(second), act,
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nnas.Linear(second, 10),
        )  # fmt: skip

    def conv(self, before, after, name):
        options = {k: lambda k=k: nnas.Conv2d(before, after, k, padding=k // 2) for k in (1, 3)}
        return nnas.Choice(options, name)

    def forward(self, x):
        return self.body(x)


@pytest.fixture(scope="module")
def task():
    """The space, and validation accuracy after a short training, each arch trained once."""
    data = nnas.load("digits")
    data = replace(data, train=tuple(x[:400] for x in data.train))
    space = nasplug.space_of(TwoConv).suited(data.example, 10)
    known = {}

    def score(arch):
        key = str(arch)
        if key not in known:
            model = nnas.initialise(lambda: space.build(arch), 0)
            known[key] = nnas.train(model, data, 2, 0, batch_size=16, lr=0.05)["value"]
        return known[key]

    return space, score, data


@pytest.fixture(scope="module")
def chance(task):
    """The mean of random archs, of the whole space and of the middle widths."""
    space, score, _ = task

    def mean(region):
        archs = region.distinct(region.sample(3 * RANDOM, 0))[:RANDOM]
        assert len(archs) == RANDOM
        return np.mean([score(region.to_dict(arch)) for arch in archs])

    return {"whole": mean(space), "middle": mean(space.fixed(MIDDLE))}


@pytest.mark.parametrize(("method", "budget"), [("regularized-evolution", 12), ("dsm", 24)])
def test_what_scores_archs_one_by_one_is_above_chance(task, chance, method, budget):
    space, score, _ = task
    found = nasplug.search(method, space=space, evaluate=score, budget=budget, tracking=False)
    assert found.best.value > chance["whole"]


@pytest.mark.parametrize(
    ("method", "within", "options"),
    [
        ("spos", "whole", {"epochs": 12, "budget": 24, "population": 8, "parents": 4}),
        ("ddsas", "middle", {"budget": 8}),
    ],
)
def test_what_trains_a_supernet_is_above_chance(task, chance, method, within, options):
    """The arch that it selects, trained as the random ones are."""
    space, score, data = task
    region = space if within == "whole" else space.fixed(MIDDLE)
    found = nasplug.search(method, space=region, data=data, tracking=False, **options)
    assert score(found.best.params) > chance[within]

"""MobileNet: its networks at any size, and the supernet whose archs are slices of the largest."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

import nasplug
from nasplug import Mask, NasplugError
from nasplug.spaces import MobileNet

torch = pytest.importorskip("torch")

from nasplug.nn import count, initialise  # noqa: E402
from nasplug.nn.mixed import batch_statistics  # noqa: E402
from nasplug.nn.sliced import Sliced  # noqa: E402
from nasplug.spaces.mobilenet.network import SqueezeExcite  # noqa: E402

TINY = MobileNet("digits", width=0.1)
LARGEST, SMALLEST = np.full(20, 9), np.tile([1, 1, 0, 0], 5)


@pytest.fixture(scope="module")
def net():
    return initialise(TINY.supernet, 0)


def images():
    return torch.randn(4, *TINY.shape, generator=torch.Generator().manual_seed(0))


def take(net, arch):
    net.mix(None, net.chosen(np.asarray(arch)[None])[0])
    return net(images())


# ---- networks


@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ("mobilenet/imagenet", [2, 2, 2, 2, 1, 2]),
        ("mobilenet:width=0.5/cifar100", [1, 2, 2, 2, 1, 2]),
        ("mobilenet:width=0.1/digits", [1, 1, 1, 2, 1, 2]),
        ("mobilenet:channels=2,classes=7,resolution=45,width=0.3/digits", [1, 2, 2, 2, 1, 2]),
    ],
)
def test_costs_are_those_of_the_network_at_any_size(name, strides):
    name, _, data = name.partition("/")
    space = nasplug.space(name).for_data(data)
    assert space.strides == strides
    for arch in (space.sample(1, 0)[0], LARGEST, SMALLEST):
        assert count(space.build(arch), space.shape) == tuple(space.costs(arch[None])[:, 0])


def test_activations_and_excitations_are_those_of_once_for_all():
    model = TINY.build(LARGEST)
    kinds = [[type(m) for m in layer.modules()] for layer in model.layers]
    assert [SqueezeExcite in found for found in kinds[::4]] == [False, True, False, True, True]
    assert [torch.nn.Hardswish in found for found in kinds[::4]] == [False, False, True, True, True]
    assert all(kinds[i + 1] == kinds[i + 3] for i in range(0, 20, 4))


def test_what_dsm_nas_has_released():
    """The authors' count leaves the classifier out: 582M is what their table says of DSM-NAS+."""
    space = MobileNet()
    kernels = "5 5 7 0 5 5 7 0 5 7 5 0 5 5 5 7 5 7 7 7", "3 5 5 5 7 7 3 7 5 3 7 0 5 5 7 7 3 5 5 3"
    expansions = (
        "6 6 3 0 6 4 6 0 6 6 6 0 6 6 6 4 6 6 4 4",
        "6 6 3 3 3 6 3 6 6 3 6 0 6 3 6 4 6 6 4 6",
    )
    archs = [
        space.arch("-".join(f"k{k}e{e}" if k != "0" else "0" for k, e in zip(ks, es, strict=True)))
        for ks, es in zip(map(str.split, kernels), map(str.split, expansions), strict=True)
    ]
    flops = space.flops(np.array(archs))
    assert (flops / 1e6).round(1).tolist() == [587.9, 583.3]
    classifier = space.channels(1280) * 1000
    assert ((flops - classifier) / 1e6).round().tolist() == [586, 582]


def test_the_width_is_a_size():
    assert MobileNet(width=1).name == "mobilenet:width=1.0"
    assert nasplug.space("mobilenet:width=0.5").for_data("digits").sizes["width"] == 0.5
    assert TINY.matches(MobileNet())
    for width in (0, -1.0, 101.0, True, "1"):
        with pytest.raises(NasplugError, match=r"width of mobilenet is a number from 0\.01 to"):
            MobileNet(width=width)
    with pytest.raises(NasplugError, match="classes of mobilenet is a number from 1"):
        nasplug.space("mobilenet:classes=2.5")


# ---- the supernet


def test_a_step_on_a_small_kernel_changes_the_centre_of_the_large_one(net):
    sliced = next(m for m in net.modules() if isinstance(m, Sliced))
    (name,) = [k for k, x in sliced.largest.named_parameters() if x.shape[2:] == (7, 7)]
    whole = sliced.largest.get_parameter(name)
    before, c = whole.detach().clone(), sliced.block(3, 3).get_parameter(name).shape[0]
    net.zero_grad()
    take(net, SMALLEST).square().sum().backward()
    with torch.no_grad():
        whole -= 0.1 * whole.grad
    changed = (whole != before)[:, 0]
    assert changed[:c, 2:5, 2:5].all()
    assert changed.sum() == c * 9
    assert sliced.matrices["3"].grad.any()
    assert sliced.matrices["5"].grad.any()
    assert sum(x.numel() for x in net.parameters()) == (
        TINY.params(LARGEST[None])[0] + 20 * (25**2 + 9**2)
    )


def test_kernels_are_centres_through_matrices():
    def make(kernel, expansion):
        return torch.nn.Conv2d(2 * expansion, 2 * expansion, kernel, groups=2 * expansion)

    sliced = Sliced(make, (3, 5, 7), (1, 2))
    whole = sliced.largest.weight
    torch.testing.assert_close(sliced.weights(3, 1)["weight"], whole[:2, :, 2:5, 2:5])
    with torch.no_grad():
        sliced.matrices["5"].mul_(2)
        sliced.matrices["3"].copy_(3 * torch.eye(9).flip(0))  # which turns a kernel by 180 degrees
    assert sliced.weights(7, 2)["weight"].equal(whole)
    assert sliced.weights(5, 1)["weight"].equal(2 * whole[:2, :, 1:6, 1:6])
    assert sliced.weights(3, 2)["weight"].equal(6 * whole[:, :, 2:5, 2:5].flip(2, 3))


def test_the_largest_arch_is_the_built_network():
    model = batch_statistics(initialise(lambda: TINY.build(LARGEST), 7))
    net = initialise(TINY.supernet, 7)
    assert take(net, LARGEST).equal(model(images()))
    net.inherit(LARGEST).load_state_dict(model.state_dict())


def test_what_is_selected_is_the_best_arch(net):
    archs = TINY.sample(2000, 0)
    for seed in range(5):
        scores = np.random.default_rng(seed).normal(size=net.exists.shape)
        best = net.select(scores)
        assert TINY.contains(best[None])[0]
        totals = (net.chosen(archs) * scores).sum((1, 2))
        assert (net.chosen(best[None])[0] * scores).sum() > totals.max()
    assert net.select(net.costs).tolist() == LARGEST.tolist()
    assert net.select(-net.costs).tolist() == SMALLEST.tolist()


def test_a_mask_keeps_its_choices(net):
    region = Mask(TINY, {"unit0.layer0": ["k5e4"], "unit1.layer3": ["0"]})
    allowed = net.allowed(region)
    assert [net.choices[0][k] for k in np.flatnonzero(allowed[0])] == ["k5e4"]
    assert allowed[7].tolist() == [True] + [False] * 9
    assert region.contains(net.select(np.where(allowed, net.costs, -np.inf))[None])[0]


def test_stages_open_kernels_then_depths_then_expansions(net):
    stages = net.stages()
    assert (net.draw(stages[0], 3, np.random.default_rng(0)) == LARGEST).all()
    np.testing.assert_array_equal(stages[-1], net.exists)
    for i, (before, after) in enumerate(pairwise(stages)):
        assert (after >= before).all()
        assert (after > before).any()
        archs = net.draw(after, 300, np.random.default_rng(i))
        assert TINY.contains(archs).all()
        np.testing.assert_array_equal(net.chosen(archs).any(0), after)
    depths = np.bincount(TINY.depths(archs).ravel(), minlength=5)[2:] / archs.size * 4
    assert np.abs(depths - 1 / 3).max() < 0.05


def test_parts_of_the_channels_are_refused():
    with pytest.raises(NasplugError, match="a method without partial channels"):
        TINY.supernet(partial=2)

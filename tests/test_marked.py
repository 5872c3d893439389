"""Choices in place: the space of a marked network, its networks, what they cost, their supernet."""

from __future__ import annotations

import numpy as np
import pytest

import nasplug
from nasplug import NasplugError

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from torch import nn  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from nasplug import nn as nnas  # noqa: E402
from nasplug.nn import initialise, load  # noqa: E402

X = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nnas.Conv2d(width, 2 * width, 3, padding=1, groups=width, bias=False)
        self.norm = nnas.BatchNorm2d(2 * width)
        self.act = nnas.Choice({"relu": nn.ReLU(), "gelu": nn.GELU()}, "act")
        self.back = nnas.layer(nn.Conv2d, 2 * width, out_channels=width, kernel_size=1)

    def forward(self, x):
        return x + self.back(self.act(self.norm(self.conv(x))))


class Net(nn.Module):
    """Values, modules, depth, nested choices (one in an option that is there already, one in an
    option that is made when it is taken), a shared choice, derived values."""

    def __init__(self):
        super().__init__()
        width = nnas.Choice([4, 6], "width")
        hidden = nnas.Choice([2, 3], "hidden")
        self.stem = nnas.Conv2d(1, width, 3, padding=1)
        self.mixer = nnas.Choice(
            {
                "conv": lambda: nnas.Conv2d(
                    width, width, nnas.Choice([3, 5], "kernel"), padding="same"
                ),
                "narrow": nn.Sequential(
                    nnas.Conv2d(width, hidden, 1), nnas.Conv2d(hidden, width, 1)
                ),
                "skip": nn.Identity(),
            },
            "mixer",
        )
        self.stages = nnas.Repeat(lambda i: Block(width), 0, 2, name="depth")
        self.head = nnas.Linear(width * 4, 10)
        self.width = width

    def forward(self, x):
        x = nn.functional.adaptive_avg_pool2d(self.stages(self.mixer(self.stem(x))), 2)
        return self.head(x.reshape(len(x), self.width * 4))


@pytest.fixture(scope="module")
def space():
    return nasplug.space_of(Net, example=X)


@pytest.fixture(scope="module")
def digits():
    """Few of them, as two pairs of arrays."""
    data = load("digits")
    return tuple(tuple(x[:256] for x in part) for part in (data.train, data.val))


# ---- the space


def test_decisions_are_found(space):
    assert space.decisions == {
        "width": (4, 6), "hidden": (2, 3), "mixer": ("conv", "narrow", "skip"),
        "kernel": (3, 5), "depth": (0, 1, 2), "act": ("relu", "gelu"),
    }  # fmt: skip
    assert space.size == 2 * 2 * 3 * 3 * 2 * 2
    assert space.name == "Net"


def test_by_itself_the_constructor_takes_the_first_options():
    net = Net()
    assert type(net.stem) is nn.Conv2d
    assert net.stem.out_channels == 4
    assert type(net.mixer) is nn.Conv2d
    assert len(net.stages) == 0
    assert net(X).shape == (3, 10)


def test_networks_are_plain_and_as_chosen(space):
    net = space.build("width=6,hidden=3,mixer=narrow,depth=2,kernel=3,act=gelu")
    assert (net.stem.out_channels, net.mixer[0].out_channels, len(net.stages)) == (6, 3, 2)
    assert type(net.stages[1].act) is nn.GELU
    assert net.width == 6
    assert not any(type(module).__module__.startswith("nasplug") for module in net.modules())


def test_costs_are_torchs_own_for_every_arch(space):
    archs = space.all()
    params, flops = space.costs(archs)
    for i in np.random.default_rng(0).choice(len(archs), 12, replace=False):
        net = space.build(archs[i]).eval()
        with FlopCounterMode(display=False) as counter:
            net(X)
        assert params[i] == sum(p.numel() for p in net.parameters())
        assert flops[i] == counter.get_total_flops() // 2 // len(X)


def test_attention_and_series_are_counted():
    class Series(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nnas.layer(nn.Conv1d, 2, nnas.Choice([4, 8], "width"), 1)

        def forward(self, x):
            x = self.conv(x)
            return (x @ x.transpose(1, 2)).mean(1)

    space = nasplug.space_of(Series, torch.randn(5, 2, 7))
    assert space.flops(space.all()).tolist() == [7 * 2 * 4 + 7 * 4 * 4, 7 * 2 * 8 + 7 * 8 * 8]


def test_choices_without_effect_are_the_first_ones(space):
    """kernel counts with conv, hidden with narrow, act with a depth of one or more."""
    arch = space.arch("width=6,hidden=3,mixer=conv,depth=0,kernel=5,act=gelu")
    assert space.to_str(space.canonical(arch[None])[0]) == (
        "width=6,hidden=2,mixer=conv,kernel=5,depth=0,act=relu"
    )
    # width x (conv: 2 kernels, narrow: 2 hidden, skip: 1) x (depth 0: 1, depth 1 and 2: 2 acts)
    assert len(space.distinct(space.all())) == 2 * (2 + 2 + 1) * (1 + 2 + 2)


def test_isomorphic_archs_are_one_network(space):
    archs = space.sample(20, 0)
    for arch, same in zip(archs, space.canonical(archs), strict=True):
        one, other = (initialise(lambda a=a: space.build(a), 0) for a in (arch, same))
        assert repr(one) == repr(other)


def test_a_module_that_also_stands_elsewhere_counts_everywhere():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nnas.Choice({"relu": nn.ReLU(), "tanh": nn.Tanh()}, "act")
            self.block = nnas.Choice(
                {"linear": nn.Sequential(nn.Linear(4, 4), self.act), "skip": nn.Identity()}, "block"
            )

        def forward(self, x):
            return self.act(self.block(x))

    space = nasplug.space_of(Twice, torch.randn(2, 4))
    assert len(space.distinct(space.all())) == 4


def test_fixed_decisions(space):
    fixed = space.fixed({"width": 6, "mixer": "skip"})
    assert fixed.decisions["width"] == (6,)
    assert fixed.size == 2 * 3 * 2
    assert "kernel" not in fixed.decisions  # which no network has any more
    assert fixed.name == "Net:width=6,mixer=skip"
    net = fixed.build(fixed.sample(1, 0)[0])
    assert net.stem.out_channels == 6
    assert type(net.mixer) is nn.Identity
    again = fixed.fixed({"act": "gelu", "depth": 1})
    assert type(again.build(np.zeros(5, int)).stages[0].act) is nn.GELU
    same = space.arch("width=6,hidden=2,mixer=skip,depth=1,kernel=3,act=gelu")
    assert again.flops(np.zeros((1, 5), int)) == space.flops(same[None])
    assert again.supernet().choices[0] == ("6",)
    with pytest.raises(NasplugError, match=r"unknown choice of width '7'; known: 4, 6"):
        space.fixed({"width": 7})
    with pytest.raises(NasplugError, match="unknown decision 'widht'; did you mean width"):
        space.fixed({"widht": 4})


def test_choices_that_only_plain_code_can_follow():
    """A constructor may do with values what it likes; then there is no supernet."""

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            kind = nnas.Choice(["wide", "deep"], "kind")
            if kind == "wide":
                self.body = nn.Linear(4, nnas.Choice([8, 16], "hidden"))
            else:
                depth = nnas.Choice([1, 2, 3], "layers")
                self.body = nn.Sequential(*(nn.Linear(4, 4) for _ in range(depth)))

        def forward(self, x):
            return self.body(x)

    space = nasplug.space_of(Plain, torch.randn(2, 4))
    assert space.decisions == {"kind": ("wide", "deep"), "hidden": (8, 16), "layers": (1, 2, 3)}
    assert space.params(space.all()).tolist() == [40] * 3 + [80] * 3 + [20, 40, 60] * 2
    with pytest.raises(NasplugError, match=r"Plain has no supernet: the choice 'kind' is among"):
        space.supernet()


# ---- what is wrong is said


def one(options, name="x"):
    return lambda: nn.Sequential(nnas.Choice(options, name))


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        (one([]), "choice 'x' has no options"),
        (one({}), "choice 'x' has no options"),
        (one("abc"), "choice 'x' needs a list of values, or a dict of modules"),
        (one([nn.ReLU(), nn.GELU()]), "choice 'x' is among modules: give them names"),
        (one({"a": 3}), "option 'a' of 'x' is neither a module nor a function"),
        (one({"a": lambda: 3}), "option 'a' of 'x' makes no module, but 3"),
        (one({"a": lambda: 1 / 0}), "option 'a' of 'x' cannot be built: ZeroDivisionError"),
        (lambda: nnas.Repeat(lambda i: nn.ReLU(), 3, 2, "d"), "'d' repeats from 3 to 2 times"),
        (
            lambda: nn.Linear(nnas.Choice([1, 2], "x"), nnas.Choice([1, 3], "x")),
            r"two choices are named 'x' and have different options, \[1, 2\] and \[1, 3\]",
        ),
        (lambda: nn.Linear(1, 1), "<lambda> has no choices: mark some"),
        (lambda: nnas.Choice([1, 2], "x"), "builds int, no torch.nn.Module"),
        (nn.Linear(1, 1), "the class of a network, or a function that builds one, got Linear"),
        (3, "the class of a network, or a function that builds one, got int"),
        (lambda: nn.Linear(-nnas.Choice([1, 2], "x"), 1, device=7), "cannot be built: "),
    ],
)
def test_bad_marks(factory, said):
    with pytest.raises(NasplugError, match=said):
        nasplug.space_of(factory)


def test_an_example_is_a_batch_of_tensors():
    with pytest.raises(NasplugError, match="example is one tensor, a batch of inputs"):
        nasplug.space_of(Net, example=[X])
    with pytest.raises(NasplugError, match="is counted on an example"):
        nasplug.space_of(Net).flops(np.zeros((1, 6), int))


class Faulty(nn.Module):
    def __init__(self):
        super().__init__()
        width = nnas.Choice([4, 8], "width")
        self.stem = nnas.Conv2d(1, width, 3)
        self.block = nnas.Choice(
            {"good": nn.Identity(), "wider": lambda: nnas.Conv2d(width, width + 1, 1),
             "broken": lambda: 1 / 0},
            "block",
        )  # fmt: skip
        self.head = nnas.Linear(width, 10)

    def forward(self, x):
        return self.head(self.block(self.stem(x)).mean((2, 3)))


def test_an_option_that_does_not_fit_is_a_failed_trial(digits):
    space = nasplug.space_of(Faulty, example=X)
    result = nasplug.search(
        "random", space=space, data=digits, evaluator="train:epochs=1,lr=0.01", budget=6,
        tracking=False,
    )  # fmt: skip
    assert result.best.params["block"] == "good"
    errors = {t.params["block"]: t.user_attrs.get("error") for t in result.search.trials}
    assert errors["good"] is None
    assert "option 'wider' of 'block' does not fit where it stands: RuntimeError" in errors["wider"]
    assert "option 'broken' of 'block' cannot be built: ZeroDivision" in errors["broken"]
    assert space.flops(space.all()).max() == np.iinfo(np.int64).max
    for region in (space, space.fixed({"block": "wider"})):
        with pytest.raises(NasplugError, match=r"option 'wider' of 'block'|block=wider does not"):
            region.supernet()


# ---- the supernet


@pytest.fixture(scope="module")
def net(space):
    return initialise(space.supernet, 0)


def test_the_supernet_is_its_inherited_networks_for_every_arch(space, net):
    archs = space.distinct(space.all())
    net.eval()
    with torch.no_grad():
        for arch in archs:
            model = net.inherit(arch).eval()
            assert repr(model) == repr(space.build(arch)).replace(
                "track_running_stats=True", "track_running_stats=False"
            )
            net.mix(None, net.chosen(arch[None])[0])
            torch.testing.assert_close(net(X), model(X), atol=1e-5, rtol=0)


def test_slices(space, net):
    """A path has the first channels and the middle of the kernel."""
    net.mix(
        None,
        net.chosen(space.arch("width=4,hidden=2,mixer=conv,depth=0,kernel=3,act=relu")[None])[0],
    )
    small = net.inherit(space.arch("width=4,hidden=2,mixer=conv,depth=0,kernel=3,act=relu"))
    large = net.inherit(space.arch("width=6,hidden=2,mixer=conv,depth=0,kernel=5,act=relu"))
    assert torch.equal(small.mixer.weight, large.mixer.weight[:4, :4, 1:4, 1:4])
    assert torch.equal(small.head.weight, large.head.weight[:, :16])


def test_what_the_supernet_says_of_its_choices(space, net):
    assert net.decisions == space.names
    mixable = dict(zip(net.decisions, net.mixable.tolist(), strict=True))
    assert {name for name, row in mixable.items() if any(row)} == {"mixer", "act"}
    assert net.idle.sum() == 1
    assert not net.cut.any()
    base = space.flops(np.zeros((1, 6), int))[0]
    assert net.fixed == base
    deeper = space.arch("width=4,hidden=2,mixer=conv,depth=1,kernel=3,act=relu")
    assert net.costs[4, 1] == space.flops(deeper[None])[0] - base
    hidden = [
        space.arch(f"width=4,hidden={n},mixer=narrow,depth=0,kernel=3,act=relu") for n in (2, 3)
    ]
    assert net.costs[1, 1] == np.diff(space.flops(np.array(hidden)))[0]  # where it counts


def test_weights_of_what_is_chosen_have_a_gradient(space, net):
    weights = torch.ones(net.exists.shape, requires_grad=True)
    arch = space.arch("width=6,hidden=2,mixer=conv,depth=1,kernel=5,act=gelu")
    net.mix(weights, net.chosen(arch[None])[0])
    net(X).square().sum().backward()
    taken = net.chosen(arch[None])[0]
    matters = np.array([True, False, True, True, True, True])  # hidden is not there
    assert ((weights.grad.numpy() != 0) == (taken & matters[:, None])).all()

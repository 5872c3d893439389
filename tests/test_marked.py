"""Choices in place: the space of a marked network, its networks, what they cost, their supernet."""

from __future__ import annotations

import contextlib
import json
import sys

import numpy as np
import pytest
from click.testing import CliRunner

import nasplug
from nasplug import NasplugError
from nasplug.cli import cli

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from nasplug import nn as nnas  # noqa: E402
from nasplug.nn import initialise, load  # noqa: E402
from nasplug.nn import score as scored  # noqa: E402

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
    for wrong in (torch.zeros(3), [X, 1], "x"):
        with pytest.raises(NasplugError, match="example is a batch of inputs"):
            nasplug.space_of(Net, example=wrong)
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


# ---- searches


SMALL = {"width": 6, "hidden": 2, "depth": 1, "kernel": 3}
SEARCHES = {  # on the whole space, or on what can be mixed of it
    "random": {"evaluator": "train:epochs=2,lr=0.05", "budget": 3},
    "regularized-evolution": {"evaluator": "train:epochs=1", "budget": 4, "population": 3},
    "spos": {"epochs": 2, "population": 3, "parents": 2, "budget": 4},
    "gdas": {"budget": 2},
    "ddsas": {"budget": 2, "fixed": True},
    "darts": {"budget": 2, "fixed": True},
    "ostr-darts": {"budget": 2, "fixed": True},
    "proxyless": {"budget": 2, "fixed": True},
}


@pytest.mark.parametrize("method", SEARCHES)
def test_searches_end_with_trained_weights(method, space, digits):
    """What is inherited classifies the validation data as the trial says."""
    options = dict(SEARCHES[method])
    region = space.fixed(SMALL) if options.pop("fixed", False) else space
    result = nasplug.search(method, space=region, data=digits, tracking=False, **options)
    best, data = result.best, load(digits).as_given()
    assert region.contains(best.arch[None])[0]
    model = best.inherit()
    assert repr(model) == repr(best.build())
    assert not any(type(module).__module__.startswith("nasplug") for module in model.modules())
    exact = method in ("random", "regularized-evolution", "spos")  # else batch norms are gathered
    assert abs(scored(model, data, data.val) - best.value) <= (0 if exact else 10)


@pytest.mark.parametrize("method", ["ddsas", "darts", "ostr-darts", "proxyless"])
def test_who_mixes_names_what_cannot_be_mixed(method, space, digits):
    with pytest.raises(NasplugError, match=f"{method} adds up .* those of 'width' have outputs"):
        nasplug.search(method, space=space, data=digits, budget=2, tracking=False)


def test_partial_channels_are_refused(space, digits):
    with pytest.raises(NasplugError, match="the options of Net take all channels, not 1/4"):
        nasplug.search(
            "pc-darts", space=space.fixed(SMALL), data=digits, budget=2, warmup=1, tracking=False
        )


def test_outputs_of_different_shapes_can_only_be_chosen(digits):
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.down = nnas.Choice({"pool": nn.MaxPool2d(2), "skip": nn.Identity()}, "down")
            self.act = nnas.Choice({"relu": nn.ReLU(), "tanh": nn.Tanh()}, "act")
            self.head = nn.Linear(1, 10)

        def forward(self, x):
            return self.head(self.act(self.down(x)).mean((2, 3)))

    space = nasplug.space_of(Pooled, X)
    assert space.supernet().mixable.tolist() == [[False, False], [True, True]]
    with pytest.raises(NasplugError, match="those of 'down' have outputs of different shapes"):
        nasplug.search("darts", space=space, data=digits, budget=2, tracking=False)
    options = {"epochs": 1, "population": 2, "parents": 2, "budget": 2, "tracking": False}
    assert len(nasplug.search("spos", space=space, data=digits, **options).trials) == 2


class Dropped(nn.Module):
    trained = True  # whether its dropout was on in every step

    def __init__(self):
        super().__init__()
        self.act = nnas.Choice({"relu": nn.ReLU(), "tanh": nn.Tanh()}, "act")
        self.first, self.drop, self.last = nn.Linear(64, 16), nn.Dropout(), nn.Linear(16, 10)

    def forward(self, x):
        if x.shape[0] == 32 and torch.is_grad_enabled():
            Dropped.trained &= self.drop.training
        return self.last(self.drop(self.act(self.first(x.flatten(1)))))


DROPPED = {
    "darts": {"budget": 3},
    "spos": {"epochs": 3, "population": 2, "parents": 2, "budget": 4},
    "random": {"evaluator": "proxy:snip", "budget": 3},
}


@pytest.mark.parametrize("method", DROPPED)
def test_dropout_is_on_in_every_step_and_goes_by_the_seed(method, digits, tmp_path, monkeypatch):
    """Whatever the global random state; interrupted after an epoch or not."""

    class Interrupt:
        @nasplug.hookimpl(trylast=True)
        def update(self, search, trials):
            raise KeyboardInterrupt

    def values(name, seed, *plugins):
        torch.manual_seed(seed)
        given = {"model": Dropped, "data": digits, "plugins": plugins}
        options = dict(DROPPED[method], tracking=False, seed=0, out=tmp_path / name, **given)
        if method != "random":
            options["batch"] = 32
        if not plugins:
            return nasplug.search(method, **options).search.trials.values.tolist()
        with contextlib.suppress(KeyboardInterrupt):
            nasplug.search(method, **options)
        torch.manual_seed(seed + 1)
        resumed = nasplug.resume(tmp_path / name, model=Dropped, data=digits)
        return resumed.search.trials.values.tolist()

    monkeypatch.setattr(Dropped, "trained", True)
    whole = values("a", 1)
    assert values("b", 2) == whole
    assert values("c", 3, Interrupt()) == whole
    assert Dropped.trained


def test_modules_may_take_and_return_whatever(digits):
    """On a path; what is no tensor cannot be mixed."""

    class Pair(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.scale = scale

        def forward(self, x, *, shift):
            return self.scale * x + shift, shift

    class Paired(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair = nnas.Choice({"one": Pair(1), "two": Pair(2)}, "pair")
            self.head = nn.Linear(64, 10)

        def forward(self, x):
            x, shift = self.pair(x, shift=1.0)
            return self.head(x.flatten(1)) + shift

    space = nasplug.space_of(Paired, X)
    net = space.supernet()
    assert not net.mixable.any()
    for arch in space.all():
        net.mix(torch.ones(1, 2), net.chosen(arch[None])[0])
        torch.testing.assert_close(net(X), net.inherit(arch)(X))


def test_a_function_of_ones_own_and_constraints(space):
    """What it is told are the choices; nothing was trained, so that nothing is inherited."""
    limit = int(np.median(space.flops(space.all())))
    result = nasplug.search(
        "random", space=space, evaluate=lambda arch: arch["width"] - arch["depth"], budget=8,
        constraints=[f"flops<={limit}"], tracking=False,
    )  # fmt: skip
    assert (space.flops(result.search.trials.archs) <= limit).all()
    with pytest.raises(NasplugError, match="has no weights to inherit, as nothing was trained"):
        result.best.inherit()


def test_only_the_best_weights_of_training_are_kept(space, digits):
    result = nasplug.search(
        "random", space=space, data=digits, evaluator="train:epochs=1", budget=2, tracking=False
    )
    worst = result.ranked()[-1]
    with pytest.raises(NasplugError, match=r"were not kept: \d\.safetensors has those of width="):
        worst.inherit()


def test_several_seeds_have_their_mean(digits):
    space = nasplug.space_of(Net).fixed({**SMALL, "mixer": "skip"})
    arch = space.arch("width=6,hidden=2,mixer=skip,depth=1,act=gelu")
    values = [score(space, arch, digits, "train:epochs=2", seed) for seed in (3, 4)]
    both = score(space, arch, digits, "train:epochs=2,seeds=2", 3)
    assert values[0] != values[1]
    assert both == np.mean(values)


def score(space, arch, data, evaluator, seed):
    problem = nasplug.Problem.of(space=space, data=data, evaluator=evaluator, seed=seed)
    return problem.score(arch[None]).values[0]


def test_training_is_pruned(space, digits):
    result = nasplug.search(
        "random", space=space, data=digits, evaluator="train:epochs=3", budget=8, prune=True,
        tracking=False,
    )  # fmt: skip
    assert (result.search.trials.states == nasplug.State.PRUNED).any()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("epoch=3", "unknown option of training 'epoch'; did you mean epochs"),
        ("epochs=two", "training takes epochs=NUMBER above 0, got 'epochs=two'"),
        ("lr=nan", "training takes lr=NUMBER above 0, got 'lr=nan'"),
        ("seeds=0", "training takes seeds=NUMBER above 0, got 'seeds=0'"),
    ],
)
def test_bad_options_of_training(option, said, space, digits):
    with pytest.raises(NasplugError, match=said):
        nasplug.search("random", space=space, data=digits, evaluator=f"train:{option}", budget=1)


# ---- data


def vectors(n=40):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 6, generator=generator)
    return x, (x[:, 0] > 0).long()


class Vector(nn.Module):
    def __init__(self):
        super().__init__()
        hidden = nnas.Choice([4, 8], "hidden")
        self.body = nn.Sequential(
            nnas.Linear(6, hidden), nnas.layer(nn.BatchNorm1d, hidden), nn.ReLU(),
            nnas.Linear(hidden, 2),
        )  # fmt: skip

    def forward(self, x):
        return self.body(x)


def forms():
    x, y = vectors()
    one = TensorDataset(x, y)
    return {
        "dataset": one,
        "datasets": (one, TensorDataset(*vectors(20))),
        "loaders": (DataLoader(one, 8, shuffle=True), DataLoader(one, 8)),
        "tensors": (x, y),
        "arrays": (x.numpy(), y.numpy()),
        "pairs of arrays": ((x.numpy(), y.numpy()), (x.numpy(), y.numpy())),
        "three": (one, one, one),
        "float64": (x.double().numpy(), y.numpy().astype("uint8")),
    }


@pytest.mark.parametrize("form", forms())
@pytest.mark.parametrize("method", ["random", "spos"])
def test_data_of_ones_own(form, method):
    options = {"evaluator": "train:epochs=1"} if method == "random" else {"epochs": 1}
    result = nasplug.search(
        method, model=Vector, data=forms()[form], budget=2, tracking=False, **options
    )
    assert (result.search.trials.values >= 0).all()
    assert result.search.space.flops([[0]]) == 6 * 4 + 4 * 2  # of an example out of the data


def test_data_are_taken_as_they_are():
    """A network of one's own sees what it will see when it is deployed."""
    x, y = vectors()
    problem = nasplug.Problem.of(space=nasplug.space_of(Vector), data=(100 * x + 5, y))
    images = problem.evaluator.images
    assert float(images.normalise(images.train[0]).mean()) > 1


def test_tokens_and_series():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            width = nnas.Choice([4, 8], "width")
            self.table = nnas.layer(nn.Embedding, 10, width)
            self.mix = nnas.Choice(
                {"conv": nnas.layer(nn.Conv1d, width, width, 3, padding=1), "skip": nn.Identity()},
                "mix",
            )
            self.head = nnas.Linear(width, 2)

        def forward(self, x):
            return self.head(self.mix(self.table(x).transpose(1, 2)).mean(2))

    tokens = torch.randint(10, (40, 7), generator=torch.Generator().manual_seed(0))
    for method in ("random", "spos"):
        result = nasplug.search(
            method, model=Words, data=(tokens, tokens[:, 0] % 2), budget=2, tracking=False,
            **({"evaluator": "train:epochs=1"} if method == "random" else {"epochs": 1}),
        )  # fmt: skip
        assert result.best.inherit()(tokens).shape == (40, 2)


X6, Y6 = vectors()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ((X6, Y6[:-1]), "there are 40 inputs and 39 labels"),
        ((X6, X6[:, 0].numpy()), r"labels of \(20,\) real numbers need an output of that shape"),
        ((X6[:, :5], Y6), r"Vector cannot take inputs of \(5,\)"),
        (
            (X6, 3 * Y6),
            r"labels of \(20,\) with 4 classes need an output of \(20, 4\), a score for each",
        ),
        ([({"a": x}, 1) for x in X6], "cannot take inputs of {'a': .* unexpected keyword"),
        ((X6.numpy().astype(str), Y6), "inputs must be numbers"),
        ([], "data takes a torch Dataset"),
        ((), "data takes a torch Dataset"),
        (3, "data takes a torch Dataset"),
        ("nothing.of:this", "there is no module 'nothing'"),
        (
            DataLoader(TensorDataset(X6, Y6), sampler=SubsetRandomSampler([1, 2])),
            "a DataLoader with a sampler or a collate_fn of its own cannot be followed",
        ),
    ],
)
def test_data_that_do_not_fit(data, said):
    with pytest.raises(NasplugError, match=said):
        nasplug.search("random", model=Vector, data=data, budget=2, tracking=False)


def test_data_of_another_shape_than_the_example(space):
    with pytest.raises(NasplugError, match=r"Net is for inputs of \(1, 8, 8\), and the data have"):
        nasplug.search("random", space=space, data=vectors(), budget=2, tracking=False)


def test_a_model_has_a_space_of_its_own(space):
    with pytest.raises(NasplugError, match="give space= or model=, not both"):
        nasplug.search("random", space=space, model=Net, data=vectors(), budget=2)


# ---- by names, on disk


MODELS = """
from torch import nn
from nasplug import nn as nnas

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        hidden = nnas.Choice([4, 8, 12], "hidden")
        act = nnas.Choice({"relu": nn.ReLU(), "tanh": nn.Tanh()}, "act")
        self.body = nn.Sequential(nnas.Linear(6, hidden), act, nnas.Linear(hidden, 2))

    def forward(self, x):
        return self.body(x)

def load():
    from tests.test_marked import vectors
    return vectors()

number = 3
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "marked_models.py").write_text(MODELS)
    (tmp_path / "marked_broken.py").write_text("import no_such_package")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in ("marked_models", "marked_broken"):
        sys.modules.pop(name, None)


def run(*arguments):
    done = CliRunner().invoke(
        cli, [*arguments, "--no-track"] if arguments[0] == "run" else arguments
    )
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


NAMED = ("--model", "marked_models:Net", "--data", "marked_models:load")


def test_the_command_line_runs_and_resumes(package):
    first = run(
        "run", "random", *NAMED, "--budget", "3", "--evaluator", "train:epochs=1", "--out", "r"
    )
    written = json.loads((package / "r" / "run.json").read_text())
    assert (written["model"], written["data"]) == NAMED[1::2]
    assert "hidden=" in first
    journal = (package / "r" / "status.json").read_text()
    assert "finished" in journal
    assert run("resume", "r") == first
    assert nasplug.resume("r").best.params.keys() == {"hidden", "act"}
    assert "ok  space: Net" in run("doctor", "r")


@pytest.mark.parametrize(
    ("model", "data", "said"),
    [
        ("marked_models:Nett", "marked_models:load", "did you mean marked_models:Net"),
        ("marked_modles:Net", "marked_models:load", "there is no module 'marked_modles'"),
        ("marked_broken:Net", "marked_models:load", "marked_broken does not load: ModuleNotFound"),
        ("marked_models", "marked_models:load", "'marked_models' names nothing: MODULE:NAME"),
        ("marked_models:number", "marked_models:load", "that builds one, got int"),
        ("marked_models:Net", "marked_models:nn", "data takes a torch Dataset"),
        ("marked_models:Net", "no-such-images", "no images for 'no-such-images'"),
    ],
)
def test_bad_names(model, data, said, package):
    with pytest.raises(NasplugError, match=said):
        run("run", "random", "--model", model, "--data", data, "--budget", "1")


def test_model_and_data_belong_together(package):
    with pytest.raises(NasplugError, match="--model and --data belong together"):
        run("run", "random", "--model", "marked_models:Net")


def test_workers_can_be_sent_a_model_that_is_defined_here():
    """As one of a notebook, which they cannot import; the weights stay with them."""
    cloudpickle = pytest.importorskip("cloudpickle")

    class Here(Vector):
        pass

    problem = nasplug.Problem.of(
        space=nasplug.space_of(Here), data=vectors(), evaluator="train:epochs=1"
    )
    sent = cloudpickle.loads(cloudpickle.dumps(problem))
    archs = problem.space.all()
    assert sent.score(archs).values.tolist() == problem.score(archs).values.tolist()

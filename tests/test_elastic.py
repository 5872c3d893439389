"""nasplug.elastic: what networks without marks become with fewer channels and blocks."""

from __future__ import annotations

import sys
from copy import deepcopy

import numpy as np
import pytest
from click.testing import CliRunner

import nasplug
from nasplug import NasplugError
from nasplug.cli import cli

torch = pytest.importorskip("torch")
pytest.importorskip("torch_pruning")
pytest.importorskip("sklearn")

from torch import nn  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from nasplug import nn as nnas  # noqa: E402
from nasplug.nn.mixed import batch_statistics  # noqa: E402
from tests.test_readme import ROOT, blocks  # noqa: E402

X = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self, before, after, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.short = nn.Sequential()
        if stride > 1:
            self.short = nn.Sequential(nn.Conv2d(before, after, 1, stride), nn.BatchNorm2d(after))

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(self.short(x) + y)


class Residual(nn.Module):
    """Like a ResNet."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.stage1 = nn.Sequential(Block(8, 8), Block(8, 8))
        self.stage2 = nn.Sequential(Block(8, 12, 2), Block(12, 12), Block(12, 12))
        self.head = nn.Linear(12, 10)

    def forward(self, x):
        return self.head(self.stage2(self.stage1(torch.relu(self.stem(x)))).mean((2, 3)))


class Inverted(nn.Module):
    """Like a block of a MobileNetV3: depthwise, with squeeze and excitation."""

    def __init__(self, before, after, stride):
        super().__init__()
        wide, self.add = 2 * before, before == after and stride == 1
        self.expand = nn.Sequential(nn.Conv2d(before, wide, 1), nn.BatchNorm2d(wide), nn.ReLU())
        self.depthwise = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide)
        self.squeeze, self.excite = nn.Conv2d(wide, 4, 1), nn.Conv2d(4, wide, 1)
        self.project = nn.Sequential(nn.Conv2d(wide, after, 1), nn.BatchNorm2d(after))

    def forward(self, x):
        y = torch.relu(self.depthwise(self.expand(x)))
        y = y * self.excite(torch.relu(self.squeeze(y.mean((2, 3), keepdim=True)))).sigmoid()
        return x + self.project(y) if self.add else self.project(y)


class Mobile(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 8, 3, 2, 1), Inverted(8, 8, 1), Inverted(8, 16, 2), Inverted(16, 16, 1),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
        )  # fmt: skip


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.back = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.width = width

    def forward(self, x):
        q, k, v = self.qkv(self.norm1(x)).view(*x.shape[:2], 3, 2, self.width // 2).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        x = x + self.back(y.reshape(*x.shape[:2], self.width))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Vision(nn.Module):
    """Like a vision transformer: a position parameter, attention of two heads."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 4, 4)
        self.position = nn.Parameter(torch.randn(1, 4, 8))
        self.blocks = nn.Sequential(Attention(8), Attention(8))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 10)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(x)).mean(1))


class Odd(nn.Module):
    """Concatenated, grouped, normalised by groups, flattened."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 8, 3, 2, 1), nn.Conv2d(1, 8, 5, 2, 2)
        self.mix = nn.Conv2d(16, 16, 1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.norm, self.last = nn.GroupNorm(4, 16), nn.Conv2d(16, 6, 1)
        self.head = nn.Linear(6 * 16, 10)

    def forward(self, x):
        x = torch.relu(self.mix(torch.relu(torch.cat([self.a(x), self.b(x)], 1))))
        return self.head(self.last(torch.relu(self.norm(self.grouped(x)))).flatten(1))


def trained(kind):
    """Weights and statistics that are not those of a fresh network."""
    model = nnas.initialise(kind, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                for x in (norm.weight, norm.running_var):
                    x.copy_(0.5 + torch.rand(x.shape, generator=generator))
                for x in (norm.bias, norm.running_mean):
                    x.copy_(torch.randn(x.shape, generator=generator))
    return model.eval()


KINDS = [Residual, Mobile, Vision, Odd]


@pytest.fixture(scope="module")
def spaces():
    return {kind: nasplug.elastic(trained(kind), X) for kind in KINDS}


@pytest.fixture(scope="module")
def space(spaces):
    return spaces[Residual]


@pytest.fixture(scope="module")
def digits():
    data = nnas.load("digits")
    return tuple(tuple(x[:256] for x in part) for part in (data.train, data.val))


def archs_of(space):
    """All that differ from the whole network in one decision, the smallest, and some others."""
    return np.concatenate([
        space.original[None], np.zeros((1, space.d), space.dtype),
        space.neighbors(space.original), space.sample(5, 0),
    ])  # fmt: skip


# ---- what is varied


def test_a_residual_network_has_a_decision_per_block_per_sum_and_per_depth(space):
    wide = (25, 50, 75, 100)
    assert space.decisions == {
        "stem": wide, "stage1.0": wide, "stage1.1": wide, "stage2.0": wide, "stage2.0.conv2": wide,
        "stage2.1": wide, "stage2.2": wide, "stage1.depth": (1, 2), "stage2.depth": (1, 2, 3),
    }  # fmt: skip
    profile = space.profile()
    assert profile.varied["stem"] == ("stem", "stage1.0.conv2", "stage1.1.conv2")
    assert profile.varied["stage2.depth"] == ("stage2.1", "stage2.2")
    assert set(profile.fixed) == {"head"}
    whole, smallest = space.costs(space.original[None])[:, 0], profile.costs[:, 0]
    assert (profile.costs[:, -1] == whole).all()
    assert (smallest < profile.costs[:, 1]).all()
    assert f"{whole[1]:,} multiply-adds  1x" in str(profile)
    assert "head: the shape of the network's output would change" in str(profile)


def test_a_depthwise_block_is_one_decision(spaces):
    """Expansion, depthwise convolution and squeeze together; what is added up apart."""
    varied = spaces[Mobile].profile().varied
    assert varied["2"] == ("2.expand.0", "2.excite", "2.squeeze")
    assert varied["2.project.0"] == ("2.project.0", "3.project.0")
    assert varied["depth"] == ("3",)


def test_what_attention_cannot_vary_is_named(spaces):
    space = spaces[Vision]
    assert space.decisions["blocks.0"] == (25, 50, 75, 100)
    assert space.decisions["blocks.depth"] == (1, 2)
    assert set(space.fixed) == {"blocks.0.qkv", "blocks.1.qkv", "head"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_choice_builds_and_costs_what_is_counted(spaces, kind):
    space = spaces[kind]
    archs = archs_of(space)
    for arch, (params, flops) in zip(archs, space.costs(archs).T, strict=True):
        model = space.build(arch).eval()
        with FlopCounterMode(display=False) as counter:
            assert model(X).shape == (3, 10)
        assert counter.get_total_flops() == 2 * 3 * flops, space.to_str(arch)
        assert sum(p.numel() for p in model.parameters()) == params
        assert not any(type(m).__module__.startswith("nasplug") for m in model.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_network_is_the_model(spaces, kind):
    model = trained(kind)
    whole = spaces[kind].build(spaces[kind].original)
    assert torch.equal(whole(X), model(X))
    assert whole.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_of_the_supernet_is_the_built_network(spaces, kind):
    space = spaces[kind]
    net = space.supernet()
    for arch in archs_of(space):
        built = batch_statistics(space.build(arch))
        net.mix(None, net.chosen(arch[None])[0])
        torch.testing.assert_close(net(X), built(X), rtol=1e-5, atol=1e-5)
        inherited = net.inherit(arch)
        torch.testing.assert_close(inherited(X), built(X), rtol=1e-5, atol=1e-5)
    assert net.state_dict().keys() == space.supernet().state_dict().keys()


def test_the_most_important_channels_stay(space):
    """By hand: the squares of what makes, scales and takes a channel; the others are as if their
    consumers had weights of zero."""
    model = trained(Residual)
    block = model.stage1[0]
    importance = (
        block.conv1.weight.square().sum((1, 2, 3)) + block.bn1.weight.square()
        + block.conv2.weight.square().sum((0, 2, 3))
    )  # fmt: skip
    kept = importance.argsort(descending=True)[:4].sort().values
    arch = space.to_dict(space.original) | {"stage1.0": 50}
    half = space.build(arch)
    assert torch.equal(half.stage1[0].conv1.weight, block.conv1.weight[kept])
    gone = [i for i in range(8) if i not in kept.tolist()]
    with torch.no_grad():
        block.conv2.weight[:, gone] = 0
    torch.testing.assert_close(half.eval()(X), model(X))


def test_the_last_blocks_of_a_stage_go(space):
    model = trained(Residual)
    small = space.build(space.to_dict(space.original) | {"stage2.depth": 2}).eval()
    assert isinstance(small.stage2[2], nn.Identity)
    model.stage2[2] = nn.Identity()
    assert torch.equal(small(X), model(X))


def test_widths_of_a_block_that_is_left_out_do_not_matter(space):
    archs = np.repeat(space.original[None], 4, 0)
    archs[:, space.names.index("stage1.1")] = np.arange(4)
    assert len(space.distinct(archs)) == 4
    archs[:, space.names.index("stage1.depth")] = 0
    assert len(space.distinct(archs)) == 1
    assert len(np.unique(space.costs(archs), axis=1).T) == 1


def test_the_model_stays_as_it_is(digits):
    model = trained(Mobile).train()
    before = deepcopy(model.state_dict())
    space = nasplug.elastic(model, X)
    nnas.train(space.build(space.original), nnas.load(digits), 1, 0)
    assert model.training
    assert all(
        torch.equal(x, y) for x, y in zip(before.values(), model.state_dict().values(), strict=True)
    )


def test_channels_that_are_too_few_or_shared_are_fixed():
    """One channel; two layers with one weight; groups of one channel each."""

    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.a = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 8, 1)
            self.first, self.second = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
            self.second.weight = self.first.weight
            self.c, self.norm, self.head = nn.Conv2d(8, 6, 1), nn.GroupNorm(6, 6), nn.Linear(6, 10)
            self.unused = nn.Linear(3, 3)

        def forward(self, x):
            x = self.second(torch.relu(self.first(torch.relu(self.a(self.one(x))))))
            return self.head(self.norm(self.c(torch.relu(x))).mean((2, 3)))

    with pytest.raises(NasplugError, match="nothing that can be varied") as error:
        nasplug.elastic(Fixed(), X)
    for said in (
        "one: there are 1 channels", "first shares a weight with second",
        "c: there are 6 channels, in 6 groups that all have to stay",
        "unused: its output is not followed",
    ):  # fmt: skip
        assert said in str(error.value)


# ---- limits


def test_a_limit_is_a_share_of_the_model(space):
    whole = space.costs(space.original[None])[:, 0]
    for limit, metric in (("flops<=0.5x", 1), ("params<= 0.3x", 0), ("flops<=0.06x", 1)):
        result = nasplug.search(
            "random", space=space, evaluate=lambda arch: arch["stem"], budget=5,
            constraints=[limit], tracking=False,
        )  # fmt: skip
        share = float(limit.partition("=")[2][:-1])
        costs = space.costs(result.search.trials.archs)[metric]
        assert len(costs) == 5
        assert (costs <= share * whole[metric]).all()


def test_seldom_feasible_archs_are_found(space):
    """One in a thousand draws is within the limit."""
    limit = 1.2 * space.profile().costs[1, 0]
    assert (space.flops(space.all()) <= limit).mean() < 0.003
    result = nasplug.search(
        "random", space=space, evaluate=lambda arch: 1.0, budget=1, tracking=False,
        constraints=[f"flops<={limit}"],
    )  # fmt: skip
    region = result.search.region
    archs = region.sample(200, 1)
    assert (space.flops(archs) <= limit).all()
    assert len(space.unique(archs)) > 20
    assert np.array_equal(archs, region.sample(200, 1))


def test_a_limit_below_the_smallest_says_what_that_is(space):
    least = space.profile().costs[1, 0]
    with pytest.raises(NasplugError, match=f"the lowest flops found is {least:.4g}"):
        nasplug.search("random", space=space, data="digits", budget=2, constraints=["flops<=0.01x"])


@pytest.mark.parametrize(("space_", "limit"), [("nb201", "flops<=0.5x"), ("", "latency<=0.5x")])
def test_other_limits_are_no_shares(space, space_, limit):
    other = nasplug.space(space_) if space_ else space
    with pytest.raises(NasplugError, match=r"0.5x|unit of time"):
        nasplug.search(
            "random", space=other, evaluate=lambda arch: 1, budget=2, constraints=[limit]
        )


# ---- search


def test_spos_meets_the_supernet(space, digits):
    result = nasplug.search(
        "spos", space=space, data=digits, epochs=1, population=3, parents=2, budget=3,
        constraints=["flops<=0.5x"], tracking=False,
    )  # fmt: skip
    model = result.best.inherit()
    assert model(X).shape == (3, 10)
    built = result.best.build()
    assert [p.shape for p in model.parameters()] == [p.shape for p in built.parameters()]
    assert space.flops(result.best.arch[None]) <= 0.5 * space.flops(space.original[None])


def test_a_learned_path_has_a_gradient_for_every_decision(space):
    net = space.supernet()
    weights = torch.ones(net.exists.shape, requires_grad=True)
    net.mix(weights, net.chosen(space.original[None])[0])
    (gradient,) = torch.autograd.grad(net(X).square().sum(), [weights])
    taken = gradient.numpy()[np.arange(space.d), space.original]
    assert (np.abs(taken) > 1e-6).all()
    assert (gradient != 0).sum() == space.d


def test_training_starts_from_the_weights_of_the_model(digits):
    images = nnas.load(digits)
    model = nnas.initialise(Residual, 0)
    whole = nnas.train(model, images, 8, 0, lr=0.05)
    space = nasplug.elastic(model, X)
    problem = nasplug.Problem.of(space=space, data=digits, evaluator="train:epochs=1,lr=0.001")
    fresh = nnas.train(nnas.initialise(Residual, 1), images, 1, 0, lr=0.001)
    tuned = problem.score(space.original[None]).values[0]
    assert tuned > whole["value"] - 5 > fresh["value"]


def test_mixtures_say_what_stands_in_the_way(space, digits):
    for method, said in (("darts", "'stem'"), ("pc-darts", "without partial channels")):
        with pytest.raises(NasplugError, match=said):
            nasplug.search(
                method, space=space, data=digits, budget=2, warmup=0, tracking=False
            )  # fmt: skip


def test_the_command_line_takes_a_function_that_returns_a_space(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "halves.py").write_text(
        "import nasplug, torch\n"
        "from torch import nn\n"
        "def space():\n"
        "    torch.manual_seed(0)\n"
        "    layers = nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()\n"
        "    net = nn.Sequential(*layers, nn.Linear(8, 10))\n"
        "    return nasplug.elastic(net, torch.ones(2, 1, 8, 8))\n"
    )
    command = "run random --model halves:space --data digits --evaluator train:epochs=1 --budget 2"
    limit = ["--constraint", "flops<=0.5x", "--no-track", "--out", "run"]
    result = CliRunner().invoke(cli, [*command.split(), *limit])
    assert result.exit_code == 0, result.output
    best = nasplug.resume("run")
    assert best.best.params["0"] <= 50
    del sys.modules["halves"]


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = blocks("python", ROOT / "docs" / "elastic.md")
    exec(compile(code, "elastic.md", "exec"), {"__name__": "elastic"})
    assert "multiply-adds" in capsys.readouterr().out


# ---- what cannot be followed


class Dynamic(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return self.b(self.a(x)) if x.mean() > 0 else self.b(x)


class Elsewhere(nn.Linear):
    def __init__(self):
        super().__init__(8, 8)
        self.register_buffer("scale", torch.ones(8, device="meta"))


@pytest.mark.parametrize(
    ("model", "example", "said"),
    [
        (Dynamic(), torch.ones(2, 8), "looks at the values of tensors while it runs"),
        (Residual(), torch.ones(2, 3, 8, 8), r"does not run on the example, of shape \(2, 3"),
        (nn.Linear(8, 8), torch.ones(2, 8), "Linear has nothing that can be varied"),
        (nn.ReLU(), torch.ones(2, 8), "ReLU has nothing that can be varied: no layers"),
        (Elsewhere(), torch.ones(2, 8), r"buffer scale of Elsewhere is on meta, and weight on cpu"),
        (nn.Linear(8, 8, device="meta"), torch.ones(2, 8), "Linear has no weights"),
        (torch.jit.trace(nn.Linear(8, 8), torch.ones(2, 8)), torch.ones(2, 8), "TorchScript"),
        (nn.LSTM(8, 8), torch.ones(2, 4, 8), "networks must give one tensor, got tuple"),
        (Residual, X, "elastic takes a network, a torch.nn.Module"),
        (Residual(), [X], "example is one tensor"),
    ],
)  # fmt: skip
def test_bad_input_is_named(model, example, said):
    with pytest.raises(NasplugError, match=said):
        nasplug.elastic(model, example)


def test_data_that_do_not_fit_are_named(space):
    x, y = torch.ones(20, 3, 8, 8), torch.arange(20) % 4
    with pytest.raises(NasplugError, match=r"is for inputs of \(1, 8, 8\), and the data have"):
        nasplug.search("random", space=space, data=(x, y), budget=2)
    with pytest.raises(NasplugError, match="the data have 20 classes"):
        nasplug.search("random", space=space, data=(x[:, :1], torch.arange(20)), budget=2)


# ---- the real ones


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("torchvision:resnet18", 64), ("torchvision:mobilenet_v3_small", 64),
        ("torchvision:efficientnet_b0", 64), ("torchvision:convnext_tiny", 64),
        ("torchvision:regnet_x_400mf", 64), ("torchvision:densenet121", 64),
        ("timm:deit_tiny_patch16_224", 224), ("timm:regnetx_002", 64),
        ("timm:mobilenetv3_small_100", 64), ("timm:convnext_atto", 64),
    ],
)  # fmt: skip
def test_models_as_their_packages_build_them(name, side):
    """Each group at each width."""
    package, _, name = name.partition(":")
    torch.manual_seed(0)
    if package == "timm":
        model = pytest.importorskip("timm").create_model(name)
    else:
        model = getattr(pytest.importorskip("torchvision").models, name)()
    x = torch.randn(2, 3, side, side)
    space = nasplug.elastic(model, x)
    assert 8 < space.d < 130
    torch.testing.assert_close(
        space.build(space.original).eval()(x), model.eval()(x), rtol=1e-5, atol=1e-5
    )
    net = space.supernet().eval()
    for arch in archs_of(space):
        built = space.build(arch).eval()
        with FlopCounterMode(display=False) as counter:
            assert built(x).shape == (2, 1000)
        assert counter.get_total_flops() == 4 * space.flops(arch[None])[0]
        net.mix(None, net.chosen(arch[None])[0])
        expected = batch_statistics(built)(x)
        torch.testing.assert_close(net(x), expected, rtol=1e-5, atol=1e-5)

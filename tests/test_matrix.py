"""Every one-shot method on every space that has a supernet, whole and within a mask of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

import nasplug
from nasplug import Mask, NasplugError

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
for plugin in ("darts", "ddsas", "ostr", "oneshot", "autospace"):
    pytest.importorskip(f"nasplug_{plugin}")

from nasplug.nn import count, load, mixed_ops  # noqa: E402

METHODS = {
    "darts": ("darts", {}),
    "gdas": ("gdas", {}),
    "pc-darts": ("pc-darts", {"K": 2, "warmup": 1}),
    "ddsas": ("ddsas", {"M": 1}),
    "ddsas-shrink": ("ddsas", {"M": 1, "mode": "shrink", "period": 1}),
    "ddsas-expand": ("ddsas", {"M": 1, "mode": "expand", "period": 1}),
    "ostr-darts": ("ostr-darts", {}),
    "spos": ("spos", {"epochs": 2, "population": 2, "parents": 2}),
    "proxyless": ("proxyless", {}),
}
CONVOLVED = ["none", "skip_connect", "nor_conv_3x3", "nor_conv_1x1"]
SEPARABLE = ["skip_connect", "sep_conv_3x3", "dil_conv_3x3"]
SPACES = (
    "nb201:C=2,N=1", "darts:C=2,layers=3", "macro:C=2", "manual-irb:C=2,layers=4",
    "shufflenetv2:C=2,layers=4", "learned",
)  # fmt: skip
CELLS = SPACES[:2]
EXPANDS = "mode=expand starts from"  # operations of cells, which layers do not have


@pytest.fixture(scope="module")
def images():
    """Digits, few of them: two steps in an epoch."""
    data, n = load("digits"), 64
    few = {name: tuple(x[:n] for x in getattr(data, name)) for name in ("train", "val", "test")}
    return replace(data, **few)


@pytest.fixture(scope="module")
def evolved(images, tmp_path_factory):
    """The run directory of an AutoSpace search."""
    run = tmp_path_factory.mktemp("autospace") / "run"
    result = nasplug.search(
        "autospace", space=nasplug.space("open-cells:C=2,layers=4"), data=images, budget=2,
        out=run, tracking=False, batch=32, K=3, final="cells", population=6, size=2, period=1,
        warmup=1,
    )  # fmt: skip
    trials, space = result.search.trials, result.search.space
    assert len(trials) == 2
    assert space.contains(trials.archs).all()
    assert result.subspace.contains(result.best.arch[None]).all()
    assert_built(result.best)
    return run


def make_space(name, run):
    if name != "learned":
        return nasplug.space(name).for_data("digits")
    return nasplug.space(str(run / "learned-space.json"))


def part_of(space):
    """A mask of some choices of each decision."""
    if space.base == "nb201":
        return Mask(space, dict.fromkeys(space.names, CONVOLVED))
    if space.base == "darts":
        ops = [name for name in space.names if ".op" in name]
        inputs = {"normal5.input0": [0, 4], "reduce3.input1": [1, 2]}
        return Mask(space, dict.fromkeys(ops, SEPARABLE) | inputs)
    return Mask(space, {name: choices[1:3] for name, choices in space.decisions.items()})


def assert_built(best):
    """It builds the network that the space speaks of, neither more nor less."""
    space = best.space
    params, flops = count(best.build(), space.shape)
    bias = space.sizes["classes"] if space.base == "nb201" else 0  # as its tables have it
    assert params == space.params(best.arch[None])[0]
    assert flops + bias == space.flops(best.arch[None])[0]


class Watch:
    """The masks that were trained."""

    def __init__(self):
        self.masks = []

    @nasplug.hookimpl
    def update(self, search):
        self.masks.append(search.method.mask)


def search(name, space, images, within=None, **options):
    method, settings = METHODS[name]
    watch = Watch()
    result = nasplug.search(
        method, space=space, data=images, within=within, budget=2, batch=32, tracking=False,
        plugins=[watch], **settings, **options,
    )  # fmt: skip
    return result, watch.masks


@pytest.mark.parametrize("where", ["whole", "within"])
@pytest.mark.parametrize("space_name", SPACES)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_in_every_space(name, space_name, where, images, evolved):
    space = make_space(space_name, evolved)
    region = space if where == "whole" else part_of(space)
    if name == "ddsas-expand" and space_name not in CELLS:
        with pytest.raises(NasplugError, match=EXPANDS):
            search(name, space, images, region)
        return
    result, masks = search(name, space, images, region)
    method, trials = result.search.method, result.search.trials
    assert len(trials) == 2
    assert (trials.values >= 0).all()
    assert region.contains(trials.archs).all()
    assert region.contains(result.best.arch[None])[0]
    assert_built(result.best)

    allowed = method.net.allowed(region)
    assert (allowed == method.net.exists).all() == (where == "whole")
    for mask in masks:
        assert mask.any(1).all()
        assert not (mask & ~allowed).any()
    trained = method.bilevel.weights.state  # of weights that ever had a gradient
    for op in mixed_ops(method.net):
        for k, module in enumerate(op.ops):
            if not allowed[op.decision, k]:
                assert not any(p in trained for p in module.parameters())


@pytest.mark.parametrize("name", ["darts", "ddsas", "spos"])
def test_the_cells_that_evolved_are_a_region_too(name, images, evolved):
    """As ``--within`` of the run directory, in the coordinates of open cells."""
    space = nasplug.space("open-cells:C=2,layers=4")
    result, masks = search(name, space, images, evolved)
    region = result.search.region
    assert [len(rows) for rows in region.choices] == [3] * 4
    assert region.contains(result.search.trials.archs).all()
    assert all(mask.shape == (4, 3) for mask in masks)
    assert_built(result.best)


def test_autospace_takes_no_other_space(images):
    with pytest.raises(NasplugError, match="evolves open-cells, not macro"):
        nasplug.search(
            "autospace", space=nasplug.space("macro:C=2"), data=images, budget=8, tracking=False
        )

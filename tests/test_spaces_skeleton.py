"""Spaces of layers on a skeleton: manual-irb, open-cells, and what is learned from them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nasplug
from nasplug import Layered, NasplugError
from nasplug.kernel.subspace import load
from nasplug.spaces import Learned
from nasplug.spaces.open_cells.space import GENES, canonical, live
from nasplug.spaces.skeleton.space import Layer

torch = pytest.importorskip("torch")

from nasplug.nn import count  # noqa: E402

NAMES = (
    "manual-irb", "open-cells", "open-cells:kernel=7", "macro", "shufflenetv2", "fairnas",
)  # fmt: skip


def make(name, data="digits", **options):
    return nasplug.space(name).for_data(data).sized(**options)


def open_cells(*texts):
    space = make("open-cells")
    return np.array([space.layer_from_str(text) for text in texts])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("data", "options"), [("digits", {}), ("cifar10", {"C": 8, "layers": 5, "resolution": 16})]
)
def test_costs_are_those_of_the_built_network(name, data, options):
    space = make(name, data, **options)
    archs = space.sample(8, 0)
    measured = [count(space.build(arch), space.shape) for arch in archs]
    assert measured == list(zip(space.params(archs), space.flops(archs), strict=True))


@pytest.mark.parametrize("name", ["shufflenetv2", "fairnas"])
def test_the_published_network_is_what_is_built(name):
    space = nasplug.space(name)
    arch = space.sample(1, 0)[0]
    with torch.device("meta"):
        model = space.build(arch)
    assert count(model, space.shape) == (space.params(arch[None])[0], space.flops(arch[None])[0])


@pytest.mark.parametrize("block", range(4))
def test_every_other_channel_passes_a_block_of_shufflenet(block):
    from nasplug.spaces.shufflenetv2.network import layer

    x, choice = torch.randn(2, 6, 4, 4), np.array([block])
    out = layer(Layer(6, 6, 1, 4), choice)(x)
    assert torch.equal(out[:, :3], x[:, ::2])
    assert (out[:, 3:] >= 0).all()  # a ReLU ends the branch that is computed
    assert layer(Layer(6, 10, 2, 4), choice)(x).shape == (2, 10, 2, 2)


def test_the_sizes_of_the_spaces():
    space = nasplug.space("manual-irb")
    assert (space.d, len(space.layers)) == (21, 21)
    changing = sum(not layer.residual for layer in space.layers)
    assert space.layered().size == 6**changing * 7 ** (21 - changing)
    grid = np.indices((5,) * 6 + (3, 2)).reshape(GENES, -1).T
    assert len(grid) == 93_750
    assert (~live(grid).any(1)).sum() == 2_046


@pytest.mark.parametrize(("kernel", "text"), [(3, "zzzdzz+6"), (5, "zzz5zz+6"), (7, "zzz7zz+6")])
def test_the_inverted_residual_is_an_open_cell(kernel, text):
    manual, cells = make("manual-irb"), make("open-cells", kernel=kernel)
    arch = cells.from_str("-".join([text] * 6))
    assert cells.to_str(arch) == "-".join([text] * 6)
    block = manual.from_str("-".join([f"k{kernel}e6"] * 6))
    assert cells.flops(arch[None]) == manual.flops(block[None])
    assert cells.params(arch[None]) == manual.params(block[None])
    one, other = manual.build(block).eval(), cells.build(arch).eval()
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        b.data.copy_(a)
    x = torch.randn(2, 1, 8, 8)
    assert torch.allclose(one(x), other(x), atol=1e-6)


def test_with_larger_kernels_all_cells_are_what_they_were():
    cells, wide = make("open-cells"), make("open-cells", kernel=7)
    archs = cells.sample(50, 0)
    assert np.array_equal(cells.costs(archs), wide.costs(archs))
    assert cells.to_str(archs[0]) == wide.to_str(archs[0])
    with pytest.raises(NasplugError, match=r"zipcd \(with open-cells:kernel=7 also 57\)"):
        cells.layer_from_str("zzz5zz+6")


def test_edges_that_lead_nowhere_do_not_count():
    cells = open_cells("dzzzzz+3", "zzzzzd+3", "dzzzdz+3", "ddddzd+3")
    assert live(cells).sum(1).tolist() == [0, 0, 2, 5]
    assert np.array_equal(canonical(cells)[0], np.zeros(GENES))
    assert np.array_equal(canonical(canonical(cells)), canonical(cells))


@given(seed=st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_isomorphic_cells_compute_the_same(seed):
    space = make("open-cells")
    arch = space.sample(1, seed)[0]
    same = space.canonical(arch[None])[0]
    assert space.flops(arch[None]) == space.flops(same[None])
    one, other = space.build(arch).eval(), space.build(same).eval()
    other.load_state_dict(one.state_dict())
    x = torch.randn(1, 1, 8, 8)
    assert torch.equal(one(x), other(x))


def test_aggregations_by_hand():
    from nasplug.spaces.open_cells.network import aggregate

    terms = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])]
    assert [aggregate(terms, how).tolist() for how in range(3)] == [[4, 6], [2, 3], [3, 8]]


def test_a_layer_that_changes_the_shape_is_there():
    space = make("manual-irb")
    assert not space.is_valid(np.array([[1, 1, 0, 1, 1, 1]]))[0]
    assert space.is_valid(np.array([[0, 0, 1, 0, 1, 0]]))[0]
    cells = make("open-cells")
    dead = np.zeros((1, cells.d), int)
    assert not cells.is_valid(dead)[0]


def test_names_say_what_is_not_the_default():
    assert make("open-cells", "cifar10", layers=9).name == "open-cells"
    space = make("open-cells", "cifar10", layers=4, C=8)
    assert space.name == "open-cells:C=8,layers=4"
    assert nasplug.space(space.name).for_data("cifar10").d == space.d
    assert nasplug.problem("open-cells:layers=9/digits").space.d == 9 * GENES


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("open-cells:depth=4", "unknown option of open-cells 'depth'"),
        ("open-cells:kernel=4", "kernel of open-cells is 3, 5 or 7, got 4"),
        ("open-cells:layers", "options read NAME=NUMBER"),
        ("nb201:layers=2", "unknown option of nb201 'layers'"),
        ("anynetx:C=2", "anynetx takes no options"),
        ("shufflenetv2:C=1", "C=1 is too narrow"),
        ("open-cells:C=0", "C of open-cells is a number from 1 to 1,000, got 0"),
    ],
)
def test_bad_options_say_so(name, words):
    with pytest.raises(NasplugError, match=words):
        nasplug.space(name)


# ---- layered subspaces


def layered():
    space = make("open-cells")
    rng = np.random.default_rng(0)
    rows = space.split(space.canonical(space.sample(200, rng)))  # no two of a layer are isomorphs
    return Layered(space, [np.unique(rows[:, i], axis=0)[:4] for i in range(6)])


def test_a_layered_subspace_answers_like_any_other(tmp_path):
    region = layered()
    assert region.size == 4**6
    archs = region.sample(300, 0)
    assert region.contains(archs).all()
    assert region.space.is_valid(archs).all()
    assert not region.contains(region.space.sample(50, 1)).any()
    assert np.array_equal(region.compose(region.index(archs)), archs)
    mutants = region.mutate(archs, 1)
    assert region.contains(mutants).all()
    assert ((region.index(mutants) != region.index(archs)).sum(1) == 1).all()
    near = region.neighbors(archs[0], 2)
    assert len(near) == 15 * 9
    region.save(tmp_path / "region.npz")
    again = load(region.space, tmp_path / "region.npz")
    assert np.array_equal(again.compose(region.index(archs)), archs)


def test_choices_are_drawn_uniformly():
    region = layered()
    counts = np.bincount(region.index(region.sample(8000, 0))[:, 3], minlength=4)
    assert np.abs(counts / 8000 - 0.25).max() < 0.03


def test_a_layered_subspace_refuses_what_does_not_fit():
    space = make("manual-irb")
    with pytest.raises(NasplugError, match="the same choice twice"):
        Layered(space, [[[1], [1]]] * 6)
    with pytest.raises(NasplugError, match="6 decisions in all"):
        Layered(space, [[[1], [2]]] * 5)
    with pytest.raises(NasplugError, match="not valid"):
        Layered(space, [[[0], [1]]] * 6)


# ---- learned spaces


def test_a_learned_space_is_kept_as_json(tmp_path):
    region = layered()
    Learned(region, "mine").save(tmp_path / "learned-space.json")
    space = nasplug.space(str(tmp_path / "learned-space.json"))
    archs = space.sample(20, 0)
    outer = region.compose(archs)
    assert space.size == region.size
    assert np.array_equal(space.flops(archs), region.space.flops(outer))
    assert space.to_str(archs[0]) == region.space.to_str(outer[0])
    assert np.array_equal(space.from_str(space.to_str(archs[0])), archs[0])
    assert space.build(archs[0])(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    problem = nasplug.problem(f"{tmp_path / 'learned-space.json'}/digits")
    assert problem.space.size == region.size


def test_a_learned_space_needs_as_many_layers(tmp_path):
    file = tmp_path / "learned-space.json"
    Learned(layered(), "mine").save(file)
    with pytest.raises(NasplugError, match="has 6 layers, open-cells has 9"):
        nasplug.space(str(file)).for_data("cifar10")
    file.write_text(json.dumps({"format": 99, "space": "open-cells"}))
    with pytest.raises(NasplugError, match="format 99"):
        nasplug.space(str(file))
    file.write_text("{")
    with pytest.raises(NasplugError, match="holds no space"):
        nasplug.space(str(file))

"""Supernets: the protocol that all of them answer to, mixed operations, and how paths are drawn."""

import weakref
from itertools import chain

import numpy as np
import pytest

import nasplug
from nasplug import Layered, Mask, NasplugError
from nasplug.spaces import EdgeMask, Learned

torch = pytest.importorskip("torch")

from nasplug.nn.mixed import (  # noqa: E402
    MixedOp,
    Op,
    Zero,
    binary_gates,
    draw_paths,
    edge_gates,
    gumbel,
    mix,
    mixed_ops,
    shuffle,
)
from nasplug.nn.training import count, initialise  # noqa: E402

CELLS = ("nb201", "darts")
LAYERS = ("macro", "manual-irb", "shufflenetv2", "fairnas", "learned")
SPACES = (*CELLS, *LAYERS)
SUPERNETS = (*SPACES, "open-cells", "mobilenet")
TINY = {
    "nb201": {"C": 4, "N": 1}, "darts": {"C": 4, "layers": 3}, "macro": {"C": 4},
    "manual-irb": {"C": 4}, "open-cells": {"C": 4}, "learned": {},
    "mobilenet": {"width": 0.1},
    "shufflenetv2": {"C": 4}, "fairnas": {"C": 4, "layers": 4},
}  # fmt: skip
TEXTS = ("zzzdzz+3", "zzzdzz+6", "zzzzzz+3", "dzzddz~3")  # the third computes nothing


def make_space(name, **sizes):
    """At the smallest size, for images of digits."""
    if name != "learned":
        return nasplug.space(name).for_data("digits").sized(**TINY[name], **sizes)
    return Learned(open_layers(make_space("open-cells", **sizes)), "learned")


def open_layers(space):
    """Four cells of each layer, three where there has to be a layer."""
    texts = [TEXTS if layer.residual else (*TEXTS[:2], TEXTS[3]) for layer in space.layers]
    return Layered(space, [[space.layer_from_str(text) for text in row] for row in texts])


def make(name, partial=1, **sizes):
    space = make_space(name, **sizes)
    if name == "open-cells":  # of all cells there is no supernet, but of some at a time
        weights = np.ones((len(space.layers), 2, len(space.OPS)), bool)
        return initialise(lambda: space.shared_supernet(weights, open_layers(space)), 0)
    return initialise(lambda: space.supernet(None, partial), seed=0)


def images(n=4, side=8):
    return torch.randn(n, 1, side, side, generator=torch.Generator().manual_seed(0))


def random_mask(net, seed, share=0.4):
    """At least one choice of each decision that lets something pass."""
    rng = np.random.default_rng(seed)
    mask = (rng.random(net.exists.shape) < share) & net.exists
    lots = np.where(net.exists & ~net.cut, rng.random(mask.shape), -1)
    mask[np.arange(len(mask)), lots.argmax(1)] = True
    return mask


def whole(net):
    """The region whose archs the supernet holds."""
    return net.layers if hasattr(net, "layers") else net.space


def nothing(net):
    """(D, O): the choices that never run."""
    found = ~net.exists
    for op in mixed_ops(net):
        for k, module in enumerate(op.ops):
            found[op.decision, k] |= isinstance(module, Zero)
    return found


# ---- the protocol


@pytest.mark.parametrize("name", SUPERNETS)
def test_choices_are_named_and_absent_ones_are_never_allowed(name):
    net = make(name)
    D, O = net.exists.shape  # noqa: E741
    assert len(net.decisions) == len(net.choices) == D
    assert [*map(len, net.choices)] == net.exists.sum(1).tolist()
    assert max(map(len, net.choices)) == O
    for which in (net.idle, net.cut, net.mixable, net.costs > 0):
        assert which.shape == (D, O)
        assert not (which & ~net.exists).any()
    np.testing.assert_array_equal(net.allowed(net.space), net.exists)
    np.testing.assert_array_equal(net.allowed(whole(net)), net.exists)
    assert not (net.chosen(whole(net).sample(50, 0)) & ~net.exists).any()
    assert sorted(chain(*net.groups())) == list(range(D))
    assert sorted(chain(*net.incoming())) == list(range(D))


@pytest.mark.parametrize("name", SUPERNETS)
def test_costs_add_up_to_the_multiply_adds_of_the_arch(name):
    net = make(name)
    archs = whole(net).sample(50, 1)
    found = [net.fixed + net.costs[chosen].sum() for chosen in net.chosen(archs)]
    np.testing.assert_array_equal(found, net.space.flops(archs))


@pytest.mark.parametrize("name", SUPERNETS)
def test_archs_read_from_scores_and_back(name):
    net = make(name)
    archs = whole(net).sample(50, seed=3)
    chosen = net.chosen(archs)
    assert (chosen.sum(-1) <= 1).all()
    for arch, choices in zip(archs, chosen, strict=True):
        again = net.select(choices + 0.0)[None]
        np.testing.assert_array_equal(net.chosen(again)[0], choices)
        np.testing.assert_array_equal(net.space.classes(again), net.space.classes(arch[None]))
        left_out = ~choices.any(1, keepdims=True)  # of whose choices any will do
        assert net.region((choices | left_out) & net.exists).contains(arch[None])[0]
        if not left_out.any():
            assert net.region(choices).size == 1


@pytest.mark.parametrize("name", SUPERNETS)
def test_a_mask_is_a_region_and_a_region_a_mask(name):
    net = make(name)
    for seed in range(5):
        mask = random_mask(net, seed)
        region = net.region(mask)
        archs = region.sample(200, seed)
        assert region.contains(archs).all()
        chosen = net.chosen(archs)
        assert not (chosen & ~mask).any()
        # That an edge may be left out is no choice of an arch.
        known = ~net.cut if name == "darts" else net.exists
        np.testing.assert_array_equal(net.allowed(region) & known, mask & known)
        others = whole(net).sample(100, seed)
        inside = ~(net.chosen(others) & ~mask).any((1, 2))
        np.testing.assert_array_equal(region.contains(others), inside)
        scores = np.where(mask, np.random.default_rng(seed).random(mask.shape), -np.inf)
        assert region.contains(net.select(scores, region)[None])[0]


@pytest.mark.parametrize("name", SPACES)
def test_a_mask_of_the_decisions_of_the_space_restricts_the_supernet(name):
    net = make(name)
    archs = whole(net).sample(3, 5)
    kept = np.arange(net.space.cardinalities.max()) == archs[..., None]
    region = Mask(net.space, kept.any(0))
    allowed = net.allowed(region)
    inside = region.sample(200, 0)
    assert not (net.chosen(inside) & ~allowed).any()
    np.testing.assert_array_equal(allowed & ~net.cut, net.chosen(inside).any(0) & ~net.cut)
    scores = np.random.default_rng(0).random(allowed.shape)
    assert region.contains(net.select(np.where(allowed, scores, -np.inf), region)[None])[0]


@pytest.mark.parametrize("name", SPACES)
def test_a_region_that_is_no_mask_is_refused(name):
    space = make_space(name)
    few = nasplug.ArchSet(space, space.sample(3, 0))
    with pytest.raises(NasplugError, match=r"supernet of .*set of 3 archs"):
        make(name).allowed(few)


@pytest.mark.parametrize("name", SPACES)
def test_what_is_masked_neither_runs_nor_gets_a_gradient(name):
    net = make(name)
    mask = random_mask(net, 1)
    ran = set()
    for op in mixed_ops(net):
        for k, module in enumerate(op.ops):
            module.register_forward_hook(lambda m, x, y, key=(op, k): ran.add(key))
    weights = torch.rand(mask.shape).requires_grad_()
    net.mix(weights, mask)
    (net(images()) ** 2).sum().backward()
    for op in mixed_ops(net):
        for k, module in enumerate(op.ops):
            runs = bool(mask[op.decision, k]) and not isinstance(module, Zero)
            assert ((op, k) in ran) == runs
            for p in module.parameters():
                assert (p.grad is not None) == runs
    moved = weights.grad.numpy() != 0
    np.testing.assert_array_equal(moved, mask & ~nothing(net))


@pytest.mark.parametrize("name", SUPERNETS)
def test_an_inherited_network_computes_what_the_supernet_does(name):
    net = make(name)
    x = images()
    for arch in whole(net).sample(5, seed=2):
        held = net.exists
        net.mix(None, net.chosen(arch[None])[0])
        expected = net(x)
        alone = net.inherit(arch)
        torch.testing.assert_close(alone(x), expected, rtol=0, atol=0)
        assert not mixed_ops(alone)
        np.testing.assert_array_equal(net.exists, held)
        built = net.space.build(arch)
        if name in CELLS:  # whose supernets have no affine batch norms
            weights = [sum(p.numel() for p in m.parameters() if p.ndim > 1) for m in (alone, built)]
            assert weights[0] == weights[1]
        else:
            assert count(alone, net.space.shape) == count(built, net.space.shape)
            assert count(alone, net.space.shape)[0] == net.space.params(arch[None])[0]


# ---- DARTS


def test_darts_selects_two_edges_per_node_and_never_none():
    net = make("darts")
    scores = np.random.default_rng(0).random((28, 8))
    scores[:, 0] = 2
    chosen = net.chosen(net.select(scores)[None])[0]
    assert not chosen[:, 0].any()
    best = scores[:, 1:].max(1)
    for edges in net.incoming():
        kept = [e for e in edges if chosen[e].any()]
        assert sorted(kept) == sorted(sorted(edges, key=lambda e: -best[e])[:2])
        for e in kept:
            assert chosen[e].argmax() == 1 + scores[e, 1:].argmax()


def test_an_edge_mask_is_a_subspace():
    space = make_space("darts")
    net = make("darts")
    region = net.region(random_mask(net, 5))
    archs = region.sample(200, seed=0)
    assert region.contains(archs).all()
    assert len(space.unique(archs)) > 150
    assert 0 < region.size < EdgeMask(space, np.ones((2, 14, 7))).size
    assert EdgeMask(space, np.ones((2, 14, 7))).size == (2 * 6 * 12 * 20 * 7**8) ** 2
    mutants = region.mutate(archs[:20], seed=1)
    assert region.contains(mutants).all()
    assert (space.distance(mutants, archs[:20]) > 0).all()
    with pytest.raises(NasplugError, match="no inputs"):
        EdgeMask(space, np.zeros((2, 14, 7)))


def test_a_mask_of_darts_says_what_either_input_may_take():
    """The first input of a node keeps to one operation, the second to another."""
    net = make("darts")
    ops = {"normal4.op0": ["sep_conv_3x3"], "normal4.op1": ["max_pool_3x3"], "normal4.input0": [3]}
    region = Mask(net.space, ops)
    first, others = net.decisions.index("normal 4<-3"), net.decisions.index("normal 4<-0")
    allowed = net.allowed(region)
    names = np.array(net.choices[0])
    assert set(names[allowed[first]]) == {"none", "sep_conv_3x3", "max_pool_3x3"}
    assert set(names[allowed[others]]) == {"none", "max_pool_3x3"}
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores = np.where(allowed, rng.random(allowed.shape), -np.inf)
        assert region.contains(net.select(scores, region)[None])[0]


@pytest.mark.parametrize(
    ("name", "mask", "words"),
    [
        ("manual-irb", {"layer2": ["zero"]}, "layer 2 without a choice: it takes k3e3, k5e3"),
        ("darts", {"normal2.input0": [1], "normal2.input1": [1]}, "no two different inputs"),
    ],
)
def test_a_mask_without_an_arch_says_so(name, mask, words):
    net = make(name)
    with pytest.raises(NasplugError, match=words):
        net.allowed(Mask(net.space, mask))


# ---- mixed operations


def test_the_scale_of_a_batch_norm_is_the_weight_of_the_operation():
    conv = torch.nn.Conv2d(2, 3, 1).double()
    for affine in (True, False):
        op = Op(torch.nn.ReLU(), conv, torch.nn.BatchNorm2d(3, affine=affine).double())
        x = torch.randn(4, 2, 5, 5, dtype=torch.float64)
        weight = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        target = torch.randn(4, 3, 5, 5, dtype=torch.float64)
        results = [((op(x, weight), weight * op(x))[i] * target).sum() for i in (0, 1)]
        gradients = [torch.autograd.grad(r, [weight, conv.weight]) for r in results]
        for a, b in zip((results[0], *gradients[0]), (results[1], *gradients[1]), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("affine", [False, True])
def test_a_scaled_batch_norm_is_the_same_in_every_layout(affine):
    op = Op(torch.nn.ReLU(), torch.nn.BatchNorm2d(3, affine=affine))
    x, scale = torch.randn(2, 3, 4, 4), torch.tensor(0.3)
    last = op(x.to(memory_format=torch.channels_last), scale)
    torch.testing.assert_close(last, 0.3 * op(x))


@pytest.mark.parametrize("name", SPACES)
def test_a_step_of_the_architecture_alone_frees_what_it_computed(name):
    net = make(name)
    seen = []
    mixed_ops(net)[0].register_forward_hook(lambda op, x, y: seen.append(weakref.ref(x[0])))
    mask = net.exists
    weights = torch.full(mask.shape, 1 / mask.shape[1], requires_grad=True)
    net.mix(weights, mask)
    torch.autograd.grad(net(images()).sum(), weights)
    assert len(seen) == 1
    assert seen[0]() is None


def test_partial_channels_pass_on_the_rest():
    op = MixedOp([Zero(), torch.nn.Identity()], 0, partial=4)
    x = torch.randn(2, 8, 3, 3)
    mix(op, torch.tensor([[0.0, 3.0]]), np.array([[True, True]]), torch.tensor([0.5]))
    mixed = torch.cat([3 * x[:, :2], x[:, 2:]], 1)
    torch.testing.assert_close(op(x), 0.5 * shuffle(mixed, 4))
    assert shuffle(torch.arange(8.0).reshape(1, 8, 1, 1), 4).ravel().tolist() == [
        0, 2, 4, 6, 1, 3, 5, 7,
    ]  # fmt: skip
    x = images(2, 16)
    for name in ("nb201", "darts", "macro", "manual-irb"):
        net = make(name, partial=4)
        net.mix(torch.rand(net.exists.shape), net.exists, torch.rand(len(net.decisions)))
        assert net(x).shape == (2, 10)


def test_edge_gates_are_a_softmax_per_node():
    logits = torch.randn(6)
    gates = edge_gates(logits, [[0], [1, 2], [3, 4, 5]])
    torch.testing.assert_close(gates[3:], logits[3:].softmax(0))
    torch.testing.assert_close(gates[1:3], logits[1:3].softmax(0))
    assert gates[0] == 1


def test_paths_are_drawn_by_their_softmax():
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([[0.0, 1.0, 2.0], [0.0, -torch.inf, 0.0]])
    p = logits.softmax(-1).numpy()
    n = 1000
    draws = {
        "plain": sum(draw_paths(logits, generator) for _ in range(n)) / n,
        "gumbel": sum(gumbel(logits, 1.0, generator)[1].astype(int) for _ in range(n)) / n,
        "binary": sum(binary_gates(logits, 1, generator)[1].astype(int) for _ in range(n)) / n,
    }
    for shares in draws.values():
        np.testing.assert_allclose(shares, p, atol=0.06)


def test_gumbel_weighs_one_and_learns_softly():
    logits = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    weights, mask = gumbel(logits, 1.0, torch.Generator().manual_seed(1))
    assert (mask.sum(1) == 1).all()
    np.testing.assert_allclose(weights.detach().numpy(), mask, atol=1e-12)
    weights[0, mask[0].argmax()].backward()
    assert logits.grad[0].abs().min() > 0
    assert abs(float(logits.grad[0].sum())) < 1e-9


def test_binary_gates_keep_two_paths_and_the_gradient_between_them():
    logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    weights, mask = binary_gates(logits, 2, torch.Generator().manual_seed(2))
    assert (mask.sum(1) == 2).all()
    np.testing.assert_allclose(np.sort(weights.detach().numpy(), 1), [[0, 0, 0, 0, 1]] * 3)
    g = torch.randn(3, 5, dtype=torch.float64)
    (weights * g).sum().backward()
    soft = np.where(mask, np.exp(logits.detach().numpy()), 0)
    soft /= soft.sum(1, keepdims=True)
    expected = soft * (g.numpy() - (soft * g.numpy()).sum(1, keepdims=True))
    np.testing.assert_allclose(logits.grad.numpy(), expected, atol=1e-12)


def test_a_space_without_a_supernet_says_so():
    with pytest.raises(NasplugError, match="custom has no supernet"):
        nasplug.Space({"a": [1, 2]}).supernet()
    with pytest.raises(NasplugError, match="custom has no supernet"):  # nor of missing images
        nasplug.search("darts", space=nasplug.Space({"a": [1, 2]}), evaluate=len, budget=1)
    with pytest.raises(NasplugError, match="too many to train side by side"):
        nasplug.space("open-cells").supernet()
    with pytest.raises(NasplugError, match="C=6 channels do not divide into 4 parts"):
        nasplug.space("nb201:C=6").supernet(partial=4)

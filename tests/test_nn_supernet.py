import weakref
from itertools import chain

import numpy as np
import pytest

import nasplug
from nasplug import NasplugError

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
from nasplug.nn.supernet import supernet  # noqa: E402
from nasplug.nn.training import initialise  # noqa: E402
from nasplug.spaces.darts.space import EdgeMask  # noqa: E402

SPACES = {"nb201": {"C": 4, "layers": 1}, "darts": {"C": 4, "layers": 3}}


def make(name, **options):
    space = nasplug.space(name)
    return initialise(
        lambda: supernet(space, in_channels=1, num_classes=10, **(SPACES[name] | options)), seed=0
    )


def images(n=4, side=8):
    return torch.randn(n, 1, side, side, generator=torch.Generator().manual_seed(0))


def random_mask(net, seed, share=0.4):
    rng = np.random.default_rng(seed)
    mask = rng.random((len(net.decisions), len(net.ops))) < share
    mask[np.arange(len(mask)), rng.integers(1, mask.shape[1], len(mask))] = True
    return mask


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
    assert (weights.grad.numpy()[~mask] == 0).all()
    assert (weights.grad.numpy()[:, 0] == 0).all()  # zero moves nothing
    assert (weights.grad.numpy()[:, 1:] != 0)[mask[:, 1:]].all()


@pytest.mark.parametrize("name", SPACES)
def test_an_inherited_network_computes_what_the_supernet_does(name):
    net = make(name)
    x = images()
    for arch in net.space.sample(5, seed=2):
        net.mix(None, net.chosen(arch[None])[0])
        alone = net.inherit(arch)
        torch.testing.assert_close(alone(x), net(x), rtol=0, atol=0)
        assert not mixed_ops(alone)
        built = net.space.build(arch, in_channels=1, **_named(name))
        of_ops = [p for p in net.parameters() if p.ndim == 4]
        assert len(list(alone.parameters())) < len(of_ops)
        count = [sum(p.numel() for p in m.parameters() if p.ndim > 1) for m in (alone, built)]
        assert count[0] == count[1]


def _named(name):
    sizes = SPACES[name]
    return sizes if name == "darts" else {"C": sizes["C"], "N": sizes["layers"]}


@pytest.mark.parametrize("name", SPACES)
def test_archs_read_from_scores_and_back(name):
    net = make(name)
    archs = net.space.sample(50, seed=3)
    for arch, chosen in zip(archs, net.chosen(archs), strict=True):
        again = net.select(chosen + 0.0)
        np.testing.assert_array_equal(net.chosen(again[None])[0], chosen)
        assert net.region(chosen | (np.arange(len(net.ops)) > 0)).contains(arch[None])[0]
    assert sorted(chain(*net.groups())) == list(range(len(net.decisions)))
    assert sorted(chain(*net.incoming())) == list(range(len(net.decisions)))


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


def test_the_built_darts_network_has_the_stated_size():
    space = nasplug.space("darts")
    arch = space.sample(1, seed=4)
    model = space.build(arch[0])
    assert sum(p.numel() for p in model.parameters()) == space.params(arch)[0]


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
    mask = np.ones((len(net.decisions), len(net.ops)), bool)
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
    net = make("darts", C=8, partial=4)
    net.mix(torch.rand(28, 8), np.ones((28, 8), bool), torch.rand(28))
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


def test_an_edge_mask_is_a_subspace():
    space = nasplug.space("darts")
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
    np.testing.assert_array_equal(net.allowed(region)[:, 1:], random_mask(net, 5)[:, 1:])
    with pytest.raises(NasplugError, match="no inputs"):
        EdgeMask(space, np.zeros((2, 14, 7)))
    with pytest.raises(NasplugError, match="relaxes darts"):
        net.allowed(nasplug.ArchSet(space, archs[:3]))


def test_a_space_without_a_supernet_says_so():
    with pytest.raises(NasplugError, match="custom has no supernet"):
        supernet(nasplug.Space({"a": [1, 2]}))
    with pytest.raises(NasplugError, match="do not divide"):
        make("nb201", C=6, partial=4)
    with pytest.raises(NasplugError, match="3 or more"):
        make("darts", layers=2)

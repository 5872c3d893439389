from copy import deepcopy

import numpy as np
import pytest

from nasplug import NasplugError

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from nasplug.nn.bilevel import MOMENTUM, WEIGHT_DECAY, BiLevel, Mixture  # noqa: E402
from nasplug.nn.data import OnDisk, Stream  # noqa: E402
from nasplug.nn.datasets import digits, load  # noqa: E402
from nasplug.nn.mixed import MixedOp, mix  # noqa: E402
from nasplug.spaces import NB201  # noqa: E402


class Tiny(torch.nn.Module):
    """A mixture of two linear layers between two more."""

    def __init__(self):
        super().__init__()
        self.first, self.last = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)
        self.op = MixedOp([torch.nn.Linear(4, 4), torch.nn.Sequential(torch.nn.Linear(4, 4))], 0)

    def mix(self, weights, mask, gates=None):
        mix(self, weights, mask, gates)

    def forward(self, x):
        return self.last(torch.tanh(self.op(torch.tanh(self.first(x)))))


def problem(order, mask=(True, True), arch_lr=3e-4):
    torch.manual_seed(0)
    net = Tiny().double()
    alpha = torch.randn(1, 2, dtype=torch.float64, requires_grad=True)
    allowed = np.array([mask])

    def mixture():
        return Mixture(alpha.softmax(-1), allowed)

    level = BiLevel(net, [alpha], mixture, lr=0.3, arch_lr=arch_lr, order=order)
    batches = [(torch.randn(6, 3, dtype=torch.float64), torch.randint(2, (6,))) for _ in range(2)]
    return level, alpha, batches


def loss_at(level, weights, mixing, batch):
    """Of the net with its parameters replaced, with graph."""
    level.net.mix(mixing, np.array([[True, True]]))
    names = [name for name, _ in level.net.named_parameters()]
    logits = torch.func.functional_call(level.net, dict(zip(names, weights, strict=True)), batch[0])
    return torch.nn.functional.cross_entropy(logits, batch[1])


@pytest.mark.parametrize("steps", [0, 2])
def test_second_order_is_the_gradient_through_the_unrolled_step(steps):
    """Against autograd; with momentum in the buffer after a step or two."""
    level, alpha, (train, val) = problem(order=2)
    for _ in range(steps):
        level.weight_step(train)
    w = list(level.net.parameters())
    past = [level.weights.state[p].get("momentum_buffer", 0) if steps else 0 for p in w]
    before = [p.detach().clone() for p in w]
    mixing = alpha.softmax(-1)
    down = torch.autograd.grad(loss_at(level, w, mixing, train), w, create_graph=True)
    xi = level.weights.param_groups[0]["lr"]
    stepped = [
        p - xi * (g + WEIGHT_DECAY * p.detach() + MOMENTUM * b)
        for p, g, b in zip(w, down, past, strict=True)
    ]
    (exact,) = torch.autograd.grad(loss_at(level, stepped, mixing, val), alpha)
    level.architecture_step(val, train)
    torch.testing.assert_close(alpha.grad, exact, rtol=2e-3, atol=1e-7)
    for p, b in zip(level.net.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), b, rtol=0, atol=0)
    first, again, (train, val) = problem(order=1)
    first.architecture_step(val, train)
    assert not torch.allclose(again.grad, exact, rtol=2e-2)


def test_first_order_is_the_gradient_at_the_weights():
    level, alpha, (train, val) = problem(order=1)
    mixing = alpha.softmax(-1)
    (exact,) = torch.autograd.grad(loss_at(level, list(level.net.parameters()), mixing, val), alpha)
    level.architecture_step(val, train)
    torch.testing.assert_close(alpha.grad, exact)
    assert all(p.grad is None for p in level.net.parameters())
    beta, g = level.mixed, level.gradient
    torch.testing.assert_close(alpha.grad, beta * (g - (beta * g).sum(-1, keepdim=True)))


def test_weights_outside_of_the_mask_stay():
    level, _, (train, val) = problem(order=1, mask=(True, False))
    level.architecture_step(val, train)
    before = [p.detach().clone() for p in level.net.op.ops[1].parameters()]
    inside = level.net.op.ops[0].weight.detach().clone()
    level.weight_step(train)
    level.weight_step(train)
    for p, b in zip(level.net.op.ops[1].parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), b, rtol=0, atol=0)
    assert not torch.equal(level.net.op.ops[0].weight, inside)


def test_the_schedule_is_a_cosine():
    level, *_ = problem(order=1)
    rates = []
    for progress in (0, 0.5, 1):
        level.schedule(progress)
        rates.append(level.weights.param_groups[0]["lr"])
    np.testing.assert_allclose(rates, [0.3, 0.1505, 0.001])


def test_state_round_trips():
    level, alpha, (train, val) = problem(order=1)
    level.architecture_step(val, train)
    level.weight_step(train)
    other, beta, _ = problem(order=1)
    other.load_state(deepcopy(level.state()))
    for _ in range(2):
        for each in (level, other):
            each.architecture_step(val, train)
            each.weight_step(train)
    torch.testing.assert_close(alpha, beta, rtol=0, atol=0)
    for p, q in zip(level.net.parameters(), other.net.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0)


def test_batch_n_depends_on_the_seed_and_n_alone():
    data = digits()
    stream = Stream(data, data.train, 100, seed=3)
    assert stream.steps == 7
    first = [stream[n] for n in range(14)]
    other = Stream(data, data.train, 100, seed=3)
    for n in (9, 2, 13):
        torch.testing.assert_close(other[n][0], first[n][0])
        torch.testing.assert_close(other[n][1], first[n][1])
    assert not torch.equal(Stream(data, data.train, 100, seed=4)[0][1], first[0][1])
    assert not torch.equal(first[0][1], first[7][1])
    epoch = torch.cat([x for x, _ in first[:7]]).flatten(1)
    assert len(torch.unique(epoch, dim=0)) > 690
    halves = [Stream(data, data.train, 100, seed=3, share=(rank, 2))[5][0] for rank in (0, 1)]
    torch.testing.assert_close(torch.cat(halves), first[5][0])
    assert len(Stream(data, data.train, 9999, seed=3)[4][1]) == 797


class Squares(torch.utils.data.Dataset):
    """Images that tell their own number."""

    def __len__(self):
        return 40

    def __getitem__(self, i):
        return np.full((3, 8, 8), i, np.uint8), i % 4


def test_a_dataset_of_the_users_own(monkeypatch):
    data = load(Squares(), seed=1)
    assert (data.in_channels, data.resolution, data.num_classes) == (3, 8, 4)
    assert len(data.train[1]) == len(data.val[1]) == 20
    seen = torch.cat([data.train[0], data.val[0]])[:, 0, 0, 0]
    assert sorted(seen.tolist()) == list(range(40))
    assert (seen % 4 == torch.cat([data.train[1], data.val[1]])).all()
    assert abs(float(data.normalise(data.train[0]).mean())) < 1e-5
    monkeypatch.setattr("nasplug.nn.data.IN_MEMORY", 0)
    lazy = load(Squares(), seed=1)
    assert isinstance(lazy.train[0], OnDisk)
    for n in (0, 1, 7):
        for a, b in zip(
            Stream(lazy, lazy.train, 6, 0)[n], Stream(data, data.train, 6, 0)[n], strict=True
        ):
            torch.testing.assert_close(a, b)
    with pytest.raises(NasplugError, match="channels, height, width"):
        load([(np.zeros((8, 8)), 0)] * 4).size(NB201())
    with pytest.raises(NasplugError, match="class labels are whole numbers from 0 on"):
        load([(np.zeros((1, 8, 8)), -1)] * 4)

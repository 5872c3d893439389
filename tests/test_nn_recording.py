"""A step recorded as a CUDA graph; where there is no GPU, something that computes again."""

import numpy as np
import pytest

import nasplug
from nasplug.run.directory import RunDirectory

torch = pytest.importorskip("torch")

from nasplug.nn import bilevel, recording  # noqa: E402
from nasplug.nn.recording import Recording, repeats  # noqa: E402


@pytest.fixture
def recorded(monkeypatch):
    """What was recorded: a list of shapes of inputs for each time."""
    times = []

    def record(compute, inputs, pool):
        times.append([tuple(x.shape) for x in inputs])
        outputs = compute(*inputs)

        def replay():
            for out, again in zip(outputs, compute(*inputs), strict=True):
                if out is not None:
                    out.data.copy_(again)

        return replay, outputs

    monkeypatch.setattr(recording, "record", record)
    return times


def test_what_comes_again_is_recorded_once(recorded):
    def double(x):
        return [2 * x, None]

    step = Recording(None)
    keys = "aabaaabb"
    found = [float(step(k, double, [torch.tensor(float(i))])[0]) for i, k in enumerate(keys)]
    assert found == [2.0 * i for i in range(len(keys))]
    assert len(recorded) == 3  # at the second of a row; a row ends when another key comes
    assert step(0, double, [torch.tensor(3.0)])[1] is None


def test_inputs_stay_as_they_are_and_have_gradients(recorded):
    x = torch.ones(2, requires_grad=True)

    def slope(x):
        return list(torch.autograd.grad((x**2).sum(), [x]))

    step = Recording(None)
    for value in (1.0, 2.0, 3.0, 4.0):
        with torch.no_grad():
            x.fill_(value)
        assert step("", slope, [x])[0].tolist() == [2 * value] * 2
    assert x.grad is None
    assert len(recorded) == 1


def test_modules_of_others_may_do_anything():
    class Own(torch.nn.Conv2d):
        pass

    def loss(output, labels):
        return output.mean()

    conv, net = torch.nn.Conv2d(3, 3, 1), nasplug.space("nb201:C=4,N=1").supernet()
    assert repeats([conv, torch.nn.CrossEntropyLoss(), torch.nn.functional.cross_entropy])
    assert repeats(net.modules())
    assert not repeats([conv, torch.nn.Dropout()])  # it draws
    assert not repeats([conv, Own(3, 3, 1)])
    assert not repeats([loss])


@pytest.mark.parametrize("name", ["darts", "pc-darts", "ddsas", "proxyless"])
def test_a_search_recorded_is_the_same_search(name, recorded, monkeypatch, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (96, 3, 8, 8), np.uint8)
    settings = {"darts": {"order": 1}, "pc-darts": {"warmup": 1}, "ddsas": {"M": 5}}.get(name, {})

    def journal(out):
        nasplug.search(
            name, space=nasplug.space("nb201:C=4,N=1"), data=(pixels, np.arange(96) % 3),
            budget=2, batch=8, seed=0, out=tmp_path / out, tracking=False, **settings,
        )  # fmt: skip
        return RunDirectory.open(tmp_path / out).journal.read()

    plain = journal("plain")
    assert not recorded  # there is no GPU
    made = bilevel.BiLevel.__init__

    def recordable(self, *args, **options):
        made(self, *args, **options)
        self.recordable = True

    monkeypatch.setattr(bilevel.BiLevel, "__init__", recordable)
    again = journal("recorded")
    for this, that in zip(plain, again, strict=True):
        assert this.arch == that.arch
        assert this.value == that.value
        assert this.metrics["loss"] == that.metrics["loss"]
    assert bool(recorded) == (name != "proxyless")  # which draws other paths in every step


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_cuda_graph_computes_the_same():
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(3, 4, 3, device="cuda")

    def passes(x):
        loss = layer(x).square().mean()
        return [loss.detach(), *torch.autograd.grad(loss, [layer.weight])]

    step = Recording(torch.cuda.graph_pool_handle())
    for _ in range(4):
        x = torch.randn(2, 3, 8, 8, device="cuda")
        for found, right in zip(step("", passes, [x]), passes(x), strict=True):
            np.testing.assert_array_equal(found.cpu(), right.cpu())

import json

import numpy as np
import pytest

import nasplug
from nasplug import NasplugError

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from nasplug.nn import BiLevel, Mixture, initialise  # noqa: E402
from nasplug.testing import method_checks  # noqa: E402
from nasplug_ostr.features import features  # noqa: E402
from nasplug_ostr.method import CRITERIA, OStrDarts  # noqa: E402

ON = "nb201:C=2,N=1/digits"
WIDER = "nb201:C=4,N=1/digits"  # for a quarter of the channels
SPACES = ["nb201:C=2,N=2", "darts:C=2,layers=3", "macro:C=4", "manual-irb:C=4"]


def run(budget=2, seed=0, on=ON, within=None, **options):
    method = OStrDarts(**({"batch": 256} | options))
    selection = nasplug.search(
        method, on=on, budget=budget, seed=seed, within=within, tracking=False
    )
    return selection, method


@pytest.mark.parametrize("check", method_checks("ostr-darts"))
def test_it_behaves(check):
    check()


@pytest.mark.parametrize("name", SPACES)
def test_strength_from_features_is_the_gradient_of_alpha(name):
    """Eq. 8 against eq. 9 and, since cells share α, eq. 10."""
    space = nasplug.space(name).for_data("digits")
    net = initialise(space.supernet, 0).double()
    generator = torch.Generator().manual_seed(1)
    there = net.exists
    alpha = torch.randn(there.shape, generator=generator, dtype=torch.float64).requires_grad_()

    def weights():
        return alpha.masked_fill(torch.from_numpy(~there), -torch.inf).softmax(-1)

    level = BiLevel(net, [alpha], lambda: Mixture(weights(), there))
    x = torch.randn(4, 1, 8, 8, generator=generator, dtype=torch.float64)
    batch = x, torch.randint(10, (4,), generator=generator)
    _, strength = features(net, Mixture(weights().detach(), there), batch)
    level.architecture_step(batch, batch)
    torch.testing.assert_close(strength, alpha.grad.abs(), rtol=1e-9, atol=1e-12)
    assert float(strength.max()) > 1e-4


def test_the_four_criteria_on_one_supernet():
    _, method = run(budget=1)
    beta = torch.tensor([[0.2, 0.5, 0.3]])
    gradients = [torch.tensor([[1.0, -2.0, 0.5]]), torch.tensor([[-1.0, 0.4, 2.0]])]
    method.alpha = torch.zeros(1, 3, requires_grad=True)
    method.sums = {name: torch.zeros(1, 3) for name in CRITERIA}
    method.batches = 0
    expected = np.zeros((3, 3))
    for g in gradients:
        method.bilevel.mixed, method.bilevel.gradient = beta, g
        method.alpha.grad = beta * (g - (beta * g).sum())
        method.after_step()
        centred = np.abs((g - (beta * g).sum()).numpy()[0])
        expected += [beta.numpy()[0] * centred, centred, np.abs((beta * g).numpy()[0])]
    method.mask = np.ones((1, 3), bool)
    for name, values in zip(CRITERIA[:3], expected / 2, strict=True):
        np.testing.assert_allclose(method.criteria()[name][0], values, rtol=1e-5)  # eq. 11


def test_every_epoch_keeps_the_values_of_all_four():
    selection, method = run(budget=2)
    for note in selection.search.trials.notes.values():
        assert {name: np.shape(v) for name, v in note["criteria"].items()} == dict.fromkeys(
            CRITERIA, (6, 5)
        )
    last = json.loads(json.dumps(selection.search.trials.notes[1]))["criteria"]
    arch = np.argmax(last[method.criterion], axis=1)
    np.testing.assert_array_equal(arch, method.arch)
    np.testing.assert_allclose(np.sum(last["magnitude"], 1), 1, atol=0.01)


@pytest.mark.parametrize(
    "options", [{"criterion": "magnitude"}, {"variant": "pc-darts", "on": WIDER}]
)
def test_other_criteria_and_variants_run(options):
    selection, _ = run(**options)
    assert 0 <= selection.best.value <= 100


def test_the_search_stops_when_the_arch_stays():
    selection, _ = run(budget=30, criterion="magnitude", patience=2, arch_lr=1e-6)
    assert len(selection.search.trials) < 30
    assert selection.search.stopped == "the arch has not changed for 2 epochs"


def test_warmup_selects_by_magnitude_and_does_not_count_as_staying():
    selection, method = run(budget=4, warmup=3, patience=2, variant="pc-darts", on=WIDER)
    archs = selection.search.trials.archs
    assert len(archs) == 4
    assert method.unchanged == 0
    assert archs[0].any()  # not none on every edge, as where no gradient says anything
    np.testing.assert_array_equal(archs[1:3], archs[[0, 0]])


def test_bad_input():
    with pytest.raises(NasplugError, match="one of strength, strength"):
        run(criterion="size")
    ball = nasplug.Ball(nasplug.space("nb201"), [0] * 6, 2)
    with pytest.raises(NasplugError, match=r"cannot be restricted to a ball .*it takes masks"):
        run(within=ball)
    with pytest.raises(NasplugError, match="warmup=2 leaves none of 2 epochs"):
        run(warmup=2)

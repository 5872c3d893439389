from dataclasses import replace

import numpy as np
import pytest

import nasplug
from nasplug import Mask, NasplugError

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from nasplug.nn import load  # noqa: E402
from nasplug.testing import method_checks  # noqa: E402
from nasplug_ddsas.method import DDSAS, NEVER, STEPS, saliency, sample, shrink, ucb  # noqa: E402

TINY = {"batch": 256}  # 3 steps in an epoch
ON = "nb201:C=2,N=1/digits"
SPACE = nasplug.space("nb201")
GROUPS = [[0, 1, 2], [3, 4, 5]]
CUT = np.arange(5) == np.zeros((6, 1))  # the first operation of each edge is none


def run(budget=2, seed=0, on=ON, within=None, plugins=(), **options):
    method = DDSAS(**(TINY | options))
    selection = nasplug.search(
        method, on=on, budget=budget, seed=seed, within=within, plugins=plugins, tracking=False
    )
    return selection, method


@pytest.mark.parametrize("check", method_checks("ddsas"))
def test_it_behaves(check):
    check()


def test_ucb_by_hand():
    p = np.array([[0.5, 0.2, 0.9]])
    bound = ucb(p, 4, np.array([[1, 2, 0]]))
    expected = [0.5 + np.sqrt(2 * np.log(4)), 0.2 + np.sqrt(np.log(4)), 0.9 + NEVER]
    np.testing.assert_allclose(bound[0], expected)
    np.testing.assert_allclose(ucb(p, 1, np.ones((1, 3), int)), p)
    assert np.isfinite(ucb(p, 0, np.zeros((1, 3), int))).all()


def test_saliency_is_the_running_mean_of_the_subspaces_that_had_the_operation():
    s, t = np.zeros((1, 2)), np.zeros((1, 2), int)
    sequence = [
        ([1, 1], [0.2, 0.4]),
        ([1, 0], [0.6, 0.0]),
        ([0, 1], [0.0, 0.1]),
        ([1, 1], [0.1, 0.7]),
    ]
    for present, joint in sequence:
        Z = np.array([present], bool)
        t += Z
        s = saliency(s, t, Z, np.array([joint]))
    np.testing.assert_allclose(s, [[(0.2 + 0.6 + 0.1) / 3, (0.4 + 0.1 + 0.7) / 3]])  # eq. 12


@pytest.mark.parametrize("L", [4, 7, 15])
def test_a_subspace_has_l_operations_of_each_cell_and_one_on_every_edge(L):
    rng = np.random.default_rng(L)
    everything = np.ones((6, 5), bool)
    for _ in range(20):
        confidence = rng.random((6, 5))
        Z = sample(confidence, everything, L, GROUPS, CUT)
        for edges in GROUPS:
            assert Z[edges].sum() == L
            assert Z[edges][:, 1:].any(1).all()
            best = 1 + confidence[edges, 1:].argmax(1)
            assert Z[edges, best].all()
            spare = np.ones((3, 5), bool)
            spare[np.arange(3), best] = False
            taken, left = confidence[edges][spare & Z[edges]], confidence[edges][spare & ~Z[edges]]
            assert not len(taken) or not len(left) or taken.min() > left.max()
    few = np.zeros((6, 5), bool)
    few[:, [0, 2]] = True
    np.testing.assert_array_equal(sample(rng.random((6, 5)), few, 7, GROUPS, CUT), few)


def test_shrinking_takes_the_least_salient_and_never_empties_an_edge():
    rng = np.random.default_rng(0)
    allowed = np.ones((6, 5), bool)
    s = rng.random((6, 5))
    smaller = shrink(allowed, s, GROUPS, CUT)
    for edges in GROUPS:
        lowest = np.sort(s[edges].ravel())[:3]
        np.testing.assert_array_equal(np.sort(s[edges][~smaller[edges]]), lowest)
    for _ in range(10):
        allowed = shrink(allowed, s, GROUPS, CUT)
        assert allowed[:, 1:].any(1).all()
    np.testing.assert_array_equal(allowed.sum(1), 1)
    np.testing.assert_array_equal(allowed.argmax(1), 1 + s[:, 1:].argmax(1))


def test_shrinking_leaves_an_edge_that_may_only_be_cut():
    allowed = np.ones((6, 5), bool)
    allowed[0, 1:] = False
    smaller = shrink(allowed, np.zeros((6, 5)), GROUPS, CUT)
    assert smaller[0].tolist() == [True, False, False, False, False]
    assert [smaller[edges].sum() for edges in GROUPS] == [11 - 3, 15 - 3]


def test_what_was_deleted_is_not_selected():
    """Not even if p q, which goes on being learned, says later that it was the best."""
    _, method = run(2, mode="shrink", period=1, M=1, criterion="joint")
    best = np.where(method.allowed, -np.inf, 0).argmax(1)  # of each edge one that is gone
    with torch.no_grad():
        method.alpha[np.arange(6), best] = 50.0
    assert method.allowed[np.arange(6), method.selected()].all()


def test_expanding_adds_an_operation_and_keeps_what_was_learned():
    _, method = run(budget=2, mode="expand", period=2, M=3)
    assert method.allowed.sum(1).tolist() == [4] * 6  # none, skip, conv 3x3 and now the pool
    assert method.allowed[:, 4].all()
    assert not method.t[:, [2, 4]].any()  # nothing new before
    assert not method.saliency[:, [2, 4]].any()
    assert (method.saliency[:, 3] > 0).all()
    alpha, zeta, s = (
        x.copy()
        for x in (method.alpha.detach().numpy(), method.zeta.detach().numpy(), method.saliency)
    )
    method._resize()
    assert method.allowed.all()
    np.testing.assert_array_equal(method.alpha.detach().numpy(), alpha)
    np.testing.assert_array_equal(method.zeta.detach().numpy(), zeta)
    np.testing.assert_array_equal(method.saliency, s)


class Watch:
    """What is trained in every round, and what the method may open."""

    def __init__(self):
        self.trained, self.open = [], []

    @nasplug.hookimpl
    def update(self, search):
        self.trained.append(search.method.mask)
        self.open.append(search.method.allowed.copy())


@pytest.mark.parametrize("mode", ["static", "shrink", "expand"])
def test_no_mode_leaves_the_region(mode):
    """The pool that expand would add next is not in it, nor is the 1x1 convolution on edge 0."""
    ops = SPACE.decisions["1<-0"]
    region = Mask(SPACE, dict.fromkeys(SPACE.names, ops[:4]) | {"1<-0": ops[:2] + ops[3:4]})
    watch = Watch()
    found, method = run(4, mode=mode, period=1, M=1, within=region, plugins=[watch])
    for mask in (*watch.trained, *watch.open):
        assert not (mask & ~region.allowed).any()
    assert region.contains(found.search.trials.archs).all()
    assert not (method.t.astype(bool) & ~region.allowed).any()
    sizes = [mask.sum() for mask in watch.open]
    if mode == "expand":
        assert sizes[0] == 6 * 3  # none, skip and conv 3x3 at first
        np.testing.assert_array_equal(watch.open[-1], region.allowed)  # conv 1x1 where it may be
    else:
        assert sizes[0] == region.allowed.sum()
        assert (sizes[-1] < sizes[0]) == (mode == "shrink")


def test_expanding_needs_what_it_starts_from():
    region = Mask(SPACE, {"1<-0": ["none", "avg_pool_3x3"]})
    with pytest.raises(NasplugError, match=r"mode=expand starts from none, skip_connect.*lacks"):
        run(mode="expand", within=region)


def test_layers_are_searched_as_edges_are():
    found, method = run(1, on="macro:C=4/digits", M=2)
    assert method.Z.sum() == method.size == 16  # two for each of eight layers
    assert method.Z.any(1).all()
    assert found.best.arch.shape == (8,)


def test_every_subspace_is_searched_for_m_steps_and_counted():
    selection, method = run(budget=4, M=2)  # 12 steps
    assert method.T == 6
    assert method.t.sum() == 6 * 12  # L = 12
    assert selection.search.trials.metrics["subspaces"].tolist() == [2, 3, 5, 6]
    assert len(selection.search.trials) == 4


def test_subspaces_of_the_warmup_are_random_and_do_not_count():
    seen = []

    class Watch:
        @nasplug.hookimpl
        def update(self, search):
            method = search.method
            seen.append((method.T, method.t.sum(), method.saliency.any(), method.Z.copy()))

    _, method = run(budget=2, warmup=1, M=1, plugins=[Watch()])
    for T, t, salient, Z in seen[:3]:  # steps of the first epoch
        assert (T, t, salient, Z.sum()) == (0, 0, False, 12)
    assert len(np.unique([Z for *_, Z in seen[:3]], axis=0)) == 3
    assert method.T == 3
    assert method.t.sum() == 3 * 12


def test_the_mixture_is_eq_7():
    _, method = run(budget=1)
    alpha, zeta = method.alpha.detach().double().numpy(), method.zeta.detach().double().numpy()
    q = np.where(method.Z, np.exp(alpha), 0)
    pq = q / q.sum(1, keepdims=True) / (1 + np.exp(-zeta))
    weights = method.mixture().weights.detach().numpy()
    np.testing.assert_allclose(weights, pq / pq.sum(1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("criterion", ["saliency", "joint"])
def test_an_epoch_notes_what_may_select(criterion):
    region = Mask(SPACE, {"1<-0": ["skip_connect", "nor_conv_3x3"]})
    found, method = run(budget=1, M=1, within=region, arch_lr=0.1, criterion=criterion)
    alpha, zeta = method.alpha.detach().double().numpy(), method.zeta.detach().double().numpy()
    q = np.where(region.allowed, np.exp(alpha), 0)  # not only of the last subspace
    noted = found.search.trials.notes[0]["criteria"]
    expected = q / q.sum(1, keepdims=True) / (1 + np.exp(-zeta))
    np.testing.assert_allclose(noted["joint"], expected, rtol=1e-3)
    np.testing.assert_allclose(noted["saliency"], method.saliency, rtol=1e-3)
    selecting = np.where(CUT | ~region.allowed, -np.inf, noted[criterion])
    np.testing.assert_array_equal(found.best.arch, selecting.argmax(1))


@pytest.mark.parametrize("options", [{"mode": "expand", "M": 1}, {"M": 3}, {"warmup": 1, "M": 3}])
def test_what_was_never_drawn_is_not_selected(options):
    """Neither what an expanding space has not opened nor, in the first subspace, all the rest."""
    watch = Watch()
    epochs = 1 + options.get("warmup", 0)
    found, _ = run(epochs, criterion="joint", arch_lr=0.1, plugins=[watch], **options)
    arch, drawn = found.search.trials.archs[0], np.any(watch.trained[:3], axis=0)
    assert drawn[np.arange(6), arch].all()
    joint = np.array(found.search.trials.notes[0]["criteria"]["joint"])
    np.testing.assert_array_equal(joint > 0, watch.trained[0] if options["M"] == 3 else drawn)


def test_by_default_a_subspace_is_searched_for_an_epoch_at_most():
    assert run(budget=1)[1].stay == 3
    assert run(budget=1, batch=16)[1].stay == STEPS


def test_l_and_m_are_tuned_within_what_the_space_has():
    for name, edges, ops in (("nb201", 6, 30), ("darts", 14, 112), ("macro:C=4", 8, 24)):
        ranges = DDSAS.ranges(nasplug.space(name))
        assert (ranges["L"].low, ranges["L"].high, ranges["L"].default) == (
            edges + 1,
            ops,
            2 * edges,
        )
        assert ranges["M"].default == STEPS
        # macro has none of the operations that an expanding space starts from
        assert ("expand" in ranges["mode"].choices) == (name != "macro:C=4")


def test_bad_input_says_what_fits():
    for L in (6, 31):
        with pytest.raises(NasplugError, match=f"L={L}: a subspace has 7 operations .* to 30"):
            run(L=L)
    with pytest.raises(NasplugError, match="one of static, shrink, expand"):
        run(mode="grow")
    with pytest.raises(NasplugError, match="lr must be within"):
        run(lr=1e30)
    broken = replace(load("digits"), mean=torch.full((1, 1, 1), torch.nan))
    with pytest.raises(NasplugError, match=r"loss is (nan|inf) at step \d+ .*Lower lr"):
        nasplug.search(DDSAS(**TINY), space=SPACE, data=broken, budget=1, tracking=False)

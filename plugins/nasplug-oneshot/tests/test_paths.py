import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import nasplug
from nasplug import ArchSet, Ball, Layered, NasplugError, Trials
from nasplug.kernel.registry import registry
from nasplug.kernel.search import Search
from nasplug.run.directory import RunDirectory

torch = pytest.importorskip("torch")

from nasplug.nn import mixed_ops  # noqa: E402
from nasplug.spaces.latency import LatencyTable  # noqa: E402
from nasplug.testing import method_checks  # noqa: E402
from nasplug_oneshot.paths import LatencyTarget, Target  # noqa: E402

TINY = (
    "nb201:C=2,N=1/digits", "darts:C=2,layers=3/digits", "macro:C=4/digits",
    "mobilenet:width=0.1/digits",
)  # fmt: skip
MANUAL = nasplug.space("manual-irb").for_data("digits")
TARGET = 3e5


def search(method, budget=2, seed=0, on="manual-irb/digits", within=None, **options):
    made = registry().get("method", method)(**options)
    return Search(nasplug.problem(on), made, method, budget=budget, seed=seed, within=within)


def cells():
    """A small layered region of open cells."""
    space = nasplug.space("open-cells").for_data("digits")
    rows = [space.layer_from_str(text) for text in ("zzzdzz+3", "zzzdzz+6", "dzzddz~3")]
    return Layered(space, [rows] * 6)


def few_archs(space):
    return ArchSet(space, space.canonical(space.sample(8, 0)))


def ball(space):
    return Ball(space, space.sample(1, 0)[0], 2)


# ---- multiply-adds


class Chain:
    """A supernet of two decisions between two choices each, beside 10 multiply-adds."""

    costs = np.array([[1.0, 5.0], [2.0, 3.0]])
    fixed = 10.0

    @property
    def space(self):
        return self

    def flops(self, archs):
        return 10 + self.costs[np.arange(2), archs].sum(1)

    def select(self, scores, region):
        return scores.argmax(1)


def test_the_best_path_within_a_target_by_hand():
    scores = np.array([[0.0, 1.0], [0.0, 3.0]])

    def chosen(limit):
        target = Target(Chain(), np.ones((2, 2), bool), None, limit)
        return target.within(scores).argmax(1).tolist()

    assert chosen(0) == [1, 1]
    assert chosen(18) == [1, 1]
    assert chosen(17) == [0, 1]  # the least is lost by layer 0, which also saves the most
    assert chosen(13) == [0, 0]
    scores = -scores  # now the best are the cheapest, and the dearest that fit are taken
    assert chosen(0) == [0, 0]
    assert chosen(13) == [0, 0]
    assert chosen(16) == [0, 1]  # no price makes it the best, and it is nearer
    assert chosen(17) == [1, 0]
    assert chosen(18) == [0, 0]  # everything fits
    with pytest.raises(NasplugError, match="the smallest network, which has 13"):
        chosen(12)


@pytest.mark.parametrize("on", [*TINY, "manual-irb/digits"])
def test_the_best_path_keeps_to_the_target_in_every_space(on):
    method = search("proxyless", on=on).method
    space, rng = method.net.space, np.random.default_rng(0)
    archs = space.sample(200, 0)
    limit = float(np.quantile(space.flops(archs), 0.2))
    target = Target(method.net, method.mask, space, limit)
    np.testing.assert_array_equal(target.allows(archs), space.flops(archs) <= limit)
    for _ in range(10):
        scores = np.where(method.mask, rng.normal(size=method.mask.shape), -np.inf)
        found = method.net.select(target.within(scores), space)
        assert space.flops(found[None])[0] <= limit
        assert space.flops(found[None])[0] >= 0.95 * limit or on != "manual-irb/digits"


def test_a_target_below_the_smallest_network_says_what_that_is():
    least = min(MANUAL.flops(np.array([[0, 0, 1, 0, 1, 0]])))
    for method in ("proxyless", "spos"):
        with pytest.raises(
            NasplugError, match=re.escape(f"the smallest network, which has {least:.4g}")
        ):
            search(method, target_madds=1000)


# ---- proxyless


def test_one_path_learns_weights_and_two_are_weighed():
    method = search("proxyless").method
    with torch.no_grad():
        assert (method.mixture().mask.sum(1) == 1).all()
    mixture = method.mixture()
    assert (mixture.mask.sum(1) == 2).all()
    assert np.allclose(mixture.weights.detach().sum(1), 1)
    zero = ~method.mask
    assert zero.sum() == 2, "no zero where the shape changes"
    for step in range(50):
        method.step = step
        assert not (method.mixture().mask & zero).any()


def test_the_penalty_is_how_far_the_expected_madds_are_off():
    method = search("proxyless", target_madds=TARGET, penalty=2.0).method
    p = method.mask / method.mask.sum(1, keepdims=True)
    with torch.no_grad():
        method.alpha.zero_()
    expected = method.net.fixed + (p * method.net.costs).sum()
    assert expected > TARGET
    assert method.off_target().item() == pytest.approx(2 * np.log(expected / TARGET), rel=1e-5)
    with torch.no_grad():
        method.alpha.copy_(-torch.from_numpy(method.net.costs) / 1e3)
    p = np.where(method.mask, np.exp(-method.net.costs / 1e3), 0)
    least = method.net.fixed + (p / p.sum(1, keepdims=True) * method.net.costs).sum()
    assert least < TARGET
    assert method.off_target().item() == pytest.approx(2 * np.log(TARGET / least), rel=1e-4)


def test_reinforce_follows_the_reward():
    """The gradient of log p, times the reward less its moving average."""
    method = search("proxyless", algorithm="reinforce").method
    with torch.no_grad():
        method.alpha.zero_()
    method.baseline = -100.0  # far below any reward: what was drawn becomes likelier
    before = method.alpha.detach().clone()
    method.architecture_step(method.val[0], method.train[0])
    gradient = method.alpha.grad.numpy()
    drawn = gradient < 0
    assert (drawn.sum(1) == 1).all()
    counts = method.mask.sum(1)
    advantage = -gradient[drawn] / (1 - 1 / counts)
    assert np.allclose(advantage, advantage[0], rtol=1e-4)
    assert 90 < advantage[0] < 100
    assert (method.alpha.detach() > before).numpy()[drawn].all()


@pytest.mark.parametrize("algorithm", ["gradient", "reinforce"])
def test_what_is_found_keeps_to_the_target(algorithm):
    run = search("proxyless", algorithm=algorithm, target_madds=TARGET)
    result = run.run()
    assert MANUAL.flops(result.best.arch[None])[0] <= TARGET
    assert (MANUAL.flops(run.trials.archs) <= TARGET).all()


# ---- latency, by a table


def latencies(space):
    """Made up, for each choice."""
    costs = np.random.default_rng(0).random((space.d, int(space.cardinalities.max())))
    return LatencyTable(space, costs, 0.5)


@pytest.mark.parametrize("algorithm", ["gradient", "reinforce"])
@pytest.mark.parametrize("on", ["manual-irb/digits", "macro:C=4/digits"])
def test_what_is_found_keeps_to_a_latency(on, algorithm):
    space = nasplug.problem(on, evaluator="train").space
    table = latencies(space)
    limit = float(np.quantile(table(space.sample(200, 0)), 0.2))
    result = nasplug.search(
        "proxyless", on, budget=1, latency=table, target_latency=limit, algorithm=algorithm,
        constraints=[f"latency<={limit}ms"], tracking=False,
    )  # fmt: skip
    assert table(result.best.arch[None])[0] <= limit
    method = result.search.method
    assert result.best.metrics["expected_latency"] == pytest.approx(
        method.target.fixed + (softmax(method) * method.target.costs).sum()
    )


def softmax(method):
    return method.logits.detach().softmax(-1).double().numpy()


def test_latencies_of_paths_add_up_to_those_of_archs():
    """Of a supernet whose layers lack a choice where the shape changes."""
    method = search("proxyless").method
    table = latencies(MANUAL)
    target = LatencyTarget(method.net, method.mask, MANUAL, 1e6, table)
    archs = MANUAL.sample(50, 0)
    summed = (method.net.chosen(archs) * target.costs).sum((1, 2))
    assert target.fixed + summed == pytest.approx(table(archs))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "target_latency is kept by a table"),
        ({"target_madds": 3e5, "latency": latencies(MANUAL)}, "not both"),
        ({"latency": latencies(MANUAL), "target_latency": 0.1}, "target_latency=0.1 is below"),
        (
            {"on": TINY[1], "latency": latencies(nasplug.space(TINY[1].split("/")[0]))},
            "whose archs leave edges out",
        ),
    ],
)
def test_a_wrong_target_latency_is_said(options, message):
    options = {"on": "manual-irb/digits", "target_latency": 3.0, **options}
    with pytest.raises(NasplugError, match=message):
        nasplug.search("proxyless", budget=1, tracking=False, **options)


# ---- spos


def test_fair_paths_train_every_choice_once():
    method = search("spos", sampling="fair").method
    runs = {}
    for i, rows in enumerate(method.net.layers.choices):
        for k in range(len(rows)):
            op = next(m for m in method.net.modules() if getattr(m, "decision", None) == i).ops[k]
            op.register_forward_hook(
                lambda *_, key=(i, k): runs.update({key: runs.get(key, 0) + 1})
            )
    method.weight_step(method.train[0])
    full = [(i, k) for i, k in runs if method.mask[i].sum() == 7]
    assert all(runs[key] == 1 for key in full)
    assert {runs[key] for key in runs} <= {1, 2}  # six choices and seven paths: one runs twice


def test_uniform_paths_are_uniform():
    method = search("spos").method
    counts = np.zeros(method.mask.shape)
    for step in range(3000):
        method.step = step
        (mixture,) = method._paths(1)
        counts += mixture.mask
    assert (counts.sum(1) == 3000).all()
    p = method.mask / method.mask.sum(1, keepdims=True)
    assert np.abs(counts / 3000 - p).max() < 0.03


def test_evolution_scores_new_archs_within_the_target():
    run = search("spos", budget=16, epochs=1, population=6, parents=3, target_madds=TARGET)
    result = run.run()
    archs = run.trials.archs
    assert len(archs) == 16
    assert len(MANUAL.unique(archs)) == 16
    assert (MANUAL.flops(archs) <= TARGET).all()
    assert run.trials.rounds[-1] > run.trials.rounds[0]
    assert result.best.value == run.trials.values.max()


# ---- both

METHODS = {
    "proxyless": {},
    "spos": {"epochs": 1, "population": 4, "parents": 2},
}
CHECKS = {
    f"{name}-{check}": check
    for name, options in METHODS.items()
    for check in method_checks(registry().get("method", name)(**options))
}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_they_behave(check):
    check()


@pytest.mark.parametrize("method", ["proxyless", "spos"])
def test_within_a_learned_space(method):
    region = cells()
    run = search(method, budget=2, on="open-cells/digits", within=region, epochs=1)
    result = run.run()
    assert region.contains(run.trials.archs).all()
    assert result.best.build()(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


ON = {
    "on": "manual-irb/digits", "budget": 16, "seed": 1, "tracking": False, "epochs": 1,
    "population": 4, "parents": 2,
}  # fmt: skip
KILLED = """
import json, sys, nasplug
nasplug.search("spos", out=sys.argv[1], **json.loads(sys.argv[2]))
"""


def scored(run):
    journal = RunDirectory(run).journal
    rows = [(row.arch, row.value) for row in journal.read()]
    journal.close()
    return rows


@pytest.mark.slow  # as in tests/test_nn_oneshot.py; it_behaves resumes in one process
def test_killed_and_resumed_is_never_killed(tmp_path):
    nasplug.search("spos", out=tmp_path / "whole", **ON)
    killed = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(killed), json.dumps(ON)])
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (killed / "checkpoint.npz").exists() and len(scored(killed)) >= 5:
            break
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 5 <= len(scored(killed)) < 16, "killed too late"
    nasplug.resume(killed)
    assert scored(tmp_path / "whole") == scored(killed)


@pytest.mark.parametrize("method", ["proxyless", "spos"])
def test_a_space_without_a_supernet_is_refused(method):
    with pytest.raises(NasplugError, match="evolve a space of a few first"):
        search(method, on="open-cells/digits")


@pytest.mark.parametrize(
    ("on", "make"),
    [(TINY[2], ball), (TINY[1], few_archs), ("open-cells/digits", few_archs)],
)
def test_paths_and_children_stay_in_any_region(on, make):
    """Such as the set of archs that a search space was shrunk to."""
    region = make(nasplug.problem(on, evaluator="train").space)
    options = {"epochs": 1, "batch": 512, "population": 2, "parents": 2}
    run = search("spos", budget=2, on=on, within=region, **options)
    method, reached = run.method, np.zeros(run.method.mask.shape, bool)
    for step in range(20):
        method.step = step
        (mixture,) = method._paths(1)
        assert region.contains(method.net.select(mixture.mask + 0.0)[None])[0]
        reached |= mixture.mask
    assert not (reached & ~method.mask).any()
    if make is few_archs:
        np.testing.assert_array_equal(method.mask, method.net.chosen(region.archs).any(0))
    method.step = 0
    assert region.contains(run.run().archs).all()
    assert region.contains(run.trials.archs).all()


def test_children_in_a_set_are_near_their_parents():
    """Where crossover makes no member, and changes of random decisions hardly one."""
    space = nasplug.space("shufflenetv2")
    centers = space.sample(40, 0)
    region = ArchSet(space, space.mutate(np.repeat(centers, 25, 0), 1))
    pocket = region.archs[space.distance(region.archs, centers[0]) == 1]

    class Scored:
        """A search that has scored two archs of a pocket."""

        rng = np.random.default_rng(0)
        trials = Trials(space, pocket[:2])

        def seen(self, archs):
            return np.array([(arch == self.trials.archs).all(1).any() for arch in archs], bool)

    Scored.space = space
    Scored.trials.tell(values=[1.0, 2.0])
    method = registry().get("method", "spos")(population=20, parents=2)
    method.target = Target(Chain(), None, None, 0)
    children = method._children(Scored(), region)
    assert len(children) == 20
    assert region.contains(children).all()
    near = (space.distance(children, centers[0]) <= 1).sum()
    assert near >= 5, "a child in 40 is there if they are drawn at random"


def test_one_shot_inside_of_what_lissnas_has_shrunk(tmp_path):
    """By the run directory, as ``--within`` has it."""
    pytest.importorskip("nasplug_lissnas")
    pytest.importorskip("sklearn")
    on, run = "shufflenetv2:C=4/digits", tmp_path / "shrunk"
    space = nasplug.problem(on, evaluator="train").space
    shrunk = nasplug.search(
        "lissnas", space=space, evaluate=lambda arch: float(space.flops(space.arch(arch)[None])[0]),
        budget=20, size=40, predictor="forest", out=run, tracking=False,
    ).subspace  # fmt: skip
    options = {"epochs": 1, "batch": 512, "population": 4, "parents": 2, "tracking": False}
    result = nasplug.search("spos", on, within=run, budget=4, **options)
    assert shrunk.size == 40
    assert shrunk.contains(result.search.trials.archs).all()
    np.testing.assert_array_equal(
        result.search.method.net.layers.choices[0].ravel(), np.unique(shrunk.archs[:, 0])
    )


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("spos", {"sampling": "fair"}, "not all in a set of 8 archs of manual-irb: take uniform"),
        ("spos", {"target_madds": 1000}, "target_madds=1000 is below the smallest network"),
        (
            "spos",
            {"on": "open-cells/digits", "within": ball(nasplug.space("open-cells:layers=6"))},
            "too many to train side by side",
        ),
        ("proxyless", {}, "cannot be restricted to a set of 8 archs .* uniformly drawn archs"),
    ],
)
def test_what_cannot_stay_in_a_set_says_so(method, options, message):
    with pytest.raises(NasplugError, match=message):
        search(method, **{"within": few_archs(MANUAL), **options})


def test_the_smallest_network_of_a_set_is_the_least_target():
    region = few_archs(MANUAL)
    least = float(MANUAL.flops(region.archs).min())
    run = search("spos", budget=1, within=region, target_madds=least, epochs=1, batch=512)
    assert MANUAL.flops(run.run().best.arch[None])[0] == least
    with pytest.raises(NasplugError, match=re.escape(f"which has {least:.4g}")):
        search("spos", within=region, target_madds=least - 1)


@pytest.mark.parametrize("on", TINY)
def test_uniform_paths_are_archs(on):
    method = search("spos", on=on).method
    space = method.net.space
    for step in range(20):
        method.step = step
        (mixture,) = method._paths(1)
        arch = method.net.select(mixture.mask + 0.0)
        np.testing.assert_array_equal(method.net.chosen(arch[None])[0], mixture.mask)
        assert space.contains(arch[None])[0]


def test_the_smaller_region_that_is_handed_over_is_where_paths_are_drawn():
    """Such as a wrapper of `propose` says."""
    region = nasplug.Mask(MANUAL, {f"layer{i}": ["k3e3", "k5e6"] for i in range(6)})

    class Within:
        @nasplug.hookimpl(wrapper=True)
        def propose(self, search, subspace):
            proposed = yield
            return region if isinstance(proposed, nasplug.Space) else proposed

    for method in ("proxyless", "spos"):
        run = search(method, epochs=1)
        run.pm.register(Within())
        run.run()
        kept = run.method.net.allowed(region)
        assert run.method.handed is region
        for op in mixed_ops(run.method.net):
            for k, module in enumerate(op.ops):
                if not kept[op.decision, k]:
                    assert all(p.grad is None for p in module.parameters())
        assert region.contains(run.trials.archs).all() == (method == "proxyless")

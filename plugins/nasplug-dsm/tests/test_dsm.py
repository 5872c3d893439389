"""DSM-NAS's parts against cases worked out by hand, and the whole of it on small spaces."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import parameters_to_vector

import nasplug
from nasplug import ArchSet, Ball, Mask, NasplugError, Space, hookimpl
from nasplug.kernel.registry import registry
from nasplug.testing import method_checks
from nasplug_dsm.controller import Controller, SubspaceConv, draw, edges_to_better, noise
from nasplug_dsm.method import DSM, improvements
from nasplug_dsm.policy import Edits, RandomPolicy

MIXED = Space({"a": list("abcde"), "b": [1, 2], "c": [0], "d": list(range(7))})


def value(arch: dict[str, Any]) -> float:
    """The best arch is a=e, b=2, c=0, d=6, at 16."""
    return "abcde".index(arch["a"]) + 3 * arch["b"] + arch["d"]


def dsm(budget: int = 30, space: Space = MIXED, evaluate: Any = value, **options: Any) -> Any:
    return nasplug.search(
        "dsm", space=space, evaluate=evaluate, budget=budget, tracking=False, **options
    )


def controller(space: Space = MIXED, M: int = 3, samples: int = 4, **options: Any) -> Controller:
    allowed = np.arange(space.cardinalities.max()) < space.cardinalities[:, None]
    defaults = {
        "hidden": 16, "graph": True, "clip_center": 1.5, "clip_edit": 0.6, "lr": 1e-2,
        "entropy": 0.1, "seed": 0,
    }  # fmt: skip
    return Controller(allowed, M, samples=samples, **{**defaults, **options})


# ---- the subspace graph


def test_edges_point_to_the_better_center():
    edges = edges_to_better(np.array([3.0, 1.0, 2.0]))
    assert set(map(tuple, edges.T.tolist())) == {(1, 0), (2, 0), (1, 2)}  # weaker -> better


def test_equal_centers_have_no_edge_between_them():
    assert edges_to_better(np.array([1.0, 1.0])).shape == (2, 0)


def test_edge_features_are_zero_where_components_agree():
    network = controller().network
    seen = []
    network.first.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs))
    centers = np.array([[0, 1, 0, 2], [0, 0, 0, 5]], np.int8)  # agree in the components a and c
    network.nodes(centers, np.array([1.0, 2.0]))
    h, edges, features = seen[0]
    assert edges.tolist() == [[0], [1]]
    parts = features.view(4, -1)
    assert (parts[[0, 2]] == 0).all()
    assert (parts[[1, 3]] != 0).all()
    assert torch.equal(features[0], h[1] - h[0])  # from the weaker to the better


def test_a_message_comes_from_the_neighbor():
    layer = SubspaceConv(2, 3, 4)
    x, e = torch.randn(3, 2), torch.randn(2, 3)
    out = layer(x, torch.tensor([[0, 1], [2, 2]]), e)  # 0 -> 2 <- 1
    W, b, V, U = layer.own.weight, layer.own.bias, layer.neighbor.weight, layer.edge.weight
    messages = (x[:2] @ V.T + e @ U.T).mean(0)
    assert torch.allclose(out[2], torch.relu(x[2] @ W.T + b + messages), atol=1e-6)
    assert torch.allclose(out[:2], torch.relu(x[:2] @ W.T + b), atol=1e-6)


# ---- edits


def test_a_child_is_a_copy_with_its_edits_applied_in_order():
    center = np.array([0, 0, 0, 0], np.int8)
    edits = Edits(np.array([[3, 3], [0, 1]]), np.array([[5, 6], [4, 1]]))
    children = edits.apply(center)
    assert children.tolist() == [[0, 0, 0, 6], [4, 1, 0, 0]]
    children[:] = 1
    assert center.tolist() == [0, 0, 0, 0]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), M=st.integers(1, 6), learned=st.booleans())
def test_edits_stay_within_reach_and_the_allowed_choices(seed, M, learned):
    rng = np.random.default_rng(seed)
    allowed = np.arange(7) < MIXED.cardinalities[:, None]
    policy = controller(M=M) if learned else RandomPolicy(allowed, M)
    centers = np.unique(MIXED.sample(3, rng), axis=0)
    k = policy.pick(centers, rng.random(len(centers)), np.zeros(len(centers), bool), rng)
    children = policy.edit(50, rng).apply(centers[k])
    assert Ball(MIXED, centers[k], M).contains(children).all()
    assert len(np.unique(children, axis=0)) > 1


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), M=st.integers(1, 6))
def test_edits_between_archs_lead_from_one_to_the_other(seed, M):
    rng = np.random.default_rng(seed)
    center = MIXED.sample(1, rng)[0]
    children = Ball(MIXED, center, M).sample(10, rng)
    edits = Edits.between(center, children, M)
    assert edits.components.shape == (10, M)
    assert (edits.apply(center) == children).all()


def test_draws_are_categorical():
    p = torch.tensor([0.2, 0.5, 0.3, 0.0])
    drawn = draw(p.log(), noise(np.random.default_rng(0), 20_000, 4))
    assert torch.bincount(drawn, minlength=4) / 20_000 == pytest.approx(p, abs=0.015)


# ---- learning


def probabilities(policy: Controller, centers: Any, scores: Any, closed: Any) -> dict[Any, float]:
    """Of every center and edit there is, for M=1."""
    net, found = policy.network, {}
    mask = torch.where(torch.from_numpy(closed), -1e9, 0.0)[None]
    for k in range(len(centers)):
        for c in range(net.d):
            for o in range(net.C):
                tokens = torch.tensor([[c], [net.d + c * net.C + o]])
                nodes = net.nodes(centers, scores)[None]
                log_p, _ = net(nodes, mask, torch.tensor([k]), tokens)
                found[k, c, o] = log_p.exp().item()
    return found


@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("graph", [True, False])
def test_edits_are_sampled_as_often_as_their_probability_says(clip, graph):
    policy = controller(M=1, clip_center=clip, clip_edit=clip, graph=graph)
    for p in policy.network.parameters():  # far from uniform
        p.data.mul_(5)
    rng = np.random.default_rng(1)
    centers, scores = MIXED.sample(3, rng), rng.random(3)
    closed = np.array([False, True, False])
    expected = probabilities(policy, centers, scores, closed)
    seen = dict.fromkeys(expected, 0.0)
    for _ in range(300):
        k = policy.pick(centers, scores, closed, rng)
        edits = policy.edit(100, rng)
        for c, o in zip(edits.components[:, 0], edits.choices[:, 0], strict=True):
            seen[k, c, o] += 1 / 30_000
    assert sum(expected.values()) == pytest.approx(1, abs=1e-5)
    by_center = [sum(p for key, p in expected.items() if key[0] == k) for k in range(3)]
    assert by_center[1] == 0
    for k in (0, 2):
        picks = sum(p for key, p in seen.items() if key[0] == k)
        assert picks == pytest.approx(by_center[k], abs=0.12)  # of 300 picks
        for (center, c, o), p in expected.items():
            if center == k:
                assert seen[k, c, o] / picks == pytest.approx(p / by_center[k], abs=0.03)
    assert np.std(list(expected.values())) > 0.005
    for (_, c, o), p in expected.items():
        assert p == 0 or (o < MIXED.cardinalities[c] and MIXED.cardinalities[c] > 1)


def policy_gradient(policy: Controller, rounds: list[Any]) -> list[torch.Tensor]:
    """Of -mean(advantage log p + entropy H) by the parameters, decision by decision in float64."""
    w = {name: p.detach().clone() for name, p in policy.network.named_parameters()}
    for p in w.values():
        p.requires_grad_()
    d, C, H = policy.network.d, policy.network.C, policy.network.lstm.hidden_size
    clip_center, clip_edit = policy.network.clip_center, policy.network.clip_edit

    def layer(name: str, x: torch.Tensor, edges: list[tuple[int, int]], e: Any) -> torch.Tensor:
        rows = []
        for i in range(len(x)):
            row = w[f"{name}.own.weight"] @ x[i] + w[f"{name}.own.bias"]
            into = [j for j, better in edges if better == i]
            for j in into:
                message = w[f"{name}.neighbor.weight"] @ x[j]
                message = message + w[f"{name}.edge.weight"] @ (e[i] - e[j])
                row = row + message / len(into)
            rows.append(row.clamp(min=0))
        return torch.stack(rows)

    def cell(x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[Any, Any]:
        gates = w["lstm.weight_ih_l0"] @ x + w["lstm.bias_ih_l0"]
        gates = gates + w["lstm.weight_hh_l0"] @ h + w["lstm.bias_hh_l0"]
        i, f, g, o = gates.view(4, H)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c

    terms = []
    for centers, scores, closed, picked, edits, advantages in rounds:
        h = w["embed.weight"][torch.from_numpy(centers) + torch.arange(d) * C].flatten(1)
        edges = [(j, i) for j, a in enumerate(scores) for i, b in enumerate(scores) if a < b]
        nodes = layer("second", layer("first", h, edges, h), edges, h)
        for n, advantage in enumerate(advantages):
            decisions = []  # (the logits of what may be chosen, which of them was)
            state = cell(nodes.mean(0), torch.zeros(H).double(), torch.zeros(H).double())
            open_ = np.flatnonzero(~closed)
            query = w["center.weight"] @ state[0] + w["center.bias"]
            logits = clip_center * torch.tanh(nodes @ query)
            decisions.append((logits[open_], list(open_).index(picked)))
            x = nodes[picked]
            for c, o in zip(edits.components[n], edits.choices[n], strict=True):
                state = cell(x, *state)
                free = np.flatnonzero(MIXED.cardinalities > 1)
                logits = w["edit.weight"][free] @ state[0] + w["edit.bias"][free]
                decisions.append((clip_edit * logits.tanh(), list(free).index(c)))
                state = cell(w["token.weight"][c], *state)
                start = d + c * C
                rows = slice(start, start + MIXED.cardinalities[c])
                logits = w["edit.weight"][rows] @ state[0] + w["edit.bias"][rows]
                decisions.append((clip_edit * logits.tanh(), o))
                x = w["token.weight"][start + o]
            for logits, action in decisions:
                p = logits.exp() / logits.exp().sum()
                bonus = -(p * p.log()).sum()
                terms.append(advantage * p[action].log() + policy.entropy * bonus)
    (-sum(terms) / sum(len(round[-1]) for round in rounds)).backward()
    return [p.grad for p in w.values()]


def test_the_gradient_is_the_policy_gradient_with_an_entropy_bonus():
    policy = controller(samples=100)
    policy.network.double()
    for p in policy.network.parameters():
        p.data.mul_(5)
    rng = np.random.default_rng(2)
    allowed = np.arange(7) < MIXED.cardinalities[:, None]
    closed, rounds = np.array([False, True, False]), []
    for _ in range(3):  # different centers, so different graphs, in one batch
        centers, scores = MIXED.sample(3, rng), rng.random(3)
        picked, advantages = 2, rng.normal(size=2)
        policy._nodes, policy._picked = policy.network.nodes(centers, scores), picked
        policy._closed = torch.where(torch.from_numpy(closed), -1e9, 0.0)
        edits = RandomPolicy(allowed, 3).edit(2, rng)
        policy.learn(edits, advantages)
        rounds.append((centers, scores, closed, picked, edits, advantages))
    policy.loss(policy._batch).backward()
    expected = policy_gradient(policy, rounds)
    for p, gradient in zip(policy.network.parameters(), expected, strict=True):
        assert gradient.abs().max() > 1e-4
        torch.testing.assert_close(p.grad, gradient, rtol=0, atol=1e-6)


@pytest.mark.parametrize("graph", [True, False])
def test_the_policy_learns_what_pays(graph):
    """Reward for setting a=e, none for the rest: soon most edits do."""
    policy = controller(M=1, graph=graph, clip_edit=0.0, samples=8)
    rng = np.random.default_rng(3)
    centers, scores, closed = MIXED.sample(3, rng), np.arange(3.0), np.zeros(3, bool)
    before = parameters_to_vector(policy.network.parameters()).clone()
    for _ in range(40):
        policy.pick(centers, scores, closed, rng)
        edits = policy.edit(8, rng)
        pays = (edits.components[:, 0] == 0) & (edits.choices[:, 0] == 4)
        policy.learn(edits, pays - 0.2)
    assert pays.mean() > 0.7
    changed = [name for name, p in policy.network.named_parameters() if not p.grad.eq(0).all()]
    assert {"embed.weight", "token.weight", "lstm.weight_hh_l0", "edit.weight"} <= set(changed)
    assert not torch.equal(before, parameters_to_vector(policy.network.parameters()))


def test_the_batch_is_what_makes_a_step():
    policy = controller(samples=3)
    rng = np.random.default_rng(4)
    before = parameters_to_vector(policy.network.parameters()).clone()
    for step in (False, False, True):
        policy.pick(MIXED.sample(2, rng), np.array([0.0, 1.0]), np.zeros(2, bool), rng)
        policy.learn(policy.edit(1, rng), np.ones(1))
        assert torch.equal(before, parameters_to_vector(policy.network.parameters())) is not step


# ---- Algorithm 1


class Spy:
    """Notes what the method held before and after each update."""

    def __init__(self) -> None:
        self.rounds: list[dict[str, Any]] = []

    @hookimpl(wrapper=True)
    def update(self, search: Any, trials: Any) -> Any:
        m = search.method
        before = {
            "centers": m.centers.copy(),
            "scores": search.scores(m.centers),
            "picked": m.picked,
        }
        result = yield
        self.rounds.append(
            {
                **before,
                "trials": trials,
                "after": m.centers.copy(),
                "scored": search.scores(m.centers),
            }
        )
        return result


@pytest.mark.parametrize(
    "options", [{}, {"parallel": 3}, {"unseen": False, "repeats": "count"}, {"M": 1, "K": 2}]
)
def test_only_a_better_child_replaces_its_center_and_only_that(options):
    spy = Spy()
    result = dsm(60, plugins=[spy], **options)
    method = result.search.method
    moves = 0
    for round in spy.rounds:
        if round["picked"] is None:
            continue
        k, trials = round["picked"], round["trials"]
        assert (MIXED.distance(trials.archs, round["centers"][k]) <= method.M).all()
        rest = np.arange(len(round["centers"])) != k
        assert (round["after"][rest] == round["centers"][rest]).all()
        better = len(trials) and trials.values.max() > round["scores"][k]
        moves += better
        center = round["centers"][k] if not better else trials.archs[trials.values.argmax()]
        assert (round["after"][k] == center).all()
        assert round["scored"][k] == value(MIXED.to_dict(center))  # no child aliases its center
    assert moves > 0
    assert result.best.value == result.search.scores(method.centers).max()


def test_the_reward_is_the_improvement():
    search = dsm(10, constraints=["size<=1"], evaluate=lambda arch: {"value": 1, "size": 0}).search
    trials = search.candidates(MIXED.sample(4, seed=0))
    trials.metric("size")[:] = [0, 0, 2, 2]
    trials.numbers[:] = -1
    trials.tell(values=[3.0, np.nan, 5.0, 1.0], metrics={"size": [0, 0, 2, 2]})
    rewards = improvements(trials, 2.0)
    assert rewards[[0, 2, 3]].tolist() == [1.0, 0.0, -1.0]  # what is infeasible improves nothing
    assert np.isnan(rewards[1])


def test_the_reward_of_what_is_minimised():
    search = dsm(5, direction="minimize").search
    trials = search.candidates(MIXED.sample(2, seed=0))
    trials.numbers[:] = -1
    trials.tell(values=[3.0, 1.0])
    assert improvements(trials, -2.0).tolist() == [-1.0, 1.0]
    assert dsm(60, direction="minimize").best.value == 3


@pytest.mark.parametrize("init", [None, [[4, 1, 0, 6]]])
def test_an_infeasible_child_never_becomes_a_center(init):
    spy = Spy()
    result = dsm(
        60, init=init, plugins=[spy], constraints=["size<=8"],
        evaluate=lambda arch: {"value": value(arch), "size": value(arch)},
    )  # fmt: skip
    assert (~result.search.trials.feasible).any()
    for round in spy.rounds:
        assert all(value(MIXED.to_dict(center)) <= 8 for center in round["after"])
    assert result.best.value == 8


@pytest.mark.parametrize("parallel", [1, 5])
@pytest.mark.parametrize("policy", ["learned", "random"])
@pytest.mark.parametrize(
    "region",
    [
        Mask(MIXED, {"a": ["b", "d"], "d": [0, 3, 4, 6]}),
        Ball(MIXED, [0, 0, 0, 0], 2),
        ArchSet(MIXED, MIXED.sample(25, seed=1)),
        ArchSet(MIXED, MIXED.sample(4, seed=1)),
    ],
    ids=lambda region: type(region).__name__,
)
def test_every_proposal_lies_in_the_region(region, policy, parallel):
    options = {"within": region, "policy": policy, "parallel": parallel, "K": 2}
    trials = dsm(25, **options).search.trials
    assert len(trials) == min(25, region.size)
    assert len(np.unique(trials.archs, axis=0)) == len(trials)
    repeated = dsm(25, unseen=False, repeats="count", **options).search.trials
    assert len(repeated) == 25
    for arch in [*trials.archs, *repeated.archs]:
        assert region.contains(arch[None]).all()


def test_another_plugin_may_say_where_to_look():
    few = Mask(MIXED, {"a": ["a", "b"]})

    class Elsewhere:
        @hookimpl(tryfirst=True)
        def sample_space(self, search):
            return few if search.round % 3 else None

    trials = dsm(30, plugins=[Elsewhere()]).search.trials
    assert few.contains(trials.archs[trials.rounds % 3 > 0]).all()
    assert not few.contains(trials.archs).all()


def test_a_space_is_searched_to_its_end():
    result = dsm(1000, M=1, K=3)
    assert len(result.search.trials) == MIXED.size
    assert result.search.stopped.startswith("nothing new")
    assert result.search.round < 3 * MIXED.size


def test_no_isomorph_of_what_was_scored_is_proposed():
    space = nasplug.space("nb201")
    trials = dsm(150, space=space, evaluate=lambda arch: len(set(arch.values()))).search.trials
    assert len(np.unique(space.canonical(trials.archs), axis=0)) == 150


def test_repeats_are_proposed_if_wanted():
    trials = dsm(100, unseen=False, repeats="count").search.trials
    assert trials.repeats.any()


# ---- what every method does


@pytest.mark.parametrize("check", method_checks("dsm"))
def test_it_behaves(check):
    check()


# ---- DSM-NAS+


def test_a_run_hands_over_its_final_centers(tmp_path: Path):
    """Not its ten best archs, which are near-duplicates."""
    found = dsm(60, out=tmp_path / "run")
    method = found.search.method
    order = np.argsort(-found.search.scores(method.centers), kind="stable")
    lines = (tmp_path / "run" / "init.txt").read_text().splitlines()
    assert lines == [MIXED.to_str(arch) for arch in method.centers[order]]
    again = dsm(4, init=tmp_path / "run", seed=5).search
    assert again.trials.archs.tolist() == method.centers[order].tolist()
    assert again.method.centers.tolist() == method.centers[order].tolist()


def test_fewer_first_archs_than_centers_are_filled_up():
    trials = dsm(20, init=[[4, 1, 0, 6]], K=3).search.trials
    assert trials.archs[0].tolist() == [4, 1, 0, 6]
    assert (trials.rounds == 0).sum() == 3


def test_of_more_first_archs_the_best_are_centers():
    first = [[0, 0, 0, 0], [4, 1, 0, 6], [0, 0, 0, 1], [3, 1, 0, 5]]
    search = dsm(4, init=first, K=2).search
    assert search.trials.archs.tolist() == first
    assert search.method.centers.tolist() == [first[1], first[3]]


def test_more_centers_than_archs_are_named():
    with pytest.raises(NasplugError, match=r"K=8 .* lower K to 6"):
        dsm(space=Space({"x": [1, 2, 3], "y": [1, 2]}), evaluate=lambda arch: 1.0, K=8)


# ---- switches


@pytest.mark.parametrize(
    "options",
    [
        {"graph": False},
        {"absolute": True},
        {"fixed": True},
        {"policy": "random"},
        {"policy": "random", "fixed": True},
        {"clip_center": 0, "clip_edit": 0},
        {"K": 1},
        {"M": 9},
        {"K": 4, "M": 4, "samples": 1, "unseen": False, "repeats": "count"},
    ],
    ids=str,
)
def test_every_switch_runs_and_finds(options):
    result = dsm(60, seed=1, **options)
    assert len(result.search.trials) == 60
    assert result.best.value >= 11


def test_fixed_subspaces_keep_their_centers():
    spy = Spy()
    dsm(100, M=1, fixed=True, plugins=[spy])
    assert all((round["after"] == spy.rounds[0]["after"]).all() for round in spy.rounds)


def test_absolute_reward_reaches_the_policy():
    heard = []
    for absolute in (False, True):
        method = DSM(absolute=absolute, decay=1.0, policy="random", parallel=2)
        learn = RandomPolicy.learn
        try:
            RandomPolicy.learn = lambda self, edits, gains: heard.append(gains.sum())
            nasplug.search(method, space=MIXED, evaluate=value, budget=40, tracking=False)
        finally:
            RandomPolicy.learn = learn
    half = len(heard) // 2
    assert heard[:half] != heard[half:]


def test_announced_without_importing_torch():
    code = "import sys, nasplug_dsm; assert not {'torch', 'torch_geometric'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert registry().get("method", "dsm") is DSM


def test_a_study_offers_no_more_centers_than_there_are_archs():
    assert DSM.ranges(nasplug.space("nb201"))["K"].high == 64
    few = DSM.ranges(Space({"a": range(3)}))["K"]
    assert (few.default, few.high) == (3, 3)

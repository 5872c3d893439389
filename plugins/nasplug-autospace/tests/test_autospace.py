import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import nasplug
from nasplug import Layered, NasplugError
from nasplug.kernel.registry import registry
from nasplug.kernel.search import Search
from nasplug.run.directory import RunDirectory
from nasplug_autospace.evolution import Rules, compensation, hamming, momentum, tournament
from nasplug_autospace.final import KINDS, kinds, union

torch = pytest.importorskip("torch")

from nasplug.nn import binary_gates, load  # noqa: E402
from nasplug.testing import method_checks  # noqa: E402

SPACE = nasplug.space("open-cells").for_data("digits")
LAYERS = np.arange(len(SPACE.layers))
BLOCK = SPACE.layer_from_str("zzzdzz+6")
LIMIT = 2.0 * SPACE.cell_costs(np.tile(BLOCK, (len(LAYERS), 1)), LAYERS)[:, 1]
SMALL = {"K": 3, "population": 8, "size": 2, "period": 5, "warmup": 0}


def search(budget=2, seed=0, **options):
    settings = {**SMALL, "epochs": budget, **options}
    made = registry().get("method", "autospace")(**settings)
    return Search(nasplug.problem("open-cells/digits"), made, "autospace", budget=budget, seed=seed)


@pytest.mark.parametrize("check", method_checks(registry().get("method", "autospace")(**SMALL)))
def test_it_behaves(check):
    check()


# ---- evolution by hand


def test_a_tournament_is_won_by_the_fittest_drawn():
    fitness = np.array([[0.1, 0.9, 0.5, 0.3], [4.0, 3.0, 2.0, 1.0]])
    rng = np.random.default_rng(0)
    assert tournament(fitness, 1, 4, rng).tolist() == [[1], [0]]
    assert tournament(fitness, 3, 4, rng).tolist() == [[1, 2, 3], [0, 1, 2]]
    everyone = tournament(fitness, 4, 2, rng)
    assert np.sort(everyone, 1).tolist() == [[0, 1, 2, 3]] * 2
    # Of two drawn from four, the fittest is among them half of the time.
    wins = [tournament(fitness, 1, 2, rng)[0, 0] for _ in range(2000)]
    assert abs(np.mean(np.array(wins) == 1) - 0.5) < 0.04
    assert 0 not in wins


def test_ties_of_a_tournament_are_won_at_random():
    """The first place won three of four draws, the last ones none."""
    rng, fitness = np.random.default_rng(0), np.zeros((1, 8))
    wins = np.bincount([tournament(fitness, 1, 4, rng)[0, 0] for _ in range(4000)], minlength=8)
    assert (abs(wins - 500) < 100).all()
    assert {tournament(np.array([[1.0, 2.0, 2.0]]), 1, 3, rng)[0, 0] for _ in range(50)} == {1, 2}


def test_compensation_and_momentum_by_hand():
    assert compensation(np.array([100, 100, 7]), np.array([25, 100, 0])).tolist() == [4, 1, 7]
    assert momentum(np.array([1.0, 2.0]), np.array([3.0, 0.0]), 0.75).tolist() == [1.5, 1.5]


def test_the_distance_is_that_of_the_dag():
    other = SPACE.layer_from_str("dzzdzz*3")
    assert hamming(np.stack([BLOCK, other]), BLOCK).tolist() == [0, 1]


def test_a_compensated_gradient_by_hand():
    """Two gates drawn, one open: dL/dα is that of their softmax, times T_pop / T_k (eq. 4)."""
    run = search(compensate=True)
    method = run.method
    method.step, method.born[:] = 9, 0
    method.drawn[:] = 0
    with torch.no_grad():
        method.alpha.zero_()
    mixture = method.mixture()
    pair = np.flatnonzero(mixture.mask[0])
    assert len(pair) == 2
    assert mixture.weights.detach()[0].sum() == 1
    slope = torch.zeros_like(mixture.weights)
    slope[0, pair[0]] = 1.0  # dL/dg
    mixture.weights.backward(slope)
    expected = np.zeros(3)
    expected[pair[0]], expected[pair[1]] = 0.25, -0.25  # p (1 - p) at p = 1/2
    assert np.allclose(method.alpha.grad[0], 10 * expected)  # 10 steps in all, 1 of them drawn
    off = search(compensate=False).method
    off.alpha.grad = None
    gates, mask = binary_gates(off.alpha, 2, torch.Generator().manual_seed(0))
    gates.backward(torch.from_numpy(mask).float() * torch.tensor([1.0, 0.0, 0.0]))
    assert off.alpha.grad.abs().max() <= 0.25


# ---- the rules


@pytest.mark.parametrize("distance", [2, 6])
def test_cells_keep_to_the_reference_and_to_the_limit(distance):
    rules = Rules(SPACE, LIMIT, BLOCK, distance)
    rng = np.random.default_rng(0)
    population = rules.first(20, rng)
    children, found = rules.mutate(population[:, :5], population, rng)
    assert found.mean() > 0.8
    for cells, real in ((population, np.ones((6, 20), bool)), (children, found)):
        assert (hamming(cells, BLOCK) <= distance)[real].all()
        cost = SPACE.cell_costs(cells, LAYERS[:, None])[..., 1]
        assert (cost <= LIMIT[:, None])[real].all()
    for old, new, real in zip(population, children, found, strict=True):
        rows = np.concatenate([old, new[real]])
        assert len(np.unique(rows, axis=0)) == len(rows)


def test_without_a_reference_any_cell_within_the_limit_may_live():
    population = Rules(SPACE, LIMIT, None, 0).first(30, np.random.default_rng(0))
    assert (SPACE.cell_costs(population, LAYERS[:, None])[..., 1] <= LIMIT[:, None]).all()
    assert hamming(population, BLOCK).max() > 4
    needed = [not layer.residual for layer in SPACE.layers]
    archs = population.transpose(1, 0, 2).reshape(30, -1)
    assert SPACE.is_valid(archs).all(), needed


def test_the_reference_is_dropped_after_its_share():
    run = search(budget=4, guided=0.5, period=1, reference="zzzdzz+6")
    seen = []

    class Watch:
        @nasplug.hookimpl
        def update(self, search):
            method = search.method
            seen.append((method.step / method.per_epoch, hamming(method.cells, BLOCK).max()))

    run.pm.register(Watch())
    run.run()
    assert all(far <= 2 for at, far in seen if at <= 2)
    assert max(far for at, far in seen if at > 3) > 2


# ---- the supernet


def test_one_path_runs_to_learn_weights_and_two_to_learn_fitness():
    method = search().method
    batch = method.train[0]
    runs = []
    for i, cells in enumerate(method.net.cells):
        for cell in cells:
            if cell is not None:
                cell.register_forward_hook(lambda *_, i=i: runs.append(i))
    method.bilevel.weight_step(batch)
    assert max(np.bincount(runs)) == 1
    runs.clear()
    method.bilevel.architecture_step(method.val[0], batch)
    assert max(np.bincount(runs)) <= 2


def kept(net, x, mask):
    """Bytes that a forward pass keeps for the backward pass."""
    total = {}

    def pack(tensor):
        total[tensor.data_ptr()] = tensor.nbytes
        return tensor

    gates = torch.ones(mask.shape, requires_grad=True)
    net.mix(gates, mask)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        net(x)
    return sum(total.values())


def test_memory_is_that_of_the_paths_and_not_of_all_cells():
    method = search(K=6).method
    x = torch.randn(64, 1, 8, 8)
    every = np.ones((6, 6), bool)
    one = every & (np.arange(6) == 0)
    two = every & (np.arange(6) < 2)
    full = kept(method.net, x, every)
    assert kept(method.net, x, one) < 0.35 * full
    assert kept(method.net, x, two) < 0.55 * full


def test_new_cells_inherit_what_their_operations_have_learned():
    method = search().method
    bank = method.net.banks[0]
    parent = SPACE.layer_from_str("zzzdzz+6")
    child = SPACE.layer_from_str("izzdiz~6")
    one, other = bank.cell(parent), bank.cell(child)
    assert other.edges["3"] is one.edges["3"]
    assert other.expand is one.expand
    before = one.edges["3"][0].weight.clone()
    with torch.no_grad():
        other.edges["3"][0].weight += 1
    assert torch.equal(one.edges["3"][0].weight, before + 1)


def test_an_inherited_network_computes_what_the_supernet_does():
    method = search().method
    arch = method.cells[:, 3].reshape(-1)
    held = method.net.layers
    model = method.net.inherit(arch)
    assert method.net.layers is held  # the search goes on with the cells that it has
    x = torch.randn(8, 1, 8, 8)
    assert torch.allclose(model(x), method.net(x), atol=1e-6)
    assert sum(p.numel() for p in model.parameters()) == SPACE.params(arch[None])[0]


# ---- the final space

WIDE = nasplug.space("open-cells:kernel=7").for_data("digits")
LEARNED = ("dzizzi+6", "czzpdz+3", "zzzizz+3")  # an inverted residual, a cell, one that works not


def final(space):
    return union(Layered(space, [[space.layer_from_str(text) for text in LEARNED]] * 6))


def test_the_final_space_has_kernels_inverted_residuals_and_zero():
    blocks, more = ["zzzdzz+3", "zzzdzz+6"], ["5zizzi+6", "czzp5z+3", "zzz5zz+3", "zzz5zz+6"]
    wide = [*more, *(text.replace("5", "7") for text in more)]
    for layer, few, many in zip(
        SPACE.layers, final(SPACE).names(), final(WIDE).names(), strict=True
    ):
        zero = ["zzzzzz+3"] if layer.residual else []
        assert few == [*LEARNED, *blocks, *zero]
        assert many == [*LEARNED, *blocks, *wide, *zero]
    again = union(final(SPACE))  # all distinct: nothing comes twice
    assert again.names() == final(SPACE).names()


def test_only_the_first_depthwise_operation_has_another_kernel():
    cells = union(Layered(WIDE, [[WIDE.layer_from_str("ddzzdd+3")]] * 6)).names()[0]
    assert [text for text in cells if not text.startswith("zzz")] == [
        "ddzzdd+3", "5dzzdd+3", "7dzzdd+3",
    ]  # fmt: skip


def test_the_kinds_of_cells():
    kind = {
        "zzzzzz+3": 0, "dzzzzz+6": 0, "zzz7zz+3": 1, "dzizzi+6": 1, "izzz5z+3": 1, "zzzpzz+6": 2,
        "zzzizz+3": 2, "dzzidz+3": 2, "dzziiz+3": 2, "dzzzdz+3": 2,
    }  # fmt: skip
    cells = np.array([WIDE.layer_from_str(text) for text in kind])
    assert dict(zip(kind, kinds(WIDE, cells).tolist(), strict=True)) == kind
    assert KINDS[kind["dzizzi+6"]] == "inverted residual"


# ---- searches


def test_a_search_ends_with_a_layered_space(tmp_path):
    result = nasplug.search(
        "autospace", on="open-cells:kernel=7/digits", budget=3, out=tmp_path / "run",
        tracking=False, **{**SMALL, "epochs": 3},
    )  # fmt: skip
    assert isinstance(result.subspace, Layered)
    for layer, rows in zip(WIDE.layers, result.subspace.choices, strict=True):
        kind = np.bincount(kinds(WIDE, rows), minlength=3)
        assert kind[0] == layer.residual
        assert kind[1] >= 6
        assert kind[2] >= 1
    assert result.subspace.contains(result.best.arch[None])[0]
    for name in ("learned-space.json", "subspace.npz", "cells.png", "fitness.png", "cell.png"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    space = nasplug.space(str(tmp_path / "run" / "learned-space.json"))
    assert space.size == result.subspace.size
    inside = nasplug.search("random", within=tmp_path / "run", budget=1, tracking=False)
    assert inside.search.problem.name == "open-cells:kernel=7/digits"
    assert result.subspace.contains(inside.best.arch[None])[0]


ON = {"on": "open-cells/digits", "budget": 4, "seed": 3, "tracking": False, "epochs": 4}
ON |= {**SMALL, "warmup": 1}
KILLED = """
import json, sys, nasplug
nasplug.search("autospace", out=sys.argv[1], **json.loads(sys.argv[2]))
"""


def scored(run):
    journal = RunDirectory(run).journal
    archs = [row.arch for row in journal.read()]
    journal.close()
    return archs


@pytest.mark.slow  # as in tests/test_nn_oneshot.py; it_behaves resumes in one process
def test_killed_and_resumed_is_never_killed(tmp_path):
    nasplug.search("autospace", out=tmp_path / "whole", **ON)
    killed = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(killed), json.dumps(ON)])
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        file = killed / "checkpoint.npz"
        if file.exists() and len(scored(killed)) >= 2:
            break
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 2 <= len(scored(killed)) < 4, "killed too late"
    nasplug.resume(killed)
    assert scored(tmp_path / "whole") == scored(killed)
    spaces = [
        json.loads((tmp_path / name / "learned-space.json").read_text())["layers"]
        for name in ("whole", "killed")
    ]
    assert spaces[0] == spaces[1]


def test_images_of_ones_own_size_the_network(tmp_path):
    data = load("digits")
    wide = [torch.cat([part[0]] * 2, 1) for part in (data.train, data.val, data.test)]
    labels = (data.train[1], data.val[1], data.test[1])
    parts = dict(zip(("train", "val", "test"), zip(wide, labels, strict=True), strict=True))
    found = nasplug.search(
        "autospace", space=nasplug.space("open-cells:C=8,layers=3"), budget=1, tracking=False,
        data=dataclasses.replace(data, **parts), out=tmp_path / "run", final="cells",
        **{**SMALL, "epochs": 1},
    )  # fmt: skip
    space = found.search.space
    assert (space.shape, space.sizes["classes"], len(space.layers)) == ((2, 8, 8), 10, 3)
    assert [len(rows) for rows in found.subspace.choices] == [3, 3, 3]
    learned = nasplug.space(str(tmp_path / "run" / "learned-space.json"))
    assert learned.shape == (2, 8, 8)
    assert learned.build(learned.sample(1, 0)[0])(torch.zeros(1, 2, 8, 8)).shape == (1, 10)


def test_fitness_has_momentum_where_generations_end_only():
    """Eq. 5 mixes in what the supernet learned; α goes on by itself until its generation ends."""
    run = search(budget=2, period=5)
    method, taken = run.method, []
    mixed = method.after_step

    def after_step():
        before = method.fitness.copy()
        mixed()
        at = method.rows, method.held
        if method.step % 5:
            np.testing.assert_array_equal(method.fitness, before)
            return
        taken.append(method.step)
        alpha = method.alpha.detach().double().numpy()
        np.testing.assert_allclose(method.fitness[at], 0.5 * before[at] + 0.5 * alpha)
        there = np.ones(before.shape, bool)
        there[at] = False
        np.testing.assert_array_equal(method.fitness[there], before[there])

    method.after_step = after_step
    run.run()
    assert taken == list(range(5, 2 * method.per_epoch + 1, 5))
    assert method.per_epoch % 5  # an epoch ends within a generation


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"K": 40, "population": 32}, r"K \(40\) cannot exceed population \(32\)"),
        ({"reference": "k5e3"}, "'k5e3' is no open cell"),
        ({"madds": 0.5}, "the reference is above the MAdds limit of layer 0"),
        ({"distance": 0, "population": 20}, "has . cells in reach, not 20"),
    ],
)
def test_bad_input_says_what_is_wrong(options, words):
    with pytest.raises(NasplugError, match=words):
        search(**{**SMALL, **options})


def test_it_evolves_all_of_open_cells_only():
    made = registry().get("method", "autospace")(**SMALL)
    with pytest.raises(NasplugError, match="evolves open-cells, not nb201"):
        Search(nasplug.problem("nb201/digits"), made, "autospace", budget=2)
    within = Layered(SPACE, [[BLOCK]] * 6)
    with pytest.raises(NasplugError, match="it takes no --within"):
        Search(nasplug.problem("open-cells/digits"), made, budget=2, within=within)


def test_a_study_offers_no_limits_that_leave_too_few_cells():
    """Most of its trials failed: even the least limits leave room for the largest population."""
    cls, space = registry().get("method", "autospace"), nasplug.space("open-cells")
    ranges = cls.ranges(space)
    madds, distance = ranges["madds"].low, ranges["distance"].low
    module = sys.modules[cls.__module__]
    reference = space.layer_from_str(module.REFERENCES[cls.reference.default])
    rules = Rules(space, module.limits(space, madds), reference, distance)
    most = ranges["population"].high
    assert rules.first(most, np.random.default_rng(0)).shape[1] == most

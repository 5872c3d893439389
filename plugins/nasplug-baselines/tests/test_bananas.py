"""BANANAS: its networks against finite differences, its picks against what it scored."""

import numpy as np

import nasplug
from nasplug_baselines.bananas import Bananas
from nasplug_baselines.networks import Networks

SPACE = nasplug.Space({f"d{i}": range(4) for i in range(6)})


def test_the_gradient_is_that_of_the_error():
    rng = np.random.default_rng(0)
    net = Networks(2, rng, layers=2, width=4)
    X, y = rng.normal(size=(2, 5, 3)).astype(np.float32), rng.normal(size=(2, 5, 1))
    net._start(3)
    net.parameters += rng.normal(size=len(net.parameters)).astype(np.float32)

    def error():
        return float(np.abs(net._forward(X)[-1] - y).mean((1, 2)).sum())

    net._backward(net._forward(X), y.astype(np.float32))
    found, step = net.gradient.copy(), 1e-3
    for i in range(len(net.parameters)):
        net.parameters[i] += step
        above = error()
        net.parameters[i] -= 2 * step
        slope = (above - error()) / (2 * step)
        net.parameters[i] += step
        assert abs(slope - found[i]) < 0.02 * max(1, abs(slope))


def test_networks_learn_and_differ_where_nothing_is_known():
    rng = np.random.default_rng(0)
    X = rng.integers(0, 2, (60, 8))
    y = 90 + X @ np.arange(8)
    predicted = Networks(5, rng).fit(X[:50], y[:50]).predict(X)
    assert predicted.shape == (5, 60)
    assert np.corrcoef(predicted.mean(0)[50:], y[50:])[0, 1] > 0.9
    assert predicted[:, 50:].std(0).mean() > predicted[:, :50].std(0).mean()


def test_it_picks_mutants_of_the_best_that_are_new():
    result = nasplug.search(
        Bananas(initial=6, batch=4, candidates=30), space=SPACE,
        evaluate=lambda arch: sum(arch.values()), budget=30, tracking=False,
    )  # fmt: skip
    trials = result.search.trials
    assert np.bincount(trials.rounds)[:3].tolist() == [6, 4, 4]
    assert len(np.unique(trials.archs, axis=0)) == 30
    for start in range(6, 30, 4):
        best = trials.archs[:start][np.argsort(-trials.values[:start])[:5]]
        near = [SPACE.distance(best, arch).min() for arch in trials.archs[start : start + 4]]
        assert np.mean(near) < 3  # of six decisions; at random it is 4.5 and more from one
    assert trials.values[6:].mean() > trials.values[:6].mean() + 2


def test_paths_are_its_encoding_where_there_are_some():
    """A cell with one convolution from the input to the output, and one of two, by hand."""
    space = nasplug.space("nb201")
    arch = space.from_str("|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|avg_pool_3x3~1|none~2|")
    paths = space.paths(arch[None])[0]
    skip, conv, pool = 0, 2, 3  # of skip_connect, nor_conv_1x1, nor_conv_3x3, avg_pool_3x3
    assert np.flatnonzero(paths).tolist() == [skip, 4 + 4 * conv + pool]
    assert space.paths(space.sample(9, 0)).shape == (9, 84)
    full = space.from_str("|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|none~0|none~1|avg_pool_3x3~2|")
    assert np.flatnonzero(space.paths(full[None])[0]).tolist() == [20 + 16 * conv + 4 * 1 + pool]

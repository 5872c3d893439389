"""Subspaces compose: every method stays inside the set that another one left."""

import numpy as np
import pytest

import nasplug
from nasplug import ArchSet, hookimpl
from nasplug.kernel.registry import registry

SPACE = nasplug.space("nb201")
METHODS = {
    "random": {}, "regularized-evolution": {}, "local-search": {}, "reinforce": {}, "dsm": {},
    "lissnas": {"size": 20, "rounds": 2}, "shrink-top": {"size": 20}, "shrink-random": {"size": 20},
}  # fmt: skip


class Shrinks(nasplug.Method):
    """Ends with the cells that have a 3x3 convolution at the end and some elsewhere."""

    @hookimpl
    def propose(self, search, subspace):
        return subspace.sample(5, search.rng)

    @hookimpl
    def select_final(self, search):
        archs = search.space.all()
        return ArchSet(search.space, archs[(archs[:, 5] == 3) & ((archs == 3).sum(1) > 3)])


@pytest.fixture(scope="module")
def shrunk(nb201_table, tmp_path_factory):
    run = tmp_path_factory.mktemp("within") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NASPLUG_DATA", str(nb201_table))
        nasplug.search(Shrinks(), "nb201/toy", budget=5, out=run, tracking=False)
    return run


@pytest.mark.parametrize("method", METHODS)
def test_every_trial_is_inside(method, shrunk, nb201_table, monkeypatch):
    if method not in registry().methods:
        pytest.skip(f"{method} is not installed")
    monkeypatch.setenv("NASPLUG_DATA", str(nb201_table))
    result = nasplug.search(
        method, "nb201/toy", budget=60, within=shrunk, seed=0, tracking=False, **METHODS[method]
    )
    inside = {tuple(arch) for arch in np.load(shrunk / "subspace.npz")["archs"].tolist()}
    trials = result.search.trials
    assert len(trials) == 60
    for arch in trials.archs.tolist():
        assert tuple(arch) in inside
    assert tuple(result.best.arch.tolist()) in inside
    if result.subspace is not None:
        assert all(tuple(arch) in inside for arch in result.subspace.archs.tolist())


def test_a_shrunk_space_is_where_the_next_shrinks(shrunk, nb201_table, monkeypatch, tmp_path):
    pytest.importorskip("nasplug_lissnas")
    monkeypatch.setenv("NASPLUG_DATA", str(nb201_table))
    nasplug.search(
        "lissnas", "nb201/toy", budget=60, within=shrunk, size=30, out=tmp_path / "next",
        tracking=False,
    )  # fmt: skip
    assert (tmp_path / "next" / "space.json").exists()
    result = nasplug.search(
        "random", "nb201/toy", budget=20, within=tmp_path / "next", tracking=False
    )
    assert len(result.search.trials) == 20

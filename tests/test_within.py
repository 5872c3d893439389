"""Subspaces compose: a run ends with one, and is where the next searches."""

import numpy as np
import pytest

import nasplug
from nasplug import ArchSet, hookimpl

SPACE = nasplug.space("nb201")


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


def test_the_directory_of_a_run_is_the_set_that_it_left(shrunk, nb201_table, monkeypatch):
    pytest.importorskip("nasplug_baselines")
    monkeypatch.setenv("NASPLUG_DATA", str(nb201_table))
    result = nasplug.search("local-search", "nb201/toy", budget=60, within=shrunk, tracking=False)
    inside = ArchSet(SPACE, np.load(shrunk / "subspace.npz")["archs"])
    assert len(result.search.trials) == 60
    assert inside.contains(result.search.trials.archs).all()


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

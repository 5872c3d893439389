"""Reports: what a search leaves in its run directory."""

import csv
import json
import struct

import numpy as np
import pytest

import nasplug
from nasplug import ArchSet, Method, Selection, Space, hookimpl
from nasplug.run.report import _incumbents, _limits, summary, table, write

SPACE = Space({"width": [16, 32, 64], "act": ["relu", "gelu"], "depth": range(4)}, name="toy")


class Sampler(Method):
    """Uniform samples; selects a subspace."""

    @hookimpl
    def propose(self, search, subspace):
        return subspace.sample(2, search.rng)

    @hookimpl
    def select_final(self, search):
        return Selection(subspace=ArchSet(search.space, search.trials.archs[:3]))


def score(arch):
    if arch["depth"] == 0:
        raise ValueError("no layers")
    return {"value": arch["width"] * arch["depth"], "report": arch["depth"], "flops": 1e6}


@pytest.fixture
def selection():
    return nasplug.search(Sampler(), space=SPACE, evaluate=score, budget=20, tracking=False)


def test_all_files(selection, tmp_path):
    write(selection, tmp_path)
    names = {file.name for file in tmp_path.iterdir()}
    assert {"selection.json", "trials.csv", "subspace.npz"} <= names
    assert not any(name.endswith(".part") for name in names)


def test_trials_csv_has_every_trial(selection, tmp_path):
    write(selection, tmp_path)
    trials = selection.search.trials
    with (tmp_path / "trials.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [int(row["number"]) for row in rows] == list(range(20))
    for row, trial in zip(rows, trials, strict=True):
        assert row["arch"] == str(trial)
        assert row["params.act"] == trial.params["act"]
        assert row["state"] == trial.state.name.lower()
        assert row["repeat"] == "False"
        assert row["feasible"] == "True"
        if trial.params["depth"] == 0:
            assert row["value"] == row["report"] == row["flops"] == ""
            assert row["error"] == "ValueError: no layers"
        else:
            assert float(row["value"]) == trial.value
            assert row["error"] == ""


def test_selection_json_round_trip(selection, tmp_path):
    write(selection, tmp_path)
    text = (tmp_path / "selection.json").read_text()
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert content == {**summary(selection), "seconds": content["seconds"]}
    assert content["subspace"] == "set of 3 archs of toy"
    archs = [SPACE.from_str(arch) for arch in content["archs"]]
    assert np.array_equal(archs, selection.archs)
    assert content["ranked"][0]["value"] == selection.best.value
    assert content["ranked"][0]["params"] == selection.best.params


def test_table(selection):
    (row,) = table(selection, 3)
    assert row == {
        "rank": 1, "trial": selection.best.number, "value": selection.best.value,
        "report": selection.best.report_value, "params": None, "flops": 1e6,
        "arch": str(selection.best),
    }  # fmt: skip


def test_table_asks_the_space_for_sizes(nb201_table, monkeypatch):
    monkeypatch.setenv("NASPLUG_DATA", str(nb201_table))

    class Plain(Method):
        @hookimpl
        def propose(self, search, subspace):
            return subspace.sample(5, search.rng)

    found = nasplug.search(Plain(), on="nb201/toy", budget=30, tracking=False)
    rows = table(found, 5)
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5]
    assert list(rows[0])[2:4] == ["val_acc@12", "test_acc@200"]
    space = found.search.space
    assert rows[0]["params"] == space.params(found.archs[:1])[0]


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_pictures(direction, tmp_path):
    pytest.importorskip("matplotlib")
    drawn = []

    class Drawn(Space):
        def draw(self, arch, ax):
            drawn.append(arch.tolist())
            ax.plot([0, 1])

    space = Drawn(SPACE.decisions, name="toy")
    found = nasplug.search(
        Sampler(), space=space, evaluate=score, budget=20, tracking=False, direction=direction
    )
    write(found, tmp_path)
    assert drawn == [found.best.arch.tolist()]
    for name in ("curve.png", "cell.png"):
        content = (tmp_path / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        width, height = struct.unpack(">II", content[16:24])
        assert width > 400
        assert height > 300


def test_a_picture_that_fails_costs_only_itself(tmp_path, capsys):
    pytest.importorskip("matplotlib")

    class Broken(Space):
        def draw(self, arch, ax):
            raise RuntimeError("no ink")

    space = Broken(SPACE.decisions)
    found = nasplug.search(Sampler(), space=space, evaluate=score, budget=4, tracking=False)
    write(found, tmp_path)
    assert capsys.readouterr().err == "cell.png was not drawn: RuntimeError: no ink\n"
    assert (tmp_path / "curve.png").exists()
    assert not (tmp_path / "cell.png").exists()


def test_incumbents():
    scores = np.array([-np.inf, 1.0, 0.5, -np.inf, 2.0, 2.0, 3.0])
    assert _incumbents(scores).tolist() == [-1, 1, 1, 1, 4, 4, 6]
    assert _incumbents(np.array([2.0, 1.0])).tolist() == [0, 0]
    assert _incumbents(np.array([])).tolist() == []


def test_limits_show_the_climb():
    values = np.concatenate([[10.0], np.linspace(60, 90, 100), [np.nan]])
    low, high = _limits(values, np.array([10.0, 60.0, 90.0]), maximize=True)
    assert low >= -10
    assert 90 < high < 105
    flipped = _limits(-values, -np.array([10.0, 60.0, 90.0]), maximize=False)
    assert flipped == (-high, -low)
    assert _limits(np.array([np.nan]), np.array([]), True) == (0.0, 1.0)
    low, high = _limits(np.array([3.0, 3.0]), np.array([3.0]), True)
    assert low < 3 < high

"""Reports: what a search leaves in its run directory."""

import csv
import io
import itertools
import json
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import nasplug
from nasplug import ArchSet, Method, Selection, Space, hookimpl
from nasplug.run.report import draw_curve, incumbents, limits, summary, table, write

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
            assert row["error"].startswith(f"ValueError: no layers ({__file__}, line ")
        else:
            assert float(row["value"]) == trial.value
            assert row["error"] == ""


def test_cells_that_a_spreadsheet_would_run_are_marked_as_text(tmp_path):
    """``=1+1`` as a choice or in an error was a formula to whoever opened trials.csv."""
    space = Space({"=op": ["=1+1", "@x", "-1", "plain"], "rate": [-1, 1.5]})

    def fail(arch):
        if arch["rate"] > 0:
            raise ValueError("too high")
        return {"value": arch["rate"], "+more": -2.0}

    found = nasplug.search(Sampler(), space=space, evaluate=fail, budget=8, tracking=False)
    write(found, tmp_path)
    with (tmp_path / "trials.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert {row["params.=op"] for row in rows} == {"'=1+1", "'@x", "'-1", "plain"}
    assert {row["params.rate"] for row in rows} == {"-1", "1.5"}, "numbers stay numbers"
    assert {row["'+more"] for row in rows} == {"-2.0", ""}
    assert all(row["arch"][0] not in "=+-@" for row in rows)


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


def test_a_picture_is_there_whole_or_not_at_all(selection, tmp_path, monkeypatch):
    """A search that was killed while it drew left half a PNG, and had lost the one before."""
    figure = pytest.importorskip("matplotlib.figure").Figure
    write(selection, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def killed(self, file, **options):
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(figure, "savefig", killed)
    with pytest.raises(KeyboardInterrupt):
        write(selection, tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_methods_own_file_is_there_whole_or_not_at_all(selection, tmp_path):
    """As `test_a_picture_is_there_whole_or_not_at_all`."""
    words = [b"whole"]

    def save(file):
        file.write_bytes(words[-1])
        if len(words) > 1:
            raise KeyboardInterrupt

    selection.files["own.txt"] = save
    try:
        write(selection, tmp_path)
        words.append(b"half")
        with pytest.raises(KeyboardInterrupt):
            write(selection, tmp_path)
    finally:
        del selection.files["own.txt"]
    assert (tmp_path / "own.txt").read_bytes() == b"whole"
    assert not list(tmp_path.glob("*.part*"))


def testincumbents():
    scores = np.array([-np.inf, 1.0, 0.5, -np.inf, 2.0, 2.0, 3.0])
    assert incumbents(scores).tolist() == [-1, 1, 1, 1, 4, 4, 6]
    assert incumbents(np.array([2.0, 1.0])).tolist() == [0, 0]
    assert incumbents(np.array([])).tolist() == []


def drawn(found):
    """The curve of a search: its title, {label: the trials that are marked so}, the y-limits."""
    figure = pytest.importorskip("matplotlib.figure").Figure()
    draw_curve(found, figure)
    ax = figure.axes[0]
    marked = {line.get_label(): line.get_xdata().tolist() for line in ax.lines}
    return ax.get_title(loc="left"), marked, ax.get_ylim()


def test_trials_outside_of_the_curve_are_marked_at_its_edge():
    """Early trials far below the rest were cut off without a word."""
    numbers = itertools.count(1)
    found = nasplug.search(
        Sampler(), space=SPACE, budget=20, tracking=False,
        evaluate=lambda arch: -5000 if next(numbers) == 1 else arch["width"],
    )  # fmt: skip
    _, marked, (low, _) = drawn(found)
    assert marked["below (1)"] == [1]
    assert low > -1000


def test_all_trials_are_seen_where_none_is_far_off():
    found = nasplug.search(
        Sampler(), space=SPACE, budget=20, tracking=False, evaluate=lambda arch: arch["width"]
    )
    _, marked, (low, high) = drawn(found)
    assert low < 16 < 64 < high
    assert not [label for label in marked if "(" in label]


def test_the_curves_title_is_about_the_arch_in_the_table():
    """A supernet scores an arch anew every epoch; the table has the last score of the selected
    one, the title had the best of all trials, under the same word."""

    class Again(Sampler):
        @hookimpl
        def select_final(self, search):
            return search.trials.archs[[search.trials.values.argmin()]]

    found = nasplug.search(
        Again(), space=SPACE, budget=20, tracking=False, evaluate=lambda arch: arch["width"]
    )
    assert found.best.value == table(found)[0]["value"] == 16
    assert drawn(found)[0] == "Again on toy/function, selected 16"
    found = nasplug.search(
        Sampler(), space=SPACE, budget=20, tracking=False, evaluate=lambda arch: 3
    )
    assert drawn(found)[0] == "Sampler on toy/function, best 3"


# ---- the bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def watched(monkeypatch, stream, space=SPACE):
    monkeypatch.setattr(sys, "stderr", stream)
    nasplug.search(
        Sampler(), space=space, evaluate=lambda arch: arch["width"], budget=20, tracking=False
    )
    return stream.getvalue()


def test_a_name_is_no_markup(monkeypatch):
    """A space named [/foo] ended the search with rich's MarkupError."""
    space = Space(SPACE.decisions, name="[/foo]")
    assert "Sampler on [/foo]/function" in watched(monkeypatch, Terminal(), space)


def test_a_notebook_has_a_bar(monkeypatch):
    """Its stderr is no terminal, so that it had none; a log file has none still."""
    assert watched(monkeypatch, io.StringIO()) == ""
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    shown = watched(monkeypatch, io.StringIO())
    assert "Sampler on toy/function" in shown
    assert "20/20" in shown
    assert "\x1b[1A" not in shown, "one line: notebooks know no way up"


def test_training_says_what_it_is_doing(monkeypatch):
    """The bar stayed at 0 without a word until the first network was trained."""
    pytest.importorskip("sklearn")
    train = pytest.importorskip("nasplug.evaluators.train")
    said = []
    watched = property(lambda _: said[-1], lambda _, text: said.append(text))
    monkeypatch.setattr(nasplug.Search, "activity", watched, raising=False)
    monkeypatch.setitem(train.TrainEvaluator.epochs, "digits", 2)
    nasplug.search(Sampler(), on="nb201:C=2,N=1/digits", budget=2, tracking=False)
    assert said == [
        "", "reading digits", "trial 0: epoch 1/2", "trial 0: epoch 2/2", "trial 1: epoch 1/2",
        "trial 1: epoch 2/2", "",
    ]  # fmt: skip


def test_limits_show_the_climb():
    values = np.concatenate([[10.0], np.linspace(60, 90, 100), [np.nan]])
    low, high = limits(values, np.array([10.0, 60.0, 90.0]), maximize=True)
    assert low >= -10
    assert 90 < high < 105
    flipped = limits(-values, -np.array([10.0, 60.0, 90.0]), maximize=False)
    assert flipped == (-high, -low)
    assert limits(np.array([np.nan]), np.array([]), True) == (0.0, 1.0)
    low, high = limits(np.array([3.0, 3.0]), np.array([3.0]), True)
    assert low < 3 < high

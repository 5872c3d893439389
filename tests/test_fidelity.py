"""Trials with a fidelity: an arch is scored again at a higher one, on from where it was."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import nasplug
from nasplug import Method, NasplugError, Space, State, hookimpl, tracking
from nasplug.cli import main

pytest.importorskip("nasplug_baselines")
SPACE = Space({f"x{i}": [0, 1, 2, 3, 4] for i in range(5)})


def evaluate(arch, trial):
    """Trains until ``trial.fidelity``; what it costs are the steps that it takes for that."""
    saved = json.loads(trial.checkpoint.read_text()) if trial.checkpoint.exists() else {}
    state = saved.get("state", [0, 0.0])
    steps = trial.fidelity - state[0]
    for step in range(state[0], trial.fidelity):
        state = [step + 1, state[1] / 2 + sum(arch.values())]  # depends on all steps before
    trial.checkpoint.write_text(json.dumps({"state": state, "never the same": time.time_ns()}))
    return {"value": state[1], "cost": steps}


def search(method="hyperband", budget=22, fidelity=(1, 9), function=evaluate, **options):
    options = {"space": SPACE, "evaluate": function, "tracking": False} | options
    return nasplug.search(method, budget=budget, fidelity=fidelity, progress=False, **options)


def rows(result):
    """What must not depend on who scored it, or on what has died meanwhile."""
    trials = result.search.trials
    return [
        (t.number, t.arch.tolist(), t.fidelity, t.value, t.cost, t.state, t.round) for t in trials
    ]


class Given(Method):
    """Proposes what it is given, (arch, fidelity) after (arch, fidelity)."""

    asynchronous = True

    def __init__(self, *plan):
        super().__init__()
        self.plan = list(plan)

    def setup(self, search):
        self.turn, self.told = 0, []

    @hookimpl
    def propose(self, search, subspace):
        arch, fidelity = self.plan[self.turn % len(self.plan)]
        self.turn += 1
        return search.candidates([arch], fidelity)

    @hookimpl
    def update(self, search, trials):
        self.told += [(t.fidelity, t.value, bool(r)) for t, r in zip(trials, trials.repeats)]  # noqa: B905
        if self.turn == len(self.plan):
            search.stop("all was proposed")


A, B = [1, 1, 1, 1, 1], [4, 4, 4, 4, 4]


# ---- what counts as the same trial, and what is selected


def test_the_same_arch_at_a_higher_fidelity_is_a_trial_at_the_same_one_a_repeat():
    """A survivor that was proposed again was answered from the cache."""
    found = search(Given((A, 1), (A, 3), (A, 3), (A, 1)), budget=9)
    trials = found.search.trials
    assert trials.fidelities.tolist() == [1, 3]
    assert trials.costs.tolist() == [1, 2]
    assert found.search.method.told == [
        (1, 5.0, False), (3, 8.75, False), (3, 8.75, True), (1, 5.0, True),
    ]  # fmt: skip


def test_what_is_selected_is_the_best_at_the_highest_fidelity():
    def worse(arch, trial):
        return sum(arch.values()) / trial.fidelity  # the lower the fidelity, the better it looks

    found = search(Given((A, 9), (B, 1), (A, 1), (B, 3)), function=worse)
    assert (found.best.params, found.best.fidelity) == (dict.fromkeys(SPACE.names, 1), 9)
    assert found.archs.tolist() == [A, B]
    assert [trial.fidelity for trial in found.ranked()] == [9, 3]


def test_other_methods_score_at_the_full_fidelity():
    found = search("regularized-evolution", budget=15)
    assert (found.search.trials.fidelities == 9).all()
    assert (found.search.trials.costs == 9).all()
    assert found.search.seen(found.search.trials.archs).all()


def test_a_space_is_exhausted_when_all_of_it_was_scored_in_full():
    small = Space({"a": [0, 1], "b": [0, 1]})
    found = search(space=small, budget=500)
    assert (found.search.trials.fidelities == 9).sum() == 4
    assert "nothing new" in found.search.stopped


def test_it_is_on_every_record(tmp_path):
    found = search(out=tmp_path / "run")
    with (tmp_path / "run" / "trials.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [int(row["fidelity"]) for row in table] == found.search.trials.fidelities.tolist()
    ranked = json.loads((tmp_path / "run" / "selection.json").read_text())["ranked"]
    assert ranked[0]["fidelity"] == 9
    again = nasplug.resume(tmp_path / "run", evaluate=evaluate, progress=False)
    assert rows(again) == rows(found)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["fidelity"] == [1, 9]


def test_mlflow_has_it_and_its_best_is_of_the_highest_fidelity(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("NASPLUG_RUNS", str(tmp_path))

    def worse(arch, trial):
        return sum(arch.values()) / trial.fidelity

    search(function=worse, budget=13, out=tmp_path / "run")
    assert tracking.sync(tmp_path / "run")["complete"]
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    history = client.get_metric_history(run.info.run_id, "trial/fidelity")
    assert [point.value for point in history] == [1] * 9 + [3] * 3 + [9]
    metrics = run.data.metrics
    assert metrics["selected_fidelity"] == 9
    assert metrics["best_value"] == metrics["selected_value"] == metrics["trial/value"]


# ---- checkpoints


@pytest.mark.parametrize("method", ["hyperband", "successive-halving"])
def test_survivors_are_trained_on_and_not_from_the_start(method):
    trials = search(method).search.trials
    reached: dict[bytes, int] = {}
    for arch, fidelity, cost in zip(trials.archs, trials.fidelities, trials.costs, strict=True):
        assert cost == fidelity - reached.get(arch.tobytes(), 0)
        reached[arch.tobytes()] = int(fidelity)
    assert trials.costs.sum() == sum(reached.values())


def test_the_same_value_as_in_one_go():
    found = search()
    last = found.search.trials[12]
    assert last.fidelity == 9
    again = found.search.problem.score(last.arch)  # outside of a search, in full
    assert (again.values[0], again.costs[0], again.fidelities[0]) == (last.value, 9, 9)


def test_max_cost_counts_what_was_done():
    trials = search(max_cost=20).search.trials
    assert trials.costs.sum() == 21  # nine of 1, three of 2, one of 6
    assert len(trials) == 13


def test_the_two_highest_of_an_arch_are_kept_for_its_owner_alone(tmp_path):
    search(Given((A, 1), (A, 3), (A, 9), (A, 2)), out=tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    assert sorted(file.name.split("-")[1] for file in folder.iterdir()) == ["3", "9"]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}


def test_what_raises_or_is_never_written_leaves_nothing(tmp_path):
    def raises(arch, trial):
        trial.checkpoint.write_text("half")
        raise ValueError("no")

    with pytest.raises(NasplugError, match="every trial failed"):
        search(function=raises, out=tmp_path / "raises", budget=4)
    assert not list((tmp_path / "raises" / "checkpoints").iterdir())
    plain = search(function=lambda arch, trial: trial.fidelity, out=tmp_path / "plain")
    assert not (plain.run_dir / "checkpoints").exists()


def test_a_trial_that_only_reads_leaves_the_checkpoint_where_it_was(tmp_path):
    def once(arch, trial):
        if not trial.checkpoint.exists():
            trial.checkpoint.write_text(str(trial.fidelity))
        return float(trial.checkpoint.read_text())

    found = search(Given((A, 2), (A, 4), (A, 9)), function=once, out=tmp_path / "run")
    assert found.search.trials.values.tolist() == [2, 2, 2]
    (file,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert file.name.split("-")[1] == "2"


def test_a_search_without_a_directory_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = search()
    assert (found.search.trials.costs[9:12] == 2).all()
    del found
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["cut", "changed", "emptied", "gone", "a folder", "strange"])
def test_damaged_checkpoints_cost_time_and_change_nothing(tmp_path, damage):
    class Spoils:
        @hookimpl
        def update(self, search):
            for file in [f for f in (search.folder / "checkpoints").iterdir() if f.is_file()]:
                content = file.read_bytes()
                file.unlink()
                match damage:
                    case "cut":
                        file.write_bytes(content[:-1])
                    case "changed":
                        file.write_bytes(content.replace(b"1", b"2") + b" ")
                    case "emptied":
                        file.touch()
                    case "a folder":
                        file.mkdir()
                    case "strange":
                        file.with_name(file.name.replace("-1-", "-one-")).write_bytes(content)

    def known(result):
        return [(number, arch, f, value) for number, arch, f, value, *_ in rows(result)]

    spoilt = search(Given((A, 1), (B, 1), (A, 3), (B, 9)), plugins=[Spoils()], out=tmp_path / "run")
    whole = search(Given((A, 1), (B, 1), (A, 3), (B, 9)))
    assert known(spoilt) == known(whole)
    assert spoilt.search.trials.costs.tolist() == [1, 1, 3, 9]


# ---- interrupted, and by several


@pytest.mark.parametrize("method", ["hyperband", "successive-halving"])
def test_killed_after_any_trial_was_trained_and_before_it_was_journaled(
    tmp_path, monkeypatch, method
):
    """The checkpoint is newer than the journal: it is not gone on from."""
    whole, tell = rows(search(method, budget=13)), nasplug.Trials.tell

    for last in range(13):
        told = 0

        def dies(self, *args, last=last, **kwargs):
            nonlocal told
            told += 1
            if told == last + 1:
                raise KeyboardInterrupt
            return tell(self, *args, **kwargs)

        run = tmp_path / f"{method}-{last}"
        with monkeypatch.context() as patch:
            patch.setattr(nasplug.Trials, "tell", dies)
            with pytest.raises(KeyboardInterrupt):
                search(method, budget=13, out=run)
        assert rows(nasplug.resume(run, evaluate=evaluate, progress=False)) == whole


def test_kill_9_in_the_midst_of_saving(tmp_path):
    script = textwrap.dedent("""
        import json, os, signal, sys
        from pathlib import Path
        import nasplug
        from tests.test_fidelity import SPACE, evaluate

        calls = 0
        def dies(arch, trial):
            global calls
            calls += 1
            if calls == int(sys.argv[2]):
                trial.checkpoint.write_text("[99")
                os.kill(os.getpid(), signal.SIGKILL)
            return evaluate(arch, trial)

        if Path(sys.argv[1]).exists():
            nasplug.resume(sys.argv[1], evaluate=dies)
        else:
            nasplug.search("hyperband", space=SPACE, evaluate=dies, fidelity=(1, 9), budget=22,
                           tracking=False, out=sys.argv[1])
    """)
    run = tmp_path / "run"
    for calls in (4, 7, 2, 3):  # in the first rung, in the second, and twice in the third
        command = [sys.executable, "-c", script, str(run), str(calls)]
        path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=False)
        assert done.returncode == -signal.SIGKILL
    assert rows(nasplug.resume(run, evaluate=evaluate, progress=False)) == rows(search())
    assert not list((run / "checkpoints").glob("*.part"))


def test_workers_score_the_same_and_go_on_from_each_others_checkpoints(tmp_path):
    pytest.importorskip("loky")
    ours = search(workers=2, out=tmp_path / "run")
    assert rows(ours) == rows(search(workers=ThreadPoolExecutor(2)))
    assert (ours.search.trials.costs[9:12] == 2).all()
    known = [row[:-1] for row in rows(ours)]
    assert known == [row[:-1] for row in rows(search())], "and the rounds alone differ from one's"


def test_asynchronous_and_interrupted_every_trial_is_kept(tmp_path):
    class Interrupt:
        @hookimpl
        def update(self, search):
            if search.finished >= 20:
                raise KeyboardInterrupt

    options = {"workers": ThreadPoolExecutor(3), "asynchronous": True, "budget": 50}
    with pytest.raises(KeyboardInterrupt):
        search("successive-halving", out=tmp_path / "run", plugins=[Interrupt()], **options)
    found = nasplug.resume(
        tmp_path / "run", evaluate=evaluate, workers=ThreadPoolExecutor(3), progress=False
    )
    trials = found.search.trials
    assert len(trials) == 50
    pairs = {(arch.tobytes(), f) for arch, f in zip(trials.archs, trials.fidelities, strict=True)}
    assert len(pairs) == 50
    assert (trials.fidelities == 9).any()


def test_constraints_hold_on_every_rung():
    def measured(arch, trial):
        return {**evaluate(arch, trial), "latency": sum(arch.values())}

    class Weighed(Space):
        def params(self, archs):
            return np.asarray(archs).sum(1)

    found = search(space=Weighed(SPACE.decisions), constraints=["params<=11"])
    assert found.search.trials.archs.sum(1).max() <= 11
    found = search(function=measured, constraints=["latency<=9"])
    assert sum(found.best.params.values()) <= 9


# ---- real training


def test_training_goes_on_as_if_it_had_never_stopped(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    found = nasplug.search(
        "hyperband", on="nb201:C=2,N=1/digits", fidelity=(1, 3), budget=6, out=tmp_path / "run",
        tracking=False,
    )  # fmt: skip
    trials = found.search.trials
    assert trials.fidelities.tolist() == [1, 1, 1, 3, 3, 3]
    assert trials.metrics["trained_epochs"].tolist() == [1, 1, 1, 2, 3, 3]
    whole = nasplug.problem("nb201:C=2,N=1/digits")
    whole.reach((1, 3))
    assert whole.score(trials.archs[3:]).values.tolist() == trials.values[3:].tolist()
    files = list((tmp_path / "run" / "checkpoints").glob("*-*"))
    assert {file.name.split("-")[1] for file in files} == {"1"}, "what is in full needs none"


# ---- what the docs show, the command line, and what is refused


def test_the_example_of_the_docs(tmp_path):
    pytest.importorskip("torch")
    text = (Path(__file__).parents[1] / "docs" / "fidelity.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", example], capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, "NASPLUG_RUNS": str(tmp_path / "runs")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "after 27 epochs" in done.stdout


def test_the_command_line(capsys, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    out = str(tmp_path / "run")
    with pytest.raises(SystemExit, match="0"):
        main(
            ["run", "successive-halving", "--on", "nb201:C=2,N=1/digits", "--fidelity", "1:3",
             "--budget", "4", "--no-track", "--json", "--out", out]
        )  # fmt: skip
    said = capsys.readouterr()
    assert json.loads(said.out.splitlines()[-1])["trials"] == 4
    assert "epochs" in said.err
    with pytest.raises(SystemExit, match="0"):
        main(["doctor", out])
    assert "4 trials of 4" in capsys.readouterr().out


REFUSED = [
    ({"method": "darts", "space": nasplug.space("nb201")}, "darts scores what it trains by itself"),
    ({"fidelity": None}, "hyperband needs an evaluator with a fidelity.*custom/function has none"),
    ({"fidelity": (9, 1)}, r"fidelity is \(low, high\), as \(1, 27\) epochs; got \(9, 1\)"),
    ({"fidelity": (0, 9)}, r"fidelity is \(low, high\)"),
    ({"fidelity": (1, 2.5)}, r"fidelity is \(low, high\)"),
    ({"fidelity": 27}, r"fidelity is \(low, high\)"),
    ({"function": lambda arch: 1.0}, r"for a function that takes the trial, evaluate\(arch, trial"),
    ({"method": Given((A, 10))}, "Given.propose asks for fidelity 10: 1 to 9 there are"),
    ({"method": Given((A, 3)), "fidelity": None}, "asks for fidelity 3: 0 to 0 there are"),
    ({"method": "random", "budget": 2, "eta": 3}, "unknown hyperparameter 'eta'"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED)
def test_what_makes_no_sense_is_refused_in_words(options, said):
    with pytest.raises(NasplugError, match=said):
        search(**options)


@pytest.mark.parametrize("text", ["27", "1:2:3", "a:b", "", "3:1", "1:"])
def test_odd_bounds_on_the_command_line(text, capsys):
    with pytest.raises(SystemExit) as end:
        main(["run", "hyperband", "--on", "nb201/digits", "--fidelity", text, "--no-track"])
    assert end.value.code == 2
    assert "fidelity" in capsys.readouterr().err


def test_a_table_has_none(monkeypatch, nb201_table):
    monkeypatch.setenv("NASPLUG_DATA", str(nb201_table))
    with pytest.raises(NasplugError, match="hyperband needs an evaluator with a fidelity"):
        nasplug.search("hyperband", on="nb201/toy", budget=5, tracking=False)
    with pytest.raises(NasplugError, match="by its table, which has no fidelity: leave fidelity="):
        nasplug.search("random", on="nb201/toy", budget=5, tracking=False, fidelity=(1, 9))


def test_a_failed_trial_at_a_fidelity_says_why():
    def fails(arch, trial):
        if trial.fidelity > 1:
            raise ValueError("out of memory")
        return 1.0

    trials = search(function=fails, budget=13).search.trials
    assert (trials.states == State.FAILED).sum() > 0
    assert "out of memory" in trials.notes[9]["error"]

"""Several commands at once on one directory, and several searches at once in one store: each ends
with an answer, the trials are those of a single search, and every point is in MLflow once."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import multiprocessing
import shutil
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nasplug
from nasplug import Method, NasplugError, Space, hookimpl, tracking
from nasplug.cli import main
from nasplug.kernel.registry import registry
from nasplug.run.directory import RunDirectory, read_json

if importlib.util.find_spec("mlflow") is None:
    pytest.skip("needs mlflow", allow_module_level=True)

SPACE = Space({f"d{i}": list(range(4)) for i in range(6)}, name="toy")
BUDGET, PATIENCE = 30, 240  # seconds: MLflow's imports take long on a busy machine
PROCESSES = multiprocessing.get_context("fork")  # which have imported all that they need

Answer = tuple[int, str]  # exit code, and what was said of it
Command = Callable[[], object]


class Sampler(Method):
    """Uniform samples, two at a time."""

    @hookimpl
    def propose(self, search: Any, subspace: Any) -> Any:
        return subspace.sample(2, search.rng)


def score(arch: dict[str, int]) -> float:
    return float(sum(choice * (i + 1) for i, choice in enumerate(arch.values())))


def slow(arch: dict[str, int]) -> float:
    time.sleep(0.1)
    return score(arch)


def search(out: Path | None, evaluate: Callable[..., float] = slow, seed: int = 0) -> Any:
    return nasplug.search(
        Sampler(), space=SPACE, evaluate=evaluate, budget=BUDGET, seed=seed, out=out or False,
        tracking=out is not None, progress=False,
    )  # fmt: skip


def resume(run: Path) -> Any:
    return nasplug.resume(run, method=Sampler(), space=SPACE, evaluate=slow, progress=False)


def cli(*words: object) -> Command:
    return lambda: main([str(word) for word in words])


def _answer(command: Command, start: Any, answers: Any, place: int) -> None:
    said = io.StringIO()
    code = 0
    start.wait()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            command()
            tracking.wait(PATIENCE)  # as every Python process does at its exit
        except NasplugError as error:
            code = 2
            said.write(str(error))
        except SystemExit as end:
            code = int(str(end.code))
    answers.put((place, (code, said.getvalue())))


def together(commands: Sequence[Command]) -> list[Answer]:
    """What each answers, in a process of its own; all begin at the same moment."""
    start, answers = PROCESSES.Barrier(len(commands)), PROCESSES.Queue()
    processes = [
        PROCESSES.Process(target=_answer, args=(command, start, answers, place))
        for place, command in enumerate(commands)
    ]
    for process in processes:
        process.start()
    found = dict(answers.get(timeout=PATIENCE) for _ in processes)
    for process in processes:
        process.join()
    return [found[place] for place in range(len(commands))]


def refused(answer: Answer) -> bool:
    """Whether it ended with exit code 2, in one sentence."""
    code, said = answer
    assert code in (0, 2), said
    assert "Traceback" not in said
    assert "locked" not in said
    assert code == 0 or len(said.strip().splitlines()) == 1, said
    return code == 2


def in_store(home: Path, run: Path, wanted: Any) -> None:
    """The run has ended in MLflow, with every trial of the search that was alone, each once."""
    with contextlib.closing(sqlite3.connect(home / "mlflow.db", timeout=60)) as store:
        key = RunDirectory.open(run).run["key"]
        sent = store.execute(
            "SELECT run_uuid FROM tags WHERE key = 'nasplug.key' AND value = ?", (key,)
        ).fetchall()
        assert len(sent) == 1
        points = store.execute(
            "SELECT step, value FROM metrics WHERE run_uuid = ? AND key = 'trial/value' "
            "ORDER BY step", sent[0],
        ).fetchall()  # fmt: skip
        assert points == list(enumerate(wanted.values.tolist()))
        ending = store.execute("SELECT status FROM runs WHERE run_uuid = ?", sent[0]).fetchone()
        assert ending == ("FINISHED",)
    assert read_json(run / "tracking.json")["error"] == ""


def same(run: Path, wanted: Any) -> None:
    found = nasplug.resume(
        run, method=Sampler(), space=SPACE, evaluate=_never, progress=False
    ).search.trials
    assert np.array_equal(found.archs, wanted.archs)
    assert np.array_equal(found.values, wanted.values)


def _never(arch: dict[str, int]) -> float:
    raise AssertionError("a trial that was scored is scored again")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder, whose store the first test creates."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(autouse=True)
def _here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NASPLUG_RUNS", str(home))
    monkeypatch.setattr("nasplug.run.report.draw_picture", lambda *_: None)


def test_four_searches_at_once_in_one_folder_and_one_store(home: Path) -> None:
    """Which they create; one of them is started twice."""
    runs = [home / name for name in "abcd"]
    places = [*runs, runs[0]]
    answers = together([lambda out=out: search(out) for out in places])
    first, *others, again = map(refused, answers)
    assert (first, again) in [(True, False), (False, True)]
    assert not any(others)
    said = answers[0 if first else 4][1]
    assert "is in use: process" in said or "holds a run already" in said
    wanted = search(None, score).search.trials
    for run in runs:
        in_store(home, run, wanted)


def test_all_that_can_be_done_with_a_killed_run_at_once(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = home / "killed"
    calls = 0

    def dies(arch: dict[str, int]) -> float:
        nonlocal calls
        calls += 1
        if calls == 9:  # what others find
            shutil.copytree(home / "lost", killed)
            raise KeyboardInterrupt
        return score(arch)

    with monkeypatch.context() as patch:
        patch.setattr(registry().trackers["mlflow"], "target", lambda run_dir: None)
        with pytest.raises(KeyboardInterrupt):
            search(home / "lost", dies, seed=1)
    resumes: list[Command] = [lambda: resume(killed)] * 2
    syncs, looks = [cli("sync", killed)] * 2, [cli("doctor", killed)] * 2
    answers = together([*resumes, *syncs, *looks])
    lost = [refused(answer) for answer in answers]
    assert not all(lost[:2])
    assert all("is in use: process" in said for code, said in answers[:2] if code)
    assert not any(lost[4:])
    wanted = search(None, score, seed=1).search.trials
    in_store(home, killed, wanted)
    assert RunDirectory.open(killed).status()["state"] == "finished"
    same(killed, wanted)

"""Tracking: every trial is in MLflow exactly once, whatever dies in between."""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
import psutil
import pytest

import nasplug
from nasplug import Int, Method, NasplugError, Source, Space, hookimpl, tracking
from nasplug.run.directory import RunDirectory, write_json
from nasplug.run.journal import Journal
from nasplug.run.secrets import redacted

# Not importorskip: a search must not have imported it, nor must its test.
if importlib.util.find_spec("mlflow") is None:
    pytest.skip("needs mlflow", allow_module_level=True)

SPACE = Space({f"d{i}": range(4) for i in range(6)}, name="toy")
PATIENCE = 240  # seconds: MLflow's imports and migrations take long on a busy machine

# A search in a process of its own that waits before trial 20 and 40 for files to appear.
SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_tracking import Sampler, SPACE, score
import nasplug

seen = 0
def gated(arch):
    global seen
    gate = Path({gates!r}) / str(seen)
    while seen in (20, 40) and not gate.exists():
        time.sleep(0.01)
    seen += 1
    return score(arch)

start = time.perf_counter()
nasplug.search(Sampler(), space=SPACE, evaluate=gated, budget=60, seed=3, out={out!r})
print(time.perf_counter() - start)
"""


def score(arch):
    return float(sum(choice * (i + 1) for i, choice in enumerate(arch.values())))


def flaky(arch):
    if arch["d0"] == 1:
        raise ValueError("no such width")
    return {"value": score(arch), "report": -score(arch), "cost": 2.0, "top@5": score(arch) / 2}


class Sampler(Method):
    """Uniform samples."""

    K = Int(3, low=1)
    init = Source(None)

    @hookimpl
    def propose(self, search, subspace):
        return subspace.sample(self.K, search.rng)


@pytest.fixture(autouse=True)
def _no_server(monkeypatch, tmp_path):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NASPLUG_RUNS", str(tmp_path / "runs"))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a store, so that not every test pays for a new one."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def runs(home, monkeypatch):
    monkeypatch.setenv("NASPLUG_RUNS", str(home))
    return home


def eventually(true, what):
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(f"waited in vain for {what}")
        time.sleep(0.05)


def query(home, sql, *values):
    with contextlib.closing(sqlite3.connect(home / "mlflow.db", timeout=60)) as store:
        return store.execute(sql, values).fetchall()


def points(home, run, key):
    """[(step, value)] of a metric, duplicates and all."""
    return query(
        home, "SELECT step, value FROM metrics WHERE run_uuid = ? AND key = ? ORDER BY 1", run, key
    )


def journal(run_dir):
    with contextlib.closing(Journal(run_dir, read=True)) as trials:
        return trials.read()


def ending(home, run):
    return query(home, "SELECT status FROM runs WHERE run_uuid = ?", run)[0][0]


def test_a_search_in_the_local_store(runs):
    huge, imported = [[0] * 6] * 1000, "mlflow" in sys.modules
    selection = nasplug.search(
        Sampler(K=2, init=huge), space=SPACE, evaluate=flaky, budget=50, seed=1
    )
    assert ("mlflow" in sys.modules) == imported
    assert tracking.wait(PATIENCE)
    run = tracking.run_id(selection.run_dir)
    trials = selection.search.trials
    good = np.flatnonzero(np.isfinite(trials.values))
    assert 0 < len(good) < 50
    values = [(number, trials.values[number]) for number in good]
    assert points(runs, run, "trial/value") == values
    assert points(runs, run, "trial/report") == [(number, -value) for number, value in values]
    assert points(runs, run, "trial/cost") == [(number, 2.0) for number in good]
    assert points(runs, run, "trial/top_5") == [(number, value / 2) for number, value in values]
    assert points(runs, run, "failed")[-1][1] == 50 - len(good)
    best = points(runs, run, "best_value")
    assert [value for _, value in best] == sorted(value for _, value in best)
    assert best[-1] == (49, trials.values[good].max())
    assert points(runs, run, "selected_value") == [(49, selection.best.value)]

    params = dict(query(runs, "SELECT key, value FROM params WHERE run_uuid = ?", run))
    assert {"method": "Sampler", "K": "2", "seed": "1", "budget": "50"}.items() <= params.items()
    assert params["problem"] == "toy/function"
    assert params["direction"] == "maximize"
    assert len(params["init"]) == 6000 - 20 + len("… (see run.json)")
    tags = dict(query(runs, "SELECT key, value FROM tags WHERE run_uuid = ?", run))
    assert tags["nasplug.run_dir"] == str(selection.run_dir)
    assert tags["version.numpy"] == np.__version__
    assert tags["mlflow.runName"] == selection.run_dir.name
    assert str(selection.best) in tags["mlflow.note.content"]
    assert ending(runs, run) == "FINISHED"
    artifacts = runs / "mlartifacts" / "toy-function" / run / "artifacts"
    for name in ("selection.json", "trials.csv", "run.json"):
        assert (artifacts / name).read_text() == (selection.run_dir / name).read_text()


def test_what_is_sent_twice_is_there_once(runs):
    selection = nasplug.search(Sampler(), space=SPACE, evaluate=score, budget=30)
    assert tracking.wait(PATIENCE)
    notes = json.loads((selection.run_dir / "tracking.json").read_text())
    before = query(runs, "SELECT count(*) FROM metrics")
    # As if it had died before noting anything, even that the run was created.
    write_json(selection.run_dir / "tracking.json", {"key": notes["key"], "uri": notes["uri"]})
    answer = tracking.sync(selection.run_dir)
    assert answer == {
        "run_dir": str(selection.run_dir), "run_id": notes["run_id"], "uri": notes["uri"],
        "trials": 30, "complete": True,
    }  # fmt: skip
    assert query(runs, "SELECT count(*) FROM metrics") == before


def test_trials_scored_out_of_order(runs):
    selection = nasplug.search(Sampler(), space=SPACE, evaluate=score, budget=12)
    assert tracking.wait(PATIENCE)
    source = selection.run_dir
    path = runs / "gap"
    # The sender may still be closing the journal, whose side files go with it: SQLite copies it.
    shutil.copytree(source, path, ignore=shutil.ignore_patterns("tracking.*", "journal.sqlite*"))
    rows = {}
    with (
        contextlib.closing(sqlite3.connect(source / "journal.sqlite")) as original,
        contextlib.closing(sqlite3.connect(path / "journal.sqlite")) as store,
    ):
        original.backup(store)
        for row in store.execute("SELECT * FROM trials").fetchall():
            rows[row[0]] = row
        store.execute("DELETE FROM trials WHERE number IN (5, 6)")
        store.commit()
    RunDirectory(path).set_status("killed")
    tracking.follow(path)
    assert tracking.wait(PATIENCE)
    run = tracking.run_id(path)
    assert [step for step, _ in points(runs, run, "trial/value")] == [
        0,
        1,
        2,
        3,
        4,
        7,
        8,
        9,
        10,
        11,
    ]
    assert ending(runs, run) == "KILLED"
    with contextlib.closing(sqlite3.connect(path / "journal.sqlite")) as store:
        mark = ", ".join("?" * len(rows[5]))
        store.executemany(f"INSERT INTO trials VALUES ({mark})", [rows[5], rows[6]])
        store.commit()
    RunDirectory(path).set_status("finished")
    tracking.follow(path)
    assert tracking.wait(PATIENCE)
    assert tracking.run_id(path) == run
    assert [step for step, _ in points(runs, run, "trial/value")] == list(range(12))
    assert ending(runs, run) == "FINISHED"


def test_a_failed_search(runs):
    def broken(arch):
        raise ValueError("always")

    with pytest.raises(NasplugError, match="every trial failed"):
        nasplug.search(Sampler(), space=SPACE, evaluate=broken, budget=5, out=runs / "failed")
    assert tracking.wait(PATIENCE)
    run = tracking.run_id(runs / "failed")
    assert ending(runs, run) == "FAILED"
    assert points(runs, run, "failed")[-1] == (4, 5.0)


def test_an_experiment_is_reported(runs, capsys):
    """By its name, without the search of it that has not finished."""
    finished, damaged = (
        nasplug.search(Sampler(), space=SPACE, evaluate=score, budget=5, seed=seed).run_dir
        for seed in range(2)
    )
    assert tracking.wait(PATIENCE)
    (damaged / "selection.json").unlink()
    nasplug.report(["toy/function"], out=runs / "table.md")
    assert "| Sampler" in (runs / "table.md").read_text()
    assert f"{damaged} has not finished" in capsys.readouterr().err
    with pytest.raises(NasplugError, match="did you mean toy/function"):
        nasplug.report(["toy/functions"], out=runs / "table.md")
    (finished / "selection.json").unlink()
    for folder in runs.glob("*/selection.json"):
        folder.unlink()
    with pytest.raises(NasplugError, match="no finished search on this machine"):
        nasplug.report(["toy/function"], out=runs / "table.md")


def test_a_search_refused_before_its_first_trial_is_no_run(runs):
    class Refusing(Sampler):
        def setup(self, search):
            raise NasplugError("K is too large")

    with pytest.raises(NasplugError, match="too large"):
        nasplug.search(Refusing(), space=SPACE, evaluate=score, budget=5, out=runs / "refused")
    assert tracking.wait(1)
    assert tracking.run_id(runs / "refused") is None


def test_without_mlflow(runs, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    tracking._say_off.cache_clear()
    for _ in range(2):
        selection = nasplug.search(Sampler(), space=SPACE, evaluate=score, budget=5)
    assert len(selection.search.trials) == 5
    assert capsys.readouterr().err == "tracking is off: pip install nasplug[tracking]\n"
    assert tracking.wait(0)
    with pytest.raises(NasplugError, match=r"nasplug\[tracking\]"):
        tracking.sync(selection.run_dir)


def start(out, gates):
    """The gated search, and its tracking process."""
    code = SCRIPT.format(tests=str(Path(__file__).parent), gates=str(gates), out=str(out))
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_killed_with_its_tracker_then_synced_then_resumed(runs, tmp_path):
    out = runs / "killed"
    search = start(out, tmp_path)
    try:
        eventually(lambda: (out / "journal.sqlite").exists(), "the search")
        eventually(lambda: len(journal(out)) == 20, "20 trials")
        (follower,) = psutil.Process(search.pid).children()
    finally:
        search.kill()
        search.communicate()
    with contextlib.suppress(psutil.NoSuchProcess):
        follower.kill()
    answer = tracking.sync(out)
    assert (answer["trials"], answer["complete"]) == (20, True)
    run = answer["run_id"]
    assert ending(runs, run) == "KILLED"
    assert [step for step, _ in points(runs, run, "trial/value")] == list(range(20))

    nasplug.resume(out, method=Sampler(), space=SPACE, evaluate=score)
    assert tracking.wait(PATIENCE)
    assert tracking.run_id(out) == run
    assert ending(runs, run) == "FINISHED"
    assert points(runs, run, "trial/value") == [(row.number, row.value) for row in journal(out)]
    assert len(journal(out)) == 60


def test_a_search_lives_as_long_as_somebody_holds_its_directory(runs):
    selection = nasplug.search(Sampler(), space=SPACE, evaluate=score, budget=9)
    assert tracking.wait(PATIENCE)
    directory = RunDirectory.open(selection.run_dir)
    directory.set_status("running")
    directory.lock()
    assert not tracking.sync(selection.run_dir)["complete"]
    assert directory.status()["state"] == "running"
    directory.close()
    assert tracking.sync(selection.run_dir)["complete"]
    assert directory.status()["error"] == "the process died"
    assert ending(runs, tracking.run_id(selection.run_dir)) == "KILLED"


def test_a_store_that_is_lost_is_filled_again(runs):
    selection = nasplug.search(Sampler(), space=SPACE, evaluate=score, budget=9)
    assert tracking.wait(PATIENCE)
    run = tracking.run_id(selection.run_dir)
    with contextlib.closing(sqlite3.connect(runs / "mlflow.db", timeout=60)) as store:
        for table in ("metrics", "latest_metrics", "params", "tags"):
            store.execute(f"DELETE FROM {table} WHERE run_uuid = ?", (run,))
        store.execute("DELETE FROM runs WHERE run_uuid = ?", (run,))
        store.commit()
    answer = tracking.sync(selection.run_dir)
    assert (answer["trials"], answer["complete"]) == (9, True)
    assert answer["run_id"] != run
    assert [step for step, _ in points(runs, answer["run_id"], "trial/value")] == list(range(9))


def test_processes_that_create_the_store_at_the_same_time(tmp_path):
    for number in (20, 40):
        (tmp_path / str(number)).touch()
    folders = [tmp_path / "runs" / name for name in ("a", "b")]
    searches = [start(out, tmp_path) for out in folders]
    for search in searches:
        _, error = search.communicate(timeout=PATIENCE)
        assert search.returncode == 0, error
    for out in folders:  # on a busy machine the tracking processes outlive the wait at exit
        eventually(lambda out=out: tracking.read_json(out / "tracking.json").get("ended"), out)
        steps = points(tmp_path / "runs", tracking.run_id(out), "trial/value")
        assert [step for step, _ in steps] == list(range(60))


# ---- a server


class Server:
    """A real ``mlflow server`` on loopback, stopped and started at will."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.uri = f"http://127.0.0.1:{probe.getsockname()[1]}"
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1",
                "--port", self.uri.rpartition(":")[2], "--workers", "1",
                "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db",
                "--artifacts-destination", f"{self.folder}/artifacts",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )  # fmt: skip
        eventually(self.answers, "the server")

    def stop(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def answers(self):
        assert self.process.poll() is None
        try:
            return urllib.request.urlopen(f"{self.uri}/health", timeout=5).status == 200
        except OSError:
            return False

    def get(self, path, **arguments):
        url = f"{self.uri}/api/2.0/mlflow/{path}?{urllib.parse.urlencode(arguments)}"
        with urllib.request.urlopen(url, timeout=60) as answer:
            return json.load(answer)

    def steps(self, run, key):
        history = self.get("metrics/get-history", run_id=run, metric_key=key)
        return sorted(int(point["step"]) for point in history["metrics"])


@pytest.fixture
def server(home, tmp_path):
    if (home / "mlflow.db").exists():  # spares the server MLflow's long migrations
        shutil.copy(home / "mlflow.db", tmp_path)
    server = Server(tmp_path)
    server.start()
    yield server
    with contextlib.suppress(ProcessLookupError):
        server.stop()


@pytest.mark.long
def test_a_server_that_goes_away_and_comes_back(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "outage")
    a, b = tmp_path / "a", tmp_path / "b"
    for gates in ("gates-a", "gates-b"):
        (tmp_path / gates).mkdir()
    first, second = start(a, tmp_path / "gates-a"), start(b, tmp_path / "gates-b")

    def sent(out):
        return tracking.read_json(out / "tracking.json").get("sent", 0)

    try:
        eventually(lambda: sent(a) == sent(b) == 20, "20 trials of each")
        server.stop()
        # One search ends while the server is away: undisturbed, and it says what to do.
        for gate in ("gates-a/20", "gates-a/40", "gates-b/20"):
            (tmp_path / gate).touch()
        _, error = first.communicate(timeout=PATIENCE)
        assert first.returncode == 0
        assert error == f"tracking incomplete: nasplug sync {a}\n"
        assert len(journal(a)) == 60
        with pytest.raises(NasplugError, match=r"could not be sent to http://127\.0\.0\.1"):
            tracking.sync(a)
        # The other goes on, and its tracking recovers by itself.
        eventually(lambda: len(journal(b)) == 40, "trials without a server")
        assert sent(a) == sent(b) == 20
        server.start()
        eventually(lambda: sent(b) == 40, "the tracking of b to recover")
        (tmp_path / "gates-b/40").touch()
        second.communicate(timeout=PATIENCE)
        assert second.returncode == 0
    finally:
        first.kill()
        second.kill()
    assert tracking.sync(a)["complete"]
    eventually(lambda: tracking.read_json(b / "tracking.json").get("ended"), "the end of b")
    for out in (a, b):
        run = tracking.run_id(out)
        assert server.steps(run, "trial/value") == list(range(60))
        answer = server.get("runs/get", run_id=run)["run"]
        assert answer["info"]["status"] == "FINISHED"
        assert answer["info"]["run_name"] == out.name
        params = {param["key"]: param["value"] for param in answer["data"]["params"]}
        assert params["K"] == "3"
        tags = {tag["key"]: tag["value"] for tag in answer["data"]["tags"]}
        assert tags["nasplug.python"] == sys.version.split()[0]
        files = {file["path"] for file in server.get("artifacts/list", run_id=run)["files"]}
        assert {"run.json", "selection.json", "trials.csv"} <= files
    experiment = server.get("experiments/get-by-name", experiment_name="outage")["experiment"]
    assert not experiment["artifact_location"].startswith("file:")


# ---- small parts


def test_secrets_stay_out(tmp_path, monkeypatch):
    assert redacted("https://me:secret@host:5/a/b") == "https://host:5/a/b"
    assert redacted("sqlite:////a/b@c.db") == "sqlite:////a/b@c.db"
    monkeypatch.setattr(sys, "argv", ["nasplug", "--storage", "postgresql://me:secret@host/db"])
    nasplug.search(
        Sampler(), space=SPACE, evaluate=score, budget=2, out=tmp_path / "out", tracking=False
    )
    written = (tmp_path / "out" / "run.json").read_text()
    assert "secret" not in written
    assert json.loads(written)["environment"]["command"] == ["nasplug"]


def test_where_runs_go(tmp_path, monkeypatch):
    local = f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert tracking.store_uri() == local
    command, environment = tracking.ui_command()
    assert environment["MLFLOW_BACKEND_STORE_URI"] == local
    assert "-P" in command
    assert local not in command
    write_json(tmp_path / "tracking.json", {"uri": "http://noted"})
    assert tracking.store_uri(tmp_path) == local
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@given")
    assert tracking.store_uri(tmp_path) == "https://me:secret@given"
    with pytest.raises(NasplugError, match=r"its UI is at https://given$"):
        tracking.ui_command()


def test_sync_of_what_is_no_run(tmp_path):
    with pytest.raises(NasplugError, match="not a run directory"):
        tracking.sync(tmp_path)

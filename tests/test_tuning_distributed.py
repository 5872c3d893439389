"""Studies shared by processes that die, on real storages; studies in a real MLflow server."""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from nasplug import tracking

if importlib.util.find_spec("optuna") is None:
    pytest.skip("needs optuna", allow_module_level=True)

import optuna
from optuna.trial import TrialState

from nasplug.tuning.storage import counted, open_storage

PATIENCE = 500  # seconds: everything takes long on a busy machine
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
TRIALS, SEEDS = 8, 3

# One machine's share of a study. Given a file to touch, it hangs in the midst of a trial.
SCRIPT = """
import itertools, sys, time
from pathlib import Path
import nasplug
from nasplug import Int, Method, Space, hookimpl
from nasplug.tuning import report, storage

report._draw = report._draw_page = lambda *_: None  # most of the work of so small a study
storage.HEARTBEAT, storage.GRACE = 1, 8

class Sampler(Method):
    K = Int(3, low=1, high=50)
    L = Int(3, low=1, high=50)
    @hookimpl
    def propose(self, search, subspace):
        return subspace.sample(1, search.rng)

calls = itertools.count()

def score(arch):
    if sys.argv[2:] and next(calls) == 20:
        Path(sys.argv[2]).touch()
        time.sleep(1000)
    time.sleep(0.02)
    return sum(arch.values())

if __name__ == "__main__":
    nasplug.tune(
        Sampler, space=Space({{f"d{{i}}": range(4) for i in range(6)}}, name="toy"),
        evaluate=score, trials={trials}, seeds={seeds}, budget=15, pruner="nop",
        storage={url!r}, out=sys.argv[1], tracking=False,
    )
"""


def eventually(true, what, patience=PATIENCE):
    deadline = time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.1)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# ---- storages


@pytest.fixture(scope="module")
def postgresql():
    """The URL of a database on a server of our own."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    folder = found[-1].parent if found else Path(shutil.which("initdb") or "/nowhere/-").parent
    if not (folder / "initdb").exists():
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("needs psycopg: pip install nasplug[postgresql]")
    home = Path(tempfile.mkdtemp(prefix="nasplug-pg-"))
    as_user = []
    if os.geteuid() == 0:  # which PostgreSQL refuses
        shutil.chown(home, "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    port = free_port()

    def command(name, *words):
        subprocess.run(
            [*as_user, str(folder / name), *words], check=True, cwd="/", capture_output=True
        )

    try:
        command("initdb", "-D", f"{home}/data", "-U", "nasplug", "--auth=trust", "--no-sync")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -k {home} -c fsync=off"
        command("pg_ctl", "-D", f"{home}/data", "-w", "-l", f"{home}/log", "-o", options, "start")
        yield f"postgresql://nasplug@127.0.0.1:{port}/postgres"
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            command("pg_ctl", "-D", f"{home}/data", "-m", "immediate", "stop")
        shutil.rmtree(home, ignore_errors=True)


@pytest.mark.parametrize(
    "storage", [pytest.param("sqlite", marks=pytest.mark.slow), "journal", "postgresql"]
)
def test_two_machines_of_which_one_is_killed(storage, tmp_path, request):
    if storage == "sqlite":
        url, folders = f"sqlite:///{tmp_path}/s.db", [tmp_path / "shared"] * 2
    else:  # study directories of their own: only the storage in common
        url = f"journal://{tmp_path}/s.log"
        folders = [tmp_path / "a" / "shared", tmp_path / "b" / "shared"]
    if storage == "postgresql":
        url = request.getfixturevalue("postgresql")
    script = tmp_path / "share.py"
    script.write_text(SCRIPT.format(trials=TRIALS, seeds=SEEDS, url=url))
    hangs = tmp_path / "hangs"
    processes = []

    def start(*words):
        command = [sys.executable, str(script), *map(str, words)]
        processes.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        return processes[-1]

    def alive(process):
        assert process.poll() is None, process.stderr.read()

    try:
        victim = start(folders[0], hangs)
        eventually(lambda: alive(victim) or hangs.exists(), "a worker in the midst of a trial")
        heir = start(folders[1])
        study = optuna.load_study(study_name="shared", storage=open_storage(url))
        eventually(
            lambda: alive(heir) or study.get_trials(deepcopy=False, states=FINISHED),
            "a trial of the other worker",
        )
        victim.kill()
        victim.wait()
        _, error = heir.communicate(timeout=PATIENCE)
        assert heir.returncode == 0, error
    finally:
        for process in processes:
            process.kill()
    kept = counted(study)
    assert len(kept) == TRIALS
    assert all(trial.state in FINISHED for trial in kept)
    if storage == "postgresql":  # whose machines see each other's heartbeats alone
        (again,) = [trial for trial in kept if "failed_trial" in trial.system_attrs]
        # The retry has the hyperparameters of what was lost.
        lost = study.trials[again.system_attrs["failed_trial"]]
        assert lost.state == TrialState.FAIL
        assert lost.params.items() <= again.params.items()
    else:
        assert [trial.user_attrs.get("lost", 0) for trial in study.trials].count(1) == 1
    best = json.loads((folders[1] / "best.json").read_text())
    assert best["value"] == study.best_value
    if storage == "sqlite":  # its finished searches were not done again
        lines = (folders[1] / "searches.jsonl").read_text().splitlines()
        searched = [json.loads(line) for line in lines]
        keys = [(str(r["hyperparameters"]), r["seed"]) for r in searched if "seed" in r]
        assert len(set(keys)) == TRIALS * SEEDS


@pytest.mark.parametrize("storage", ["sqlite", "postgresql"])
def test_machines_that_begin_at_the_same_time(storage, tmp_path, request):
    url = f"sqlite:///{tmp_path}/s.db"
    if storage == "postgresql":
        url = request.getfixturevalue("postgresql")
    script = tmp_path / "share.py"
    script.write_text(SCRIPT.format(trials=TRIALS, seeds=1, url=url))
    folders = [tmp_path / name / "hurried" for name in "abc"]
    processes = [
        subprocess.Popen([sys.executable, str(script), str(folder)], stderr=subprocess.PIPE)
        for folder in folders
    ]
    for process in processes:
        _, error = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, error.decode()
    study = optuna.load_study(study_name="hurried", storage=open_storage(url))
    kept = counted(study)
    assert [trial.state in FINISHED for trial in kept] == [True] * TRIALS
    assert kept[0].params == {"K": 3, "L": 3}
    assert sum(trial.params == kept[0].params for trial in kept) == 1
    rest = [trial for trial in study.trials if trial not in kept]
    assert all(trial.user_attrs["surplus"] for trial in rest)
    if storage == "sqlite":  # they share a lock under which they ask
        assert not rest
    for folder in folders:
        best = json.loads((folder / "best.json").read_text())
        assert best["value"] == study.best_value


@pytest.mark.parametrize(
    "end",
    [
        "the parent killed",
        *(pytest.param(end, marks=pytest.mark.slow) for end in ("the workers killed", "Ctrl-C")),
    ],
)
def test_no_worker_is_left_behind_and_every_trial_counts_once(tmp_path, end):
    """Workers whose parent was killed went on to the end of their trial."""
    script, folder = tmp_path / "share.py", tmp_path / "study"
    text = SCRIPT.format(trials=6, seeds=2, url=None)
    script.write_text(text.replace("tracking=False", "tracking=False, workers=2"))
    hangs = tmp_path / "hangs"
    command = [sys.executable, str(script), str(folder)]
    parent = psutil.Popen([*command, str(hangs)], stderr=subprocess.PIPE, text=True)
    eventually(hangs.exists, "a worker in the midst of a trial")  # of 1000 seconds
    children = parent.children(recursive=True)
    workers = [one for one in children if "spawn_main" in " ".join(one.cmdline())]
    assert len(workers) == 2
    if end == "the workers killed":
        workers[0].kill()
        workers[1].kill()  # they may both hang
        _, error = parent.communicate(timeout=PATIENCE)
        assert "all workers have died" in error
    elif end == "the parent killed":
        parent.kill()
    else:
        parent.send_signal(signal.SIGINT)
    parent.wait(PATIENCE)
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    subprocess.run(command, check=True, timeout=PATIENCE)
    study = optuna.load_study(
        study_name="study", storage=open_storage(f"sqlite:///{folder}/study.db")
    )
    assert [trial.state in FINISHED for trial in study.trials] == [True] * 6
    assert not list(folder.glob("worker-*.lock"))


def test_four_processes_begin_in_one_new_study_directory(tmp_path):
    """Some died on Optuna's tables, which two of them created, or on half a best.json, which two
    of them wrote."""
    script = tmp_path / "share.py"
    script.write_text(SCRIPT.format(trials=6, seeds=1, url=None))
    for name in ("first", "second"):
        folder = tmp_path / name
        processes = [
            subprocess.Popen([sys.executable, str(script), str(folder)], stderr=subprocess.PIPE)
            for _ in range(4)
        ]
        for process in processes:
            _, error = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, error.decode()
        url = f"sqlite:///{folder}/study.db"
        study = optuna.load_study(study_name=name, storage=open_storage(url))
        assert [trial.state in FINISHED for trial in study.trials] == [True] * 6
        assert json.loads((folder / "status.json").read_text())["state"] == "finished"
        assert json.loads((folder / "best.json").read_text())["value"] == study.best_value
        left = {file.suffix for file in folder.iterdir()}
        assert not left & {".part"}


# ---- MLflow


class Server:
    """A real ``mlflow server`` on loopback."""

    def __init__(self, folder):
        self.uri = f"http://127.0.0.1:{free_port()}"
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1",
                "--port", self.uri.rpartition(":")[2], "--workers", "1",
                "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
                "--artifacts-destination", f"{folder}/artifacts",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            start_new_session=True,
        )  # fmt: skip
        eventually(self.answers, "the server")

    def answers(self):
        assert self.process.poll() is None
        try:
            return urllib.request.urlopen(f"{self.uri}/health", timeout=5).status == 200
        except OSError:
            return False

    def post(self, path, **content):
        request = urllib.request.Request(
            f"{self.uri}/api/2.0/mlflow/{path}", json.dumps(content).encode(),
            {"Content-Type": "application/json"},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def get(self, path):
        with urllib.request.urlopen(f"{self.uri}/api/2.0/mlflow/{path}", timeout=60) as answer:
            return json.load(answer)

    def stop(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, 9)
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if importlib.util.find_spec("mlflow") is None:
        pytest.skip("needs mlflow")
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def study(server, tmp_path_factory, nb201_table):
    """One that the server knows."""
    import nasplug

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", server.uri)
        patch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
        patch.setenv("NASPLUG_DATA", str(nb201_table))
        imported = "mlflow" in sys.modules  # by another test
        study = nasplug.tune(
            "regularized-evolution", "nb201/toy", trials=4, seeds=2, budget=30, pruner="nop",
            tournament=2, out=tmp_path_factory.mktemp("runs") / "study",
        )  # fmt: skip
        assert ("mlflow" in sys.modules) == imported
        assert tracking.wait(PATIENCE)
    return study


def values(pairs):
    return {pair["key"]: pair["value"] for pair in pairs}


def test_a_study_in_mlflow(server, study):
    number = server.get("experiments/get-by-name?experiment_name=nb201/toy")["experiment"]
    runs = server.post("runs/search", experiment_ids=[number["experiment_id"]])["runs"]
    assert len(runs) == 1 + 4 * 2
    (parent,) = [run for run in runs if run["info"]["run_id"] == tracking.run_id(study.directory)]
    tags = values(parent["data"]["tags"])
    assert "mlflow.parentRunId" not in tags
    assert "defaults" in tags["mlflow.note.content"]
    assert parent["info"]["status"] == "FINISHED"
    params = values(parent["data"]["params"])
    assert params["method"] == "regularized-evolution"
    assert params["tuned"] == "population"
    assert values(parent["data"]["metrics"])["best_value"] == pytest.approx(study.best_value)
    run_id = parent["info"]["run_id"]
    history = server.get(f"metrics/get-history?run_id={run_id}&metric_key=value")["metrics"]
    told = {int(point["step"]): point["value"] for point in history}
    assert told == pytest.approx({trial.number: trial.value for trial in study.trials})
    files = server.get(f"artifacts/list?run_id={run_id}")["files"]
    assert {"best.json", "trials.csv", "study.json", "history.png"} <= {f["path"] for f in files}

    children = [run for run in runs if run is not parent]
    seen = set()
    for child in children:
        assert child["info"]["status"] == "FINISHED"
        tags, params = values(child["data"]["tags"]), values(child["data"]["params"])
        assert tags["mlflow.parentRunId"] == run_id
        trial = study.trials[int(params["trial"])]
        assert params["population"] == str(trial.params["population"])
        seen.add((trial.number, int(params["seed"])))
        metrics = values(child["data"]["metrics"])
        assert {"best_value", "best_report", "selected_value", "trials", "seconds"} <= set(metrics)
        assert metrics["best_value"] == metrics["selected_value"]
    assert len(seen) == 8
    child = children[0]["info"]["run_id"]
    curve = server.get(f"metrics/get-history?run_id={child}&metric_key=best_value")["metrics"]
    assert [p["value"] for p in curve] == sorted(p["value"] for p in curve)
    assert max(int(point["step"]) for point in curve) == 29


def test_the_page_of_the_experiment(server, study, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    number = server.get("experiments/get-by-name?experiment_name=nb201/toy")["experiment"]
    page = f"{server.uri}/#/experiments/{number['experiment_id']}/runs"

    def browse(*options):
        return subprocess.run(
            [
                browser, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1600,900",
                "--disable-background-networking", "--disable-quic", "--disable-sync",
                "--no-first-run", "--disable-component-update", f"--user-data-dir={tmp_path}",
                "--virtual-time-budget=60000", *options, page,
            ],
            capture_output=True, text=True, timeout=PATIENCE, check=True,
        )  # fmt: skip

    picture = tmp_path / "experiment.png"  # pytest keeps the folders of the last runs
    browse(f"--screenshot={picture}")
    assert picture.stat().st_size > 20_000
    shown = browse("--dump-dom")
    assert study.study_name in shown.stdout
    assert "matching runs" in shown.stdout


def test_a_study_without_its_server_is_synced_later(server, tmp_path, nb201_table, monkeypatch):
    import nasplug

    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "later")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("NASPLUG_DATA", str(nb201_table))
    study = nasplug.tune(
        "regularized-evolution", "nb201/toy", trials=2, seeds=2, budget=9, out=tmp_path / "study",
        tournament=2,
    )  # fmt: skip
    assert not tracking.wait(30)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    answer = tracking.sync(study.directory)
    assert (answer["trials"], answer["complete"]) == (4, True)
    assert tracking.sync(study.directory) == answer
    number = server.get("experiments/get-by-name?experiment_name=later")["experiment"]
    runs = server.post("runs/search", experiment_ids=[number["experiment_id"]])["runs"]
    assert len(runs) == 5

"""Passwords stay off the disk and the screen; a run directory of somebody else's gets nothing."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import nasplug
from nasplug import NasplugError, Space, tracking
from nasplug.cli import cli
from nasplug.run.directory import RunDirectory, read_json, write_json
from nasplug.run.secrets import redacted, scrubbed

pytest.importorskip("mlflow")

SECRET = "hunter2"
SPACE = Space({"width": [16, 32, 64], "depth": [1, 2, 3]})
URLS = {
    "https://me:hunter2@host:5/a": "https://host:5/a",
    "https://me:hun@hunter2@host/a": "https://host/a",
    "https://me:hunter2/x@host/a": "https://host/a",
    "postgresql://me:hunter2@host/db": "postgresql://host/db",
    "postgresql+psycopg://me:hunter2@host:1/db": "postgresql+psycopg://host:1/db",
    "postgresql://host/db?user=me&password=hunter2": "postgresql://host/db?***",
    "https://host/a?access_token=hunter2": "https://host/a?***",
    "https://host/a?x=1&token=hunter2#b": "https://host/a?***",
    "https://hunter2@host": "https://host",
    "me:hunter2@host/db": "host/db",
    "sqlite:////a/b@c.db": "sqlite:////a/b@c.db",
}


@pytest.mark.parametrize("url", URLS)
def test_a_url_is_shown_without_its_secrets(url):
    assert redacted(url) == URLS[url]
    assert SECRET not in scrubbed(f"cannot reach '{url}': refused", url)


def test_secrets_of_the_environment_are_scrubbed(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", SECRET)
    assert SECRET not in scrubbed(f"401 for Bearer {SECRET}")


def test_a_short_value_in_the_environment_is_no_secret(monkeypatch):
    """With SORT_KEY=1 no error said which trial it was about."""
    monkeypatch.setenv("SORT_KEY", "1")
    monkeypatch.setenv("PARTITION_KEY", "trial")
    assert scrubbed("trial 1 of 3 failed") == "trial 1 of 3 failed"


ARGUMENTS = [
    ["--password=hunter2"], ["--token", "hunter2"], ["-p", "hunter2"], ["HF_TOKEN=hunter2"],
    ["postgresql://me:hunter2@host/db"], ["postgresql://me:hun@hunter2@host/db"],
    ["postgresql://me:my hunter2@host/db"], ["postgresql://host/db?user=a&password=hunter2"],
    ["me:hunter2@host"], ["https://host/?access_token=hunter2"], ["--url=https://me:hunter2@h"],
    ["--auth", "me:hunter2"], ["hunter2"], ["--key=hunter2"], ["AWS_SECRET_ACCESS_KEY=hunter2"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=" ".join)
def test_arguments_of_ones_own_script_are_not_written(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    nasplug.search(
        "random", space=SPACE, evaluate=lambda arch: 1.0, budget=2, out=tmp_path, tracking=False
    )
    for file in tmp_path.iterdir():
        assert SECRET.encode() not in file.read_bytes(), file
    assert read_json(tmp_path / "run.json")["environment"]["command"] == ["train.py"]


def test_the_call_of_nasplug_is_written_as_it_was_parsed(tmp_path, monkeypatch, nb201_table):
    monkeypatch.setenv("NASPLUG_DATA", str(nb201_table))
    line = ["run", "random", "--on", "nb201/toy", "--budget", "3", "--no-track", "--out"]
    cli.main([*line, str(tmp_path / "run")], prog_name="nasplug", standalone_mode=False)
    command = read_json(tmp_path / "run" / "run.json")["environment"]["command"]
    assert command[:3] == ["nasplug", "run", "random"]
    assert {"--on", "nb201/toy", "--budget", "3", "--no-track"} <= set(command)


# ---- servers


class Server:
    """Answers every request in one way, and keeps what it was asked."""

    def __init__(self, code: int | None) -> None:
        outer = self
        self.asked: list[dict[str, str]] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                outer.asked.append(dict(self.headers))
                if code is None:
                    time.sleep(60)
                self.send_response(code or 500)
                self.end_headers()

            do_GET = do_POST = do_PUT = answer  # noqa: N815 - http.server's names

            def log_message(self, *_: object) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run that was never sent."""
    monkeypatch.setenv("NASPLUG_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    nasplug.search(
        "random", space=SPACE, evaluate=lambda arch: 1.0, budget=3, out=tmp_path / "theirs",
        tracking=False,
    )  # fmt: skip
    return tmp_path / "theirs"


def test_a_directory_does_not_say_where_it_is_sent(run, monkeypatch):
    """`nasplug sync DIR` sent the user's token to the server that the directory named."""
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", SECRET)
    server = Server(200)
    write_json(run / "tracking.json", {"uri": server.url, "key": "x", "run_id": "1"})
    with pytest.raises(NasplugError, match=r"was sent to http://127.* --to or MLFLOW_TRACKING_URI"):
        tracking.sync(run)
    assert not server.asked
    answer = tracking.sync(run, to=tracking.store_uri())
    assert answer["complete"]
    assert not server.asked


def test_links_are_neither_sent_nor_followed(run, tmp_path):
    key = tmp_path / "key"
    key.write_text(SECRET)
    (run / "curve.png").unlink(missing_ok=True)
    (run / "curve.png").symlink_to(key)
    with pytest.raises(NasplugError, match=r"curve.png, which is a link"):
        tracking.sync(run)
    with pytest.raises(NasplugError, match=r"curve.png, which is a link"):
        nasplug.resume(run, evaluate=lambda arch: 1.0)
    assert key.read_text() == SECRET


def test_a_run_that_is_somebody_elses_is_not_written_to(run):
    """The number of an MLflow run in a directory is a claim: its key has to fit."""
    first = tracking.sync(run)
    other = run.parent / "other"
    nasplug.search(
        "random", space=SPACE, evaluate=lambda arch: 2.0, budget=3, out=other, tracking=False
    )
    write_json(other / "tracking.json", {**read_json(run / "tracking.json")})
    assert tracking.sync(other)["run_id"] != first["run_id"]


SCRIPT = """
import time, nasplug
nasplug.search("random", space=nasplug.Space({"a": [1, 2, 3]}), evaluate=lambda arch: 1.0,
               budget=3, out="out", progress=False)
print(time.time(), flush=True)
"""


@pytest.mark.parametrize(
    "kind",
    [
        "401", "postgresql",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("403", "refused", "a folder")),
    ],
)  # fmt: skip
def test_the_process_ends_soon_whatever_the_server_does(kind, tmp_path):
    """It waited for 31 to 47 seconds after a 401."""
    uri = {
        "refused": "http://127.0.0.1:9", "a folder": f"sqlite:///{tmp_path}",
        "postgresql": "postgresql://me:hunter2@127.0.0.1:9/db",
    }.get(kind) or Server(int(kind)).url  # fmt: skip
    answer = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=100, cwd=tmp_path,
        env={**os.environ, "MLFLOW_TRACKING_URI": uri, "NASPLUG_RUNS": str(tmp_path / "runs")},
    )  # fmt: skip
    ended = time.time()
    assert answer.returncode == 0, answer.stderr
    assert "nasplug sync" in answer.stderr
    opened = (tmp_path / "out" / "tracking.json").stat().st_mtime  # MLflow has been imported
    assert ended - max(opened, float(answer.stdout)) < 15
    for file in (tmp_path / "out").iterdir():
        assert SECRET.encode() not in file.read_bytes(), file
    assert SECRET not in answer.stderr


def test_four_searches_at_once_in_a_new_store(tmp_path):
    environment = {**os.environ, "NASPLUG_RUNS": str(tmp_path / "runs")}
    environment.pop("MLFLOW_TRACKING_URI", None)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT.replace('"out"', f'"out{i}"')], cwd=tmp_path,
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(4)
    ]  # fmt: skip
    for process in processes:
        _, said = process.communicate(timeout=200)
        assert process.returncode == 0, said
    found = set()
    for i in range(4):
        folder = tmp_path / f"out{i}"
        RunDirectory.open(folder)
        deadline = time.monotonic() + 60
        while not read_json(folder / "tracking.json").get("ended") and time.monotonic() < deadline:
            time.sleep(0.2)
        notes = read_json(folder / "tracking.json")
        assert notes["error"] == ""
        assert notes["trials"] == 3
        found.add(notes["run_id"])
    assert len(found) == 4


# ---- what people see


def test_the_winners_figures_have_names_of_their_own(tmp_path, monkeypatch):
    """The overview showed the last trial's `params` and `value`."""
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("NASPLUG_RUNS", str(tmp_path / "runs"))
    found = nasplug.search(
        "random", space=SPACE, budget=9, out=tmp_path / "run", tracking=False,
        evaluate=lambda arch: {"value": arch["width"] * arch["depth"], "params": arch["width"]},
    )  # fmt: skip
    answer = tracking.sync(tmp_path / "run")
    metrics = MlflowClient(answer["uri"]).get_run(answer["run_id"]).data.metrics
    assert metrics["selected_value"] == metrics["best_value"] == found.best.value == 192
    assert metrics["selected_params"] == 64
    assert "params" not in metrics
    assert "trial/params" in metrics


def test_names_are_no_markdown(tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("NASPLUG_RUNS", str(tmp_path / "runs"))
    space = Space({"a": ["`x` [y](http://z) | \udcff", "`x`"]}, name="s|*b*")
    nasplug.search(
        "random", space=space, evaluate=lambda arch: 1.0, budget=2, out=tmp_path / "run",
        tracking=False,
    )  # fmt: skip
    answer = tracking.sync(tmp_path / "run")
    text = MlflowClient(answer["uri"]).get_run(answer["run_id"]).data.tags["mlflow.note.content"]
    assert text.startswith("    a=`x`")


def test_only_what_markdown_would_read_is_escaped():
    """MLflow showed ``val_acc\\@200``."""
    from nasplug.tracking.sender import _plain

    assert _plain("val_acc@200") == "val_acc@200"
    assert _plain("*a* [b](c) <d> `e`") == r"\*a\* \[b\]\(c\) &lt;d> \`e\`"


def test_the_ui_runs_nothing_of_the_current_folder(tmp_path, monkeypatch):
    """`nasplug ui` ran ./mlflow.py."""
    (tmp_path / "mlflow.py").write_text("print('owned')")
    monkeypatch.chdir(tmp_path)
    command, environment = tracking.ui_command()
    answer = subprocess.run(
        [*command[:4], "--version"], capture_output=True, text=True, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert "owned" not in answer.stdout
    assert json.dumps(SECRET) not in " ".join(command)


def test_a_port_that_is_taken_is_named(tmp_path):
    server = Server(200)
    answer = subprocess.run(
        [Path(sys.executable).with_name("nasplug"), "ui", "--port", server.url.rpartition(":")[2]],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert answer.returncode == 2
    assert "choose another --port" in answer.stderr

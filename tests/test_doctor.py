"""The doctor's findings: each state of data, software and machine, with its fix."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from nasplug.cli import doctor
from nasplug.cli.doctor import Check, checksums, examine
from nasplug.kernel.registry import Plugin, registry

TABLE = "nas-bench-201.parquet"


@pytest.fixture(autouse=True)
def calm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No data, no server, a writable folder; torch is not asked, which would take seconds."""
    monkeypatch.chdir(tmp_path)
    for name in ("NASPLUG_DATA", "NASPLUG_RUNS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor, "_gpu", lambda: Check("gpu", "ok", "not asked"))


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nb201_table: Path) -> Path:
    """A data folder of one's own with a table and its checksum."""
    folder = tmp_path / "data"
    shutil.copytree(nb201_table, folder)
    digest = hashlib.sha256((folder / TABLE).read_bytes()).hexdigest()
    (folder / "SHA256SUMS").write_text(f"{digest}  {TABLE}\n")
    monkeypatch.setenv("NASPLUG_DATA", str(folder))
    return folder


def find(name: str, problem: str | None = None) -> Check:
    """The check whose name ends so."""
    return next(check for check in examine(problem) if check.name.endswith(name))


def failures(problem: str | None = None) -> list[str]:
    return [check.name for check in examine(problem) if check.state == "fail"]


def test_nothing_would_stop_a_run(data: Path) -> None:
    assert failures() == []
    assert failures("nb201/toy") == []
    assert find(TABLE).found == "checksum matches"
    assert "scored by table: reward val_acc@12" in find("problem nb201/toy", "nb201/toy").found


@pytest.mark.usefixtures("no_packages")
def test_data_unset_warns_unless_the_problem_needs_it() -> None:
    assert find("NASPLUG_DATA").state == "warn"
    assert failures() == []
    check = find("problem nb201/cifar10", "nb201/cifar10")
    assert check.state == "fail"
    assert "set NASPLUG_DATA to the folder that holds nas-bench-201.parquet" in check.fix


def test_data_folder_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASPLUG_DATA", "nowhere")
    assert find("NASPLUG_DATA").found == "nowhere is no folder"
    assert failures() == ["NASPLUG_DATA"]


def test_an_empty_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("NASPLUG_DATA", "empty")
    assert find("NASPLUG_DATA").state == "warn"
    assert failures() == []


def test_a_flipped_bit(data: Path) -> None:
    content = bytearray((data / TABLE).read_bytes())
    content[1000] ^= 1
    (data / TABLE).write_bytes(content)
    assert "damaged" in find(TABLE).found
    assert failures("nb201/toy")[0].endswith(TABLE)


def test_a_truncated_table(data: Path) -> None:
    (data / TABLE).write_bytes((data / TABLE).read_bytes()[:-100])
    assert "damaged" in find(TABLE, "nb201/toy").found
    (data / "SHA256SUMS").unlink()
    assert "truncated, or no parquet" in find(TABLE, "nb201/toy").found
    assert "cannot be read as parquet" in find("problem nb201/toy", "nb201/toy").fix


def test_a_table_without_a_checksum(data: Path) -> None:
    (data / "SHA256SUMS").unlink()
    check = find(TABLE)
    assert check.state == "ok"
    assert "does not state its checksum" in check.found


def test_a_listed_file_that_is_missing(data: Path) -> None:
    with (data / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64} *more/missing.parquet\n")
    assert find("missing.parquet").found == "missing, though SHA256SUMS names it"
    assert failures("nb201/toy") == [], "another problem does not need it"


def test_checksums_are_read_as_sha256sum_writes_them(tmp_path: Path) -> None:
    a, b = "a" * 64, "B" * 64
    (tmp_path / "SHA256SUMS").write_text(f"{a}  ./x y.parquet\n{b} *z\n# remark\nshort  w\n")
    assert checksums(tmp_path) == {"x y.parquet": a, "z": "b" * 64}
    assert checksums(tmp_path / "nowhere") == {}


def test_unknown_problems() -> None:
    assert failures("nb202/digits") == ["problem nb202/digits"]
    assert "unknown space 'nb202'" in find("problem nb202/digits", "nb202/digits").fix
    assert failures("nb201") == ["problem nb201"]


def test_a_plugin_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Plugin("broken", "1.0", error="ImportError: no such thing")
    monkeypatch.setattr(registry(), "plugins", [*registry().plugins, broken])
    check = find("plugin broken")
    assert check.state == "warn"
    assert "ImportError: no such thing" in check.found
    assert failures() == []


def test_no_method_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry(), "methods", {})
    assert failures() == ["methods"]


@pytest.mark.parametrize(
    ("requirement", "wrong"),
    [
        ("numpy", ""),
        ("numpy>=1.26", ""),
        ("numpy>=999.1,<1000", "is installed"),
        ("no-such-thing>=1", "not installed"),
        ("mlflow[extra]>=0.1", ""),
    ],
)
def test_requirements(requirement: str, wrong: str) -> None:
    found = doctor.unmet(Requirement(requirement))
    assert wrong in found
    assert bool(found) == bool(wrong)


def test_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "available_memory", lambda: 5 * doctor.MB)
    assert failures() == ["memory"]


def test_runs_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NASPLUG_RUNS", "file/runs")
    check = find("run directories")
    assert check.state == "fail"
    assert "NASPLUG_RUNS" in check.fix


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 0})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    assert find("run directories").state == "warn"


def test_the_tracking_server(monkeypatch: pytest.MonkeyPatch) -> None:
    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 401)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Health)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
    assert find("tracking").state == "ok"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}/private")
    assert find("tracking").found.endswith("answers (401)")
    server.shutdown()
    server.server_close()
    assert find("tracking").state == "warn", "it does not stop a search"
    assert "nasplug sync" in find("tracking").fix


def test_the_command(data: Path) -> None:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "nasplug", "doctor"]
        return subprocess.run(
            [*command, *arguments], capture_output=True, text=True, check=False, env=os.environ
        )

    said = call("nb201/toy")
    assert said.returncode == 0
    assert "ok  problem nb201/toy" in said.stdout
    (data / TABLE).write_bytes(b"")
    said = call("nb201/toy", "--json")
    assert said.returncode == 2
    assert said.stderr == ""
    answer = json.loads(said.stdout.splitlines()[-1])
    assert answer["ok"] is False
    states = {check["check"].rpartition("/")[2]: check["state"] for check in answer["checks"]}
    assert states[TABLE] == "fail"

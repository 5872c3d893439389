"""`nasplug doctor RUN_DIR`: what is in a run directory, whether it is sound, how to go on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import nasplug
from nasplug.cli import main
from nasplug.cli.run_checks import Check, examine_run
from nasplug.run.directory import RunDirectory, write_json

pytest.importorskip("nasplug_baselines")
SPACE = nasplug.Space({"a": [1, 2, 3], "b": [1, 2, 3]})


def search(out: Path, **options: object) -> Path:
    options = {"evaluate": lambda params: params["b"], "budget": 4} | options
    nasplug.search("random", space=SPACE, out=out, tracking=False, **options)  # type: ignore[arg-type]
    return out


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return search(tmp_path / "run")


def find(run: Path, name: str) -> Check:
    return next(check for check in examine_run(run) if check.name == name)


def failures(run: Path) -> list[str]:
    return [check.name for check in examine_run(run) if check.state == "fail"]


def test_a_finished_run_is_described_with_what_goes_on(run: Path) -> None:
    assert failures(run) == []
    assert "random on custom/function, budget 4, seed 0" in find(run, "run.json").found
    assert find(run, "journal").found == "4 trials of 4, best value 3"
    state = find(run, "state")
    assert state.found.endswith("budget spent")
    assert f"nasplug.resume({str(run)!r}, evaluate=...)" in state.fix


def test_failed_and_pruned_trials_are_counted(tmp_path: Path) -> None:
    def evaluate(params: dict[str, int]) -> float:
        if params["a"] == 1:
            raise nasplug.TrialPruned
        return params["b"] / (params["b"] - 2)

    run = search(tmp_path / "run", evaluate=evaluate, budget=9)
    assert find(run, "journal").found == "9 trials of 9, 2 failed, 3 pruned, best value 3"


@pytest.mark.parametrize("state", ["running", "killed", "failed"])
def test_a_search_that_did_not_end_says_so_and_how_to_go_on(run: Path, state: str) -> None:
    RunDirectory.open(run).set_status(state, "ValueError: no")
    check = find(run, "state")
    assert check.state == "warn"
    assert "nasplug.resume" in check.fix
    said = {"running": "its process has died", "killed": "interrupted", "failed": "ValueError: no"}
    assert said[state] in check.found


def test_who_searches_it(run: Path) -> None:
    directory = RunDirectory.open(run)
    directory.set_status("running")
    directory.lock()
    assert "searches it" in find(run, "state").found
    directory.close()


@pytest.mark.parametrize("file", ["run.json", "journal.sqlite"])
def test_a_damaged_file_is_named(run: Path, file: str) -> None:
    data = (run / file).read_bytes()
    (run / file).write_bytes(data[: len(data) // 2])
    assert failures(run) == ["journal" if "sqlite" in file else file]


def test_a_damaged_subspace_and_a_link_are_named(
    tmp_path: Path, nb201_table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nasplug_shrinkers")
    monkeypatch.setenv("NASPLUG_DATA", str(nb201_table))
    run = tmp_path / "run"
    nasplug.search(
        "shrink-random", "nb201/toy", budget=40, size=100, out=run, tracking=False, progress=False
    )
    assert find(run, "subspace.npz").found == "set of 100 archs of nb201"
    assert find(run, "state").fix.endswith(f"nasplug resume {run}")
    (run / "subspace.npz").write_bytes(b"PK")
    assert failures(run) == ["subspace.npz"]
    (run / "curve.png").unlink(missing_ok=True)
    (run / "curve.png").symlink_to("/etc/hostname")
    assert "curve.png" in find(run, "run.json").found


def test_a_checkpoint_of_another_run_is_named(tmp_path: Path) -> None:
    class Remembers(nasplug.Method):
        @nasplug.hookimpl
        def propose(self, search: nasplug.Search) -> nasplug.Archs:
            return SPACE.sample(1, search.rng)

        def state(self) -> dict[str, int]:
            return {"seen": 1}

    runs = []
    for name in ("one", "other"):
        nasplug.search(
            Remembers(), space=SPACE, evaluate=lambda params: 1.0, budget=3, out=tmp_path / name,
            tracking=False,
        )  # fmt: skip
        runs.append(tmp_path / name)
    assert find(runs[0], "checkpoint").found == "after 3 trials"
    assert "method=..., evaluate=..." in find(runs[0], "state").fix
    (runs[0] / "checkpoint.old.npz").unlink()
    shutil.copy(runs[1] / "checkpoint.npz", runs[0])
    assert "does not fit" in find(runs[0], "checkpoint").found


def test_what_mlflow_has(run: Path) -> None:
    assert find(run, "MLflow").state == "ok"  # it was not to be tracked
    directory = RunDirectory.open(run)
    notes = {"run_id": "abc", "uri": "http://me:secret@host", "trials": 2, "ended": None}
    write_json(run / "tracking.json", notes)
    check = find(run, "MLflow")
    assert check.state == "warn"
    assert check.fix == f"nasplug sync {run}"
    assert "abc" in check.found
    assert "secret" not in check.found
    write_json(run / "tracking.json", {**notes, "ended": directory.status()})
    assert find(run, "MLflow").state == "ok"


def test_the_command_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(("doctor", str(run), "--json"))
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"]
    assert found["run_dir"] == str(run)
    assert {check["check"] for check in found["checks"]} >= {"run.json", "journal", "state"}
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as ended:
        main(("doctor", str(tmp_path / "empty")))
    assert ended.value.code == 2
    assert "is not a run directory" in capsys.readouterr().out

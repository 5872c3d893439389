"""Methods of a file that nobody installed: `nasplug run ./hill_climber.py:HillClimber`."""

from __future__ import annotations

from pathlib import Path

import pytest

import nasplug
from nasplug import NasplugError, Space
from nasplug.cli import main
from nasplug.run.directory import read_json

SPACE = Space({"width": [16, 32, 64], "depth": [1, 2, 3]})
METHOD = """
from dataclasses import dataclass

from nasplug import Int, Method, hookimpl


@dataclass
class Step:  # looks its module up
    archs: "list[int]"


class {name}(Method):
    "Samples."

    batch = Int({batch}, low=1, high=9)

    @hookimpl
    def propose(self, search, subspace):
        return Step(subspace.sample(self.batch, search.rng)).archs


class _Base(Method):
    pass
"""


def score(arch: dict[str, int]) -> int:
    return arch["width"] * arch["depth"]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(METHOD.format(name="Mine", batch=3))
    return tmp_path / "mine.py"


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(words)
    return int(str(end.value.code))


@pytest.mark.parametrize("name", ["mine.py:Mine", "./mine.py", "{file}:Mine"])
def test_a_method_of_a_file_searches(name: str, file: Path) -> None:
    result = nasplug.search(
        name.format(file=file), space=SPACE, evaluate=score, budget=9, tracking=False, batch=2
    )
    assert (result.best.value, result.search.method_name) == (192, "Mine")


def test_the_command_line_takes_it_wherever_it_takes_a_method(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = ("--on", "nb201/digits", "--budget", "1", "--no-track", "--out", "run")
    assert command("show", "mine.py:Mine") == 0
    assert "Samples." in capsys.readouterr().out
    assert command("run", "mine.py", *task, "--set", "bach=2") == 2
    assert "did you mean batch?" in capsys.readouterr().err


def test_a_run_goes_on_from_anywhere(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = nasplug.search(
        "mine.py", space=SPACE, evaluate=score, budget=6, tracking=False, out="run"
    )
    monkeypatch.chdir("/")
    again = nasplug.resume(file.parent / "run", evaluate=score)
    assert again.search.trials.archs.tolist() == first.search.trials.archs.tolist()


@pytest.mark.parametrize("change", ["has changed since", "is gone"])
def test_a_run_does_not_go_on_with_another_file(
    change: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nasplug.search("mine.py", space=SPACE, evaluate=score, budget=3, tracking=False, out="run")
    if change == "is gone":
        file.unlink()
    else:
        file.write_text(METHOD.format(name="Mine", batch=4))
    with pytest.raises(NasplugError, match=rf"mine\.py, the file of Mine, {change}: put it back"):
        nasplug.resume("run", evaluate=score)
    command("doctor", "run")
    assert "put it back" in capsys.readouterr().out


def test_workers_score_what_it_proposes(file: Path) -> None:
    pytest.importorskip("loky")
    result = nasplug.search(
        "mine.py:Mine", space=SPACE, evaluate=score, budget=6, tracking=False, workers=2
    )
    assert result.search.finished == 6


def test_files_may_share_the_name_of_a_class_and_be_edited(file: Path) -> None:
    (file.parent / "other").mkdir()
    other = file.parent / "other" / "mine.py"
    other.write_text(METHOD.format(name="Mine", batch=1))

    def batch(name: object) -> int:
        found = nasplug.search(
            str(name), space=SPACE, evaluate=score, budget=3, tracking=False
        ).search.method
        return int(found.batch)

    assert (batch(file), batch(other)) == (3, 1)
    file.write_text(METHOD.format(name="Mine", batch=2))
    assert batch(file) == 2


def test_a_study_of_it(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna")
    study = {
        "space": SPACE, "evaluate": score, "seeds": 2, "budget": 3, "params": ["batch"],
        "tracking": False, "out": "study",
    }  # fmt: skip
    nasplug.tune("mine.py:Mine", trials=1, **study)
    assert read_json(file.parent / "study" / "best.json")["method"] == "Mine"
    file.write_text(METHOD.format(name="Mine", batch=1))
    with pytest.raises(NasplugError, match=r"method_file .*another --out starts another study"):
        nasplug.tune("mine.py:Mine", trials=2, **study)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (None, "bad.py", r"bad\.py cannot be read: No such file"),
        ("x = 1", "bad.py", r"bad\.py holds no method: a class derived from nasplug\.Method"),
        ("from nasplug import Method", "bad.py", "holds no method"),
        (
            METHOD.format(name="A", batch=1) + METHOD.format(name="B", batch=1),
            "bad.py",
            r"bad\.py holds 2 methods, A, B: name one, as in bad\.py:A",
        ),
        ("class A: pass", "bad.py:A", r"A of .*bad\.py is no method: derive the class"),
        ("x = 1", "bad.py:x", "x of .* is no method"),
        (METHOD.format(name="Mine", batch=1), "bad.py:Mina", "'Mina'; did you mean Mine"),
        ("\n\ndef f():\n    1 / 0\n\nf()", "bad.py", r"bad\.py, line 4: ZeroDivisionError: div"),
        ("import numpy\nimport missing_", "bad.py", r"bad\.py, line 2: ModuleNotFoundError: No mo"),
        ("x = 1\ndef f(:", "bad.py", r"bad\.py, line 2: SyntaxError: invalid syntax"),
        ("import sys\nsys.exit(3)", "bad.py", r"bad\.py, line 2: SystemExit: 3"),
        ("import json\njson.loads('{')", "bad.py", r"bad\.py, line 2: JSONDecodeError"),
        ("x = '\udcff'", "bad.py", r"bad\.py, line 1: SyntaxError"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said(
    content: str | None, name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "bad.py").write_bytes(content.encode(errors="surrogateescape"))
    for _ in range(2):  # what failed once is not there the second time
        with pytest.raises(NasplugError, match=message):
            nasplug.search(name, space=SPACE, evaluate=score, budget=1, tracking=False)

"""Malformed command lines, hundreds of them: each ends with what was asked for and exit code 0, or
with one message and exit code 2. Never a traceback, another exit code or a search without end."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nasplug.cli import main

CASES = 750
SEED = 0
PATIENCE = 20  # seconds for one of them

HUGE = str(10**20)
BLANK = ("", " ", "\t")
NUMBERS = (
    "-1", "0", "1.5", "nan", "inf", "-inf", "1e9", "1e999", HUGE, f"-{HUGE}",
    "\N{ARABIC-INDIC DIGIT ONE}",
)  # fmt: skip
NAMES = (
    "-", "--", "true", "None", "[/foo]", "[bold]", "{}", "%s", "*", "~", "\N{PILCROW SIGN}",
    "\udcff", "\U0001f600", "a b", "a\nb", "x" * 300, "/dev/null", "/proc/nowhere", "file", "loop",
    "folder", "dangling", "closed", "finished", "shrunk", "file.json", "=", "=1", "a=b=c", ",",
    "nb201/toy", "random", "random()", "tpe(", "sqlite://", "sqlite:///folder", "journal:///proc/x",
    "http://[::1", "flops<=", "flops<=1e-9", "<=", "no<=1", "nb201:C=0/toy", "nb201:C=-1/toy",
    f"nb201:C={HUGE}/toy", "nb201:[/foo]=1/toy", "nb201:C=8,C=9/toy", "file.json/toy", "K,,M",
    "open-cells:layers=1000000000/digits", "folder.json/toy",
)  # fmt: skip

# Commands: what stands first, so that nothing lasts; what makes it work; which options it has.
# Searches are not tracked and end soon; a study has no trials, which is refused last.
QUICK = ("random", "--on", "nb201/toy", "--budget", "2")
BRIEF = ("run", "--no-track", "--max-seconds", "0.2")
SEARCH = (
    "--on", "--within", "--evaluator", "--reward", "--report", "--constraint", "--set", "--seed",
    "--budget", "--out",
)  # fmt: skip
RUN = (
    *SEARCH, "--config", "--repeats", "--max-cost", "--max-seconds", "--workers", "--retries",
    "--fidelity",
)  # fmt: skip
TUNE = (
    *SEARCH, "--seeds", "--params", "--objectives", "--sampler", "--pruner", "--storage",
    "--workers",
)  # fmt: skip
LOCALITY = ("--on", "--queries", "--seed", "--out")
SPACE = ("--vs", "--queries", "--supernet", "--seed", "--out")
COMMANDS = {  # and how often each is tried
    (BRIEF, QUICK, RUN): 6,
    (("tune", "--no-track"), (*QUICK, "--trials", "0"), TUNE): 3,
    (("locality",), ("--on", "nb201/toy", "--queries", "100"), LOCALITY): 2,
    (("space",), ("shrunk",), SPACE): 2,
    (("resume",), ("finished",), ("--json",)): 1,
    (("show",), ("random",), ("--json",)): 1,
    (("doctor",), ("nb201/toy",), ("--json",)): 1,
    (("list",), ("spaces",), ("--json",)): 1,
    (("ui",), ("--port", "0"), ("--port",)): 1,
}
FAULTS = {"option": 8, "joined": 3, "replaced": 3, "left out": 1, "flag": 1}
FLAGS = ("--json", "--track=no", "--prune", "--help", "--no-such-option", "surplus", "--budget")


def lines(seed: int) -> Iterator[tuple[str, ...]]:
    """Command lines that would work, but for one to three faults each."""
    dice = random.Random(seed)

    def odd() -> str:
        return dice.choice(dice.choices((BLANK, NUMBERS, NAMES), (1, 2, 4))[0])

    while True:
        first, rest, options = dice.choices([*COMMANDS], [*COMMANDS.values()])[0]
        words = list(rest)
        for _ in range(dice.choice((1, 1, 1, 2, 3))):
            fault = dice.choices([*FAULTS], [*FAULTS.values()])[0]
            if fault == "option":  # the last one counts
                words += [dice.choice(options), odd()]
            elif fault == "joined":
                words.append(f"{dice.choice(options)}={odd()}")
            elif fault == "flag" or not words:
                words.insert(dice.randint(0, len(words)), dice.choice(FLAGS))
            elif fault == "replaced":
                words[dice.randrange(len(words))] = odd()
            else:
                del words[dice.randrange(len(words))]
        end = ("--trials", "0") if first[0] == "tune" else ()
        yield (*first, *words, *end)


def strew(folder: Path) -> None:
    """Things that are not what a command line takes them for."""
    folder.mkdir(exist_ok=True)
    (folder / "file").write_text("{")
    (folder / "file.json").write_text("{}")
    (folder / "folder").mkdir()
    (folder / "folder.json").mkdir()
    (folder / "closed").mkdir(mode=0)
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("/nowhere/at/all")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nb201_table: Path) -> Path:
    """A folder of odd things, and a quick environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NASPLUG_DATA", str(nb201_table))
    monkeypatch.setenv("NASPLUG_RUNS", str(tmp_path / "runs"))
    for name in ("NASPLUG_TRACEBACK", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # no pictures: quick
    monkeypatch.setattr(os, "execvpe", lambda *command: print(*command[:2]))  # of `nasplug ui`
    strew(tmp_path)
    return tmp_path


def test_malformed_command_lines(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def hangs(number: int, frame: object) -> None:
        raise TimeoutError("no end")

    def attempt(words: tuple[str, ...]) -> tuple[object, str, str]:
        code: object = None
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        try:
            main(words)
        except SystemExit as end:
            code = end.code or 0
        except BaseException as error:
            code = f"{type(error).__name__}: {error}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return (code, *capfd.readouterr())

    before = signal.signal(signal.SIGALRM, hangs)
    try:
        assert attempt((*BRIEF, *QUICK, "--out", "finished"))[0] == 0
        shrink = ("run", "--no-track", "shrink-random", *QUICK[1:-1], "60", "--out", "shrunk")
        assert attempt(shrink)[0] == 0
        faults, refused, source = {}, 0, lines(seed=SEED)
        for _ in range(CASES):
            words = next(source)
            code, out, err = attempt(words)
            refused += code == 2
            if fault := judged(words, code, out, err):
                faults[words] = fault
        assert not faults, f"{len(faults)} of {CASES}:\n" + "\n".join(
            f"{words}\n    {fault}" for words, fault in faults.items()
        )
        assert refused > CASES / 2, "they are malformed"
    finally:
        signal.signal(signal.SIGALRM, before)


def judged(words: tuple[str, ...], code: object, out: str, err: str) -> str:
    """What is wrong with an answer, or ''."""
    if code not in (0, 2) or "Traceback" in err or "TimeoutError" in err:
        return f"ended with {code}: {err[-300:]}"
    messages = [line for line in err.splitlines() if line.lower().startswith("error: ")]
    told = words[0] == "doctor" or words == ("list",)  # a table of checks, the help
    if code == 2 and not told and len(messages) != 1:
        return f"{len(messages)} messages: {err[-300:]}"
    if code == 0 and (messages or not out.strip()):
        return f"success without a word: {out[-200:]} {err[-200:]}"
    if code == 0 and any(not word.strip() for word in words):
        return "an empty value was accepted"
    if code == 0 and "--json" in words and "--help" not in words:
        json.loads(out.splitlines()[-1])
    return ""

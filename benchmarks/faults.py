"""Faults: searches that are killed, run directories that are damaged, input that is nonsense.

    python benchmarks/faults.py [--minutes 20] [--kind kills ...] [--method dsm ...] [--seed 0]

Every kind of fault is tried until it was tried often enough or its share of the time is over:

- kills: `nasplug run` is killed (`kill -9`) at random moments, resumed, killed again and resumed
  to its end: the trials must be those of a run that was never killed. Every installed method, in
  several modes; of one run in five, every trial must be in MLflow once after `nasplug sync`.
- damage: a file of a run directory is cut, changed, replaced or gone: `nasplug resume` ends with
  the same trials, or with exit code 2 and a message that names the file.
- command lines, Python calls: malformed ones end with what was asked for or in one message.

Commands run in forks of this process, which has imported the methods but has run none of them:
that saves the seconds of a start. Pictures are left out. The generators are those of the tests.
Needs all methods of this repository. What was lost is on stderr, and the exit code is then 1. The
last line is one JSON object: {kind: {tried, held, lost}}.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from itertools import count
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
import psutil
import pyarrow
import pyarrow.parquet
import test_command_lines as command_lines
import test_damage as damage
import test_first_hour as first_hour

import nasplug
from nasplug import tracking
from nasplug.cli import main as command
from nasplug.kernel.registry import registry
from nasplug.run.journal import FILE, Journal

FORK = multiprocessing.get_context("fork")
PATIENCE = 180  # seconds for a command that is not killed
KILLS = (2, 3, 4)  # of one run, unless it ends before
TRACKED = 5  # every fifth run
MODES = {
    "plain": (),
    "repeats": ("--repeats", "count"),
    "constraint": ("--constraint", "params<=600000"),
    "within": ("--within", "region"),
    "cost": ("--max-cost", "9000"),
}
TRAINED = ("plain", "repeats", "constraint")  # modes of methods that train a supernet
EPOCHS = ("--budget", "4", "--set", "epochs=4", "--set", "batch=512")
SUPERNET = ("--on", "nb201:C=2,N=1/digits", *EPOCHS)
SETTINGS = {
    "autospace": (
        "--on", "open-cells:C=2,layers=4/digits", *EPOCHS, "--set", "K=3", "--set", "population=6",
        "--set", "size=2", "--set", "period=1", "--set", "warmup=1",
    ),
    "pc-darts": (*SUPERNET, "--set", "K=2", "--set", "warmup=1"),
    "spos": (*SUPERNET, "--set", "population=4", "--set", "parents=2", "--budget", "12"),
    "random": ("--on", "nb201/toy", "--budget", "1500"),
}  # fmt: skip
TABLE = ("--on", "nb201/toy", "--budget", "200")  # of all other methods
DAMAGED = ("regularized-evolution", "dsm", "gdas")  # methods whose run directories are damaged
IMPORTED = (
    "nasplug.cli.doctor", "nasplug.cli.search", "nasplug.cli.space", "nasplug.cli.tune",
    "nasplug.evaluators.table", "nasplug.spaces.nb201.space", "nasplug.analysis.quality",
    "sklearn.datasets", "xgboost",
)  # fmt: skip


class Kind(NamedTuple):
    tries: Callable[..., Iterator[tuple[str, str]]]  # what was tried, and what is wrong or ""
    enough: int
    share: float  # of the time


# ---- commands


def fork(home: Path, function: Callable[[], Any]) -> Any:
    """Start a function in a process that lives in a folder; what it prints is in files there."""

    def child() -> None:
        os.chdir(home)
        os.environ |= {"NASPLUG_DATA": str(home), "NASPLUG_RUNS": str(home / "runs")}
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "NASPLUG_TRACEBACK"):
            os.environ.pop(name, None)
        sys.modules["matplotlib.figure"] = None  # type: ignore[assignment]
        os.execvpe = lambda *words: print(*words[:2])  # type: ignore[assignment]  # `nasplug ui`
        said = {"errors": "backslashreplace"}
        with open(home / "out.txt", "w", **said) as out, open(home / "err.txt", "w", **said) as err:
            sys.stdout, sys.stderr = out, err
            function()

    process = FORK.Process(target=child)
    process.start()
    return process


def attempt(home: Path, function: Callable[[], Any]) -> tuple[object, str, str]:
    """(exit code, stdout, stderr) of what must end by itself."""
    process = fork(home, function)
    process.join(PATIENCE)
    code: object = process.exitcode
    if code is None:
        process.kill()
        process.join()
        code = f"no end in {PATIENCE} s"
    return code, *((home / name).read_text() for name in ("out.txt", "err.txt"))


def nasplug_(home: Path, *words: str) -> tuple[object, str, str]:
    return attempt(home, partial(command, words))


def kill(process: Any, tracker: bool) -> bool:
    """With `kill -9`, on a wish the process that sends its trials to MLflow too; False if it had
    ended before."""
    if not process.is_alive():
        return False
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children() if tracker else []
        process.kill()
        for child in children:
            child.kill()
    process.join()
    return process.exitcode < 0


# ---- run directories


def journaled(run: Path) -> list[tuple[Any, ...]]:
    """All trials, but for the seconds that they took."""
    if not (run / FILE).exists():
        return []
    with contextlib.closing(Journal(run, read=True)) as journal:
        return [
            (row.number, row.arch, row.value, row.report, row.state, row.repeat, row.feasible)
            for row in journal.read()
        ]


def difference(found: list[Any], expected: list[Any]) -> str:
    """Where two journals differ, '' if they are equal."""
    if found == expected:
        return ""
    first = next((i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), "")
    return f"{len(found)} trials instead of {len(expected)}, first difference: {first}"


def make_table(home: Path) -> None:
    """All of NAS-Bench-201, scored on a data set named toy, with the cost of each trial."""
    space = nasplug.space("nb201")
    archs = space.all()
    score = (archs == 3).sum(axis=1) + 0.1 * (archs == 1).sum(axis=1)
    noise = np.random.default_rng(0).normal(0, 0.1, len(archs))
    columns = {
        "arch": [space.to_str(arch) for arch in archs],
        "toy/val_acc@12": 60 + 4 * score + noise,
        "toy/test_acc@200": 80 + 2 * score,
        "toy/cost": 40.0 + 10 * (archs > 1).sum(axis=1),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), home / "nas-bench-201.parquet")


def settings(method: str) -> tuple[str, ...]:
    """A small search of a method."""
    return SETTINGS.get(method, SUPERNET if trains(method) else TABLE)


def trains(method: str) -> bool:
    """Whether it trains a supernet; such methods bring nasplug.nn."""
    nn = sys.modules.get("nasplug.nn")
    return nn is not None and issubclass(registry().get("method", method), nn.Oneshot)


def measured(home: Path, method: str, *words: str) -> tuple[Path, float, str]:
    """A run that is never killed, its seconds, and why it was refused."""
    never = fresh(home / "never")
    start = time.monotonic()
    code, _, err = nasplug_(home, "run", method, *words, "--no-track", "--out", str(never))
    return never, time.monotonic() - start, "" if code == 0 else f"exit code {code}: {err[-300:]}"


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def in_mlflow(home: Path, run: Path) -> str:
    """What is wrong with the run in the local store."""
    code, _, err = nasplug_(home, "sync", str(run))
    if code != 0:
        return f"sync ended with {code}: {err[-300:]}"
    query = "SELECT step, value FROM metrics WHERE run_uuid = ? AND key = ? ORDER BY step"
    with contextlib.closing(sqlite3.connect(home / "runs" / "mlflow.db", timeout=60)) as store:
        sent = store.execute(query, (tracking.run_id(run), "trial/value")).fetchall()
    there = [(number, value) for number, _, value, *_ in journaled(run) if value is not None]
    return difference(sent, there) and f"in MLflow: {difference(sent, there)}"


# ---- kinds of faults


def kills(home: Path, dice: random.Random, methods: list[str]) -> Iterator[tuple[str, str]]:
    cases = ((mode, method, seed) for seed in count() for mode in MODES for method in methods)
    for number, (mode, method, seed) in enumerate(cases):
        if mode not in TRAINED and trains(method):
            continue
        if mode == "within" and not (home / "region").exists():
            region = ("shrink-random", *TABLE[:-1], "60", "--set", "size=2000", "--out", "region")
            code, _, err = nasplug_(home, "run", "--no-track", *region)
            assert code == 0, err
        words = (*settings(method), *MODES[mode], "--seed", str(seed))
        tracked = number % TRACKED == TRACKED - 1
        name = f"{method}, {mode}, seed {seed}{', tracked' * tracked}"
        never, seconds, refused = measured(home, method, *words)
        if refused:
            print(f"{name}: not possible, {refused}", file=sys.stderr)
            continue
        run = home / "runs" / f"killed-{number}"
        begin = ("run", method, *words, "--track" if tracked else "--no-track", "--out", str(run))
        killed = []  # after how many trials
        for _ in range(dice.choice(KILLS)):
            process = fork(home, partial(command, again(run) or begin))
            time.sleep(dice.uniform(0, seconds))
            if not kill(process, tracker=dice.random() < 0.5):
                break
            killed.append(len(journaled(run)))
        code, _, err = nasplug_(home, *(again(run) or begin))
        if code == 0:
            fault = difference(journaled(run), journaled(never))
            fault = fault or (in_mlflow(home, run) if tracked else "")
        else:
            fault = f"ended with {code}: {err[-300:]}"
        for i, trials in enumerate(killed, 1):
            yield f"{name}, killed after {trials} trials", fault if i == len(killed) else ""
        if not fault:
            shutil.rmtree(run)


def again(run: Path) -> tuple[str, ...]:
    """What a user types after a kill; nothing if the search had not begun."""
    return ("resume", str(run)) if (run / "run.json").exists() else ()


def damages(home: Path, dice: random.Random, methods: list[str]) -> Iterator[tuple[str, str]]:
    sources = {}
    for method in [name for name in DAMAGED if name in methods]:
        never, seconds, refused = measured(home, method, *settings(method))
        assert not refused, refused
        sources[method, "finished"] = never.rename(home / f"{method}-finished")
        expected = journaled(sources[method, "finished"])
        killed = home / f"{method}-killed"
        while not 0 < len(journaled(killed)) < len(expected):
            words = ("run", method, *settings(method), "--no-track", "--out", str(fresh(killed)))
            process = fork(home, partial(command, words))
            time.sleep(dice.uniform(0.3, 1) * seconds)
            kill(process, tracker=False)
        sources[method, "killed"] = killed
    while True:
        (method, end), source = dice.choice([*sources.items()])
        file = dice.choice(sorted(file for file in source.iterdir()))
        contents = damage.spoilt(file.read_bytes(), dice.random())
        which = dice.randrange(len(contents))
        run = fresh(home / "damaged")
        shutil.copytree(source, run)
        damage.put(run / file.name, contents[which])
        code, _, err = nasplug_(home, "resume", str(run))
        fault = ""
        if code == 0:
            fault = difference(journaled(run), journaled(sources[method, "finished"]))
        elif code != 2 or file.name.removesuffix("-wal").removesuffix("-shm") not in err:
            fault = f"ended with {code}: {err[-300:]}"
        yield f"{method}, {end}, {file.name}, damage {which}", fault


def lines(home: Path, dice: random.Random, methods: list[str]) -> Iterator[tuple[str, str]]:
    command_lines.strew(fresh(folder := home / "lines"))
    shutil.copy(home / "nas-bench-201.parquet", folder)
    quick = command_lines.QUICK
    shrink = ("shrink-random", *quick[1:-1], "60")
    for words in ((*quick, "--out", "finished"), (*shrink, "--out", "shrunk")):
        code, _, err = nasplug_(folder, "run", "--no-track", *words)
        assert code == 0, err
    for words in command_lines.lines(dice.randrange(10**9)):
        yield repr(words), command_lines.judged(words, *nasplug_(folder, *words))


def calls(home: Path, dice: random.Random, methods: list[str]) -> Iterator[tuple[str, str]]:
    (folder := fresh(home / "calls")).mkdir()

    def call(odd: dict[str, Any]) -> None:
        options = {
            "method": "regularized-evolution", "space": first_hour.SPACE, "budget": 2,
            "evaluate": first_hour.total, "population": 2, "tournament": 1, "tracking": False,
        }  # fmt: skip
        said = first_hour.refusal(**options | odd)
        if said is None and not all(first_hour.acceptable(*item) for item in odd.items()):
            sys.exit("was accepted")
        if said is not None and (len(said) <= 10 or "\n" in said):
            sys.exit(f"was refused with {said!r}")

    while True:
        some = dice.sample(first_hour.OPTIONS, dice.choice((1, 2, 2, 3)))
        odd = {option: dice.choice(first_hour.ODD) for option in some}
        code, _, err = attempt(folder, partial(call, odd))
        yield repr(odd), "" if code == 0 else f"{code}: {err[-300:]}"


KINDS = {  # MLflow servers that fail are tried in tests/test_secrets.py
    "kills": Kind(kills, 250, 0.7),
    "damage": Kind(damages, 400, 0.1),
    "command lines": Kind(lines, 1_500, 0.1),
    "Python calls": Kind(calls, 800, 0.1),
}


def campaign(
    home: Path, chosen: list[str], methods: list[str], minutes: float, enough: int, seed: int
) -> dict[str, dict[str, int]]:
    """{kind: {tried, held, lost}}"""
    make_table(home)
    end = time.monotonic() + 60 * minutes
    found = {}
    for i, name in enumerate(chosen):
        kind, now = KINDS[name], time.monotonic()
        share = kind.share / sum(KINDS[later].share for later in chosen[i:])
        until, tried, lost = now + share * (end - now), 0, 0
        for what, fault in kind.tries(home, random.Random(f"{name} {seed}"), methods):
            tried += 1
            lost += bool(fault)
            if fault:
                print(f"LOST: {what}\n    {fault}", file=sys.stderr)
            if tried % 20 == 0:
                print(f"{name}: {tried} tried, {lost} lost", file=sys.stderr)
            if tried >= (enough or kind.enough) or time.monotonic() > until:
                break
        found[name] = {"tried": tried, "held": tried - lost, "lost": lost}
    return found


def preload(methods: list[str]) -> None:
    """Import before all forks what they need."""
    packages = {registry().get("method", name).__module__.split(".")[0] for name in methods}
    for package in packages - {"nasplug"}:
        for module in iter_modules(import_module(package).__path__, f"{package}."):
            import_module(module.name)
    for name in IMPORTED:
        import_module(name)


def main() -> None:
    installed = sorted(registry().methods)
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument(
        "--kind", choices=KINDS, action="append", help="repeatable; all if left out"
    )
    parser.add_argument("--method", choices=installed, action="append", help="the same")
    parser.add_argument("--enough", type=int, default=0, help="tries of each kind")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    methods = asked.method or installed
    preload(methods)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        found = campaign(
            Path(folder), asked.kind or [*KINDS], methods, asked.minutes, asked.enough, asked.seed
        )
    print(f"{'kind':16}{'tried':>8}{'held':>8}{'lost':>8}")
    for name, counts in found.items():
        print(f"{name:16}" + "".join(f"{n:8}" for n in counts.values()))
    print(json.dumps(found))
    sys.exit(any(counts["lost"] for counts in found.values()))


if __name__ == "__main__":
    main()

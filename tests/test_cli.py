"""The command line as a user meets it: what works, what is refused, and how."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from nasplug import __version__ as nasplug_version
from nasplug.cli import COMMANDS, main
from nasplug.cli.output import fold
from nasplug.errors import NasplugError
from nasplug.kernel.registry import Registry, registry

COMMAND = [sys.executable, "-m", "nasplug"]
TOY = "nb201/toy"
SLOW = ("--evaluator", "slow", "--no-track")  # found without loading those before it, and torch

PLUGIN = """
    import time
    from nasplug import Space, hookimpl

    class Slow:
        maximize, reward, report = True, "value", "report"

        def __init__(self, space, data, reward=None, report=None, seed=0):
            self.region, self.name = space, data

        @classmethod
        def data(cls, space):
            return ["slow", "sour", "mixed"] if space.name == "hill" else []

        @classmethod
        def missing(cls, space, data):
            return ""

        @hookimpl
        def evaluate(self, search, candidates):
            for row in candidates.waiting.tolist():
                if self.name == "slow":
                    time.sleep(0.05)
                total = float(candidates.archs[row].sum())
                if self.name == "sour" or (self.name == "mixed" and total % 2):
                    candidates.fail(row, "ValueError: too sour")
                else:
                    candidates.tell(row, values=total, reports=total / 2)
            return candidates

    @hookimpl
    def register_spaces(register):
        register("hill", lambda: Space({name: range(8) for name in "abcd"}, name="hill"))

    @hookimpl
    def register_evaluators(register):
        register("slow", Slow)
"""


def distribution(folder: Path, name: str, source: str, requires: str = "") -> None:
    """An installed distribution with one module, announced to nasplug."""
    (folder / f"{name}.py").write_text(textwrap.dedent(source))
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    (info / "METADATA").write_text(metadata + (f"Requires-Dist: {requires}\n" if requires else ""))
    (info / "entry_points.txt").write_text(f"[nasplug]\n{name} = {name}\n")


def heed_ctrl_c() -> None:
    """A shell that starts the tests in the background makes all of them ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Answer:
    """How a command ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        assert "Traceback" not in err

    @property
    def json(self) -> Any:
        return json.loads(self.out.splitlines()[-1])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nb201_table: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NASPLUG_DATA", str(nb201_table))
    for name in ("NASPLUG_RUNS", "NASPLUG_TRACEBACK", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def nasplug(here: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """The command in this process: quick."""

    def call(*arguments: str) -> Answer:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main(arguments)
        return Answer(int(end.value.code or 0), *capfd.readouterr())

    return call


@pytest.fixture
def process(here: Path) -> Callable[..., Answer]:
    """The command in a process of its own, optionally with plugins of ours."""

    def call(*arguments: str, **env: str) -> Answer:
        ended = subprocess.run(
            [*COMMAND, *arguments], capture_output=True, text=True, timeout=240,
            env={**os.environ, **env}, check=False, preexec_fn=heed_ctrl_c,
        )  # fmt: skip
        return Answer(ended.returncode, ended.stdout, ended.stderr)

    return call


@pytest.fixture
def plugins(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PYTHONPATH with the plugin above and one that does not import."""
    folder = tmp_path_factory.mktemp("plugins")
    distribution(folder, "hill_plugin", PLUGIN)
    distribution(folder, "broken_plugin", "raise ImportError('no such thing')")
    return str(folder)


# ---- what there is


def test_help_names_every_command(nasplug: Callable[..., Answer]) -> None:
    text = nasplug("--help").out
    for name, (target, doc) in COMMANDS.items():
        assert f"\n  {name} " in text
        module, _, function = target.partition(":")
        command = getattr(import_module(f"nasplug.cli.{module}"), function)
        words = doc.split()[:3]
        assert command.help.split()[: len(words)] == words, "the line says what the command does"


def test_lists(nasplug: Callable[..., Answer]) -> None:
    assert {"random", "reinforce"} <= {
        row["name"] for row in nasplug("list", "methods", "--json").json
    }
    spaces = {row["name"]: row for row in nasplug("list", "spaces", "--json").json}
    assert spaces["nb201"]["archs"] == 15625
    problems = {row["problem"]: row for row in nasplug("list", "problems", "--json").json}
    assert problems[TOY]["evaluators"][0] == "table"
    found = nasplug("plugins", "--json").json
    assert all(plugin["error"] == "" for plugin in found)
    for command in ("methods", "spaces", "problems"):
        assert nasplug("list", command).code == 0
    assert "regularized-evolution" in nasplug("plugins").out


def test_plugins_say_which_hooks_they_have(nasplug: Callable[..., Answer]) -> None:
    said = nasplug("plugins", "--hooks", "--json").json
    hooks = {one["name"]: one["hooks"] for one in said["plugins"]}
    assert hooks["nasplug-baselines"] == ["register_methods", "propose", "update"]
    assert hooks["nasplug.spaces"] == ["register_spaces"]
    evaluate = [(one["by"], one["how"]) for one in said["calls"] if one["hook"] == "evaluate"]
    assert evaluate[:3] == [("cache", "wraps first"), ("journal", "wraps"), ("workers", "first")]
    assert [by for by, _ in evaluate[3:]] == ["method", "evaluator"]
    assert list(dict.fromkeys(one["hook"] for one in said["calls"])) == [
        "sample_space", "propose", "evaluate", "update", "select_final",
    ]  # fmt: skip


def test_show(nasplug: Callable[..., Answer]) -> None:
    about = nasplug("show", "regularized-evolution", "--json").json
    assert "Real et al." in about["paper"]
    population = {one["name"]: one for one in about["hyperparameters"]}["population"]
    assert population["type"] == "int"
    assert population["low"] == 2
    assert population["doc"]
    text = nasplug("show", "regularized-evolution").out
    assert "population" in text
    assert "[2, 1000]" in text


def test_light_commands_import_nothing_heavy(here: Path) -> None:
    script = """
        import sys
        from nasplug.cli import main
        for line in ("--help", "list methods", "list spaces", "show random", "plugins",
                     "run random --on nb201/toy --budget 5 --no-track"):
            try:
                main(line.split())
            except SystemExit as end:
                assert end.code == 0, line
            pictures = set() if line.startswith("run") else {"matplotlib"}
            heavy = {"torch", "mlflow", "pandas", "sklearn", *pictures} & set(sys.modules)
            assert not heavy, (line, heavy)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=240)


# ---- searching


def test_run_ends_with_the_best_and_where_it_is(nasplug: Callable[..., Answer]) -> None:
    answer = nasplug("run", "random", "--on", TOY, "--budget", "30", "--out", "d", "--no-track")
    assert answer.code == 0
    assert "val_acc@12" in answer.out
    assert "|nor_conv_3x3~0|" in answer.out
    assert "d/curve.png" in answer.out
    assert (answer.out + answer.err).count("run directory: d\n") == 1, "it was said twice"


class Terminal(io.StringIO):
    """What is printed on a terminal."""

    def isatty(self) -> bool:
        return True


def test_archs_are_broken_at_separators_in_a_narrow_terminal(
    nasplug: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The column of archs was so narrow that it read ``avg_poo / l_3x3``."""
    terminal = Terminal()
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stdout", terminal)
    with pytest.raises(SystemExit):
        main(("run", "random", "--on", TOY, "--budget", "5", "--no-track"))
    lines = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()).splitlines()
    assert max(len(line) for line in lines if "pictures" not in line) <= 80
    names = re.findall(r"[a-z_0-9]+(?=~)", "\n".join(lines))
    assert len(names) == 5 * 6
    assert set(names) <= {"none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"}


def test_the_quality_of_spaces_fits_a_narrow_terminal(
    nasplug: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve columns were broken in mid-number: ``15,62 / 5``."""
    pytest.importorskip("xgboost")
    terminal = Terminal()
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stdout", terminal)
    with pytest.raises(SystemExit):
        main(("run", "shrink-random", "--on", TOY, "--budget", "60", "--no-track", "--out", "d"))
    assert re.search(r"size +15,625 +\d+\n", terminal.getvalue())
    assert re.search(r"shrink_index +0 +\S+\n", terminal.getvalue())


@pytest.mark.parametrize("folder", ["file", "odd"])
def test_a_file_in_the_way_is_named(
    nasplug: Callable[..., Answer], here: Path, folder: str
) -> None:
    """`nasplug space --out FILE` was a traceback."""
    Path("file").touch()
    Path("odd/space.json").mkdir(parents=True)
    pytest.importorskip("xgboost")
    shrink = ("shrink-random", "--on", TOY, "--budget", "60", "--set", "size=100", "--out", "d")
    assert nasplug("run", "--no-track", *shrink).code == 0
    answer = nasplug("space", "d", "--out", folder)
    assert answer.code == 2
    assert f"error: {folder}" in answer.err


def test_fold() -> None:
    assert fold("", 5) == [""]
    assert fold("short", 2) == ["short"], "a name without separators is not broken"
    assert fold("|conv~0|+|none~0|skip~1|", 14) == ["|conv~0|+|", "none~0|skip~1|"]
    assert fold("[('a', 0), ('b', 1)]", 9) == ["[('a', ", "0), ('b', ", "1)]"]


def test_a_person_who_watches_is_told_what_is_loaded(
    nasplug: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The screen was blank while torch was imported, for 8 s."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with pytest.raises(SystemExit):
        main(("run", "random", "--on", TOY, "--budget", "5", "--no-track"))
    assert terminal.getvalue().startswith(f"loading random on {TOY} ...\n")
    assert f"random on {TOY}" in terminal.getvalue().partition("\n")[2], "the bar"


def test_who_tunes_is_told_what_is_loaded_too(
    nasplug: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of `nasplug tune` the screen was still blank while torch was imported."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with pytest.raises(SystemExit):
        main(("tune", "random", "--on", TOY, "--trials", "0", "--no-track"))
    assert terminal.getvalue().startswith(f"loading random on {TOY} ...\n")


def test_a_search_prints_nothing_odd(process: Callable[..., Answer]) -> None:
    """Warnings of libraries are not for the user."""
    answer = process("run", "random", "--on", TOY, "--budget", "3", "--no-track", "--out", "d")
    assert answer.err == "run directory: d\n"


def test_json_is_the_last_and_only_line(process: Callable[..., Answer]) -> None:
    arguments = (
        "run",
        "random",
        "--on",
        TOY,
        "--budget",
        "30",
        "--seed",
        "3",
        "--no-track",
        "--json",
    )
    answer = process(*arguments, "--out", "d")
    assert answer.code == 0
    assert len(answer.out.splitlines()) == 1
    said = answer.json
    assert set(said) == {
        "method", "problem", "seed", "trials", "failed", "best", "seconds", "run_dir",
        "mlflow_run_id",
    }  # fmt: skip
    assert (said["method"], said["problem"], said["seed"]) == ("random", TOY, 3)
    assert (said["trials"], said["failed"], said["mlflow_run_id"]) == (30, 0, None)
    assert set(said["best"]) == {"arch", "value", "report"}
    assert said["run_dir"] == "d"
    assert process(*arguments).json["best"] == said["best"]


def test_options_reach_the_search(nasplug: Callable[..., Answer]) -> None:
    said = nasplug(
        "run", "regularized-evolution", "--on", TOY, "--budget", "20", "--set", "population=5",
        "--set", "tournament=2", "--reward", "test_acc@200", "--evaluator", "table",
        "--constraint", "params<=1e6", "--repeats", "count", "--max-seconds", "60", "--out", "d",
        "--no-track", "--json",
    ).json  # fmt: skip
    record = json.loads(Path("d/run.json").read_text())
    assert record["hyperparameters"]["population"] == 5
    assert record["reward"] == "test_acc@200"
    assert record["options"]["constraints"] == ["params<=1e6"]
    assert record["options"]["repeats"] == "count"
    assert said["best"]["value"] == said["best"]["report"]


def test_failed_trials_are_counted(process: Callable[..., Answer], plugins: str) -> None:
    arguments = ("run", "random", "--budget", "20", *SLOW, "--json", "--on")
    answer = process(*arguments, "hill/mixed", PYTHONPATH=plugins)
    assert answer.code == 0
    assert 0 < answer.json["failed"] < 20
    answer = process(*arguments, "hill/sour", PYTHONPATH=plugins)
    assert answer.code == 2
    assert "every trial failed; the last said: ValueError: too sour" in answer.err


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_interrupted_and_resumed(
    here: Path, process: Callable[..., Answer], plugins: str, number: signal.Signals
) -> None:
    arguments = ["run", "random", "--on", "hill/slow", "--budget", "40", *SLOW]
    running = subprocess.Popen(
        [*COMMAND, *arguments, "--out", "d"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "PYTHONPATH": plugins}, preexec_fn=heed_ctrl_c,
    )  # fmt: skip
    assert running.stderr is not None
    assert running.stderr.readline() == "run directory: d\n"
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(0.5)
    running.send_signal(number)
    out, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert out == ""
    assert err.strip().startswith("interrupted after ")
    assert err.strip().endswith(" trials; continue with: nasplug resume d")
    resumed = process("resume", "d", "--json", PYTHONPATH=plugins)
    assert resumed.code == 0, resumed.err
    assert resumed.json["trials"] == 40
    whole = process(*arguments, "--json", PYTHONPATH=plugins)
    assert resumed.json["best"] == whole.json["best"]


INTERRUPTED = """
    import os, signal
    from hill_plugin import Slow
    from nasplug import hookimpl

    class Interrupted(Slow):
        def __init__(self, *args, **settings):
            os.kill(os.getpid(), signal.SIGINT)

    @hookimpl
    def register_evaluators(register):
        register("interrupted", Interrupted)
"""


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGINT)", "interrupted"),
        (INTERRUPTED, "interrupted before the first trial"),
    ],
    ids=["plugins-load", "evaluator-is-made"],
)
def test_interrupted_before_the_search(
    process: Callable[..., Answer], plugins: str, source: str, words: str
) -> None:
    distribution(Path(plugins), "interrupted_plugin", source)
    arguments = ("run", "random", "--on", "hill/slow", "--evaluator", "interrupted", "--no-track")
    answer = process(*arguments, PYTHONPATH=plugins)
    assert answer.code == 130, answer.err
    assert answer.err.splitlines()[-1] == words


def test_a_closed_pipe_is_no_traceback(here: Path) -> None:
    listing = subprocess.Popen(
        [*COMMAND, "list", "methods"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert listing.stdout is not None
    assert listing.stderr is not None
    listing.stdout.close()
    listing.wait(60)
    assert listing.stderr.read() == ""
    listing.stderr.close()


# ---- what is refused: one message that names the thing and the fix, exit code 2, no traceback

BAD = {
    "run randon --on nb201/toy": "unknown method 'randon'; did you mean random",
    "run random --on nb202/toy": "unknown space 'nb202'; did you mean nb",
    "run random --on nb201/toi": "unknown problem 'nb201/toi'; did you mean nb201/toy?",
    "run random --on nb201/toy --evaluator train": "by train 'nb201/toy'; known: nb201/darcy, ",
    "run random --on nb201": "a problem is named SPACE/DATA, such as nb201/digits",
    "run random --on nb201/toy --evaluator tabel": "did you mean table?",
    "run random --on nb201/toy --reward val_acc": "did you mean val_acc@12?",
    "run random --on nb201/toy --set K": "--set takes NAME=VALUE",
    "run random --on nb201/toy --set batsh=4": "did you mean batch?",
    "run random --on nb201/toy --set BATCH=4": "did you mean batch?",
    "run random --on nb201/toy --set seed=4": "unknown hyperparameter 'seed'",
    "run random --on nb201/toy --set batch=four": "must be a whole number, got 'four'",
    "run random --on nb201/toy --set batch=0": "hyperparameter batch must be within [1,",
    "run random --on nb201/toy --budget 0": "budget must be a whole number from 1 on, got 0",
    "run random --on nb201/toy --budget -3": "budget must be a whole number from 1 on, got -3",
    "run random --on nb201/toy --budget ten": "'ten' is not a valid integer",
    "run random --on nb201/toy --seed -1": "-1 is not in the range x>=0",
    "run random --on nb201/toy --max-seconds 0": "max_seconds must be a number above 0",
    "run random --on nb201/toy --max-cost 5": "states no costs",
    "run random --on nb201/toy --constraint flops": "a constraint reads NAME <= NUMBER",
    "run random --on nb201/toy --constraint flop<=3": "did you mean flops?",
    "run random --on nb201/toy --constraint params<=0": "nothing was found in nb201",
    "run random --on nb201/toy --repeats maybe": "'maybe' is not one of 'free', 'count'",
    "run random --on nb201/toy --within nowhere": "nowhere is not a run directory",
    "run": "Missing argument 'METHOD'",
    "rum random": "No such command 'rum'",
    "show dsn": "unknown method 'dsn'",
    "resume nowhere": "nowhere is not a run directory",
    "sync nowhere": "nowhere is not a run directory",
    "run random --on nb201:D=3/toy": "unknown option of nb201 'D'",
    "run random --on nb201:C=0/toy": "C of nb201 is a number from 1 to 1,000, got 0",
    "run random --on nb101/cifar10": "no installed evaluator scores archs of nb101;",
    "run random --on nb101/cifar10 --evaluator table": "evaluator table scores no archs of nb101;",
    "run random --on nb201:C=4/toy": "unknown problem 'nb201:C=4/toy'",
    "ui --port 70000": "70000 is not in the range",
    "run random --on nb201/toy --budget 1e9": "'1e9' is not a valid integer",
    "run random --on nb201/toy --max-cost nan": "max_cost must be a number above 0, got nan",
    "run random --on nb201/toy --out=": "--out is followed by an empty value",
    "locality --on nb201/toy --queries 100000000000000000000": "is not in the range 2<=x<=10000000",
    "locality --on nb201/toy --queries 99 --seed -1": "-1 is not in the range x>=0",
    "run random --on open-cells:layers=1000000000/digits": "layers of open-cells is a number from "
    "1 to 100, got 1000000000",
    "run random --on open-cells:layers=1000/digits": "from 1 to 100, got 1000",  # trained for ever
    "run random --on nb201:C=100000/digits": "C of nb201 is a number from 1 to 1,000, got 100000",
    "run random --on nb201:resolution=9999/digits": "from 1 to 4,096, got 9999",
}


STARTED = ("--max-cost 5", "--constraint flop<=3", "--constraint params<=0")  # found out later


@pytest.mark.parametrize("line", BAD)
def test_refused(nasplug: Callable[..., Answer], line: str) -> None:
    untracked = ["--no-track"] if line.startswith("run random") else []
    answer = nasplug(*line.split(), *untracked)
    assert answer.code == 2
    assert BAD[line] in answer.err
    assert answer.out == ""
    if not line.endswith(STARTED):
        assert not list(Path().iterdir()), "a refused run leaves nothing behind"


@pytest.mark.parametrize(
    "option", ["--out", "--on", "--evaluator", "--reward", "--within", "--config", "--constraint"]
)
@pytest.mark.parametrize("blank", ["", "  "])
def test_an_empty_value_is_refused(nasplug: Callable[..., Answer], option: str, blank: str) -> None:
    """``--out ""`` wrote into the current folder, ``--on ""`` searched another problem."""
    answer = nasplug("run", "random", "--no-track", option, blank)
    assert answer.code == 2
    assert answer.err == f"error: {option} is followed by an empty value: give it one\n"
    assert not list(Path().iterdir())


def test_a_known_method_that_is_not_installed_is_named(
    nasplug: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It said "did you mean dsm?"."""
    monkeypatch.delitem(registry().methods, "ddsas")
    for line in ("run ddsas --no-track", "show ddsas", "tune ddsas --no-track"):
        answer = nasplug(*line.split())
        assert answer.code == 2
        assert answer.err == (
            "error: unknown method 'ddsas'; it comes with nasplug-ddsas: "
            "pip install nasplug-ddsas\n"
        )


@pytest.mark.parametrize(
    ("kind", "name", "home"),
    [
        ("executor", "dask", "nasplug-dask"),
        ("evaluator", "proxy", "nasplug-proxies"),
        ("space", "random", ""),
    ],
)
def test_so_is_an_engine_or_an_evaluator(kind: str, name: str, home: str) -> None:
    with pytest.raises(NasplugError) as said:
        Registry().get(kind, name)
    assert ("pip install" in str(said.value)) == bool(home)
    assert home in str(said.value)


def test_bytes_that_are_no_text_can_be_printed(process: Callable[..., Answer]) -> None:
    answer = process(
        "run", "random", "--on", TOY, "--budget", "3", "--no-track", "--out", "\udcff"
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert r"\udcff/curve.png" in answer.out


def test_refused_as_a_process(process: Callable[..., Answer]) -> None:
    for line in ("run randon --on nb201/toy", "run random --on nb201/toy --budget 0"):
        answer = process(*line.split())
        assert answer.code == 2
        assert answer.err.startswith("error: ")
        assert len(answer.err.splitlines()) == 1


def test_traceback_on_demand(here: Path) -> None:
    ended = subprocess.run(
        [*COMMAND, "run", "randon"], capture_output=True, text=True, check=False,
        env={**os.environ, "NASPLUG_TRACEBACK": "1"},
    )  # fmt: skip
    assert ended.returncode == 2
    assert "Traceback" in ended.stderr


def test_taken_and_foreign_directories(nasplug: Callable[..., Answer]) -> None:
    arguments = ("run", "random", "--on", TOY, "--budget", "5", "--no-track", "--out", "d")
    assert nasplug(*arguments).code == 0
    again = nasplug(*arguments)
    assert again.code == 2
    assert "nasplug resume d" in again.err
    assert nasplug("resume", "d").code == 0, "resuming a finished run replays it"
    inside = nasplug("run", "random", "--on", TOY, "--no-track", "--within", "d")
    assert inside.code == 2
    assert "not with a subspace" in inside.err
    record = json.loads(Path("d/run.json").read_text())
    Path("d/run.json").write_text(json.dumps({**record, "format": 99}))
    later = nasplug("resume", "d")
    assert later.code == 2
    assert "format 99" in later.err
    Path("d/run.json").write_text("{")
    assert "is not a run directory" in nasplug("resume", "d").err
    Path("d/run.json").write_text(json.dumps({"format": record["format"]}))
    damaged = nasplug("resume", "d")
    assert damaged.code == 2
    assert "d is damaged: its run.json has no" in damaged.err


@pytest.mark.parametrize("damage", ["truncated", "foreign", "empty"])
def test_a_bad_table(
    nasplug: Callable[..., Answer],
    nb201_table: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
) -> None:
    whole = (nb201_table / "nas-bench-201.parquet").read_bytes()
    Path("data").mkdir()
    bad = {"truncated": whole[: len(whole) // 2], "foreign": b"a,b\n1,2\n" * 100, "empty": b""}
    Path("data/nas-bench-201.parquet").write_bytes(bad[damage])
    monkeypatch.setenv("NASPLUG_DATA", "data")
    answer = nasplug("run", "random", "--on", TOY, "--no-track")
    assert answer.code == 2
    assert "data/nas-bench-201.parquet cannot be read as parquet" in answer.err
    assert "truncated" in answer.err
    listed = nasplug("list", "problems", "--json")
    assert listed.code == 0
    assert TOY not in {row["problem"] for row in listed.json}


def test_a_bad_table_is_not_replaced_by_hours_of_training(
    nasplug: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("data/cifar10").mkdir(parents=True)
    Path("data/cifar10/train.parquet").touch()
    Path("data/nas-bench-201.parquet").write_bytes(b"PAR1")
    monkeypatch.setenv("NASPLUG_DATA", "data")
    for command in (("run", "random", "--on"), ("doctor",)):
        answer = nasplug(*command, "nb201/cifar10")
        assert answer.code == 2
        assert "data/nas-bench-201.parquet cannot be read as parquet" in answer.out + answer.err
    assert "scored by train" in nasplug("doctor", "nb201/digits").out, "that needs no file"


CELL = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"arch": ["00000000"]}, "is not a table of nb201: a cell of nb201 has 3 nodes"),
        ({"arch": [None]}, "is not a table of nb201: a cell of nb201 has 3 nodes"),
        ({"arch": [7]}, "is not a table of nb201: a cell of nb201 has 3 nodes"),
        ({"cell": [CELL]}, "has no column 'arch'"),
        ({"arch": [CELL], "toy/val_acc@12": ["high"]}, "'val_acc@12' of nb201/toy"),
        ({"arch": [CELL], "toy/val_acc@12": None}, "unknown column of nb201/toy 'val_acc@12'"),
        ({"arch": [CELL], "toy/val_acc@12": None, "toy/test_acc@200": None, "params": [1.0]},
         "it has no column val_acc@12"),
    ],
)  # fmt: skip
def test_another_benchmarks_table(
    nasplug: Callable[..., Answer],
    monkeypatch: pytest.MonkeyPatch,
    columns: dict[str, list[Any] | None],
    message: str,
) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    Path("data").mkdir()
    whole = {"toy/val_acc@12": [1.0], "toy/test_acc@200": [1.0], **columns}
    table = pyarrow.table({name: column for name, column in whole.items() if column})
    parquet.write_table(table, "data/nas-bench-201.parquet")
    monkeypatch.setenv("NASPLUG_DATA", "data")
    answer = nasplug("run", "random", "--on", TOY, "--no-track")
    assert answer.code == 2
    assert "data/nas-bench-201.parquet" in answer.err
    assert message in answer.err


@pytest.mark.usefixtures("no_packages")
def test_no_data(nasplug: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NASPLUG_DATA")
    answer = nasplug("run", "random", "--on", "nb201/cifar10", "--no-track")
    assert answer.code == 2
    assert "set NASPLUG_DATA to the folder that holds nas-bench-201.parquet" in answer.err
    monkeypatch.setenv("NASPLUG_DATA", "nowhere")
    answer = nasplug("run", "random", "--on", "nb201/cifar10", "--no-track")
    assert answer.code == 2
    assert "nowhere/nas-bench-201.parquet, which is not there" in answer.err


def test_a_broken_plugin_leaves_the_others_working(
    process: Callable[..., Answer], plugins: str
) -> None:
    found = {one["name"]: one for one in process("plugins", "--json", PYTHONPATH=plugins).json}
    assert found["broken_plugin"]["error"] == "ImportError: no such thing"
    assert found["hill_plugin"]["provides"] == ["hill", "slow"]
    assert "random" in found["nasplug-baselines"]["provides"]
    assert "no such thing" in process("plugins", PYTHONPATH=plugins).out
    answer = process("run", "brokn", "--on", TOY, PYTHONPATH=plugins)
    assert answer.code == 2
    assert "broken_plugin, ImportError: no such thing; see `nasplug plugins`" in answer.err


def test_a_plugin_for_another_nasplug_says_so(
    tmp_path: Path, process: Callable[..., Answer]
) -> None:
    """By its own metadata; what is for this version, or for any, loads."""
    for name, requires in (("past", "nasplug<0.1"), ("fits", "nasplug>=0.1"), ("any", "numpy")):
        source = f"""
            from nasplug import Space, hookimpl

            @hookimpl
            def register_spaces(register):
                register("of-{name}", lambda: Space({{"a": [1, 2]}}))
        """
        distribution(tmp_path, name, source, requires)
    message = f"past 1.0 is for nasplug<0.1, and this is nasplug {nasplug_version}: pip install"
    found = {
        one["name"]: one for one in process("plugins", "--json", PYTHONPATH=str(tmp_path)).json
    }
    assert found["past"]["error"].startswith(message)
    assert (found["fits"]["error"], found["any"]["error"]) == ("", "")
    answer = process("run", "random", "--on", "of-past/x", PYTHONPATH=str(tmp_path))
    assert answer.code == 2
    assert message in answer.err

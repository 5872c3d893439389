"""The command line: ``nasplug --help``. A command is one decorated function below; whatever is
heavy to import, it imports itself, so that ``nasplug --help`` and ``nasplug list`` answer at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

import nasplug
from nasplug import Layered, NasplugError, cli_space, hookimpl
from nasplug.errors import unknown
from nasplug.plugins import WHERE_METHODS_ARE, registry

if TYPE_CHECKING:
    from nasplug.hyperparameters import Hyperparameter
    from nasplug.search import Search
    from nasplug.selection import Selection
    from nasplug.subspace import Region

PROBLEM = "nb201/digits"  # the built-in default: really trained, nothing to download
BUDGET = 40
SHOWN = 10  # archs in the table that a run ends with
SENDING = 15.0  # seconds to wait for the tracking server when the search itself is over
WIDTH = 400  # columns where the output is no terminal: nothing wraps, so that grep works
LARGE = 10**9  # written as a power of ten from here on
INTERRUPTED = 130  # the exit code that shells give it


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The console script: commands raise, this turns what they raise into words and exit codes."""
    try:
        cli.main(arguments, prog_name="nasplug", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except NasplugError as error:
        if os.environ.get("NASPLUG_TRACEBACK"):
            import traceback

            traceback.print_exc()
        click.echo(f"{click.style('error', fg='red')}: {error}", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        talk("interrupted")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # such as `nasplug list methods | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(0)


class Interrupted(click.ClickException):
    """Ctrl-C or SIGTERM in the middle of a search; the message says how to go on."""

    exit_code = INTERRUPTED

    def show(self, file: Any = None) -> None:
        talk(f"\n{self.message}")


class _InOrder(click.Group):
    """Lists its commands in the order in which a user meets them, which is that of this file."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(nasplug.__version__)
def cli() -> None:
    """Neural architecture search as plugins.

    \b
    nasplug list methods                     what there is to choose from
    nasplug run METHOD --on nb201/digits     search; nothing to download
    nasplug ui                               look at the runs
    """


as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON line.")
run_directory = click.argument("run_dir", type=click.Path(path_type=Path))


# ---- what there is


@cli.command()
@as_json
def plugins(as_json: bool) -> None:
    """Installed plugins, what each provides, and why one failed to load."""
    rows = [
        {"name": p.name, "version": p.version, "provides": p.provides, "error": p.error}
        for p in registry().plugins
    ]
    show_rows(rows, as_json)


@cli.group("list")
def list_() -> None:
    """Methods, spaces or problems."""


@list_.command()
@as_json
def methods(as_json: bool) -> None:
    """Search methods; `nasplug show METHOD` tells all about one."""
    rows = [
        {"name": name, "doc": _first_line(cls), "paper": getattr(cls, "paper", "")}
        for name, cls in sorted(registry().methods.items())
    ]
    if not rows and not as_json:
        raise NasplugError(f"no method is installed: {WHERE_METHODS_ARE}")
    show_rows(rows, as_json)


@list_.command()
@as_json
def spaces(as_json: bool) -> None:
    """Search spaces."""
    rows = []
    for name in sorted(registry().spaces):
        space = nasplug.space(name)
        rows.append(
            {"name": name, "archs": space.count, "decisions": space.d, "doc": _first_line(space)}
        )
    show_rows(rows, as_json)


@list_.command()
@as_json
def problems(as_json: bool) -> None:
    """What can be searched here and now, and by what archs are scored (the default first)."""
    show_rows(nasplug.problems(), as_json)
    if not as_json and not os.environ.get("NASPLUG_DATA"):
        talk("NASPLUG_DATA is not set: benchmark tables are not listed")


@cli.command()
@click.argument("method")
@as_json
def show(method: str, as_json: bool) -> None:
    """A method's paper and hyperparameters (each is a `--set NAME=VALUE` of `run`)."""
    cls = registry().get("method", method)
    declared: dict[str, Hyperparameter[Any]] = getattr(cls, "declared", dict)()
    about = {
        "name": method,
        "doc": _doc(cls),
        "paper": getattr(cls, "paper", ""),
        "problem": _own_problem(method),
        "hyperparameters": [_describe(one) for one in declared.values()],
    }
    if as_json:
        show_json(about)
        return
    click.secho(method, bold=True)
    click.echo(f"{about['doc']}\n")
    if about["paper"]:
        click.echo(f"Paper: {about['paper']}\n")
    table_rows = [
        {
            "hyperparameter": one.name,
            "type": type(one).__name__.lower(),
            "default": one.default,
            "bounds": one.bounds,
            "meaning": f"{one.doc}{f' (if {one.when})' if one.when else ''}",
        }
        for one in declared.values()
    ]
    show_rows(table_rows)


@cli.command()
@click.argument("problem", required=False)
@as_json
def doctor(problem: str | None, as_json: bool) -> None:
    """What would stop a run (of PROBLEM), and how to mend it. Exit code 2 if anything would."""
    from nasplug.doctor import examine

    checks, failed = [], False
    marks = {"ok": ("ok", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red")}
    for check in examine(problem):
        failed |= check.state == "fail"
        checks.append({"check": check.name, "state": check.state, "found": check.found,
                       "fix": check.fix})  # fmt: skip
        if not as_json:
            mark, color = marks[check.state]
            click.echo(f"{click.style(f'{mark:>4}', fg=color)}  {check.name}: {check.found}")
            if check.fix:
                click.echo(f"      -> {check.fix}")
    if as_json:
        show_json({"problem": problem, "ok": not failed, "checks": checks})
    if failed:
        sys.exit(2)


# ---- searching


@cli.command()
@click.argument("method")
@click.option(
    "--on",
    metavar="SPACE/DATA",
    help=f"Problem (default: that of --within, else the method's own, such as {PROBLEM}).",
)
@click.option("--budget", type=int, default=BUDGET, show_default=True, help="Trials.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE",
    help="A hyperparameter of the method (see `nasplug show METHOD`); repeatable.",
)  # fmt: skip
@click.option(
    "--config", type=click.Path(path_type=Path), metavar="FILE",
    help="Hyperparameters that `nasplug tune` found: its best.json; --set overrides them.",
)  # fmt: skip
@click.option(
    "--within", type=click.Path(path_type=Path), metavar="RUN_DIR",
    help="Search only in the subspace that this run ended with.",
)  # fmt: skip
@click.option("--evaluator", help="How archs are scored: table, train, ... (default: the best).")
@click.option("--reward", metavar="COLUMN", help="What the method maximizes.")
@click.option("--report", metavar="COLUMN", help="What is reported of the best, unseen by it.")
@click.option(
    "--repeats", type=click.Choice(["free", "count"]), default="free", show_default=True,
    help="Whether an arch proposed again costs a trial.",
)  # fmt: skip
@click.option(
    "--constraint", "constraints", multiple=True, metavar="'flops<=300e6'",
    help="On params, flops or a metric of the problem; repeatable.",
)  # fmt: skip
@click.option("--max-cost", type=float, help="Stop at this cost, in seconds of the benchmark.")
@click.option("--max-seconds", type=float, help="Stop after this time.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR",
    help="The run directory (default: a new one under runs/).",
)  # fmt: skip
@click.option("--track/--no-track", default=True, help="Log to MLflow.", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line, all else to stderr.")
def run(
    method: str,
    on: str | None,
    settings: tuple[str, ...],
    config: Path | None,
    within: Path | None,
    out: Path | None,
    track: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Search with METHOD for a good architecture."""
    hyperparameters = _hyperparameters(method, settings)
    if config is not None:
        hyperparameters = {**_tuned(method, config), **hyperparameters}
    with _interruptible() as witness:
        selection = nasplug.search(
            method,
            on or (None if within else _own_problem(method)),
            within=within,
            out=out or True,
            tracking=track,
            plugins=[witness],
            **options,
            **hyperparameters,
        )
    finish(selection, track, as_json)


@cli.command()
@click.argument("method")
@click.option("--on", metavar="SPACE/DATA", help=f"Problem (default: the method's, as {PROBLEM}).")
@click.option("--trials", type=int, default=50, show_default=True, help="Of the study, in all.")
@click.option("--seeds", type=int, default=5, show_default=True, help="Searches per trial.")
@click.option("--budget", type=int, default=BUDGET, show_default=True, help="Trials per search.")
@click.option(
    "--params", metavar="K,M,lr", help="What to tune (default: all that METHOD declares tunable)."
)
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE",
    help="A hyperparameter to hold at a value; repeatable.",
)  # fmt: skip
@click.option(
    "--objectives", default="value", show_default=True, metavar="value,cost",
    help="value, cost, seconds, params, flops or a metric of the problem.",
)  # fmt: skip
@click.option("--sampler", default="tpe", show_default=True, help="Optuna's: cmaes, gp, nsgaii ...")
@click.option("--pruner", default="median", show_default=True, help="Optuna's: wilcoxon, nop ...")
@click.option(
    "--storage", metavar="URL",
    help="sqlite:///FILE, postgresql://HOST/DATABASE or journal://FILE: machines that share it "
    "share the study (default: in the study directory).",
)  # fmt: skip
@click.option("--workers", type=int, default=1, show_default=True, help="Processes.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--evaluator", help="How archs are scored: table, train, ... (default: the best).")
@click.option("--reward", metavar="COLUMN", help="What the method maximizes.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR",
    help="The study directory; one that is there is continued (default: a new one under runs/).",
)  # fmt: skip
@click.option("--track/--no-track", default=True, help="Log to MLflow.", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line, all else to stderr.")
def tune(
    method: str,
    on: str | None,
    settings: tuple[str, ...],
    params: str | None,
    objectives: str,
    track: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Find good hyperparameters of METHOD: an Optuna study of searches."""
    fixed = _hyperparameters(method, settings)
    before = signal.signal(signal.SIGTERM, _as_ctrl_c)
    try:
        study = nasplug.tune(
            method, on or _own_problem(method), objectives=_names(objectives), tracking=track,
            params=_names(params) if params is not None else None, **options, **fixed,
        )  # fmt: skip
    except KeyboardInterrupt as error:
        raise Interrupted(str(error).replace("out=", "--out ") or "interrupted") from None
    finally:
        signal.signal(signal.SIGTERM, before)
    finish_study(study, track, as_json)


@cli.command()
@run_directory
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line, all else to stderr.")
def resume(run_dir: Path, as_json: bool) -> None:
    """Continue an interrupted search: the same trials as if it had never been interrupted."""
    from nasplug.journal import RunDirectory

    _, record = RunDirectory.open(run_dir)
    with _interruptible() as witness:
        selection = nasplug.resume(run_dir, plugins=[witness])
    finish(selection, bool(record["tracking"]), as_json)


# ---- the record


@cli.command()
@run_directory
@as_json
def sync(run_dir: Path, as_json: bool) -> None:
    """Send to MLflow what is missing there, such as after the server was away."""
    from nasplug import tracking

    sent = tracking.sync(run_dir)
    if as_json:
        show_json(sent)
        return
    state = "complete" if sent["complete"] else "still searched"
    click.echo(f"MLflow run {sent['run_id']}: {sent['trials']} trials sent, {state}")


@cli.command()
@click.option("--port", type=int, default=5000, show_default=True)
def ui(port: int) -> None:
    """The MLflow UI on the store that the searches log to."""
    from nasplug import tracking

    command = [*tracking.ui_command(), "--port", str(port)]
    talk(f"http://127.0.0.1:{port}{tracking.UI_PAGE}")
    os.execvp(command[0], command)


# ---- spaces


cli.add_command(cli_space.locality)
cli.add_command(cli_space.space)


# ---- how commands print


def talk(text: str) -> None:
    """Words for the person who watches; never in the way of what a program reads."""
    print(text, file=sys.stderr, flush=True)  # click.echo would write across the progress bar


def show_json(content: Any) -> None:
    """One line on stdout, strictly JSON."""
    click.echo(json.dumps(content, allow_nan=False, default=str))


def show_rows(
    rows: Sequence[dict[str, Any]], as_json: bool = False, *, stderr: bool = False
) -> None:
    """A list of like dictionaries, as JSON or as a table without the columns that are empty."""
    if as_json:
        show_json(rows)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = [name for name in (rows[0] if rows else ()) if any(_cell(row[name]) for row in rows)]
    for name in columns:
        numeric = all(isinstance(row[name], int | float | None) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        cells = [Text(_cell(row[name]), "red" if name == "error" else "") for name in columns]
        table.add_row(*cells)
    watched = (sys.stderr if stderr else sys.stdout).isatty()
    Console(stderr=stderr, width=None if watched else WIDTH).print(table)


def finish(selection: Selection, tracked: bool, as_json: bool) -> None:
    """What a search ends with: the best archs, and where its picture and record are."""
    from nasplug.reporting import table

    def say(what: str, value: object) -> None:
        if value:
            click.echo(f"{what + ':':15}{value}", err=as_json)

    summary = selection.to_dict()
    show_rows(table(selection, SHOWN), stderr=as_json)
    run_id = None
    if directory := selection.run_dir:
        cli_space.show_quality(directory, stderr=as_json)
        if isinstance(selection.subspace, Layered):
            cli_space.show_layers(selection.subspace, stderr=as_json)
        say("pictures", " ".join(sorted(str(file) for file in directory.glob("*.png"))))
        say("run directory", directory)
        if tracked:
            from nasplug import tracking

            tracking.wait(SENDING)  # what is not sent by then, it says itself
            run_id = tracking.run_id(directory)
            say("MLflow run", run_id)
    if as_json:
        show_json({**summary, "mlflow_run_id": run_id})


def finish_study(study: Any, tracked: bool, as_json: bool) -> None:
    """What a study ends with: the best hyperparameters beside the defaults, and where all is."""
    from nasplug import tracking
    from nasplug.tuning import report

    folder = study.directory
    show_rows(report.table(study), stderr=as_json)
    click.echo(f"{'best:':15}{folder / 'best.json'}", err=as_json)
    click.echo(f"{'study:':15}{folder}", err=as_json)
    run_id = None
    if tracked:
        tracking.wait(SENDING)
        run_id = tracking.run_id(folder)
        click.echo(f"{'MLflow run:':15}{run_id}", err=as_json)
    if as_json:
        show_json({**report.summary(study, folder), "mlflow_run_id": run_id})


def _cell(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if value < LARGE else f"{value:.3g}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) < LARGE else f"{value:.5g}"
    return "" if value is None else str(value)


def _doc(thing: Any) -> str:
    import inspect

    cls = thing if isinstance(thing, type) else type(thing)
    return inspect.cleandoc(cls.__doc__ or "")


def _first_line(thing: Any) -> str:
    return _doc(thing).partition("\n")[0]


def _describe(one: Hyperparameter[Any]) -> dict[str, Any]:
    """A declaration as JSON; unbounded is null."""
    finite = {
        side: bound if abs(bound := getattr(one, side)) < float("inf") else None
        for side in ("low", "high")
        if hasattr(one, side)
    }
    more = {name: getattr(one, name) for name in ("log", "choices") if hasattr(one, name)}
    return {
        "name": one.name, "type": type(one).__name__.lower(), "default": one.default, **finite,
        **more, "doc": one.doc, "when": one.when, "tunable": one.tunable,
    }  # fmt: skip


# ---- how commands search


def _hyperparameters(method: str, settings: Iterable[str]) -> dict[str, Any]:
    """What ``--set`` said, still as text: the declarations parse it."""
    declared: Iterable[str] = getattr(registry().get("method", method), "declared", dict)()
    found = {}
    for text in settings:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name:
            raise NasplugError(f"--set takes NAME=VALUE, such as --set K=4; got {text!r}")
        if name not in declared:
            raise unknown(
                "hyperparameter", name, declared, f"of {method}; see: nasplug show {method}"
            )
        found[name] = value
    return found


def _own_problem(method: str) -> str:
    """What the method is tried on if nothing is said."""
    found: str = getattr(registry().get("method", method), "problem", PROBLEM)
    return found


def _tuned(method: str, file: Path) -> dict[str, Any]:
    """The hyperparameters in a best.json."""
    try:
        found = json.loads(file.read_text())
        tuned, hyperparameters = found["method"], dict(found["hyperparameters"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise NasplugError(
            f"{file} is no best.json of `nasplug tune`: {type(error).__name__}: {error}"
        ) from None
    if tuned != method:
        raise NasplugError(f"{file} holds hyperparameters of {tuned}, not of {method}")
    return hyperparameters


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


class _Witness:
    """Sees the search from its first round on, so that an interruption can say where it stands."""

    search: Search | None = None

    @hookimpl(tryfirst=True)
    def sample_space(self, search: Search) -> Region | None:
        if self.search is None and search.directory:
            talk(f"run directory: {search.directory.path}")
        self.search = search
        return None

    def __str__(self) -> str:
        if self.search is None:
            return "interrupted before the first trial"
        done = f"interrupted after {self.search.finished} trials"
        path = self.search.directory and self.search.directory.path
        return f"{done}; continue with: nasplug resume {path}"


@contextmanager
def _interruptible() -> Iterator[_Witness]:
    """Ctrl-C and SIGTERM end the search with a word on how to go on."""
    witness = _Witness()
    before: Callable[..., Any] | int | None = signal.signal(signal.SIGTERM, _as_ctrl_c)
    try:
        yield witness
    except KeyboardInterrupt:
        raise Interrupted(str(witness)) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _as_ctrl_c(number: int, frame: object) -> None:
    raise KeyboardInterrupt

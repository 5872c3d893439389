"""The command line: ``nasplug --help``. Each command is in a module of its own, imported when it is
called, so that ``nasplug --help`` answers at once."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from typing import NoReturn

import click

from nasplug._version import __version__
from nasplug.cli.output import INTERRUPTED, say
from nasplug.errors import NasplugError

# Commands in the order in which a user meets them: module and function, what the help shows.
COMMANDS = {
    "plugins": ("lists:plugins", "Installed plugins, what each provides, why one failed to load."),
    "new": ("new:new", "Begin a method, a space or an evaluator of your own."),
    "list": ("lists:list_", "Methods, spaces or problems."),
    "show": ("lists:show", "A method's paper and hyperparameters."),
    "data": (
        "data:data",
        "Tables and images that are here, from where, and how to get the others.",
    ),
    "doctor": ("doctor:doctor", "What would stop a run, and how to mend it."),
    "run": ("search:run", "Search with METHOD for a good architecture."),
    "train-supernet": (
        "search:train_supernet",
        "Train a supernet and search nothing: others score archs by it.",
    ),
    "tune": ("tune:tune", "Find good hyperparameters of METHOD: an Optuna study of searches."),
    "compare": ("compare:compare", "Compare METHODs at equal budgets, seed by seed."),
    "ablate": ("compare:ablate", "Compare METHOD with the variants of itself that it declares."),
    "resume": ("search:resume", "Continue an interrupted search with the same trials."),
    "retrain": (
        "deploy:retrain",
        "Train the best arch of a finished run from scratch, in earnest.",
    ),
    "evaluate": ("deploy:evaluate", "Measure the winner of a finished run on the test data."),
    "export": (
        "deploy:export",
        "Write the winner of a finished run to a file: onnx, export, state, python.",
    ),
    "profile": (
        "profile:profile",
        "Latency, peak memory and size of the winner of a run, or any arch.",
    ),
    "latency-table": (
        "profile:latency_table",
        "What each choice of a space takes on this machine, as --latency reads it.",
    ),
    "report": (
        "report:report",
        "What searches, studies and comparisons came to, as a page or a table.",
    ),
    "sync": ("tracking:sync", "Send to MLflow what is missing there."),
    "ui": ("tracking:ui", "The MLflow UI on the store that the searches log to."),
    "check": ("check:check", "Whether a method, a space or an evaluator behaves."),
    "locality": ("space:locality", "Whether few edits change little, and how far they may go."),
    "space": ("space:space", "The quality of the spaces that runs ended with."),
}


class _Late(click.Group):
    """Imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, _, function = COMMANDS[name][0].partition(":")
        command: click.Command = getattr(import_module(f"nasplug.cli.{module}"), function)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, doc) for name, (_, doc) in COMMANDS.items()])


@click.group(cls=_Late, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Neural architecture search as plugins.

    \b
    nasplug list methods                     what there is to choose from
    nasplug run METHOD --on nb201/digits     search; nothing to download
    nasplug ui                               look at the runs
    """


def refuse_blank(arguments: Sequence[str]) -> None:
    """An empty value is a variable that a script forgot to set, not a wish: ``--out "$OUT"``."""
    for before, argument in pairwise(("nasplug", *arguments)):
        option, equals, value = (
            argument.partition("=") if argument[:2] == "--" else ("", "", argument)
        )
        if (equals or not option) and not value.strip():
            raise NasplugError(f"{option or before} is followed by an empty value: give it one")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The console script: commands raise, this turns what they raise into words and exit codes."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may hold what is no text
            sys.stdout.reconfigure(errors="backslashreplace")
        refuse_blank(arguments)
        cli.main(arguments, prog_name="nasplug", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        say("interrupted")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # such as `nasplug list methods | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (NasplugError, OSError) as error:
        if os.environ.get("NASPLUG_TRACEBACK"):
            traceback.print_exc()
        words = str(error)
        if isinstance(error, OSError) and error.filename:  # a file in the way, a full disk
            words = f"{error.filename} cannot be used: {error.strerror}"
        click.echo(f"{click.style('error', fg='red')}: {words}", err=True)
        sys.exit(2)
    sys.exit(0)

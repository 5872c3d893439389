"""Options that several commands share."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from nasplug.errors import NasplugError, unknown
from nasplug.kernel.registry import registry
from nasplug.run.api import name_of

PROBLEM = "nb201/digits"  # the built-in default: really trained, nothing to download
BUDGET = 40

Command = TypeVar("Command", bound=Callable[..., Any])

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON line.")
json_last = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON line, all else to stderr."
)
run_directory = click.argument("run_dir", type=click.Path(path_type=Path))
seed = click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
own_model = click.option(
    "--model", metavar="MODULE:NAME",
    help="Your own network with its choices marked in place, instead of a problem.",
)  # fmt: skip
latency = click.option(
    "--latency", metavar="FILE",
    help="A table of what each choice takes, of this device or of another (`nasplug "
    "latency-table`), by which latency is known before a score.",
)  # fmt: skip
track = click.option("--track/--no-track", default=True, help="Log to MLflow.", show_default=True)


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, in the order in which ``--help`` has them."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def parse_fidelity(
    context: click.Context, option: click.Parameter, text: str | None
) -> tuple[int, ...] | None:
    """``"1:27"`` -> (1, 27)."""
    if text is None:
        return None
    try:
        return tuple(int(bound) for bound in text.split(":"))
    except ValueError:
        raise NasplugError(f"--fidelity reads LOW:HIGH, such as 1:27; got {text!r}") from None


# What is searched and how archs are scored: the same for a search and for a study.
problem_options = together(
    click.option(
        "--on", metavar="SPACE/DATA",
        help=f"Problem, such as {PROBLEM} or nb201:C=8,N=1/cifar10 (default: that of "
        "--within, else the method's own).",
    ),
    click.option(
        "--within", type=click.Path(path_type=Path), metavar="RUN_DIR",
        help="Search only in the subspace that this run ended with.",
    ),
    click.option(
        "--evaluator", help="How archs are scored: table, train, ... (default: the best)."
    ),
    click.option("--reward", metavar="COLUMN", help="What the method maximizes."),
    click.option(
        "--report", metavar="COLUMN", help="What is reported of the best, unseen by it."
    ),
    click.option(
        "--fidelity", metavar="LOW:HIGH", callback=parse_fidelity,
        help="Between how many epochs an arch is trained by a method such as hyperband; "
        "others train for HIGH.",
    ),
    click.option(
        "--constraint", "constraints", multiple=True, metavar="'flops<=300e6'",
        help="On params, flops, latency ('latency<=5ms') or a metric of the problem; "
        "repeatable.",
    ),
)  # fmt: skip


# A network of the user's own in the place of a problem: the same for a search and a study.
own_options = together(
    own_model,
    click.option(
        "--data", metavar="MODULE:NAME",
        help="What --model is trained on: a function that returns it, or a name such as "
        "digits.",
    ),
    click.option(
        "--loss", metavar="MODULE:NAME",
        help="Of (output, labels), in the place of cross-entropy or the squared error.",
    ),
    click.option(
        "--metric", metavar="MODULE:NAME",
        help="Of (outputs, labels), or accuracy, balanced_accuracy, r2, rmse, mae, loss.",
    ),
    click.option(
        "--optimizer", metavar="MODULE:NAME", help="Of parameters, in the place of SGD."
    ),
    click.option(
        "--direction", type=click.Choice(["maximize", "minimize"]), default="maximize",
        show_default=True, help="Of a --metric of yours.",
    ),
)  # fmt: skip


def check_own(model: str | None, data: str | None) -> None:
    """NasplugError unless both are given, or none."""
    if bool(model) != bool(data):
        raise NasplugError("--model and --data belong together: a network, and what to train it on")


def parse_settings(method: str, settings: Iterable[str]) -> dict[str, Any]:
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


def own_problem(method: str) -> str:
    """What the method is tried on if nothing is said."""
    found: str = getattr(registry().get("method", method), "problem", PROBLEM)
    return found


def read_best(method: str, file: Path) -> dict[str, Any]:
    """The hyperparameters in a best.json of ``nasplug tune``."""
    try:
        found = json.loads(file.read_text())
        tuned, hyperparameters = found["method"], dict(found["hyperparameters"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise NasplugError(
            f"{file} is no best.json of `nasplug tune`: {type(error).__name__}: {error}"
        ) from None
    if tuned != name_of(method):
        raise NasplugError(f"{file} holds hyperparameters of {tuned}, not of {method}")
    return hyperparameters


def parse_names(text: str) -> list[str]:
    """``"K, M"`` -> ``["K", "M"]``."""
    return [name.strip() for name in text.split(",") if name.strip()]


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """SIGTERM ends a search as Ctrl-C does: with a word on how to go on."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

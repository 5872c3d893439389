"""`nasplug new`: what it makes is a distribution that works as it stands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from nasplug.cli import main
from tests.test_packaging import COMMANDS

pytest.importorskip("copier")

ROOT = Path(__file__).resolve().parents[1]
NAMES = {"method": "hill-climber", "space": "chain-net", "evaluator": "last-choice"}
RUN = {
    "method": ("hill-climber", "--on", "nb201/toy"),
    "space": ("random", "--on", "chain-net/digits"),
    "evaluator": ("random", "--on", "nb201/last-choice"),
}


def new(kind: str, name: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["new", kind, name])
    return int(str(end.value.code))


@pytest.fixture(params=NAMES)
def made(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, Path]:
    """A kind, and the folder of a distribution of it."""
    monkeypatch.chdir(tmp_path)
    assert new(request.param, NAMES[request.param]) == 0
    return request.param, tmp_path / f"nasplug-{NAMES[request.param]}"


def call(command: list[str], folder: Path, **environment: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def installed(folder: Path) -> str:
    """What PYTHONPATH has to be for a distribution that is not built: its sources, and what an
    installer would write of its entry point."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    about = folder / "src" / f"{project['name'].replace('-', '_')}-0.1.0.dist-info"
    about.mkdir()
    needs = "\n".join(f"Requires-Dist: {need}" for need in project["dependencies"])
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0.1.0\n{needs}\n"
    )
    points = project["entry-points"]["nasplug"].items()
    (about / "entry_points.txt").write_text(
        "[nasplug]\n" + "".join(f"{name} = {module}\n" for name, module in points)
    )
    return str(folder / "src")


def test_it_runs_and_passes_its_tests(made: tuple[str, Path], nb201_table: Path) -> None:
    kind, folder = made
    environment = {"PYTHONPATH": installed(folder), "NASPLUG_DATA": str(nb201_table)}
    lines = [["run", *RUN[kind], "--budget", "2", "--no-track", "--json"], ["plugins", "--json"]]
    said = call([sys.executable, "-c", COMMANDS, json.dumps(lines)], folder, **environment)
    run, plugins = map(json.loads, said.splitlines())
    assert run["trials"] == 2
    (plugin,) = (found for found in plugins if found["name"] == folder.name)
    assert (plugin["provides"], plugin["error"]) == ([NAMES[kind]], "")
    call([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], folder, **environment)


def test_it_is_tidy(made: tuple[str, Path]) -> None:
    _, folder = made
    for command in (["check"], ["format", "--check"]):
        call([sys.executable, "-m", "ruff", *command, "--no-cache", "."], folder)
    assert (folder / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert (folder / ".github" / "workflows" / "tests.yml").exists()
    assert not [file for file in folder.rglob("*") if "{" in file.name or not file.name]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those of nasplug and of the baselines."""
    folder = tmp_path_factory.mktemp("wheels")
    shutil.copytree(
        ROOT / "nasplug", folder / "source" / "nasplug", ignore=shutil.ignore_patterns("__pyc*")
    )
    for name in ("pyproject.toml", "setup.py", "README.md"):
        shutil.copy(ROOT / name, folder / "source")
    baselines = folder / "baselines"
    shutil.copytree(
        ROOT / "plugins" / "nasplug-baselines", baselines, ignore=shutil.ignore_patterns("build")
    )
    for source in (folder / "source", baselines):
        call(["uv", "build", "--quiet", "--wheel", "--out-dir", str(folder)], source)
    return folder


@pytest.mark.skipif(not shutil.which("uv"), reason="needs uv")
@pytest.mark.parametrize(
    "made",
    ["method", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("space", "evaluator"))],
    indirect=True,
)
def test_it_installs_in_an_environment_of_its_own(
    made: tuple[str, Path], wheels: Path, nb201_table: Path, tmp_path: Path
) -> None:
    """With nasplug as a wheel has it, the template and all: there, too, `nasplug new` works. Of
    its tests, those of a method and of an evaluator want neither torch nor tables."""
    kind, folder = made
    venv = wheels / "venv"  # the same place each time: what was compiled there is found again
    environment = {
        "PYTHONPATH": "", "PYTHONPYCACHEPREFIX": str(wheels / "compiled"),
        "NASPLUG_DATA": str(nb201_table),
    }  # fmt: skip
    call(["uv", "venv", "--quiet", "--clear", "--python", sys.executable, str(venv)], tmp_path)
    python, nasplug = str(venv / "bin" / "python"), str(venv / "bin" / "nasplug")
    install = ["uv", "pip", "install", "--quiet", "--python", python, "--find-links", str(wheels)]
    call([*install, "nasplug[new]", "nasplug-baselines", f"{folder}[test]"], tmp_path)
    call([python, "-m", "pytest", "-q"], folder, **environment)
    call([nasplug, "new", kind, "another"], tmp_path, **environment)
    call([*install, "nasplug[tables]"], tmp_path)
    call([nasplug, "run", *RUN[kind], "--budget", "1", "--no-track"], tmp_path, **environment)


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("method", "Hill_Climber", "'Hill_Climber' is no name for a plugin: small letters"),
        ("method", "2d", "is no name for a plugin"),
        ("method", "float", "that are no class of nasplug"),
        ("space", "nb201", "the name 'nb201' is taken by nasplug.spaces: choose another"),
        ("method", "dsm", "the name 'dsm' is taken by nasplug-dsm"),
        ("evaluator", "there", "the folder nasplug-there is there already"),
    ],
)
def test_what_is_wrong_with_a_name_is_said(
    kind: str, name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nasplug-there").mkdir()
    assert new(kind, name) == 2
    assert message in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["nasplug-there"]

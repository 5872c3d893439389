"""A run directory that a disk, a person or a stranger has changed: it resumes to the same trials,
or says what is damaged. (Nothing here draws at random without a seed.)"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import shutil
import sqlite3
import stat
from contextlib import closing, contextmanager

import numpy as np
import pytest

import nasplug
from nasplug import Method, NasplugError, Space, hookimpl
from nasplug.kernel.registry import registry
from nasplug.run.directory import CELLS, CHECKPOINTS, QUALITY, _checksum, read_json, write_json
from nasplug.run.journal import FILE, Journal, checksum

SPACE = Space({f"d{i}": list(range(4)) for i in range(6)})
BUDGET = 24


class Killed(KeyboardInterrupt):
    """The machine stops here."""


class Climber(Method):
    """Mutates its best in batches; continued from a checkpoint."""

    def setup(self, search):
        self.best, self.height = search.region.sample(1, search.rng)[0], -np.inf

    @hookimpl
    def propose(self, search, subspace):
        some = subspace.sample(1, search.rng)
        near = subspace.mutate(np.repeat(self.best[None], 2, 0), search.rng)
        return np.concatenate([some, near])

    @hookimpl
    def update(self, search, trials):
        for arch, value in zip(trials.archs, trials.scores.tolist(), strict=True):
            if value > self.height:
                self.best, self.height = arch.copy(), value

    @hookimpl
    def select_final(self, search):
        return nasplug.Ball(search.space, self.best, 2)

    def state(self):
        return {"best": self.best, "height": self.height}

    def load_state(self, state):
        self.best, self.height = state["best"], state["height"]


class Replayed(Climber):
    """Keeps no state: replayed from the start."""

    def state(self):
        return None


METHODS = {"checkpointed": Climber, "replayed": Replayed}


def score(arch, trial):
    trial.set_user_attr("first", arch["d0"])
    if arch["d1"] == 3:
        raise ValueError("three")
    return {"value": float(sum(choice * (i + 1) for i, choice in enumerate(arch.values()))),
            "latency": float(arch["d2"])}  # fmt: skip


def table(trials):
    names = ("archs", "values", "reports", "numbers", "rounds", "repeats", "states", "feasible")
    rows = {name: getattr(trials, name).tolist() for name in names}
    latency = trials.metrics["latency"].tolist()
    return repr({**rows, "latency": latency, "notes": sorted(trials.notes.items())})


def search(method, out, evaluate=score, seed=4, **options):
    return nasplug.search(
        METHODS[method](), space=SPACE, evaluate=evaluate, budget=BUDGET, seed=seed, out=out,
        within=nasplug.Mask(SPACE, {"d5": [0, 1, 2]}), tracking=False, progress=False, **options,
    )  # fmt: skip


def resume(method, run):
    return nasplug.resume(run, method=METHODS[method](), evaluate=score, progress=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{(method, how it ended): run directory}, and {method: the trials if nothing happens}."""
    root = tmp_path_factory.mktemp("runs")
    found, tables = {}, {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nasplug.run.report.draw_picture", lambda *_: None)
        for method in METHODS:
            whole, killed = root / f"{method}-finished", root / f"{method}-killed"
            tables[method] = table(search(method, whole).search.trials)
            calls = 0

            def dies(arch, trial, method=method, killed=killed):
                nonlocal calls
                calls += 1
                if calls == 17:  # what others find, the write-ahead log with it
                    shutil.copytree(root / f"{method}-lost", killed)
                    raise Killed
                return score(arch, trial)

            with pytest.raises(Killed):
                search(method, root / f"{method}-lost", dies)
            found |= {(method, "finished"): whole, (method, "killed"): killed}
    return found, tables


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    monkeypatch.setattr("nasplug.run.report.draw_picture", lambda *_: None)


def truncated(data):
    sizes = {0, 1, len(data) // 3, len(data) // 2, len(data) - 1}
    return [data[:size] for size in sorted(sizes) if size < len(data)]


def flipped(data, seed):
    chance = random.Random(seed)
    for _ in range(8 if data else 0):
        at = chance.randrange(len(data))
        yield data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]


def spoilt(data, seed):
    """What is in a damaged file instead; None if it is gone."""
    nonsense = [b"{}\n", b"[]\n", b"[" * 100_000, b"\xff\xfe\x00", None, "a directory"]
    return [*truncated(data), *flipped(data, seed), *nonsense]


def put(file, content):
    """In the place of a file."""
    file.unlink()
    if isinstance(content, str):
        file.mkdir()
    elif content is not None:
        file.write_bytes(content)


CASES = [(method, end) for method in METHODS for end in ("finished", "killed")]


@pytest.mark.parametrize(("method", "end"), CASES)
def test_damaged_files_are_named_or_do_no_harm(runs, tmp_path, method, end):
    found, tables = runs
    source = found[method, end]
    refused = tried = 0
    for file in sorted(source.iterdir()):
        for i, content in enumerate(spoilt(file.read_bytes(), file.name)):
            run = tmp_path / f"{file.stem}-{i}"
            shutil.copytree(source, run)
            put(run / file.name, content)
            tried += 1
            try:
                again = resume(method, run)
                same = table(again.search.trials) == tables[method]
            except NasplugError as error:
                same = file.name.removesuffix("-wal").removesuffix("-shm") in str(error)
                refused += 1
            assert same, (file.name, i)
            shutil.rmtree(run)
    assert tried > 90
    assert refused > 20


# ---- JSON with values of other types


def keys(content, at=()):
    for key, value in content.items():
        yield (*at, key)
        if isinstance(value, dict):
            yield from keys(value, (*at, key))


def changed(content, at, value):
    """The same with another value at a place; without it, if the value is ...."""
    key, *rest = at
    if rest:
        return content | {key: changed(content[key], rest, value)}
    return {k: v for k, v in content.items() if k != key} | ({} if value is ... else {key: value})


@pytest.mark.parametrize("file", ["run.json", "status.json"])
def test_values_of_a_wrong_type_are_refused_or_do_no_harm(runs, tmp_path, monkeypatch, file):
    """With the checksum that a stranger would compute, too."""
    monkeypatch.setattr(registry().trackers["mlflow"], "target", lambda run_dir: None)
    found, tables = runs
    shutil.copytree(found["replayed", "finished"], run := tmp_path / "run")
    original = json.loads((run / file).read_text())
    for at in keys(original):
        for value in (..., None, True, -1, 0.5, "x", [], [3], {}, {"a": [None]}):
            content = changed(original, at, value)
            if at != ("checksum",):
                content.pop("checksum")
                content["checksum"] = _checksum(content)
            (run / file).write_text(json.dumps(content))
            try:
                again = resume("replayed", run)
            except NasplugError:
                continue
            assert table(again.search.trials) == tables["replayed"], (at, value)


def test_what_was_edited_is_told_from_what_was_written(runs, tmp_path):
    """Ten trials more by a flipped bit, and nobody would have known."""
    found, _ = runs
    shutil.copytree(found["replayed", "finished"], run := tmp_path / "run")
    text = (run / "run.json").read_text()
    (run / "run.json").write_text(text.replace(f'"budget": {BUDGET}', f'"budget": {BUDGET + 10}'))
    with pytest.raises(
        NasplugError, match=r"run is damaged: its run.json is not as it was written"
    ):
        resume("replayed", run)


def test_a_status_that_was_edited_is_told_from_what_was_written(runs, tmp_path):
    """A flipped digit in the rounds or the seconds was believed."""
    found, tables = runs
    shutil.copytree(found["replayed", "finished"], run := tmp_path / "run")
    text = (run / "status.json").read_text()
    rounds = json.loads(text)["rounds"]
    (run / "status.json").write_text(text.replace(f'"rounds": {rounds}', f'"rounds": {rounds + 1}'))
    with pytest.raises(
        NasplugError, match=r"run is damaged: its status.json is not as it was written"
    ):
        resume("replayed", run)
    (run / "status.json").unlink()
    assert table(resume("replayed", run).search.trials) == tables["replayed"]


def test_a_table_that_is_whole_is_not_written_again(runs, tmp_path):
    """Most of the time of resuming a finished run of many trials went there."""
    found, _ = runs
    shutil.copytree(found["replayed", "finished"], run := tmp_path / "run")
    file, content = run / "trials.csv", (run / "trials.csv").read_bytes()
    before = file.stat()
    resume("replayed", run)
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    for other in (content.replace(b"complete", b"pruned", 1), content[:-1], b""):
        file.write_bytes(other)
        resume("replayed", run)
        assert file.read_bytes() == content
    file.unlink()
    resume("replayed", run)
    assert file.read_bytes() == content


# ---- checkpoints that do not fit


@pytest.fixture
def run(runs, tmp_path):
    """An interrupted run of a method that keeps checkpoints."""
    shutil.copytree(runs[0]["checkpointed", "killed"], tmp_path / "run")
    return tmp_path / "run"


def rows(run, statement, *parameters):
    with closing(sqlite3.connect(run / FILE, isolation_level=None)) as connection:
        return connection.execute(statement, parameters).fetchall()


def test_of_two_checkpoints_the_one_that_fits_is_taken(runs, run):
    """The last trials lost with the power: an hour is scored again instead of skipped."""
    rows(run, "DELETE FROM trials WHERE number >= 13")  # the newest checkpoint is after 15
    again = resume("checkpointed", run)
    assert table(again.search.trials) == runs[1]["checkpointed"]
    assert len(Journal(run, read=True).read()) == BUDGET


@pytest.mark.parametrize("spoilt", CHECKPOINTS)
def test_a_checkpoint_that_is_whole_makes_up_for_the_other(runs, run, spoilt):
    (run / spoilt).write_bytes(b"PK")
    assert table(resume("checkpointed", run).search.trials) == runs[1]["checkpointed"]
    (run / CHECKPOINTS[0]).unlink()
    assert table(resume("checkpointed", run).search.trials) == runs[1]["checkpointed"]


def test_a_good_checkpoint_is_not_replaced_by_a_bad_one(runs, run):
    """Killed again in the round after a fall back to the older one."""
    (run / CHECKPOINTS[0]).write_bytes(b"PK")
    good = (run / CHECKPOINTS[1]).read_bytes()

    def dies(arch, trial):
        raise Killed

    with pytest.raises(Killed):
        nasplug.resume(run, method=Climber(), evaluate=dies, progress=False)
    kept = [(run / name).read_bytes() for name in CHECKPOINTS]
    assert b"PK" not in kept
    assert good in kept
    assert table(resume("checkpointed", run).search.trials) == runs[1]["checkpointed"]


@pytest.mark.parametrize("spoil", ["row", "seed", "run"])
def test_a_checkpoint_of_something_else_is_refused(runs, run, tmp_path, spoil):
    if spoil == "row":
        rows(run, "DELETE FROM trials WHERE number = 3")
    else:
        seed = 4 if spoil == "run" else 5
        other = tmp_path / "other"
        search("checkpointed", other, seed=seed)
        for name in CHECKPOINTS:
            shutil.copy(other / name, run / name)
    with pytest.raises(NasplugError, match=r"checkpoint.npz does not fit the trials in journal"):
        resume("checkpointed", run)
    for name in CHECKPOINTS:
        (run / name).unlink()
    assert table(resume("checkpointed", run).search.trials) == runs[1]["checkpointed"]


# ---- journals


@pytest.mark.parametrize("column", ["round", "value", "state", "elapsed", "metrics", "notes"])
def test_a_row_that_was_changed_is_named(run, column):
    value = {"metrics": '{"latency": 2.0}', "notes": '{"first": 9}'}.get(column, 3)
    rows(run, f"UPDATE trials SET {column} = ? WHERE number = 5", value)
    for read in (lambda: resume("checkpointed", run), Journal(run, read=True).read):
        with pytest.raises(NasplugError, match=r"journal.sqlite is damaged: trial 5 is not as it"):
            read()


@pytest.mark.parametrize(
    "change",
    [{"notes": "[]"}, {"metrics": "3"}, {"metrics": '{"latency": [1]}'}, {"arch": b"abc"},
     {"arch": b"\x09" * 6}, {"state": 9}, {"number": 2**40}],
    ids=str,
)  # fmt: skip
def test_rows_of_a_strangers_making_are_refused_in_words(run, change):
    for name in CHECKPOINTS:
        (run / name).unlink()
    [row] = rows(run, "SELECT * FROM trials WHERE number = 5")
    names = [name for _, name, *_ in rows(run, "PRAGMA table_info(trials)")]
    row = tuple((dict(zip(names, row, strict=True)) | change).values())[:-1]
    rows(run, "DELETE FROM trials WHERE number = 5")
    marks = ", ".join("?" * len(names))
    rows(run, f"INSERT INTO trials VALUES ({marks})", *row, checksum(row))
    with pytest.raises(NasplugError, match=r"journal.sqlite"):
        resume("checkpointed", run)


def test_a_database_of_something_else_is_no_journal(run):
    rows(run, "ALTER TABLE trials DROP COLUMN notes")
    with pytest.raises(NasplugError, match=r"journal.sqlite is no journal of this version"):
        resume("checkpointed", run)


def test_a_second_writer_overwrites_nothing(runs, tmp_path):
    shutil.copytree(runs[0]["replayed", "finished"], run := tmp_path / "run")
    trials = resume("replayed", run).search.trials
    journal = Journal(run)
    with pytest.raises(NasplugError, match="has a trial 7 already: another process"):
        journal.append(trials, np.array([7]), 1.0)
    with pytest.raises(NasplugError, match="has a trial 7 already: another process"):
        journal.append(trials, np.array([7, 8]), 1.0)
    journal.close()
    assert table(resume("replayed", run).search.trials) == runs[1]["replayed"]


# ---- who writes, and where to


def _resume_quietly(run, barrier, answers):
    barrier.wait()
    try:
        answers.put(len(nasplug.resume(run, method=Replayed(), evaluate=slow).search.trials))
    except NasplugError as error:
        answers.put(str(error))


def slow(arch, trial):
    multiprocessing.Event().wait(0.2)
    return score(arch, trial)


def test_of_two_that_resume_at_once_one_searches(runs, tmp_path):
    context = multiprocessing.get_context("fork")
    for i in range(3):
        shutil.copytree(runs[0]["replayed", "killed"], run := tmp_path / f"run{i}")
        barrier, answers = context.Barrier(2), context.Queue()
        both = [
            context.Process(target=_resume_quietly, args=(run, barrier, answers)) for _ in range(2)
        ]
        for process in both:
            process.start()
        found = [answers.get(timeout=60) for _ in both]
        for process in both:
            process.join()
        assert BUDGET in found
        assert "is in use: process" in "".join(map(str, found))
        assert table(resume("replayed", run).search.trials) == runs[1]["replayed"]


def test_links_in_a_strangers_directory_are_not_written_through(runs, tmp_path):
    precious = tmp_path / "precious"
    for name in sorted(file.name for file in runs[0]["checkpointed", "finished"].iterdir()):
        precious.write_text("a private key")
        shutil.copytree(runs[0]["checkpointed", "finished"], run := tmp_path / f"run-{name}")
        (run / name).unlink()
        (run / name).symlink_to(precious)
        for act in (lambda: resume("checkpointed", run), lambda: search("checkpointed", run)):
            with pytest.raises(NasplugError, match=f"holds {name}, which is a link"):
                act()
        assert precious.read_text() == "a private key"
    os.mkfifo(tmp_path / "run-lock" / "selection.json.part")
    (tmp_path / "run-lock" / "lock").unlink()
    with pytest.raises(
        NasplugError, match=r"selection.json.part, which is a link or no plain file"
    ):
        resume("checkpointed", tmp_path / "run-lock")


def test_files_are_for_the_user_alone(runs):
    """Errors and notes of the user's own code may hold anything."""
    files = {
        f.name: stat.S_IMODE(f.stat().st_mode)
        for f in runs[0]["checkpointed", "finished"].iterdir()
    }
    private = {"run.json", "status.json", "selection.json", "trials.csv", FILE, *CHECKPOINTS}
    assert private <= files.keys()
    assert {files[name] for name in private} == {0o600}


def test_a_directory_of_another_machine_is_resumed(runs, tmp_path):
    """Its process lives nowhere: status.json says running for ever."""
    shutil.copytree(runs[0]["replayed", "killed"], run := tmp_path / "elsewhere")
    status = json.loads((run / "status.json").read_text())
    assert status["state"] == "running"
    status |= {"pid": 1, "host": "elsewhere"}
    (run / "status.json").write_text(json.dumps(status | {"checksum": _checksum(status)}))
    assert table(resume("replayed", run).search.trials) == runs[1]["replayed"]
    assert json.loads((run / "status.json").read_text())["state"] == "finished"


# ---- full disks


@contextmanager
def full_disk(size):
    """No file may grow beyond so many bytes, whoever writes it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("method", METHODS)
def test_a_full_disk_ends_in_words_and_loses_nothing(runs, tmp_path, method):
    for size in (0, 30, 700, 5_000, 20_000):
        run, calls = tmp_path / f"{method}-{size}", 0

        def counted(arch, trial):
            nonlocal calls
            calls += 1
            return score(arch, trial)

        with full_disk(size), pytest.raises(NasplugError) as told:
            search(method, run, counted)
        assert str(run) in str(told.value)
        assert str(told.value).count("cannot be") >= 1
        if not (run / "run.json").exists():
            continue
        known = len(Journal(run).read())
        assert calls - known <= 1  # the one that did not fit any more
        assert table(resume(method, run).search.trials) == runs[1][method]


def test_a_status_that_cannot_be_written_is_said(runs, tmp_path):
    def fills(arch, trial):
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        return score(arch, trial)

    with (
        full_disk(resource.RLIM_INFINITY),
        pytest.raises(NasplugError, match=r"journal.sqlite cannot be written.*status.json cannot"),
    ):
        search("replayed", tmp_path / "run", fills)
    assert table(resume("replayed", tmp_path / "run").search.trials) == runs[1]["replayed"]


# ---- what JSON and UTF-8 do not hold


def test_what_is_not_finite_or_no_text_is_written_all_the_same(tmp_path):
    """`Infinity` is no JSON, and a lone surrogate no UTF-8."""

    def odd(arch, trial):
        trial.set_user_attr("loss", float("inf"))
        trial.report(float("-inf"), 0)
        if arch["\udc80"] == 0:
            raise ValueError("no \ud800")
        return {"value": 1.0, "report": float("inf"), "latency": float("inf")}

    space = Space({"\udc80": [0, 1], "b": [f"\udfff{i}" for i in range(5)]}, name="\ud801")
    options = {"evaluate": odd, "progress": False}
    first = nasplug.search(
        Once(), space=space, budget=10, out=tmp_path / "run", tracking=False, **options
    )
    assert {note["loss"] for note in first.search.trials.notes.values()} == {None}

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    for file in (tmp_path / "run").glob("*.json"):
        json.loads(file.read_text(), parse_constant=refuse)
    for texts in rows(tmp_path / "run", "SELECT notes, metrics FROM trials"):
        for text in filter(None, texts):
            json.loads(text, parse_constant=refuse)
    again = nasplug.resume(tmp_path / "run", method=Once(), **options)
    assert again.search.trials.notes == first.search.trials.notes
    assert np.array_equal(again.search.trials.reports, first.search.trials.reports, equal_nan=True)


def test_a_metric_that_is_not_finite_is_unknown_now_and_after_a_resume(tmp_path):
    """The journal had Infinity for it, which is no JSON."""
    options = {
        "evaluate": lambda arch: {"value": 1.0, "latency": arch["a"] or float("-inf")},
        "progress": False,
    }
    first = nasplug.search(
        Once(), space=Space({"a": [0, 1, 2]}), budget=3, constraints=["latency<=1"],
        out=tmp_path / "run", tracking=False, **options,
    )  # fmt: skip
    again = nasplug.resume(tmp_path / "run", method=Once(), **options)
    for trials in (first.search.trials, again.search.trials):
        assert np.array_equal(trials.metrics["latency"], [np.nan, 1, 2], equal_nan=True)
        assert trials.feasible.tolist() == [False, True, False]


class Once(Method):
    """Every arch, in order."""

    @hookimpl
    def propose(self, search, subspace):
        return subspace.all()


# ---- subspaces to go on within


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip", b"PK\x05\x06" + bytes(18)])
def test_a_subspace_that_is_no_subspace_is_named(runs, tmp_path, content):
    """An empty one ended the search as if by Ctrl-C."""
    shutil.copytree(runs[0]["replayed", "finished"], run := tmp_path / "run")
    for name in ("subspace.npz", "within.npz"):
        (run / name).write_bytes(content)
    with pytest.raises(NasplugError, match=r"within.npz is no subspace of custom"):
        resume("replayed", run)
    with pytest.raises(NasplugError, match=r"subspace.npz is no subspace of custom"):
        nasplug.search(Climber(), within=run, evaluate=score, budget=3, tracking=False)


# ---- other files


def test_a_learned_space_of_itself_or_of_another_is_refused(tmp_path):
    """It was opened within itself until Python's stack was full."""
    content = {"format": 1, "space": str(tmp_path / "own.json"), "data": "digits", "layers": []}
    for name in ("own.json", "other.json"):
        (tmp_path / name).write_text(json.dumps(content))
        with pytest.raises(NasplugError, match=r"own.json: a learned space is of no other"):
            nasplug.space(f"{tmp_path / name}:C=8")


def test_a_quality_table_that_is_damaged_is_named(tmp_path):
    row = dict.fromkeys(CELLS, 1.0) | {"space": "dsm", "mean_interval": [1, 2]}
    file, whole = tmp_path / "space.json", {"judged_by": "x", "predictor": None, "spaces": [row]}
    assert read_json(file, QUALITY) == {}
    write_json(file, whole)
    assert read_json(file, QUALITY) == whole
    for damaged in (
        [], 3, whole | {"spaces": {}}, whole | {"spaces": [3]}, whole | {"judged_by": None},
        whole | {"spaces": [row, row | {"ks": "x"}]}, whole | {"spaces": [{"space": "dsm"}]},
    ):  # fmt: skip
        file.write_text(json.dumps(damaged))
        with pytest.raises(NasplugError, match=r"space.json is damaged: it has no"):
            read_json(file, QUALITY)


def test_a_file_that_run_json_names_is_not_shown(tmp_path):
    """Somebody else's run directory may name any file of the user's as a source."""
    pytest.importorskip("nasplug_lissnas")
    secret = tmp_path / "private.json"
    secret.write_text("hunter2\n")
    options = {"space": SPACE, "evaluate": score, "budget": 20, "tracking": False}
    (run := tmp_path / "run").mkdir()
    nasplug.search("lissnas", out=run, size=5, **options)
    content = json.loads((run / "run.json").read_text())
    content["hyperparameters"]["predictor"] = str(secret)
    content.pop("checksum")
    (run / "run.json").write_text(json.dumps({**content, "checksum": _checksum(content)}))
    with pytest.raises(NasplugError, match=r"private.json is no XGBoost model") as told:
        nasplug.resume(run, evaluate=score)
    assert "hunter2" not in str(told.value)

"""Where a study is kept, which of its trials count, and how those of a dead worker are found.

A study has no list of work: a worker asks for a trial as long as fewer than are wanted have been
begun. The folder of its storage file has a lock under which workers count and ask; where the
storage is a server, workers of several machines may ask for one too many, which then fails at
once and does not count.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.storages import RetryHeartbeatStaleTrialCallback as Retry
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, ProgrammingError, SQLAlchemyError

from nasplug.errors import NasplugError
from nasplug.run.prune import quiet
from nasplug.run.secrets import redacted
from nasplug.tracking.locks import Presence

HEARTBEAT = 10  # seconds between the signs of life of a trial in a database
GRACE = 60  # seconds without one, after which its worker is taken for dead
RETRIES = 2  # of a trial whose worker died: it may be the trial that kills them
CONNECT = 10  # seconds to wait for a database server
CREATING = 5  # seconds to wait for another machine that is creating its tables
JOINING = 10.0  # seconds to wait for whoever is creating the study

UNREACHABLE = (SQLAlchemyError, OSError, optuna.exceptions.StorageInternalError)
ATTRIBUTE = "nasplug"  # of the study: what it is about
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@contextlib.contextmanager
def reachable(url: str) -> Iterator[None]:
    """Whatever a storage raises when it is not there, in words."""
    try:
        yield
    except (*UNREACHABLE, UnboundLocalError) as error:
        # Optuna 5 stumbles over a variable of its own when a trial's end cannot be stored.
        storage_error = error.__context__ if isinstance(error, UnboundLocalError) else error
        if not isinstance(storage_error, UNREACHABLE):
            raise
        cause = storage_error.__cause__ or storage_error
        reason = str(getattr(cause, "orig", None) or cause).strip().partition("\n")[0]
        raise NasplugError(
            f"the storage {redacted(url)} cannot be used: {reason}. Nothing that was measured is "
            "lost: the same command goes on once the storage is there"
        ) from None


def file_of(url: str) -> Path | None:
    """The file of a storage, ``sqlite:///study.db`` or ``journal://study.log``; None of a server's,
    ``postgresql://host/database``."""
    scheme, separator, path = url.partition("://")
    if not separator:
        raise NasplugError(
            f"a storage is a URL, such as sqlite:///study.db, postgresql://host/database or "
            f"journal://study.log; got {redacted(url)!r}"
        )
    if scheme == "journal":
        return Path(path).absolute()
    try:
        database = make_url(url).database
    except (ArgumentError, ValueError):  # ValueError: of a port that is no number
        raise NasplugError(
            f"the storage {redacted(url)} cannot be used: a URL of a database reads "
            "postgresql://user@host:5432/database or sqlite:////folder/study.db"
        ) from None
    if not scheme.startswith("sqlite") or not database:
        return None
    file = Path(database).absolute()
    if not file.name:
        raise NasplugError(f"the storage {url} names a folder, not a file")
    return file


def open_storage(url: str) -> optuna.storages.BaseStorage:
    """A database or a journal file, by its URL (see `file_of`)."""
    file, (scheme, _, path) = file_of(url), url.partition("://")
    with reachable(url), quiet():
        if scheme == "journal":
            if not _is_journal(Path(path)):  # to which Optuna would append
                raise NasplugError(
                    f"{path} is there, and is no journal of Optuna: name another file"
                )
            return optuna.storages.JournalStorage(JournalFileBackend(path))
        if file:
            file.parent.stat()  # a lock would create it
            with lock_of(file):  # two processes must not create its tables at the same time
                storage = _open_database(url, None, timeout=60)
            event.listen(storage.engine, "connect", _without_fsync)
            storage.engine.dispose()
            return storage
        if scheme.startswith("postgresql"):
            url = url.replace("postgresql://", "postgresql+psycopg://")
            with contextlib.suppress(IntegrityError, ProgrammingError):  # as two machines may
                return _open_database(url, HEARTBEAT, connect_timeout=CONNECT)
            time.sleep(CREATING)
            return _open_database(url, HEARTBEAT, connect_timeout=CONNECT)
        return _open_database(url, HEARTBEAT)


def _is_journal(file: Path) -> bool:
    """Whether it begins as one, or does not begin yet."""
    if not file.exists():
        return True
    with file.open("rb") as lines:
        first = lines.readline()
    try:
        return not first or "op_code" in json.loads(first)
    except (ValueError, TypeError):
        return False


def _open_database(
    url: str, heartbeat: int | None, **connect_args: Any
) -> optuna.storages.RDBStorage:
    try:
        return optuna.storages.RDBStorage(
            url,
            engine_kwargs={"connect_args": connect_args},
            heartbeat_interval=heartbeat,
            grace_period=GRACE,
            heartbeat_stale_trial_callback=Retry(RETRIES),
        )
    except ImportError as error:
        raise NasplugError(
            f"the driver of the storage {redacted(url)} is not installed: "
            f"{error.__cause__ or error}; for PostgreSQL: pip install 'nasplug[postgresql]'"
        ) from None


def lock_of(file: Path) -> FileLock:
    """Of a storage file, beside it: ``study.db.turn`` (Optuna's own is ``study.log.lock``)."""
    return FileLock(file.with_name(f"{file.name}.turn"))


def _without_fsync(connection: Any, record: object) -> None:
    """A commit survives the death of the process without it, as in the journal of a run."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")


def open_study(
    storage: optuna.storages.BaseStorage,
    url: str,
    name: str,
    directions: list[StudyDirection],
    about: dict[str, Any],
    first: dict[str, Any],
    home: str,
) -> optuna.Study:
    """The study of that name; a new one begins with the hyperparameters `first`.

    home: the study directory and its machine. NasplugError if it is about something else.
    """
    file = file_of(url)
    with lock_of(file) if file else contextlib.nullcontext():
        try:
            study = optuna.create_study(storage=storage, study_name=name, directions=directions)
            new = True
        except optuna.exceptions.DuplicatedStudyError:
            study = optuna.load_study(storage=storage, study_name=name)
            # Under the lock nobody else is creating it: whoever was has died.
            new = bool(file) and not study.user_attrs and study.directions == directions
        waiting = study.get_trials(deepcopy=False)
        if new and all(trial.state == TrialState.WAITING for trial in waiting):
            if not waiting:
                study.enqueue_trial(first)
            study.set_user_attr(ATTRIBUTE, {**about, "key": uuid.uuid4().hex, "home": home})
    deadline = time.monotonic() + JOINING
    while not (found := study.user_attrs.get(ATTRIBUTE)):
        if time.monotonic() > deadline:
            raise NasplugError(f"the storage has a study {name!r} that is not nasplug's")
        time.sleep(0.1)
    for key, value in about.items():
        if found.get(key) != value:
            raise NasplugError(
                f"the study {name!r} has {key} {_words(found.get(key))}, not {_words(value)}: "
                "another --out starts another study"
            )
    return study


def _words(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


# ---- which trials count


def counted(
    study: optuna.Study, states: Container[TrialState] = tuple(TrialState)
) -> list[FrozenTrial]:
    """The trials that count, in the order in which they were first begun: neither those that were
    lost and begun again, nor those that were one too many."""
    trials = study.get_trials(deepcopy=False)
    with quiet():
        history = {trial.number: Retry.retry_history(trial) for trial in trials}
    lost = {number for numbers in history.values() for number in numbers}
    found = [t for t in trials if t.number not in lost and "surplus" not in t.user_attrs]
    found.sort(key=lambda t: [*history[t.number], t.number][0])
    return [trial for trial in found if trial.state in states]


def next_position(study: optuna.Study, wanted: int) -> int | None:
    """The position among the wanted trials of the one that would be asked for; None if all of
    them have been begun."""
    trials = counted(study)
    waiting = [t.number for t in trials if t.state == TrialState.WAITING]
    if waiting:
        return [t.number for t in trials].index(min(waiting))
    return len(trials) if len(trials) < wanted else None


# ---- who works on them


class Roll:
    """The workers of a study, and the trials of those that have died.

    A worker lives for as long as it holds the lock with its name, in the folder that all who share
    a storage file see; where the storage is a server, its machine tells by Optuna's heartbeats.
    """

    def __init__(
        self, study: optuna.Study, storage: optuna.storages.BaseStorage, url: str, folder: Path
    ) -> None:
        file = file_of(url)
        self.study, self.storage, self.shared = study, storage, file is not None
        self.folder = file.parent if file else folder
        self.turn = lock_of(file or folder / "study")  # to count, then ask
        self._unnamed: dict[int, float] = {}  # trial -> when it was seen without a worker

    def presence(self, worker: str) -> Presence:
        return Presence(self.folder / f"{worker}.lock")

    def reclaim(self, limit: int | None = RETRIES) -> None:
        """Let the trials wait again whose worker has died."""
        with self.turn:
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if self._lost(trial):
                    self.put_back(trial, limit)
            if not self.shared:
                optuna.storages.fail_stale_trials(self.study)

    def put_back(self, trial: FrozenTrial, limit: int | None) -> None:
        """Let a trial that was lost wait again, as it is, before all that were not begun; one that
        was lost more often than the limit has failed."""
        storage, times = self.storage, trial.user_attrs.get("lost", 0) + (limit is not None)
        study_id = storage.get_study_id_from_name(self.study.study_name)
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
        failed = limit is not None and times > limit
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            storage.set_trial_user_attr(trial_id, "lost", times)
            storage.set_trial_state_values(
                trial_id, TrialState.FAIL if failed else TrialState.WAITING
            )

    def _lost(self, trial: FrozenTrial) -> bool:
        worker = trial.user_attrs.get("worker")
        lives = Presence.seen(self.folder / f"{worker}.lock")
        if lives is not None or self.shared:
            return not lives
        since = self._unnamed.setdefault(trial.number, time.monotonic())
        return worker is None and time.monotonic() - since > GRACE

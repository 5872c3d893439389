"""Where a study is kept, how its trials are queued, and how those of a dead worker are found.

All trials of a study are enqueued when it is made, so the queue in the storage is the list of
work: whoever shares the storage takes what waits, each trial is taken once, and what a killed
worker had taken waits again.
"""

from __future__ import annotations

import contextlib
import time
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import optuna
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from nasplug.errors import NasplugError
from nasplug.tracking import redacted

HEARTBEAT = 10  # seconds between the signs of life of a trial in a database
GRACE = 60  # seconds without one, after which its worker is taken for dead
RETRIES = 2  # of a trial whose worker died: it may be the trial that kills them
CONNECT = 10  # seconds to wait for a database server
JOINING = 10.0  # seconds without progress, after which whoever was making the study has died

UNREACHABLE = (SQLAlchemyError, OSError, optuna.exceptions.StorageInternalError)
ATTRIBUTE = "nasplug"  # of the study: what it is about
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class NothingWaits(Exception):  # noqa: N818 - not an error
    """Every trial of the study has been taken."""


class Queue(optuna.Study):
    """A study that only takes trials that wait, and notes by whom they were taken."""

    worker = ""

    def _pop_waiting_trial_id(self) -> int:
        trial_id = super()._pop_waiting_trial_id()
        if trial_id is None:
            raise NothingWaits
        if isinstance(self._storage, optuna.storages._CachedStorage):
            # Optuna's first beat comes later; who dies before it would never be missed.
            self._storage.record_heartbeat(trial_id)
        self._storage.set_trial_user_attr(trial_id, "worker", self.worker)
        return trial_id


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


def open_storage(url: str) -> optuna.storages.BaseStorage:
    """A database by its URL, or a journal file: ``journal:///folder/file.log``."""
    scheme, separator, path = url.partition("://")
    if not separator:
        raise NasplugError(
            f"a storage is a URL, such as sqlite:///study.db, postgresql://host/database or "
            f"journal://study.log; got {redacted(url)!r}"
        )
    with reachable(url), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if scheme == "journal":
            return optuna.storages.JournalStorage(JournalFileBackend(path))
        driver, options = scheme, {}
        if scheme.startswith("postgresql"):
            driver = "postgresql+psycopg" if scheme == "postgresql" else scheme
            options = {"connect_timeout": CONNECT}
        try:
            storage = optuna.storages.RDBStorage(
                f"{driver}://{path}",
                engine_kwargs={"connect_args": options},
                heartbeat_interval=HEARTBEAT,
                grace_period=GRACE,
                heartbeat_stale_trial_callback=retry,
            )
        except ImportError as error:
            missing = str(error.__cause__ or error)
            raise NasplugError(
                f"the driver of the storage {redacted(url)} is not installed: {missing}; for "
                "PostgreSQL: pip install 'nasplug[postgresql]'"
            ) from None
        if scheme.startswith("sqlite"):
            event.listen(storage.engine, "connect", _prepare)
            event.listen(storage.engine, "begin", _begin)
            storage.engine.dispose()
        return storage


def _prepare(connection: Any, record: object) -> None:
    """A commit survives the death of the process without an fsync, as in the journal of a run."""
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA busy_timeout = 60000")


def _begin(connection: Any) -> None:
    """SQLite knows no SELECT FOR UPDATE: without the lock two workers take the same trial."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def open_study(
    storage: optuna.storages.BaseStorage,
    name: str,
    directions: list[StudyDirection],
    about: dict[str, Any],
    first: dict[str, Any],
    trials: int,
    home: str,
) -> optuna.Study:
    """The study of that name, made if there is none; with as many trials as asked for, the
    first of them with the hyperparameters `first`. home: where it was made."""
    try:
        study = optuna.create_study(storage=storage, study_name=name, directions=directions)
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(storage=storage, study_name=name)
        _check(study, about)
    else:
        made = {"key": uuid.uuid4().hex, "trials": trials, "home": home}
        study.set_user_attr(ATTRIBUTE, {**about, **made})
    for number in range(_queued(study), trials):
        study.enqueue_trial(first if number == 0 else {})
    return study


def _check(study: optuna.Study, about: dict[str, Any]) -> None:
    """Refuse a study of something else; wait for one that another process is just making."""
    deadline, seen = time.monotonic() + JOINING, -1
    while True:
        was = study.user_attrs.get(ATTRIBUTE, {})
        if was and (queued := _queued(study)) >= was["trials"]:
            break
        if was and queued > seen:
            deadline, seen = time.monotonic() + JOINING, queued
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    if not was:
        raise NasplugError(f"the storage has a study {study.study_name!r} that is not nasplug's")
    for name, value in about.items():
        if was[name] != value:
            raise NasplugError(
                f"the study {study.study_name!r} has {name} {_words(was[name])}, not "
                f"{_words(value)}: another --out starts another study"
            )


def _words(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _queued(study: optuna.Study) -> int:
    """How many trials there are, a trial and its retries counted once."""
    return sum("failed_trial" not in t.system_attrs for t in study.get_trials(deepcopy=False))


def retry(study: optuna.Study, trial: FrozenTrial, limit: int | None = RETRIES) -> None:
    """Let a trial that was lost wait again, with the same hyperparameters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        RetryHeartbeatStaleTrialCallback(max_retry=limit)(study, trial)


def give_back(study: Queue) -> None:
    """Let the trial wait again in which this worker was interrupted, or was about to begin."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.FAIL)):
        mine = trial.user_attrs.get("worker") == study.worker
        if mine and "error" not in trial.user_attrs and trial.number not in retried(study):
            if trial.state == TrialState.RUNNING:
                study.tell(trial.number, state=TrialState.FAIL)
            retry(study, trial, limit=None)


def retried(study: optuna.Study) -> set[int]:
    """The numbers of the trials that were lost and run again under another number."""
    return {
        number
        for trial in study.get_trials(deepcopy=False)
        for number in trial.system_attrs.get("retry_history", ())
    }


# ---- workers: each holds a lock for as long as it lives


def lock_folder(url: str, folder: Path) -> Path:
    """Where workers hold their locks: beside a journal file, where all who share it see them.

    A database has heartbeats for those on other machines; the locks in the study directory
    tell at once of those on this one.
    """
    scheme, _, path = url.partition("://")
    return Path(path).absolute().parent if scheme == "journal" else folder


@contextlib.contextmanager
def alive(study: Queue, folder: Path) -> Iterator[None]:
    """Gives the worker a name, under which others can see that it lives.

    An interrupted worker gives its trial back; if it cannot, since the storage has gone away,
    the lock stays, and others take it for dead."""
    study.worker = f"worker-{uuid.uuid4().hex[:12]}"
    file = folder / f"{study.worker}.lock"
    with file.open("w") as handle:
        _lock(handle)
        try:
            yield
        except (KeyboardInterrupt, NasplugError):
            give_back(study)
            file.unlink(missing_ok=True)
            raise
    file.unlink(missing_ok=True)


def reclaim(study: optuna.Study, folder: Path, limit: int | None = RETRIES) -> int:
    """Let the trials wait again whose worker has died; returns how many."""
    count = 0
    for trial in running(study):
        file = folder / f"{trial.user_attrs.get('worker')}.lock"
        if not file.exists() or not _abandoned(file):
            continue
        with contextlib.suppress(ValueError, optuna.exceptions.UpdateFinishedTrialError):
            study.tell(trial.number, state=TrialState.FAIL)
            retry(study, trial, limit)
            count += 1
        file.unlink(missing_ok=True)
    return count


def running(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that some worker, alive or dead, has taken and not finished."""
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def awaited(study: optuna.Study, folder: Path) -> bool:
    """Whether a trial is running that may yet come back to the queue if its worker dies."""
    beats = isinstance(study._storage, optuna.storages._CachedStorage)
    return any(beats or (folder / f"{t.user_attrs.get('worker')}.lock").exists()
               for t in running(study))  # fmt: skip


def _abandoned(file: Path) -> bool:
    try:
        with file.open("r+") as handle:
            return _lock(handle)
    except FileNotFoundError:  # a worker that has just ended
        return False


def _lock(handle: TextIO) -> bool:
    """Held until the file is closed; False if another process holds it, or nobody can tell."""
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

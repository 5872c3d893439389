"""Checkpoints of trials: what has been trained waits here until its arch is to be trained on.

Files ``ARCH-FIDELITY-CRC32``, the two of the highest fidelities of each arch. A trial is handed a
copy of the one below its own fidelity, which becomes a new file once the trial has been scored: so
one that is scored again, after a death, begins where it began before.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nasplug.kernel.trial import Trial

KEPT = 2  # per arch: the last, and the one before, from which the last may have to be made again
BLOCK = 1 << 20  # bytes read at a time


@contextmanager
def checkpointed(trial: Trial, folder: Path | None) -> Iterator[None]:
    """Give a trial its `checkpoint`, and keep what it has left there unless it raises.

    folder: None keeps nothing.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="nasplug-") as name:
            trial.checkpoint = Path(name) / "checkpoint"
            yield
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    arch = hashlib.sha256(trial.arch.tobytes()).hexdigest()[:16]
    for left in folder.glob(f"{arch}-{trial.fidelity}[.-]*"):  # by who died before it was told
        if left.is_file():
            left.unlink()
    part = folder / f"{arch}-{trial.fidelity}.{os.getpid()}.part"
    before = _below(folder, arch, trial.fidelity)
    if before:
        shutil.copyfile(before, part)
    trial.checkpoint = part
    try:
        yield
        if part.exists() and not (before and before.name.endswith(_crc32(part))):  # it is new
            part.chmod(0o600)
            os.replace(part, folder / f"{arch}-{trial.fidelity}-{_crc32(part)}")
            for file in _files(folder, arch)[:-KEPT]:
                file.unlink(missing_ok=True)
    finally:
        part.unlink(missing_ok=True)


def _files(folder: Path, arch: str) -> list[Path]:
    """An arch's, the highest fidelity last."""
    files = (file for file in folder.glob(f"{arch}-*-*") if file.is_file() and _fidelity(file))
    return sorted(files, key=_fidelity)


def _fidelity(file: Path) -> int:
    """From the name; 0 if it is somebody else's."""
    return int(number) if (number := file.name.split("-")[1]).isdecimal() else 0


def _below(folder: Path, arch: str, fidelity: int) -> Path | None:
    """The highest one below a fidelity that is as it was written."""
    lower = (file for file in _files(folder, arch)[::-1] if _fidelity(file) < fidelity)
    return next((file for file in lower if file.name.endswith(_crc32(file))), None)


def _crc32(file: Path) -> str:
    crc = 0
    with file.open("rb") as handle:
        while block := handle.read(BLOCK):
            crc = zlib.crc32(block, crc)
    return f"{crc:08x}"

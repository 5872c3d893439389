"""The earlier run of an evaluator's option, ``RUN_DIR`` or ``RUN_DIR,NAME=VALUE``."""

from __future__ import annotations

from nasplug.errors import NasplugError
from nasplug.kernel.selection import Selection
from nasplug.kernel.space import Space
from nasplug.run.load import load


def split(evaluator: str, option: str, name: str, default: str) -> tuple[str, str]:
    """The run directory, and the value of that name.

    >>> split("supernet", "runs/spos-0,images=1000", "images", "5000")
    ('runs/spos-0', '1000')
    >>> split("supernet", "runs/spos-0", "images", "5000")
    ('runs/spos-0', '5000')
    """
    run_dir, found, value = option.rpartition(f",{name}=")
    run_dir, value = (run_dir, value) if found else (option, default)
    if not run_dir:
        raise NasplugError(f"by which run? {evaluator}:RUN_DIR, the directory of a finished one")
    return run_dir, value


def finished(evaluator: str, run_dir: str, space: Space) -> Selection:
    """What a run came to; NasplugError unless it has finished, and searched this space."""
    found = load(run_dir, space=space)
    if found.search.space.fingerprint != space.fingerprint:
        raise NasplugError(
            f"{evaluator}:{run_dir} is of another space: {found.search.space.name}, "
            f"not {space.name}"
        )
    return found

"""nasplug: neural architecture search as plugins. Importing it needs numpy and pluggy only."""

from typing import Any

from nasplug.errors import NasplugError
from nasplug.hookspecs import hookimpl
from nasplug.hyperparameters import Bool, Choice, Float, Int, Method, Source
from nasplug.selection import Selection
from nasplug.space import Space
from nasplug.subspace import ArchSet, Ball, Layered, Mask, Subspace
from nasplug.trial import State, Trial, TrialPruned, Trials

__version__ = "0.1.0"

from nasplug.api import resume, search
from nasplug.problem import Problem, problem, problems, space
from nasplug.search import Search

__all__ = [
    "ArchSet", "Ball", "Bool", "Choice", "Float", "Int", "Layered", "Mask", "Method",
    "NasplugError", "Problem", "Search", "Selection", "Source", "Space", "State", "Subspace",
    "Trial", "TrialPruned", "Trials", "hookimpl", "problem", "problems", "resume", "search",
    "space", "tune",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """`nasplug.tune` brings Optuna along, so it is imported when it is used."""
    if name == "tune":
        from nasplug.tuning import tune

        return tune
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

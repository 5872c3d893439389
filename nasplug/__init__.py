"""nasplug: neural architecture search as plugins. Importing it needs numpy and pluggy only."""

from typing import TYPE_CHECKING

from nasplug._late import late
from nasplug._version import __version__
from nasplug.errors import NasplugError, unknown
from nasplug.hookspecs import hookimpl
from nasplug.kernel.method import Bool, Choice, Float, Hyperparameter, Int, Method, Source
from nasplug.kernel.problem import Evaluator, Problem, problem, problems, space
from nasplug.kernel.search import Search
from nasplug.kernel.selection import Selection, best_trials
from nasplug.kernel.space import ENUMERABLE, Archs, Space
from nasplug.kernel.subspace import ArchSet, Ball, Layered, Mask, Region, Subspace
from nasplug.kernel.trial import State, Trial, TrialPruned, Trials
from nasplug.ranges import Range

if TYPE_CHECKING:
    from nasplug.comparison import Comparison, ablate, compare
    from nasplug.deploy.evaluation import evaluate
    from nasplug.deploy.export import export
    from nasplug.deploy.retraining import retrain
    from nasplug.reports.api import report
    from nasplug.run.api import resume, search
    from nasplug.run.load import load
    from nasplug.spaces.elastic.space import elastic
    from nasplug.spaces.marked.space import space_of
    from nasplug.tuning import tune

__all__ = [
    "ENUMERABLE", "ArchSet", "Archs", "Ball", "Bool", "Choice", "Comparison", "Evaluator", "Float",
    "Hyperparameter", "Int", "Layered", "Mask", "Method", "NasplugError", "Problem", "Range",
    "Region", "Search", "Selection", "Source", "Space", "State", "Subspace", "Trial", "TrialPruned",
    "Trials", "__version__", "ablate", "best_trials", "compare", "elastic", "evaluate", "export",
    "hookimpl", "load", "problem", "problems", "report", "resume", "retrain", "search", "space",
    "space_of", "tune", "unknown",
]  # fmt: skip

# What brings more along than numpy and pluggy is imported when it is used.
__getattr__ = late(
    __name__,
    {
        "search": "nasplug.run.api",
        "resume": "nasplug.run.api",
        "report": "nasplug.reports.api",
        "retrain": "nasplug.deploy.retraining",
        "evaluate": "nasplug.deploy.evaluation",
        "export": "nasplug.deploy.export",
        "load": "nasplug.run.load",
        "tune": "nasplug.tuning",
        "compare": "nasplug.comparison",
        "ablate": "nasplug.comparison",
        "Comparison": "nasplug.comparison",
        "space_of": "nasplug.spaces.marked.space",
        "elastic": "nasplug.spaces.elastic.space",
    },
)

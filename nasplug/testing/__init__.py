"""Proof that a plugin behaves: named checks of methods, spaces, evaluators and other plugins, for
pytest or ``nasplug check``."""

from typing import TYPE_CHECKING

from nasplug._late import late
from nasplug.testing.check import Check, CheckFailed, NotApplicable, Result, results

if TYPE_CHECKING:
    from nasplug.testing.evaluators import check_evaluator, evaluator_checks
    from nasplug.testing.methods import check_method, method_checks
    from nasplug.testing.plugins import check_plugin, plugin_checks
    from nasplug.testing.spaces import check_space, space_checks
    from nasplug.testing.tiny import TinySpace, tiny_problem

__all__ = [
    "Check", "CheckFailed", "NotApplicable", "Result", "TinySpace", "check_evaluator",
    "check_method", "check_plugin", "check_space", "evaluator_checks", "method_checks",
    "plugin_checks", "results", "space_checks", "tiny_problem",
]  # fmt: skip

KINDS = ("method", "space", "evaluator", "plugin")

__getattr__ = late(
    __name__,
    {
        **{f"{kind}_checks": f"{__name__}.{kind}s" for kind in KINDS},
        **{f"check_{kind}": f"{__name__}.{kind}s" for kind in KINDS},
        **dict.fromkeys(("TinySpace", "tiny_problem"), f"{__name__}.tiny"),
    },
)

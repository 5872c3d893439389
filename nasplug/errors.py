"""The one error that is meant for people."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from numbers import Integral
from pathlib import Path
from typing import Any

# What an optional module is installed by; any other is its own distribution.
EXTRAS = {
    "torch": "nasplug[torch]", "sklearn": "nasplug[torch]", "torchvision": "nasplug[vision]",
    "scipy": "nasplug[predictors]", "xgboost": "nasplug[predictors]", "pyarrow": "nasplug[tables]",
    "matplotlib": "nasplug[plots]", "mlflow": "nasplug[tracking]", "optuna": "nasplug[tuning]",
    "sqlalchemy": "nasplug[tuning]", "loky": "nasplug[parallel]", "moocore": "nasplug[objectives]",
    "safetensors": "nasplug[torch]", "onnx": "nasplug[export]", "onnxscript": "nasplug[export]",
    "onnxruntime": "nasplug[export]", "cloudpickle": "nasplug[parallel]", "copier": "nasplug[new]",
    "jinja2": "nasplug[report]", "plotly": "nasplug[report]", "pandas": "nasplug[compare]",
    "statsmodels": "nasplug[compare]", "scikit_posthocs": "nasplug[compare]",
    "torch_pruning": "nasplug[elastic]",
}  # fmt: skip


class NasplugError(Exception):
    """Something the user can mend: the message names the thing and the fix.

    The command line prints it without a traceback and exits with code 2.
    """


def unknown(
    kind: str, name: str, known: Iterable[str], fix: str = "", prefix: str = "",
    brought_by: str = "",
) -> NasplugError:  # fmt: skip
    """An error for a name that is not there, offering the nearest names that are.

    prefix: common to all of them, so that it does not make them near. brought_by: the distribution
    that has it, which is offered instead.
    """
    known = sorted(set(known))
    lower = {one.lower(): one for one in known}
    near = [lower[one] for one in difflib.get_close_matches(name.lower(), lower, cutoff=0.5)]
    names = [prefix + one for one in near or known]
    hint = f"did you mean {' or '.join(names)}?" if near else f"known: {', '.join(names) or 'none'}"
    if brought_by:
        hint = f"it comes with {brought_by}: pip install {brought_by}"
    return NasplugError(f"unknown {kind} {prefix + name!r}; {hint}{f' ({fix})' if fix else ''}")


def check_number(name: str, number: Any, least: int) -> None:
    """NasplugError unless it is a whole number, and at least so much."""
    if not isinstance(number, Integral) or isinstance(number, bool) or number < least:
        raise NasplugError(f"{name} must be a whole number from {least} on, got {number!r}")


def distribution_of(plugin: str) -> str:
    """The distribution of the project that has a method, an evaluator or an engine of this name,
    which need not be installed, or ''."""
    listed = json.loads(Path(__file__).with_name("distributions.json").read_text())
    return next((name for name, names in listed.items() if plugin in names), "")


def lacking(what: str, error: ImportError) -> NasplugError:
    """An error for what needs a package that is not installed, with the command that installs it.

    >>> str(lacking("training", ModuleNotFoundError("No module named 'torch'", name="torch")))
    "training needs torch: pip install 'nasplug[torch]'"
    """
    module = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or not module or module == "nasplug":
        return NasplugError(f"{what} does not load: {error}")
    return NasplugError(f"{what} needs {module}: pip install '{EXTRAS.get(module, module)}'")

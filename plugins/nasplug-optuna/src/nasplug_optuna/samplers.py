"""Samplers by name: Optuna's own, and those of OptunaHub."""

from __future__ import annotations

import inspect
import json
import warnings
from typing import Any

import optuna
from optuna.samplers import BaseSampler

from nasplug import NasplugError, unknown

HUB = "hub:"


def make(name: str, options: str, seed: int) -> BaseSampler:
    """``make("TPESampler", '{"multivariate": true}', 3)``, also ``"tpe"``; of OptunaHub
    ``"hub:samplers/auto_sampler"``, which is downloaded when it is first asked for.

    NasplugError for a name that is not there, and for options that it does not take.
    """
    cls = _of_hub(name.removeprefix(HUB)) if name.startswith(HUB) else _of_optuna(name)
    try:
        given = json.loads(options)
    except ValueError as error:
        raise NasplugError(f'options are JSON, such as {{"multivariate": true}}: {error}') from None
    seeded = {"seed": seed} if "seed" in inspect.signature(cls).parameters else {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return cls(**seeded, **given)
    except (TypeError, ValueError, ImportError) as error:
        raise NasplugError(f"{cls.__name__} cannot be made with {options}: {error}") from None


def _of_optuna(name: str) -> type[BaseSampler]:
    known: dict[str, Any] = {
        one.removesuffix("Sampler").lower(): getattr(optuna.samplers, one)
        for one in optuna.samplers.__all__
        if one.endswith("Sampler") and not inspect.isabstract(getattr(optuna.samplers, one))
    }
    short = name.lower().removesuffix("sampler")
    if short not in known:
        raise unknown("sampler of Optuna", name, known)
    found: type[BaseSampler] = known[short]
    return found


def _of_hub(package: str) -> type[BaseSampler]:
    """The sampler of a package; if it has several, the first in its ``__all__``."""
    try:
        import optunahub
    except ImportError:
        raise NasplugError("OptunaHub's samplers need pip install 'nasplug-optuna[hub]'") from None
    try:
        module = optunahub.load_module(package)
    except Exception as error:  # of GitHub's client, of the network, of the package itself
        raise NasplugError(f"{package} does not come from OptunaHub: {error}") from None
    for name in getattr(module, "__all__", dir(module)):
        one = getattr(module, name)
        if inspect.isclass(one) and issubclass(one, BaseSampler) and not inspect.isabstract(one):
            return one
    raise NasplugError(f"{package} of OptunaHub holds no sampler")

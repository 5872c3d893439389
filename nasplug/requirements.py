"""What distributions require, by their own metadata (``Requires-Dist``)."""

from __future__ import annotations

from importlib.metadata import Distribution, PackageNotFoundError, version

from packaging.requirements import Requirement

from nasplug._version import __version__
from nasplug.errors import NasplugError


def unmet(requirement: Requirement) -> str:
    """What is wrong with an installed package, or ''."""
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        return "not installed"
    return "" if _fits(requirement, installed) else f"{installed} is installed"


def check_made_for_us(plugin: Distribution) -> None:
    """NasplugError if a plugin requires another version of nasplug than this one."""
    for requirement in map(Requirement, plugin.requires or []):
        if requirement.name == "nasplug" and not _fits(requirement, __version__):
            raise NasplugError(
                f"{plugin.name} {plugin.version} is for nasplug{requirement.specifier}, and this "
                f"is nasplug {__version__}: pip install --upgrade {plugin.name} nasplug"
            )


def _fits(requirement: Requirement, installed: str) -> bool:
    return requirement.specifier.contains(installed, prereleases=True)

"""The pictures of a report: archs drawn by their space as SVG, and what searches left as PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nasplug.kernel.problem import space as named
from nasplug.kernel.space import Space
from nasplug.kernel.subspace import Layered, Mask, Subspace, load
from nasplug.reports.runs import Run

LEFT = ("curve.png", "front.png", "cell.png")  # which the page has as charts or draws itself
LARGEST = 150_000  # bytes of a picture


def space_of(run: Run) -> Space | None:
    """The space that it searched, if it is one by name, and installed as it was then."""
    written = run.about["space"]
    try:
        found = named(written["name"]).for_data(written["data"])
    except Exception:  # not installed any more, of the user's own, whatever its code does
        return None
    return found if found.fingerprint == written["fingerprint"] else None


def cell(run: Run) -> dict[str, str]:
    """{"svg": the selected arch drawn by its space}; if that cannot be, {"png": as the search has
    drawn it} or {}."""
    space = space_of(run)
    draw = getattr(space, "draw", None)
    if space is not None and draw is not None:
        try:
            arch = space.arch(run.selected["params"])
            return {"svg": _svg(lambda ax: draw(arch, ax))}
        except Exception:  # no matplotlib, or the code of a space, which may do anything
            pass
    return png(run.path / "cell.png")


def png(file: Path) -> dict[str, str]:
    """{"png": in base64} of a file that is there and not too large."""
    if not file.is_file() or file.is_symlink() or file.stat().st_size > LARGEST:
        return {}
    return {"png": base64.b64encode(file.read_bytes()).decode()}


def others(run: Run) -> dict[str, str]:
    """{name: in base64}: the pictures that its method has left."""
    files = [file for file in sorted(run.path.glob("*.png")) if file.name not in LEFT]
    return {file.name: found["png"] for file in files if (found := png(file))}


def choices(run: Run) -> list[dict[str, Any]]:
    """What the subspace that it ended with allows: a row per decision of a mask, per layer of a
    layered one; none of others, or if the space is not installed."""
    file, space = run.path / "subspace.npz", space_of(run)
    if space is None or not file.exists():
        return []
    region: Subspace = load(space, file)
    if isinstance(region, Layered):
        return [{"layer": i, "choices": names} for i, names in enumerate(region.names())]
    if not isinstance(region, Mask):
        return []
    return [
        {"decision": name, "choices": [c for c, kept in zip(all_, row, strict=False) if kept]}
        for (name, all_), row in zip(space.decisions.items(), region.allowed, strict=True)
    ]


def _svg(draw: Callable[[Any], None]) -> str:
    """``draw(ax)`` as an <svg> element, its text as text."""
    import matplotlib
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    figure = Figure((6, 4))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "nasplug"}):
        draw(figure.add_subplot())
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]

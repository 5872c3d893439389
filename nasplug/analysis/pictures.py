"""Pictures: PNG files by matplotlib, where it is installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nasplug.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_picture(file: Path, draw: Callable[[Figure], None]) -> None:
    """``draw(figure)`` into a PNG file. A picture that cannot be drawn, or has nowhere to go, costs
    only itself: the code of a space may do anything."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    try:
        figure = Figure((8, 5))
        draw(figure)
        with replacing(file) as partial:
            figure.savefig(partial, dpi=120, bbox_inches="tight")
    except Exception as error:
        print(f"{file.name} was not drawn: {type(error).__name__}: {error}", file=sys.stderr)

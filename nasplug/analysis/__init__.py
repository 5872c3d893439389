"""What spaces, subspaces and predictors are judged by; each module loads when it is used."""

from typing import TYPE_CHECKING

from nasplug._late import late

if TYPE_CHECKING:
    from nasplug.analysis.locality import Locality, farthest, measure, third
    from nasplug.analysis.pictures import draw_picture
    from nasplug.analysis.predictors import (
        FEWEST,
        Predictor,
        XGBoost,
        held_out,
        predictor,
        rank_correlations,
    )
    from nasplug.analysis.quality import compare, query, report, report_search
    from nasplug.analysis.ranking import one_shot

MODULES = {
    "locality": ("Locality", "farthest", "measure", "third"),
    "pictures": ("draw_picture",),
    "predictors": (
        "FEWEST", "Predictor", "XGBoost", "held_out", "predictor", "rank_correlations",
    ),
    "quality": ("compare", "query", "report", "report_search"),
    "ranking": ("one_shot",),
}  # fmt: skip

__all__ = [
    "FEWEST", "Locality", "Predictor", "XGBoost", "compare", "draw_picture", "farthest",
    "held_out", "measure", "one_shot", "predictor", "query", "rank_correlations", "report",
    "report_search", "third",
]  # fmt: skip

__getattr__ = late(
    __name__,
    {name: f"{__name__}.{module}" for module, names in MODULES.items() for name in names},
)

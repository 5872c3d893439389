"""Shrinking by operations: the worst choices go until few enough archs are left.

A choice is worth the mean prediction of random archs that have it. ABS ranks an operation by its
angle and PADNAS by one-shot accuracy; here one predictor drives them all, as in LISSNAS's tables.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from nasplug import Mask, NasplugError, Search, Subspace
from nasplug.analysis import Predictor
from nasplug_shrinkers.shrinker import SAMPLE, MaskShrinker

Group = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]  # (decision, choice) pairs that go as one


class _Pruning(MaskShrinker):
    def shrink(self, search: Search, model: Predictor) -> Subspace:
        """Drop the group of choices with the lowest mean, sample again, and so on.

        It ends as near to the wanted size as whole groups allow.
        """
        mask = Mask(search.space, self.choices)
        archs = mask.sample(SAMPLE, search.rng)
        while True:
            scores = model.predict(archs)
            smaller, worth = [], []
            for decisions, choices in self.groups(search):
                left = mask.allowed.copy()
                left[decisions, choices] = False
                if left.sum() < mask.allowed.sum() and left.any(1).all():
                    has = archs[:, decisions] == choices
                    smaller.append(Mask(search.space, left))
                    worth.append(scores @ has.sum(1) / max(1, has.sum()))
            for worst in np.argsort(worth, kind="stable"):
                try:
                    archs = smaller[worst].sample(SAMPLE, search.rng)
                except NasplugError:  # nothing valid would be left
                    continue
                break
            else:
                return mask
            found = smaller[worst]
            if abs(np.log(found.size / self.size)) > abs(np.log(mask.size / self.size)):
                return mask
            mask = found

    def groups(self, search: Search) -> Iterator[Group]:
        raise NotImplementedError


class PADNAS(_Pruning):
    """PADNAS-like: layer by layer, the operation with the lowest mean prediction is dropped."""

    paper = "Xia and Ding, HNAS: Hierarchical Neural Architecture Search on Mobile Devices, 2020"

    def groups(self, search: Search) -> Iterator[Group]:
        """Each choice of each decision by itself."""
        for decision, cardinality in enumerate(search.space.cardinalities):
            for choice in range(cardinality):
                yield np.array([decision]), np.array([choice])


class ABS(_Pruning):
    """ABS-like: the operation with the lowest mean prediction is dropped wherever it occurs."""

    paper = (
        "Hu et al., Angle-Based Search Space Shrinking for Neural Architecture Search, ECCV 2020"
    )

    def groups(self, search: Search) -> Iterator[Group]:
        """Each operation in all decisions that offer the same ones."""
        groups: dict[object, list[tuple[int, int]]] = {}
        for decision, choices in enumerate(search.space.decisions.values()):
            for choice in range(len(choices)):
                groups.setdefault((choices, choice), []).append((decision, choice))
        for pairs in groups.values():
            decisions, choices = np.array(pairs).T
            yield decisions, choices

"""DSM-NAS: Algorithm 1 of "Automated Dominative Subspace Mining for Efficient Neural Architecture
Search" (Chen et al.). Line and equation numbers are the paper's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nasplug import (
    Archs,
    ArchSet,
    Ball,
    Bool,
    Choice,
    Float,
    Hyperparameter,
    Int,
    Mask,
    Method,
    NasplugError,
    Region,
    Search,
    Selection,
    Space,
    Trials,
    best_trials,
    hookimpl,
)
from nasplug_dsm.controller import Controller
from nasplug_dsm.policy import Edits, Floats, Policy, RandomPolicy

Rows = npt.NDArray[np.intp]

SELECTED = 10  # archs that are ranked at the end
HANDED_OVER = "init.txt"  # in the run directory: what `init=` takes of it

SPARE = 8  # children sampled for each one wanted, since some will be refused
TRIES = 8  # times to sample again before the policy is left out of it
LISTED = 100_000  # the largest ball that is listed to find what is left of it
DRAWN = 1000  # random archs to look for something new among


class DSM(Method):
    """DSM-NAS: a learned policy picks a subspace and edits its center; better ones take over."""

    paper = (
        "Chen et al., Automated Dominative Subspace Mining for Efficient Neural Architecture Search"
    )

    ablations = {  # noqa: RUF012 - read only
        "random edits": {"policy": "random"},  # Figure 7, random search with subspace update
        "fixed subspaces": {"fixed": True},  # Figure 7
        "absolute reward": {"absolute": True},  # Figure 8(a)
        "without subspace graph": {"graph": False},  # Figure 8(b)
        "K=1": {"K": 1},  # Figure 9(a)
        "K=10": {"K": 10},
        "M=3": {"M": 3},  # Figure 9(b)
        "M=5": {"M": 5},
    }

    K = Int(4, low=1, high=64, doc="number of candidate subspaces")
    M = Int(1, low=1, high=64, doc="local search distance: edits of a center")
    samples = Int(4, low=1, high=256, doc="children per update of the policy")
    parallel = Int(1, low=1, high=256, doc="children per round, of one center, scored together")
    unseen = Bool(True, doc="never propose what has been scored, or an isomorph of it")
    lr = Float(1e-2, low=1e-5, high=1.0, log=True, doc="Adam's learning rate")
    entropy = Float(7.5e-4, low=0.0, high=1.0, doc="weight of the entropy bonus")
    hidden = Int(64, low=8, high=1024, log=True, doc="width of the graph network and the LSTM")
    clip_center = Float(1.5, low=0.0, high=100.0, doc="tanh clip of the center's logits; 0: none")
    clip_edit = Float(0.6, low=0.0, high=100.0, doc="tanh clip of the edits' logits; 0: none")
    decay = Float(0.95, low=0.0, high=1.0, doc="of the moving-average baseline")
    absolute = Bool(
        False, tunable=False, doc="ablation: the reward is R(β) instead of the improvement R(β|α)"
    )
    graph = Bool(
        True,
        tunable=False,
        doc="a graph network over the subspaces; false: two layers on each alone",
    )
    fixed = Bool(False, tunable=False, doc="ablation: better children do not become centers")
    policy = Choice(
        "learned",
        choices=("learned", "random"),
        tunable=False,
        doc="random: any edit of any center",
    )

    @classmethod
    def ranges(cls, space: Space) -> dict[str, Hyperparameter[Any]]:
        """K up to the archs that there are."""
        most = int(min(cls.K.high, space.count))
        return {"K": replace(cls.K, default=min(cls.K.default, most), high=most)}

    def setup(self, search: Search) -> None:
        space, region = search.space, search.region
        if region.size < self.K:
            raise NasplugError(
                f"K={self.K} centers do not fit in {region.describe()}: "
                f"lower K to {region.size} or less"
            )
        self.centers: Archs = np.empty((0, space.d), space.dtype)
        self.picked: int | None = None  # the center of this round
        self.seen: set[Any] = set()  # keys of the archs that were scored
        self.closed: set[Any] = set()  # keys of the centers with nothing new around them
        self.baseline: float | None = None
        self.agent = self._policy(search)

    def _policy(self, search: Search) -> Policy:
        space, region = search.space, search.region.unlimited
        allowed = np.arange(space.cardinalities.max()) < space.cardinalities[:, None]
        if isinstance(region, Mask):
            allowed = region.allowed
        if self.policy == "random":
            return RandomPolicy(allowed, self.M)
        return Controller(
            allowed, self.M, self.hidden, self.graph, self.clip_center, self.clip_edit,
            self.lr, self.entropy, self.samples, seed=int(search.rng.integers(2**63)),
        )  # fmt: skip

    # ---- Algorithm 1

    @hookimpl
    def sample_space(self, search: Search) -> Region:
        closed = np.array([key in self.closed for key in search.space.codes(self.centers).tolist()])
        if len(self.centers) < self.K or closed.all():
            return search.region
        # Line 6, global search: the subspace with the largest potential.
        self.picked = self.agent.pick(self.centers, search.scores(self.centers), closed, search.rng)
        return Ball(search.space, self.centers[self.picked], self.M)  # eq. 3

    @hookimpl
    def propose(self, search: Search, subspace: Region) -> Archs:
        if len(self.centers) < self.K:
            return self._anywhere(search, subspace)[: self.K - len(self.centers)]  # line 2
        if not isinstance(subspace, Ball) or self.picked is None:
            return self._anywhere(search, subspace)[: search.wanted]
        # Lines 8-9, local search: edits of the center, and what they make of it.
        edits = self._edits(search, subspace)
        self.edits, self.children = edits, edits.apply(subspace.center)
        return self.children

    @hookimpl
    def update(self, search: Search, trials: Trials) -> None:
        self.seen.update(self._keys(search, trials.archs))
        picked, self.picked = self.picked, None
        if picked is None:
            self._take(search, trials)
            return
        alpha = float(search.scores(self.centers[[picked]])[0])
        rewards = improvements(trials, alpha)  # line 10
        self._learn(search, trials, rewards + alpha if self.absolute else rewards)
        if not self.fixed and len(trials) and trials.scores.max() > alpha:  # line 12
            best = int(trials.scores.argmax())
            self.centers[picked] = trials.archs[best]  # line 13; the edges follow (line 14)

    @hookimpl
    def select_final(self, search: Search) -> Selection:
        """The best trials; the final centers, which are apart from each other, for DSM-NAS+."""
        scores = search.scores(self.centers)
        good = np.flatnonzero(np.isfinite(scores))
        order = good[np.argsort(-scores[good], kind="stable")]
        lines = "".join(f"{search.space.to_str(arch)}\n" for arch in self.centers[order])
        best = best_trials(search.trials, SELECTED)
        return Selection(best, files={HANDED_OVER: lambda file: file.write_text(lines)})

    def _learn(self, search: Search, trials: Trials, rewards: Floats) -> None:
        """Line 16: policy gradient against a moving-average baseline; failed trials say nothing."""
        rows = np.flatnonzero(np.isfinite(rewards))
        if not len(rows):
            return
        rewards = rewards[rows]
        baseline = rewards.mean() if self.baseline is None else self.baseline
        origin = self._origin(search, trials)
        self.agent.learn(self.edits[origin[rows]], rewards - baseline)
        self.baseline = self.decay * baseline + (1 - self.decay) * rewards.mean()

    def _origin(self, search: Search, trials: Trials) -> Rows:
        """Which proposed child each trial is: other plugins may have taken some out."""
        if np.array_equal(trials.archs, self.children[: len(trials)]):
            return np.arange(len(trials))
        keys, start, rows = search.space.codes(self.children).tolist(), 0, []
        for key in search.space.codes(trials.archs).tolist():
            rows.append(keys.index(key, start))
            start = rows[-1] + 1
        return np.array(rows)

    # ---- what the algorithm box leaves out

    def _edits(self, search: Search, ball: Ball) -> Edits:
        """Edits of the ball's center whose children may be scored: in the region and not seen."""
        spare = self.unseen or not isinstance(search.region, Space)
        children = max(self.parallel, search.wanted)
        n = children * SPARE if spare else children
        for _ in range(TRIES):
            edits = self.agent.edit(n, search.rng)
            if len(rows := self._accepted(search, edits.apply(ball.center))):
                return edits[rows[:children]]
        # The policy does not get there by itself: anything that is left in the ball.
        region = search.region.unlimited
        if isinstance(region, ArchSet):
            archs = region.archs[ball.contains(region.archs)]
        elif ball.size <= LISTED:
            archs = np.concatenate(
                [search.space.neighbors(ball.center, r + 1) for r in range(ball.radius)]
            )
        else:
            archs = ball.sample(DRAWN, search.rng)
        rows = search.rng.permutation(self._accepted(search, archs))[:children]
        if not len(rows):
            self.closed.update(search.space.codes(ball.center[None]).tolist())
        return Edits.between(ball.center, archs[rows], self.M)

    def _anywhere(self, search: Search, region: Region) -> Archs:
        """Archs of a region, distinct new ones as long as there are any."""
        archs = region.sample(DRAWN, search.rng)
        new = self._new(search, archs)
        return archs[new] if len(new) else archs

    def _take(self, search: Search, trials: Trials) -> None:
        """Make trials centers: the first K, or a new start once nothing is left around any."""
        rows = np.flatnonzero(np.isfinite(trials.scores))
        if missing := self.K - len(self.centers):  # the best, where `init=` has brought more
            rows = np.sort(rows[np.argsort(-trials.scores[rows], kind="stable")[:missing]])
            self.centers = np.concatenate([self.centers, trials.archs[rows]])
        elif not self.fixed:
            for row in rows:
                self.centers[search.scores(self.centers).argmin()] = trials.archs[row]

    def _accepted(self, search: Search, archs: Archs) -> Rows:
        """The rows that may be proposed."""
        rows = np.flatnonzero(search.region.contains(archs))
        return rows[self._new(search, archs[rows])] if self.unseen else rows

    def _keys(self, search: Search, archs: Archs) -> list[Any]:
        """A key per arch, the same for isomorphic ones."""
        keys: list[Any] = search.space.classes(archs).tolist()
        return keys

    def _new(self, search: Search, archs: Archs) -> Rows:
        """The rows of archs that were not scored yet, each where it first occurs."""
        first: dict[Any, int] = {}
        for row, key in enumerate(self._keys(search, archs)):
            if key not in self.seen:
                first.setdefault(key, row)
        return np.fromiter(first.values(), np.intp, len(first))


def improvements(trials: Trials, alpha: float) -> Floats:
    """(n,) R(β|α) = R(β) - R(α), eq. 2; NaN where a trial failed.

    A child that was pruned or breaks a constraint improves nothing, whatever its value.
    """
    gains = trials.utilities - alpha
    return np.where(np.isfinite(trials.scores), gains, np.minimum(gains, 0.0))

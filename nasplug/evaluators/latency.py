"""Latencies of a space's networks, measured on this machine; and tables that are made of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from nasplug.analysis.predictors import rank_correlations
from nasplug.errors import NasplugError
from nasplug.kernel.space import Archs, Space
from nasplug.nn.profile import Profile, device_name, latency, profile, repeated
from nasplug.nn.task import rows_of
from nasplug.nn.training import default_device, initialise
from nasplug.spaces.latency import Floats, LatencyTable

logger = logging.getLogger("nasplug")

PER_CHOICE = 3  # networks measured for a table, for each number in it
ROUNDS = 3  # in which all of them are, of which the quietest counts: others use the machine, too
HELD_OUT = 20  # further ones, on which its error is


class Measured:
    """(n, d) archs -> (n,) ms of their networks on a batch, freshly initialised.

    On this machine: its GPU, or else so many threads of its CPU. Isomorphic archs are measured
    once, in their canonical form. NaN for a network that does not run.
    """

    known = False  # of an arch before it is scored: it takes too long

    def __init__(self, space: Space, batch: int = 1, threads: int = 1) -> None:
        self.space, self.batch, self.threads = space, batch, threads
        self.x = repeated(example_of(space), batch)
        self._times: dict[bytes, float] = {}

    def __call__(self, archs: Archs) -> Floats:
        archs = self.space.canonical(archs).astype(self.space.dtype)
        for arch in archs:
            if arch.tobytes() not in self._times:
                self._times[arch.tobytes()] = self._measure(arch)
        return np.array([self._times[arch.tobytes()] for arch in archs])

    def _measure(self, arch: Archs) -> float:
        try:
            model = initialise(lambda: self.space.build(arch), 0).to(default_device())
            return latency(model, self.x, self.threads).median
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            logger.warning("%s has no latency: %s", self.space.to_str(arch), said)
            return float("nan")


def profile_of(space: Space, arch: str, batches: Sequence[int], threads: int = 1) -> Profile:
    """What the network of an arch costs on this machine; multiply-adds as the space has them, for
    its own operations may do more to be faster."""
    example, found = example_of(space), space.arch(arch)
    model = initialise(lambda: space.build(found), 0).to(default_device())
    measured = profile(model, example, batches, threads)
    with suppress(NasplugError):  # a space that does not know
        return measured._replace(flops=int(space.flops(found[None])[0]))
    return measured


def example_of(space: Space) -> Any:
    """An input of a space's networks, (1, ...), or a tree of such."""
    if not space.builds:
        raise NasplugError(f"{space.name} builds no networks that could be measured")
    example = getattr(space, "example", None)
    if example is None and hasattr(space, "shape"):
        example = torch.randn(1, *space.shape, generator=torch.Generator().manual_seed(0))
    if example is None:
        raise NasplugError(
            f"networks of {space.name} are measured on an example: "
            "nasplug.space_of(Net, example=torch.randn(2, 3, 32, 32))"
        )
    return rows_of(example, slice(1))


def measure_table(
    space: Space, batch: int = 1, threads: int = 1, seed: int = 0,
    advance: Callable[[float], None] = lambda share: None,
) -> LatencyTable:  # fmt: skip
    """What each choice adds to the latency of random networks of the space, in place: by least
    squares, so that what it adds in one network and in another is averaged.

    `about` has the error on further networks: the median of the relative error and Spearman's
    rank correlation. advance: hears of each share of the work that is done.
    """
    numbers = 1 + int((space.cardinalities - 1).sum())
    archs = space.distinct(space.sample(20 * PER_CHOICE * (numbers + HELD_OUT), seed))
    held_out = min(HELD_OUT, len(archs) // 3)
    if held_out < 2:
        raise NasplugError(
            f"{space.name} has {len(archs)} networks, too few for a table of latencies: "
            "constraints=['latency<=5ms'] measures each"
        )
    archs = archs[: PER_CHOICE * numbers + held_out]
    rounds = np.empty((ROUNDS, len(archs)))
    for times in rounds:
        measure = Measured(space, batch, threads)
        for i, arch in enumerate(archs):
            times[i] = measure(arch[None])[0]
            advance(1 / rounds.size)
    times = rounds.min(0)
    runs = np.isfinite(times)
    archs, times = archs[runs], times[runs]
    if len(archs) <= held_out:
        raise NasplugError(f"of {len(runs)} networks of {space.name} {len(archs)} run: too few")
    table = fit(space, archs[held_out:], times[held_out:])
    table.about = {
        "space": space.name, "batch": batch, "threads": threads,
        "device": device_name(torch.device(default_device())), "networks": len(archs) - held_out,
        "error": error_of(table, archs[:held_out], times[:held_out]),
    }  # fmt: skip
    return table


def fit(space: Space, archs: Archs, times: Floats) -> LatencyTable:
    """The table that is nearest to the latencies (n,) of some archs (n, d), by least squares; the
    first choice of each decision adds 0."""
    archs = space.canonical(archs)
    chosen = archs[:, :, None] == np.arange(1, int(space.cardinalities.max()))  # not the first
    columns = chosen.reshape(len(archs), -1).astype(float)
    found, *_ = np.linalg.lstsq(np.column_stack([np.ones(len(archs)), columns]), times, rcond=None)
    costs = np.pad(found[1:].reshape(space.d, -1), ((0, 0), (1, 0)))
    return LatencyTable(space, costs, float(found[0]))


def error_of(table: LatencyTable, archs: Archs, times: Floats) -> dict[str, float | None]:
    """Of a table against the measured latencies (n,) of some archs (n, d); no rank correlation
    where all are told to be alike."""
    told = table(archs)
    spearman = rank_correlations(told, times)["spearman"]
    return {
        "networks": len(archs),
        "median_relative": float(np.median(np.abs(told - times) / times)),
        "spearman": spearman if np.isfinite(spearman) else None,
    }

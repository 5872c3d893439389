"""Darcy flow: pressure in a porous medium, solved by finite differences.

Li et al., "Fourier Neural Operator for Parametric Partial Differential Equations", ICLR 2021,
section 5.2, whose data of 421 x 421 nodes NAS-Bench-360 takes too.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.sparse import csc_array, diags_array  # type: ignore[import-untyped]
from scipy.sparse.linalg import splu  # type: ignore[import-untyped]

from nasplug.errors import NasplugError
from nasplug.files import cache, replacing

FINE, STEP = 57, 2  # nodes on a side of the grid that is solved; every second one is kept
COUNT, SEED = 700, 0
FORMAT = 1  # of the file that keeps them: raised when what is in it changes

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]


def coefficients(n: int, nodes: int, seed: int) -> Floats:
    """(n, nodes, nodes): permeability, 12 where a Gaussian field is positive, 3 elsewhere.

    The field has mean 0 and covariance (-Δ + 9)^-2 on the unit square, with no flux through its
    sides: it is a sum of cosines with independent amplitudes, as many as the grid has nodes. The
    constant one is left out, so that there is much of both values.
    """
    k, x = np.arange(nodes), np.linspace(0, 1, nodes)
    cosines = np.where(k, np.sqrt(2), 1) * np.cos(np.pi * k * x[:, None])  # (x, k), orthonormal
    spread = 1 / (np.pi**2 * (k[:, None] ** 2 + k**2) + 9)
    spread[0, 0] = 0
    normal = np.random.default_rng(seed).standard_normal((n, nodes, nodes))
    return np.where(cosines @ (spread * normal) @ cosines.T > 0, 12.0, 3.0)


def operator(a: Floats) -> csc_array:
    """-div(a grad u) on the inner nodes of a grid of the unit square, u = 0 on its sides.

    a: (m, m), of the nodes. Between two of them flows the difference of u times the harmonic mean
    of a, by which the flux is continuous where a jumps. ((m-2)^2, (m-2)^2) sparse, symmetric.
    """
    m = len(a) - 2
    down, right = (2 * b[1:] * b[:-1] / (b[1:] + b[:-1]) for b in (a, a.T))
    down, right = down[:, 1:-1], right[:, 1:-1].T  # (m+1, m) and (m, m+1): the links
    center = down[1:] + down[:-1] + right[:, 1:] + right[:, :-1]
    below, beside = down[1:].copy(), right[:, 1:].copy()
    below[-1] = beside[:, -1] = 0  # to nodes on the sides, where u is 0
    below, beside = below.ravel()[:-m], beside.ravel()[:-1]
    lines = [center.ravel(), -below, -below, -beside, -beside]
    scale = (len(a) - 1) ** 2
    return scale * diags_array(lines, offsets=[0, m, -m, 1, -1], format="csc")


def solve(a: Floats, f: Floats | float = 1.0) -> Floats:
    """(m, m) permeability and source at the nodes -> (m, m) pressure u, 0 on the sides:
    -div(a grad u) = f."""
    u = np.zeros_like(a)
    inner = u[1:-1, 1:-1]
    symmetric = {"SymmetricMode": True}
    factors = splu(operator(a), permc_spec="MMD_AT_PLUS_A", options=symmetric)
    inner[:] = factors.solve(np.broadcast_to(f, a.shape)[1:-1, 1:-1].ravel()).reshape(inner.shape)
    return u


def darcy() -> tuple[Floats32, Floats32]:
    """(700, 29, 29) permeabilities and their pressures for a source of 1, always the same ones.

    Solved on 57 x 57 nodes, of which every second one is kept. That takes some seconds for the
    first time, after which they are in the user's cache.
    """
    path = cache() / f"darcy-{FINE}-{STEP}-{COUNT}-{SEED}.{FORMAT}.npz"
    try:
        with np.load(path, allow_pickle=False) as kept:  # which verifies its CRC-32
            return kept["a"], kept["u"]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):  # none, or damaged
        return _generate(path)


def _generate(path: Path) -> tuple[Floats32, Floats32]:
    found = coefficients(COUNT, FINE, SEED)
    u = np.stack([solve(a)[::STEP, ::STEP] for a in found]).astype(np.float32)
    a = found[:, ::STEP, ::STEP].astype(np.float32)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NasplugError(
            f"{path.parent} cannot be written ({error.strerror}): set XDG_CACHE_HOME to a folder "
            "that can be, for Darcy flow"
        ) from None
    with replacing(path) as partial:
        np.savez(partial, a=a, u=u)
    return a, u

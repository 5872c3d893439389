"""An ensemble of small feed-forward networks, trained side by side in numpy."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]  # twice as fast as doubles
BETAS, EPSILON = (0.9, 0.99), 1e-8  # of Adam (Kingma and Ba, 2015)


class Networks:
    """M networks of ReLU layers that learn values, scaled to mean 0 and deviation 1, by the mean
    absolute error and Adam, each with weights and an order of batches of its own.

    The defaults are those of BANANAS and its authors' code: 10 layers of 20, 150 epochs in batches
    of 32, steps of 0.01.
    """

    def __init__(
        self, members: int, rng: np.random.Generator, layers: int = 10, width: int = 20,
        epochs: int = 150, batch: int = 32, lr: float = 0.01,
    ) -> None:  # fmt: skip
        self.members, self.rng = members, rng
        self.layers, self.width = layers, width
        self.epochs, self.batch, self.lr = epochs, batch, lr

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> Self:
        """Learn from (n, f) encodings and their (n,) values."""
        X, values = np.asarray(X, np.float32), np.asarray(y, np.float64)
        self.mean, self.deviation = values.mean(), values.std()
        scaled = ((values - self.mean) / self.deviation).astype(np.float32)
        self._start(X.shape[1])
        n, step = len(X), 0
        m, v = np.zeros_like(self.parameters), np.zeros_like(self.parameters)
        for _ in range(self.epochs):
            order = self.rng.permuted(np.tile(np.arange(n), (self.members, 1)), axis=1)
            for rows in np.split(order, range(self.batch, n, self.batch), axis=1):
                self._backward(self._forward(X[rows]), scaled[rows][..., None])
                step += 1
                m += (1 - BETAS[0]) * (self.gradient - m)
                v += (1 - BETAS[1]) * (np.square(self.gradient) - v)
                size = self.lr / (1 - BETAS[0] ** step)
                self.parameters -= size * m / (np.sqrt(v / (1 - BETAS[1] ** step)) + EPSILON)
        return self

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """(n, f) -> (M, n): the value that each network expects."""
        X = np.asarray(X, np.float32)
        found = self._forward(X[None].repeat(self.members, 0))[-1][..., 0].astype(np.float64)
        return self.mean + self.deviation * found

    def _start(self, features: int) -> None:
        """Weights by Glorot and Bengio, biases zero: views of one vector, which Adam steps once."""
        widths = [features, *[self.width] * self.layers, 1]
        shapes = [(self.members, a, b) for a, b in pairwise(widths)]
        shapes += [(self.members, 1, b) for b in widths[1:]]
        self.parameters = np.zeros(sum(int(np.prod(shape)) for shape in shapes), np.float32)
        self.gradient = np.zeros_like(self.parameters)
        self.weights, self.biases = _views(self.parameters, shapes)
        self.weight_gradients, self.bias_gradients = _views(self.gradient, shapes)
        for weight in self.weights:
            limit = np.sqrt(6 / sum(weight.shape[1:]))
            weight[...] = self.rng.uniform(-limit, limit, weight.shape)

    def _forward(self, X: Floats) -> list[Floats]:
        """(M, n, f) -> what goes into each layer, and the (M, n, 1) output."""
        found = [X]
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            out = found[-1] @ weight + bias
            found.append(np.maximum(out, 0, out=out) if layer < self.layers else out)
        return found

    def _backward(self, inputs: list[Floats], y: Floats) -> None:
        """The gradient of the mean absolute error."""
        error = np.sign(inputs[-1] - y) / y.shape[1]
        for layer in reversed(range(len(self.weights))):
            into = inputs[layer]
            np.matmul(into.swapaxes(1, 2), error, out=self.weight_gradients[layer])
            error.sum(1, keepdims=True, out=self.bias_gradients[layer])
            if layer:
                error = (error @ self.weights[layer].swapaxes(1, 2)) * (into > 0)


def _views(vector: Floats, shapes: list[Any]) -> tuple[list[Floats], list[Floats]]:
    """A vector as weights and as biases."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    parts = [p.reshape(shape) for p, shape in zip(np.split(vector, ends), shapes, strict=True)]
    return parts[: len(parts) // 2], parts[len(parts) // 2 :]

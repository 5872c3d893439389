"""The controller: a graph network over the candidate subspaces, then an LSTM that picks one of
them (global policy) and edits its center M times (local policy).

Actions are sampled by numpy and re-scored by torch. A step of an LSTM of 64 units costs numpy a
few microseconds and torch ten times that, nearly all of it overhead; once the actions are chosen,
torch goes over the whole sequence in one call.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nasplug import Archs
from nasplug_dsm.policy import Bools, Edits, Floats, Ints

with warnings.catch_warnings():  # it uses what torch has deprecated, which is no user's concern
    warnings.simplefilter("ignore")
    from torch_geometric.nn import MessagePassing

Array = npt.NDArray[np.float32]

NEVER = np.float32(-1e9)  # the logit of what may not be chosen
INIT = 0.1  # all parameters start uniform in [-INIT, INIT]


class SubspaceConv(MessagePassing):  # type: ignore[misc]
    r"""A layer over the subspace graph.

    .. math:: x_i' = \mathrm{relu}(W x_i + \mathrm{mean}_{j \to i} (V x_j + U e_{ji}))

    The message of an edge is from its weaker end j, and of what sets the better center i apart
    from it, :math:`e_{ji} = h_i - h_j`.

    Shapes: nodes (K, in), edges (2, E), edge features (E, edge), edge weights (E, 1), which are
    one over the number of edges into i -> (K, out).
    """

    def __init__(self, in_channels: int, edge_channels: int, out_channels: int) -> None:
        super().__init__(aggr="add")
        self.own = nn.Linear(in_channels, out_channels)
        self.neighbor = nn.Linear(in_channels, out_channels, bias=False)
        self.edge = nn.Linear(edge_channels, out_channels, bias=False)

    def forward(
        self, x: Tensor, edge_index: Tensor, edge_attr: Tensor, edge_weight: Tensor
    ) -> Tensor:
        messages: Tensor = self.propagate(
            edge_index, x=self.neighbor(x), edge=self.edge(edge_attr), weight=edge_weight
        )
        return torch.relu(self.own(x) + messages)

    def message(self, x_j: Tensor, edge: Tensor, weight: Tensor) -> Tensor:
        return (x_j + edge) * weight


def edges_to_better(scores: Floats) -> tuple[Ints, Array]:
    """(K,) scores -> (2, E) edges from each weaker center to each better one, (E, 1) weights."""
    weaker, better = np.nonzero(scores[:, None] < scores[None, :])
    weights = 1 / np.bincount(better, minlength=len(scores))[better]
    return np.stack([weaker, better]), weights[:, None].astype(np.float32)


class Network(nn.Module):
    """The graph network, the LSTM and a linear layer per kind of decision.

    d decisions with up to C choices; hidden: the width of everything but the embeddings h of
    components, which have a quarter of it each.
    """

    def __init__(self, d: int, C: int, hidden: int, graph: bool, seed: int) -> None:
        super().__init__()
        self.graph = graph
        e = hidden // 4
        with torch.random.fork_rng(devices=[]):  # the layers' own initial values are not used
            self.embed = nn.Embedding(d * C, e)  # a vector per component and choice
            if graph:
                self.first: nn.Module = SubspaceConv(d * e, d * e, hidden)
                self.second: nn.Module = SubspaceConv(hidden, d * e, hidden)
            else:
                self.first, self.second = nn.Linear(d * e, hidden), nn.Linear(hidden, hidden)
            self.token = nn.Embedding(d + d * C, hidden)  # what the LSTM reads of its own actions
            self.lstm = nn.LSTM(hidden, hidden)
            self.center = nn.Linear(hidden, hidden)
            self.component = nn.Linear(hidden, d)
            self.choice = nn.Linear(hidden, d * C)
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -INIT, INIT, generator=generator)
        self.offsets = torch.arange(d) * C

    def flatten(self) -> Tensor:
        """Lay all parameters out in one vector, so that Adam is one operation, not thirty.

        The gradients are views of one vector too, and so can be the arrays that numpy samples with.
        """
        parameters = list(self.parameters())
        flat = torch.cat([p.detach().reshape(-1) for p in parameters])
        flat.grad = torch.zeros_like(flat)
        sizes = [p.numel() for p in parameters]
        for p, values, gradient in zip(
            parameters, torch.split(flat, sizes), torch.split(flat.grad, sizes), strict=True
        ):
            p.data, p.grad = values.view(p.shape), gradient.view(p.shape)
        return flat

    def encode(self, centers: Archs, scores: Floats) -> Tensor:
        """(K, d) centers and (K,) scores -> (K, hidden): what the graph says of each subspace."""
        h = self.embed(torch.from_numpy(centers) + self.offsets).flatten(1)
        if not self.graph:
            return torch.relu(self.second(torch.relu(self.first(h))))
        edges, weights = map(torch.from_numpy, edges_to_better(scores))
        difference = h[edges[1]] - h[edges[0]]  # zero where components agree
        graph = (edges, difference, weights)
        return self.second(self.first(h, *graph), *graph)


@dataclass
class Record:
    """Edits of one center, and what they were sampled from."""

    nodes: Tensor  # (K, hidden) the encoded graph
    picked: int
    closed: Array  # (K,) what is added to the logits of centers
    edits: Edits
    advantages: Floats


class Controller:
    """Global and local policy over a space whose decisions may take `allowed` choices.

    allowed: (d, C) booleans, C the largest cardinality.
    clip_center, clip_edit: logits are ``clip * tanh(logit)``; 0 leaves them as they are.
    """

    def __init__(
        self,
        allowed: Bools,
        M: int,
        hidden: int,
        graph: bool,
        clip_center: float,
        clip_edit: float,
        lr: float,
        entropy: float,
        samples: int,
        seed: int,
    ) -> None:
        self.d, self.C = allowed.shape
        self.M, self.entropy, self.samples = M, entropy, samples
        self.clip_center, self.clip_edit = clip_center, clip_edit
        self.network = Network(self.d, self.C, hidden, graph, seed)
        self.flat = self.network.flatten()
        self.optimizer = torch.optim.Adam([self.flat], lr=lr, fused=True)
        self._arrays = {name: p.detach().numpy() for name, p in self.network.named_parameters()}
        self._centers: Archs = np.empty((0, self.d), np.int8)
        self._nodes: Tensor | None = None  # what the graph says of these centers
        self._batch: list[Record] = []
        self._forbidden = np.where(allowed, 0.0, NEVER).astype(np.float32)
        self._fixed = np.where(allowed.sum(1) > 1, 0.0, NEVER).astype(np.float32)

    # ---- sampling, without gradient

    def pick(self, centers: Archs, scores: Floats, closed: Bools, rng: np.random.Generator) -> int:
        if self._nodes is None or not np.array_equal(centers, self._centers):
            self._nodes = self.network.encode(centers, scores)  # with gradient, for `learn`
            self._centers = centers.copy()
            nodes = self._nodes.detach().numpy()
            start = np.zeros((1, nodes.shape[1]), np.float32)
            self._state = self._step(nodes.mean(0, keepdims=True), (start, start))
            logits = self._linear("center", self._state[0]) @ nodes.T
            self._logits = _clipped(logits, self.clip_center)
        self._closed = np.where(closed, NEVER, 0)
        picks, self._picked_log_p = draw(self._logits + self._closed, rng.random(1))
        self._picked = int(picks[0])
        return self._picked

    def edit(self, n: int, rng: np.random.Generator) -> Edits:
        assert self._nodes is not None
        state = (np.repeat(self._state[0], n, axis=0), np.repeat(self._state[1], n, axis=0))
        x = np.repeat(self._nodes.detach().numpy()[None, self._picked], n, axis=0)
        token = self._arrays["token.weight"]
        components, choices = np.empty((2, n, self.M), np.int64)
        uniform = rng.random((self.M, 2, n))
        self._log_p = np.repeat(self._picked_log_p, n)
        for m in range(self.M):
            state = self._step(x, state)
            logits = _clipped(self._linear("component", state[0]), self.clip_edit) + self._fixed
            component, log_p = draw(logits, uniform[m, 0])
            self._log_p += log_p
            state = self._step(token[component], state)
            logits = self._linear("choice", state[0]).reshape(n, self.d, self.C)
            logits = _clipped(logits[np.arange(n), component], self.clip_edit)
            choice, log_p = draw(logits + self._forbidden[component], uniform[m, 1])
            self._log_p += log_p
            x = token[self.d + component * self.C + choice]
            components[:, m], choices[:, m] = component, choice
        return Edits(components, choices)

    def _linear(self, name: str, x: Array) -> Array:
        return x @ self._arrays[f"{name}.weight"].T + self._arrays[f"{name}.bias"]

    def _step(self, x: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        """One step of the LSTM."""
        h, c = state
        gates = self._linear_lstm(x, h)
        n = h.shape[1]
        gates[:, : 2 * n] *= 0.5  # sigmoid(x) = (1 + tanh(x / 2)) / 2
        gates[:, 3 * n :] *= 0.5
        np.tanh(gates, out=gates)
        i, f, o = (0.5 * gates[:, k * n : (k + 1) * n] + 0.5 for k in (0, 1, 3))
        c = f * c + i * gates[:, 2 * n : 3 * n]
        return o * np.tanh(c), c

    def _linear_lstm(self, x: Array, h: Array) -> Array:
        w = self._arrays
        gates: Array = x @ w["lstm.weight_ih_l0"].T + h @ w["lstm.weight_hh_l0"].T
        return gates + w["lstm.bias_ih_l0"] + w["lstm.bias_hh_l0"]

    # ---- learning

    def learn(self, edits: Edits, advantages: Floats) -> None:
        """A step of policy gradient on eq. 2, with an entropy bonus, every `samples` edits."""
        assert self._nodes is not None
        assert self.flat.grad is not None
        self._batch.append(Record(self._nodes, self._picked, self._closed, edits, advantages))
        if sum(len(record.advantages) for record in self._batch) < self.samples:
            return
        gains = np.concatenate([record.advantages for record in self._batch])
        logits, heads = self.score(self._batch)
        gradients = [
            torch.from_numpy(-head.gradient(z.detach().numpy(), gains, self.entropy) / len(gains))
            for z, head in zip(logits, heads, strict=True)
        ]
        self.flat.grad.zero_()
        torch.autograd.backward(logits, gradients)
        self.optimizer.step()
        self._batch, self._nodes = [], None

    def score(self, batch: list[Record]) -> tuple[list[Tensor], list[Head]]:
        """The logits of all decisions of a batch, with gradient, and what was decided."""
        sizes = [len(record.advantages) for record in batch]
        n, M, d, C = sum(sizes), self.M, self.d, self.C
        picked, closed = (
            np.repeat(column, sizes, axis=0)
            for column in ([r.picked for r in batch], [r.closed for r in batch])
        )
        components = np.concatenate([record.edits.components for record in batch]).T
        choices = np.concatenate([record.edits.choices for record in batch]).T
        tokens = np.empty((2 * M, n), np.int64)
        tokens[0::2] = components
        tokens[1::2] = d + components * C + choices
        nodes = torch.stack([record.nodes for record in batch for _ in record.advantages])
        start = torch.stack([nodes.mean(1), nodes[torch.arange(n), torch.from_numpy(picked)]])
        net = self.network
        h, _ = net.lstm(torch.cat([start, net.token(torch.from_numpy(tokens[:-1]))]))
        center = (nodes @ net.center(h[0])[:, :, None])[None, :, :, 0]
        component = net.component(h[1::2])
        rows = torch.from_numpy(np.arange(M * n) * d + components.ravel())
        choice = net.choice(h[2::2]).view(M * n * d, C)[rows].view(M, n, C)
        return [center, component, choice], [
            Head(self.clip_center, closed, picked[None]),
            Head(self.clip_edit, self._fixed, components),
            Head(self.clip_edit, self._forbidden[components], choices),
        ]


@dataclass
class Head:
    """Decisions of one kind, t of them in each of n sequences."""

    clip: float
    mask: Array  # (t, n, c) or what broadcasts to it: added to the logits
    actions: Ints  # (t, n)

    def log_p(self, logits: Array) -> Array:
        """(t, n, c) logits -> log-probabilities of all c."""
        z = _clipped(logits, self.clip) + self.mask
        z -= z.max(-1, keepdims=True)
        return z - np.log(np.exp(z).sum(-1, keepdims=True))

    def gradient(self, logits: Array, gains: Floats, entropy: float) -> Array:
        """Of sum(gain log p(action) + entropy H(p)) by the logits.

        That of log p(a) is 1_a - p, that of H is -p (log p + H): so short by hand that autograd
        need not see a dozen small operations.
        """
        log_p = self.log_p(logits)
        p = np.exp(log_p)
        p_log_p = p * log_p
        g = -gains[:, None] * p - entropy * (p_log_p - p * p_log_p.sum(-1, keepdims=True))
        t, n = np.ogrid[: self.actions.shape[0], : self.actions.shape[1]]
        g[t, n, self.actions] += gains
        if self.clip:
            g *= self.clip * (1 - np.tanh(logits) ** 2)
        return g.astype(np.float32)


def _clipped(logits: Array, clip: float) -> Array:
    return np.float32(clip) * np.tanh(logits) if clip else logits


def draw(logits: npt.NDArray[np.floating], uniform: Floats) -> tuple[Ints, Floats]:
    """(n, c) logits, (n,) uniform numbers -> (n,) categorical draws and their log-probabilities."""
    p = np.exp(logits - logits.max(1, keepdims=True), dtype=np.float64)
    cumulated = p.cumsum(1)
    total = cumulated[:, -1]
    chosen = (cumulated <= (uniform * total)[:, None]).sum(1)
    return chosen, np.log(p[np.arange(len(p)), chosen] / total)

"""The controller of DSM-NAS: a graph network over the candidate subspaces, then an LSTM.

The global and the local policy are one, as in the paper's Sec. IV-A: the LSTM picks a subspace,
then writes a sentence of 2M tokens, in which a component to edit and its new choice take turns.
Tokens are sampled one at a time, without gradient, for many children at once; the sentences of a
batch are then scored in one pass, with gradient, by the same layers.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from nasplug import Archs
from nasplug_dsm.policy import Bools, Edits, Floats

with warnings.catch_warnings():  # it uses what torch has deprecated, which is no user's concern
    warnings.simplefilter("ignore")
    from torch_geometric.nn import MessagePassing

NEVER = -1e9  # the logit of what may not be chosen; with -inf the entropy would be NaN
LEAST = 2.0**-24  # exponential variable: smaller ones occur once in 17 million
INIT = 0.1  # all parameters start uniform in [-INIT, INIT]


class SubspaceConv(MessagePassing):  # type: ignore[misc]
    r"""A layer over the subspace graph.

    .. math:: x_i' = \mathrm{relu}(W x_i + \mathrm{mean}_{j \to i} (V x_j + U e_{ji}))

    The message of an edge is from its weaker end j, and of what sets the better center i apart
    from it, :math:`e_{ji} = h_i - h_j`.

    Shapes: nodes (K, in), edges (2, E), edge features (E, edge) -> (K, out).
    """

    def __init__(self, in_channels: int, edge_channels: int, out_channels: int) -> None:
        super().__init__(aggr="mean")
        self.own = nn.Linear(in_channels, out_channels)
        self.neighbor = nn.Linear(in_channels, out_channels, bias=False)
        self.edge = nn.Linear(edge_channels, out_channels, bias=False)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        messages = self.propagate(edge_index, x=self.neighbor(x), edge=self.edge(edge_attr))
        return torch.relu(self.own(x) + messages)

    def message(self, x_j: Tensor, edge: Tensor) -> Tensor:
        return x_j + edge


def edges_to_better(scores: Floats) -> Tensor:
    """(K,) scores -> (2, E): an edge from each weaker center to each better one."""
    return torch.from_numpy(np.stack(np.nonzero(scores[:, None] < scores)))


class Network(nn.Module):
    """The layers of both policies, and the log-probabilities that they give to sentences.

    allowed: (d, C), which of up to C choices each of d components may take. Token c < d names
    component c, and token d + c C + o its choice o.
    hidden: the width of everything but the vectors of components, which have a quarter of it.
    clip_center, clip_edit: logits are ``clip * tanh(logit)``; 0 leaves them as they are.
    """

    def __init__(
        self,
        allowed: Bools,
        hidden: int,
        graph: bool,
        clip_center: float,
        clip_edit: float,
        seed: int,
    ) -> None:
        super().__init__()
        (d, C), e = allowed.shape, hidden // 4
        self.d, self.C = d, C
        self.graph, self.clip_center, self.clip_edit = graph, clip_center, clip_edit
        with torch.random.fork_rng(devices=[]):  # the layers' own initial values are not used
            self.embed = nn.Embedding(d * C, e)  # a vector per component and choice
            if graph:
                self.first: nn.Module = SubspaceConv(d * e, d * e, hidden)
                self.second: nn.Module = SubspaceConv(hidden, d * e, hidden)
            else:
                self.first, self.second = nn.Linear(d * e, hidden), nn.Linear(hidden, hidden)
            self.lstm = nn.LSTM(hidden, hidden)
            self.center = nn.Linear(hidden, hidden)
            self.token = nn.Embedding(d + d * C, hidden)  # what the LSTM reads of its own tokens
            self.edit = nn.Linear(hidden, d + d * C)
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -INIT, INIT, generator=generator)
        self.cell = self.lstm.all_weights[0]
        self.offsets = torch.arange(d) * C
        # What may follow: row c < d is for after component c, the last for after a choice.
        grammar = np.zeros((d + 1, d + d * C), bool)
        for c in range(d):
            grammar[c, d + c * C : d + c * C + C] = allowed[c]
        grammar[d, :d] = allowed.sum(1) > 1
        self.grammar = torch.where(torch.from_numpy(grammar), 0.0, NEVER)

    def nodes(self, centers: Archs, scores: Floats) -> Tensor:
        """(K, d) centers and (K,) scores -> (K, hidden): what the graph says of each subspace."""
        h = self.embed(torch.from_numpy(centers) + self.offsets).flatten(1)
        if not self.graph:
            return torch.relu(self.second(torch.relu(self.first(h))))
        weaker, better = edges = edges_to_better(scores)
        difference = h.index_select(0, better) - h.index_select(0, weaker)
        return self.second(self.first(h, edges, difference), edges, difference)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the LSTM: all (n, hidden)."""
        return torch.lstm_cell(x, (h, c), *self.cell)

    def center_logits(self, h: Tensor, nodes: Tensor, mask: Tensor) -> Tensor:
        """Of the global policy: (n, hidden), (n, K, hidden), (n, K) -> (n, K)."""
        return masked((nodes @ self.center(h)[:, :, None])[:, :, 0], self.clip_center, mask)

    def edit_logits(self, h: Tensor, mask: Tensor) -> Tensor:
        """Of the local policy: (..., hidden), (..., d + d C) -> (..., d + d C)."""
        return masked(self.edit(h), self.clip_edit, mask)

    def forward(
        self, nodes: Tensor, closed: Tensor, picked: Tensor, tokens: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities (n,) and entropies (n,) of sentences.

        Shapes: nodes (n, K, hidden), closed (n, K), picked (n,), tokens (2M, n).
        """
        center = nodes[torch.arange(len(picked)), picked]
        h, _ = self.lstm(torch.cat([torch.stack([nodes.mean(1), center]), self.token(tokens[:-1])]))
        after = tokens.roll(1, 0)
        after[0::2] = self.d
        log_p, entropy = score(self.center_logits(h[0], nodes, closed), picked)
        log_ps, entropies = score(self.edit_logits(h[1:], self.grammar[after]), tokens)
        return log_p + log_ps.sum(0), entropy + entropies.sum(0)


def masked(logits: Tensor, clip: float, mask: Tensor) -> Tensor:
    return torch.add(mask, logits.tanh(), alpha=clip) if clip else mask + logits


def score(logits: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """(..., c) logits, (...) actions -> log-probabilities (...) of these, and entropies (...)."""
    log_p = logits.log_softmax(-1)
    return log_p.gather(-1, actions[..., None])[..., 0], -(log_p.exp() * log_p).sum(-1)


def draw(logits: Tensor, gumbel: Tensor) -> Tensor:
    """(..., c) logits -> (...) actions, by the Gumbel-max trick."""
    return (logits + gumbel).argmax(-1)


def noise(rng: np.random.Generator, *shape: int) -> Tensor:
    """Gumbel noise, which is -log of exponential noise: 4 times as fast as `rng.gumbel`.

    At 32 bits an exponential variable is 0 now and then, and the noise would be infinite.
    """
    exponential = torch.from_numpy(rng.standard_exponential(shape, np.float32))
    return exponential.clamp_min_(LEAST).log_().neg_()


@dataclass
class Experience:
    """Edits of one center, and what they were sampled from."""

    nodes: Tensor  # (K, hidden)
    closed: Tensor  # (K,) what is added to the logits of centers
    picked: int
    edits: Edits
    advantages: Floats


class Controller:
    """Samples from the network, and trains it on what came of it.

    samples: children per update of the parameters. entropy: the weight of the bonus.
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
        self.M, self.entropy, self.samples = M, entropy, samples
        self.network = Network(allowed, hidden, graph, clip_center, clip_edit, seed)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=lr, fused=True)
        self._centers: Archs | None = None  # that the network has read
        self._batch: list[Experience] = []

    # ---- sampling

    def pick(self, centers: Archs, scores: Floats, closed: Bools, rng: np.random.Generator) -> int:
        """Line 6 of Algorithm 1, the global policy."""
        if self._centers is None or not np.array_equal(centers, self._centers):
            self._read(centers, scores)
        self._closed = torch.from_numpy(np.where(closed, np.float32(NEVER), np.float32(0)))
        self._picked = int(draw(self._logits + self._closed, noise(rng, len(closed))))
        return self._picked

    def _read(self, centers: Archs, scores: Floats) -> None:
        self._centers = centers.copy()
        self._nodes = self.network.nodes(centers, scores)  # with gradient, for `learn`
        with torch.inference_mode():
            zeros = torch.zeros(1, self._nodes.shape[1])
            self._state = self.network.step(self._nodes.mean(0, keepdim=True), zeros, zeros)
            unmasked = torch.zeros(1, len(centers))
            self._logits = self.network.center_logits(self._state[0], self._nodes, unmasked)

    @torch.inference_mode()
    def edit(self, n: int, rng: np.random.Generator) -> Edits:
        """Line 8, the local policy, n times."""
        net, token, tokens = self.network, torch.empty(0), []
        h, c = (state.expand(n, -1) for state in self._state)
        x = self._nodes[self._picked].expand(n, -1)
        for t, gumbel in enumerate(noise(rng, 2 * self.M, n, len(net.grammar.T))):
            h, c = net.step(x, h, c)
            token = draw(net.edit_logits(h, net.grammar[token if t % 2 else net.d]), gumbel)
            x = net.token(token)
            tokens.append(token)
        components, choices = torch.stack(tokens, 1).view(n, self.M, 2).unbind(2)
        return Edits(components.numpy(), ((choices - net.d) % net.C).numpy())

    # ---- learning

    def learn(self, edits: Edits, advantages: Floats) -> None:
        """Line 16: a step of policy gradient, once there are `samples` edits."""
        self._batch.append(Experience(self._nodes, self._closed, self._picked, edits, advantages))
        if sum(len(experience.advantages) for experience in self._batch) < self.samples:
            return
        self.optimizer.zero_grad()
        torch.autograd.backward(self.loss(self._batch))
        self.optimizer.step()
        self._batch, self._centers = [], None

    def loss(self, batch: list[Experience]) -> Tensor:
        """What has the policy gradient of eq. 2, with an entropy bonus, as its gradient."""
        each = [experience for experience in batch for _ in experience.advantages]
        components = np.concatenate([experience.edits.components for experience in batch])
        choices = np.concatenate([experience.edits.choices for experience in batch])
        choices = self.network.d + components * self.network.C + choices
        tokens = np.stack([components, choices], 2).reshape(len(each), -1)
        log_p, entropy = self.network(
            torch.stack([experience.nodes for experience in each]),
            torch.stack([experience.closed for experience in each]),
            torch.tensor([experience.picked for experience in each]),
            torch.from_numpy(tokens.T.copy()),
        )
        gains = torch.from_numpy(np.concatenate([experience.advantages for experience in batch]))
        return -(gains.to(log_p) * log_p + self.entropy * entropy).mean()  # eq. 2

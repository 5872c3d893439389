"""Each proxy against its formula, computed by hand or in plain numpy, on a tiny network."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import nasplug
from nasplug.nn import Shared, initialise
from nasplug_proxies.proxies import PROXIES, measure

RNG = np.random.default_rng(0)
N, FEATURES, CLASSES = 6, 5, 3
X = RNG.normal(size=(N, FEATURES))
Y = RNG.integers(CLASSES, size=N)
W = RNG.normal(size=(CLASSES, FEATURES))


def value(name, net, x=X, y=Y, seed=0):
    kind = torch.float64 if next(net.parameters(), torch.zeros(1)).dtype == torch.float64 else None
    batch = torch.as_tensor(x, dtype=kind or torch.float32)
    return measure(name, net, batch, torch.as_tensor(y), seed)


def linear(*weights):
    """A network of linear layers with these weights, in float64."""
    layers = [nn.Linear(w.shape[1], w.shape[0], bias=False) for w in weights]
    net = nn.Sequential(*layers).double()
    with torch.no_grad():
        for layer, w in zip(layers, weights, strict=True):
            layer.weight.copy_(torch.as_tensor(w))
    return net


def error(w):
    """(n, classes): probabilities of a softmax regression less the labels."""
    logits = X @ w.T
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True) - np.eye(CLASSES)[Y]


def gradient(w):
    return error(w).T @ X / N


def test_synflow_is_the_sum_over_all_paths_once_for_each_layer():
    first, second = RNG.normal(size=(4, FEATURES)), RNG.normal(size=(2, 4))
    paths = (np.abs(second) @ np.abs(first)).sum()
    assert value("synflow", linear(first, second)) == pytest.approx(math.log(2 * paths))


def test_synflow_leaves_batch_norms_out():
    net = linear(W)
    with_norm = nn.Sequential(*net, nn.BatchNorm1d(CLASSES).double())
    assert value("synflow", with_norm) == pytest.approx(value("synflow", net))


def test_snip_grad_norm_and_l2_norm_of_a_softmax_regression():
    net, g = linear(W), gradient(W)
    assert value("snip", net) == pytest.approx(np.abs(W * g).sum())
    assert value("grad_norm", net) == pytest.approx(np.sqrt((g**2).sum()))
    assert value("l2_norm", net) == pytest.approx(np.sqrt((W**2).sum()))


def test_grasp_is_the_weights_times_the_hessian_times_the_gradient():
    step, g = 1e-5, gradient(W)
    hessian_g = (gradient(W + step * g) - gradient(W - step * g)) / (2 * step)
    assert value("grasp", linear(W)) == pytest.approx(-(W * hessian_g).sum(), rel=1e-6)


def test_fisher_of_a_linear_layer():
    saliency = (X @ W.T) * error(W) / N  # activation times gradient, image by channel
    expected = FEATURES / 2 * (saliency**2).mean(0).sum()
    assert value("fisher", linear(W)) == pytest.approx(expected)


def test_fisher_adds_up_a_feature_map_before_it_squares():
    """Logits are the means of 1x1 feature maps, so that it is that of the linear layer."""
    net = nn.Sequential(
        nn.Conv2d(FEATURES, CLASSES, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.as_tensor(W)[..., None, None])
    images = X[..., None, None] + RNG.normal(size=(N, FEATURES, 2, 2))
    images -= images.mean((2, 3), keepdims=True) - X[..., None, None]
    assert value("fisher", net, images) == pytest.approx(value("fisher", linear(W)))


def test_naswot_is_the_log_determinant_of_the_hamming_kernel():
    """Codes 101 and 001 differ in one of three: [[3, 2], [2, 3]], whose determinant is 5."""
    net = nn.Sequential(nn.ReLU())
    assert value("naswot", net, [[1.0, -1.0, 2.0], [-1.0, -3.0, 1.0]]) == pytest.approx(math.log(5))


def test_naswot_counts_a_shared_relu_once_for_each_operation_that_takes_it():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.ops = nn.ModuleList(Shared(nn.ReLU()) for _ in range(2))

        def forward(self, x):
            return self.ops[0](x) + self.ops[1](x)

    got = value("naswot", Twice(), [[1.0, -1.0, 2.0], [-1.0, -3.0, 1.0]])
    assert got == pytest.approx(math.log(4 * 5))


def test_jacov_of_a_linear_network_whose_images_all_have_one_jacobian():
    k = 1e-5
    eigenvalues = np.array([N, *[0] * (N - 1)]) + k
    expected = -(np.log(eigenvalues) + 1 / eigenvalues).sum()
    assert value("jacov", linear(W)) == pytest.approx(expected, rel=1e-4)


def test_zen_is_what_noise_changes_and_what_norms_divide_by():
    net = nn.Sequential(nn.Conv2d(2, 3, 1, bias=False), nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1))
    generator = torch.Generator().manual_seed(7)

    def normal(*shape):
        return torch.randn(shape, generator=generator).double().numpy()

    w, x = normal(3, 2, 1, 1)[:, :, 0, 0], normal(4, 2, 5, 5)
    noisy = x + 0.01 * normal(4, 2, 5, 5)
    variance, features = np.ones(3), []
    for images in (x, noisy):
        out = np.einsum("oc,nchw->nohw", w, images)
        mean, var = out.mean((0, 2, 3), keepdims=True), out.var((0, 2, 3), keepdims=True)
        features.append((out - mean) / np.sqrt(var + 1e-5))
        variance = 0.9 * variance + 0.1 * out.var((0, 2, 3), ddof=1)
    change = np.abs(features[0] - features[1]).sum((1, 2, 3)).mean()
    expected = np.log(change) + np.log(np.sqrt(variance.mean()))
    assert value("zen", net, np.zeros((4, 2, 5, 5)), [0] * 4, seed=7) == pytest.approx(
        expected, abs=1e-3
    )


SPACE = nasplug.space("nb201:C=4,N=1").for_data("digits")
IMAGES = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(16) % 10


def network(space=SPACE, seed=0):
    return initialise(lambda: space.build(space.sample(1, 1)[0]), seed)


@pytest.mark.parametrize("name", PROXIES)
def test_a_proxy_leaves_the_network_as_it_is_and_has_one_value(name):
    net = network()
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    first = measure(name, net, IMAGES, LABELS, 0)
    assert math.isfinite(first)
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())
    assert measure(name, net, IMAGES, LABELS, 0) == first
    assert measure(name, network(), IMAGES, LABELS, 0) == first


@pytest.mark.parametrize("name", PROXIES)
def test_the_order_of_the_images_does_not_matter(name):
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    net = network()
    first = measure(name, net, IMAGES, LABELS, 0)
    other = measure(name, net, IMAGES[order], LABELS[order], 0)
    assert other == pytest.approx(first, rel=1e-2)


@pytest.mark.parametrize("name", ["macro", "darts", "open-cells", "manual-irb"])
def test_every_proxy_scores_the_networks_of_every_space(name):
    space = nasplug.space(name).for_data("digits")
    net = network(space)
    values = {proxy: measure(proxy, net, IMAGES, LABELS, 0) for proxy in PROXIES}
    assert all(map(math.isfinite, values.values())), values


@pytest.mark.parametrize("name", PROXIES)
def test_a_cell_of_nothing_raises_nothing(name):
    """jacov did: the images have no share in the outputs."""
    space = nasplug.space("nb201:C=4,N=1").for_data("digits")
    net = space.build(np.zeros(6, space.dtype))
    images = torch.randn(8, *(space.sizes[n] for n in ("channels", "resolution", "resolution")))
    assert isinstance(measure(name, net, images, torch.arange(8), 0), float)

import io
import os
from itertools import product

import numpy as np
import pytest

import nasplug
from nasplug import NasplugError
from nasplug.spaces.nb201.space import NB201

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from nasplug.nn.data import Images  # noqa: E402
from nasplug.nn.datasets import cifar10, digits  # noqa: E402
from nasplug.nn.training import (  # noqa: E402
    initialise,
    pools_channels_last,
    score,
    to_device,
    train,
)

SPACE = NB201("digits", C=4, N=1)
ARCH = SPACE.from_str("|nor_conv_3x3~0|+|none~0|skip_connect~1|+|skip_connect~0|none~1|none~2|")


def network(seed):
    return initialise(lambda: SPACE.build(ARCH), seed)


def run(seed, **options):
    result = train(network(seed), digits(), epochs=2, seed=seed, **options)
    assert result.pop("seconds") > 0
    return result


def weights(model):
    return torch.cat([p.detach().ravel() for p in model.parameters()])


def test_digits_are_split_by_seed_and_stratified():
    data = digits(3)
    assert [len(part[1]) for part in (data.train, data.val, data.test)] == [797, 500, 500]
    assert data.train[0].shape == (797, 1, 8, 8)
    assert (data.in_channels, data.resolution, data.num_classes) == (1, 8, 10)
    assert abs(float(data.train[0].mean())) < 1e-5
    assert abs(float(data.train[0].std()) - 1) < 1e-5
    for _, labels in (data.train, data.val, data.test):
        share = torch.bincount(labels, minlength=10) / len(labels)
        assert float((share - 0.1).abs().max()) < 0.01
    torch.testing.assert_close(digits(3).val[0], data.val[0])
    assert not torch.equal(digits(4).val[0], data.val[0])


def test_training_is_the_same_to_the_last_bit_whatever_the_global_state():
    torch.manual_seed(1)
    first, model = run(0), network(0)
    torch.manual_seed(2)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    assert run(0) == first
    assert torch.get_num_threads() == threads + 1
    torch.set_num_threads(threads)
    assert torch.equal(weights(network(0)), weights(model))
    assert not torch.equal(weights(network(1)), weights(model))


def test_training_leaves_the_global_state_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    run(0)
    assert torch.equal(torch.get_rng_state(), before)


def test_training_learns_and_counts():
    result = train(network(0), digits(), epochs=5, seed=0)
    assert result["value"] > 80
    assert result["report"] > 80
    assert result["params"] == SPACE.params(ARCH[None])[0]
    assert (result["epochs"], result["pruned"]) == (5, False)


def test_report_sees_every_epoch_and_prunes():
    seen = []
    result = run(0, report=lambda epoch, value: seen.append((epoch, value)))
    assert [epoch for epoch, _ in seen] == [1, 2]
    assert result == run(0)
    assert seen[-1][1] == result["value"]
    pruned = run(0, report=lambda epoch, value: True)
    assert (pruned["epochs"], pruned["pruned"], pruned["value"]) == (1, True, seen[0][1])


def test_training_in_steps_is_training_in_one_go_to_the_last_bit(tmp_path):
    """With drop-out, whose random state is torch's own, and augmentation, whose is the seed's."""

    def fresh():
        return torch.nn.Sequential(network(0), torch.nn.Dropout(0.2))

    whole, data = fresh(), digits()
    wanted = train(whole, data, epochs=4, seed=0)
    for until, trained in ((1, 1), (3, 2), (4, 1)):
        model = fresh()  # from the checkpoint alone
        found = train(model, data, 4, seed=0, until=until, checkpoint=tmp_path / "checkpoint")
        assert (found["epochs"], found["trained"]) == (until, trained)
    assert found["value"] == wanted["value"]
    assert found["report"] == wanted["report"]
    for ours, theirs in zip(model.state_dict().values(), whole.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    alone = fresh()
    train(alone, data, epochs=3, seed=0)  # whose learning rate has fallen to 0 by then
    assert not torch.equal(weights(alone), weights(whole))


def test_average_pools_are_tried_before_images_lie_channels_last(monkeypatch):
    """What torch before 2.14 does on a GPU: the gradient of other pixels, and no word."""
    assert pools_channels_last.__wrapped__(torch.device("cpu"))
    pool = torch.nn.functional.avg_pool2d

    def shifted(x, *args, **options):
        if not x.is_contiguous():
            x = x.roll(1, -1)
        return pool(x, *args, **options)

    monkeypatch.setattr(torch.nn.functional, "avg_pool2d", shifted)
    assert not pools_channels_last.__wrapped__(torch.device("cpu"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("nb201:C=4,N=1", {"rtol": 1e-6, "atol": 1e-9}),
        ("darts:C=4,layers=3", {"rtol": 1e-6, "atol": 1e-9}),
        # Of a depthwise convolution an H200 had, in float64, 8e-5 and 6e-8.
        ("mobilenet:width=0.1", {"rtol": 1e-3, "atol": 1e-6}),
    ],
)
def test_a_gpu_has_the_gradients_of_the_cpu(name, near):
    space = nasplug.space(name).for_data("digits")
    x, y = torch.randn(8, 1, 8, 8, dtype=torch.float64), torch.arange(8)
    gradients = {}
    for device in ("cpu", "cuda"):
        net = to_device(initialise(space.supernet, 0).double(), device)
        net.mix(None, net.exists if net.mixable.all() else net.chosen(space.sample(1, 0))[0])
        output = net(x.to(device)).double()
        loss = torch.nn.functional.cross_entropy(output, y.to(device))
        found = torch.autograd.grad(loss, [*net.parameters()], allow_unused=True)
        gradients[device] = [None if g is None else g.cpu() for g in found]
    for a, b in zip(*gradients.values(), strict=True):
        torch.testing.assert_close(a, b, **near)


def test_divergence_is_an_error():
    with pytest.raises(FloatingPointError, match="loss is nan in epoch"):
        run(0, lr=1e30)


def test_the_score_of_classes_is_in_percent():
    data = digits()
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.eye(10)[3])
    threes = int((data.val[1] == 3).sum())
    assert score(model, data, data.val) == 100 * threes / 500


def test_augmentation_crops_and_mirrors():
    """Every augmented image is one of the (2p + 1)^2 x 2 windows of the padded one."""
    images = torch.arange(1.0, 2 * 3 * 16 + 1).reshape(2, 3, 4, 4)
    part = images, torch.zeros(2, dtype=torch.int64)
    data = Images(part, part, part, 1, torch.zeros(3, 1, 1), torch.ones(3, 1, 1), padding=1)
    padded = torch.nn.functional.pad(images, [1] * 4)
    generator = torch.Generator().manual_seed(0)
    crops = [padded[..., i : i + 4, j : j + 4] for i, j in product(range(3), repeat=2)]
    windows = torch.stack(crops + [crop.flip(-1) for crop in crops])  # (18, b, c, h, w)
    seen = torch.zeros(18, 2, dtype=torch.bool)
    for _ in range(300):
        same = (data.augment(images, generator) == windows).flatten(2).all(2)
        assert same.sum(0).tolist() == [1, 1]
        seen |= same
    assert seen.all()


def test_cifar10_reads_jpegs_and_trains(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rng = np.random.default_rng(0)
    (tmp_path / "cifar10").mkdir()
    for name, n in (("train", 20), ("test", 6)):
        labels = rng.integers(0, 10, n)
        jpegs = []
        for label in labels:
            stream = io.BytesIO()
            image.new("RGB", (32, 32), (int(label) * 25, 0, 0)).save(stream, "JPEG")
            jpegs.append(stream.getvalue())
        table = pa.table({"image": jpegs, "label": labels})
        parquet.write_table(table, tmp_path / "cifar10" / f"{name}.parquet")
    data = cifar10(tmp_path)
    assert [len(part[1]) for part in (data.train, data.val, data.test)] == [10, 10, 6]
    assert data.train[0].dtype == torch.uint8
    assert (data.in_channels, data.resolution) == (3, 32)
    reds = data.test[0][:, 0].float().mean((1, 2))
    np.testing.assert_allclose(reds, data.test[1] * 25, atol=4)
    result = train(data.size(SPACE).build(ARCH), data, epochs=1, seed=0)
    assert 0 <= result["value"] <= 100


def test_missing_cifar10_says_how_to_get_it(tmp_path):
    with pytest.raises(NasplugError, match=r"train\.parquet is missing.*NASPLUG_DATA"):
        cifar10(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif("NASPLUG_DATA" not in os.environ, reason="NASPLUG_DATA is not set")
def test_the_real_cifar10():
    data = cifar10(os.environ["NASPLUG_DATA"])
    assert [len(part[1]) for part in (data.train, data.val, data.test)] == [25_000, 25_000, 10_000]
    pixels = data.normalise(data.train[0])
    assert float(pixels.mean((0, 2, 3)).abs().max()) < 0.02
    assert float((pixels.std((0, 2, 3)) - 1).abs().max()) < 0.02

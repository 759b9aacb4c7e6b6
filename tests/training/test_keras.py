"""Keras 3 on its torch backend: in a plain torch loop and in model.fit."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch

os.environ.setdefault("KERAS_BACKEND", "torch")  # read when keras is imported
keras = pytest.importorskip("keras")
if keras.backend.backend() != "torch":
    pytest.skip("Keras runs on another backend", allow_module_level=True)

from ampconvert.errors import UserError  # noqa: E402
from ampconvert.training.keras import guard_keras, prepare_keras  # noqa: E402
from ampconvert.training.prepare import Forward  # noqa: E402
from ampconvert.training.steps import skip_nonfinite_steps  # noqa: E402

layers = keras.layers
pytestmark = pytest.mark.filterwarnings("ignore")
Arrays = tuple[np.ndarray, np.ndarray]


@pytest.mark.parametrize("dtype", ["float16", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_a_plain_torch_loop(dtype: str) -> None:
    x, y = (torch.from_numpy(part) for part in data())
    losses = {}
    for low in (None, dtype):
        model = network()
        if low is not None:
            prepare_keras(model, low)
        optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=1e-2)
        if low is not None:
            skip_nonfinite_steps(optimizer, model, init_scale=1024.0)
        for _ in range(20):
            loss = torch.nn.functional.cross_entropy(model(x, training=True), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[low] = loss.item()
    assert losses[dtype] < 1.0
    assert losses[dtype] == pytest.approx(losses[None], rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_fit(dtype: str) -> None:
    full = network()
    expected = fit(full, epochs=5)
    model = prepare_keras(network(), dtype)
    guard = compiled_guard(model)
    losses = fit(model, epochs=5)
    assert losses[-1] == pytest.approx(expected[-1], rel=0.05)
    assert guard.steps == 5 * 6 and guard.skipped == 0
    assert training_of(model).subgraphs
    assert model.predict(data()[0], verbose=0).dtype == np.float32


def test_it_is_one_graph() -> None:
    """Norms in training, too: their axes are a tracked list, which Dynamo stops at."""
    model = prepare_keras(network(), "float16")
    model(torch.from_numpy(data()[0]), training=True)
    assert len(training_of(model).subgraphs) == 1


@pytest.mark.slow
def test_a_skipped_update_changes_nothing() -> None:
    model = prepare_keras(network(), "float16")
    guard = compiled_guard(model)
    fit(model, epochs=1)
    optimizer = model.optimizer
    before = [value.numpy().copy() for value in (*model.trainable_variables, *optimizer.variables)]
    grads = [torch.ones_like(v.value) for v in model.trainable_variables]
    grads[-1][0] = torch.inf
    optimizer.apply(grads, model.trainable_variables)
    after = [value.numpy() for value in (*model.trainable_variables, *optimizer.variables)]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert (guard.skipped, guard.scale) == (1, 512.0)

    grads[-1][0] = 1.0
    optimizer.apply(grads, model.trainable_variables)
    assert not np.array_equal(before[0], model.trainable_variables[0].numpy())
    assert guard.skipped == 1


@pytest.mark.slow
def test_the_guard_can_be_removed_and_made_again() -> None:
    model = prepare_keras(network(), "float16")
    guard = compiled_guard(model)
    assert guard_keras(model) is guard
    guard.remove()
    fit(model, epochs=1)
    assert guard.steps == 0 and guard.scale == 1.0
    again = guard_keras(model, init_scale=1024.0)
    fit(model, epochs=1)
    assert again.steps == 6 and again.scale == 1024.0


@pytest.mark.slow
def test_gradients_accumulate() -> None:
    model = prepare_keras(network(), "float16")
    guard = compiled_guard(model, gradient_accumulation_steps=2)
    losses = fit(model, epochs=5)
    assert guard.steps == 30 and losses[-1] < losses[0]


@pytest.mark.slow
def test_saved_weights_are_kerass_own(tmp_path: Any) -> None:
    """The file of a prepared model loads into one that is not, and the other way round."""
    model = prepare_keras(network(), "float16")
    compiled_guard(model)
    fit(model, epochs=1)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert not isinstance(loaded.forward, Forward)
    for a, b in zip(model.variables, loaded.variables, strict=True):
        assert np.array_equal(a.numpy(), b.numpy())
    prepare_keras(loaded, "float16").save_weights(tmp_path / "again.weights.h5")
    network().load_weights(tmp_path / "again.weights.h5")


@pytest.mark.slow
def test_functional_and_subclassed_models() -> None:
    inputs = keras.Input((8, 8, 1))
    hidden = layers.Flatten()(inputs)
    branches = [layers.Dense(8, activation="gelu")(hidden) for _ in range(2)]
    functional = keras.Model(inputs, layers.Dense(4)(layers.Add()(branches)))

    class Subclassed(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.flatten, self.dense = layers.Flatten(), layers.Dense(4)

        def call(self, x: Any) -> Any:
            return self.dense(self.flatten(x))

    subclassed = Subclassed()
    subclassed.build((None, 8, 8, 1))
    for model in (functional, subclassed):
        x, _ = data()
        expected = model.predict(x, verbose=0)
        got = prepare_keras(model, "float16").predict(x, verbose=0)
        assert not np.array_equal(got, expected)
        assert np.allclose(got, expected, atol=0.02)


def test_refuses_what_makes_no_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    unbuilt = keras.Sequential([layers.Dense(3)])
    with pytest.raises(UserError, match="is not built"):
        prepare_keras(unbuilt)
    mixed = keras.Sequential([keras.Input((3,)), layers.Dense(3, dtype="mixed_float16")])
    with pytest.raises(UserError, match="has the policy mixed_float16"):
        prepare_keras(mixed)
    with pytest.raises(UserError, match="not Linear"):
        prepare_keras(torch.nn.Linear(2, 2))
    model = network()
    with pytest.raises(UserError, match=r"call model\.compile"):
        guard_keras(model)
    model.compile(optimizer="adam", loss="mse")
    with pytest.raises(UserError, match="is not prepared"):
        guard_keras(model)
    model.compile(optimizer="adam", loss="mse", jit_compile=True)
    with pytest.raises(UserError, match="jit_compile=True"):
        guard_keras(prepare_keras(model))
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())
    with pytest.raises(UserError, match="LossScaleOptimizer scales the loss itself"):
        guard_keras(model, scaled)
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(UserError, match="KERAS_BACKEND=torch"):
        prepare_keras(model)


@pytest.mark.slow
def test_kerass_own_loss_scale_works_as_well() -> None:
    """S is 1 then, as with torch.amp.GradScaler."""
    model = prepare_keras(network(), "float16")
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(1e-2))
    model.compile(optimizer=scaled, loss=loss())
    losses = [*fit(model, epochs=5)]
    assert losses[-1] < losses[0]
    assert training_of(model).scaling.value() == 1.0


def network() -> Any:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )


def data() -> Arrays:
    """48 pictures of which a quarter is bright, and which one."""
    random = np.random.default_rng(0)
    y = random.integers(4, size=48)
    x = random.random((48, 8, 8, 1), dtype=np.float32)
    for picture, corner in zip(x, y, strict=True):
        picture[4 * (corner // 2) :, 4 * (corner % 2) :][:4, :4] += 1
    return x, y


def loss() -> Any:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def compiled_guard(model: Any, **options: Any) -> Any:
    model.compile(optimizer=keras.optimizers.Adam(1e-2, **options), loss=loss())
    # Gradients of this net are beyond 1: at the usual 65536 the first steps would be skipped.
    return guard_keras(model, init_scale=1024.0)


def fit(model: Any, epochs: int) -> list[float]:
    if getattr(model, "optimizer", None) is None:
        model.compile(optimizer=keras.optimizers.Adam(1e-2), loss=loss())
    history = model.fit(*data(), batch_size=8, epochs=epochs, shuffle=False, verbose=0)
    return list(history.history["loss"])


def training_of(model: Any) -> Any:
    assert isinstance(model.forward, Forward)
    return model.forward.training

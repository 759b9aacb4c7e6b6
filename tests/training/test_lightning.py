"""Lightning with the plugin trains as a plain loop with the two lines does, bit for bit."""

from __future__ import annotations

import importlib.util
import logging
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from ampconvert.errors import UserError
from ampconvert.training.lightning import AmpconvertPrecision, called_modules
from ampconvert.training.prepare import Forward, prepare_training, trainings_of
from ampconvert.training.steps import KEY, skip_nonfinite_steps

DTYPES = ["float16", "bfloat16"]
# Lightning has much to say of small data sets, missing loggers and idle processors.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("clip", [None, "norm", "value"])
def test_trains_as_a_plain_loop_does(dtype: str, clip: str | None) -> None:
    module = classifier()
    fit(module, dtype, gradient_clip_val=0.1 if clip else None, gradient_clip_algorithm=clip)
    expected = plain(dtype, batches(), clip=clip)
    assert_equal(module.net, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_accumulates_as_a_plain_loop_does(dtype: str) -> None:
    module = classifier()
    fit(module, dtype, accumulate_grad_batches=2)
    assert_equal(module.net, plain(dtype, batches(), accumulate=2))


@pytest.mark.parametrize("with_closure", [False, True])
def test_manual_optimization(with_closure: bool) -> None:
    pl = lightning()

    class Manual(classifier_class(pl)):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: list[Tensor], index: int) -> None:
            optimizer = self.optimizers()

            def closure() -> Tensor:
                loss = super(Manual, self).training_step(batch, index)
                optimizer.zero_grad()
                self.manual_backward(loss)
                return loss

            if with_closure:
                optimizer.step(closure=closure)
            else:
                closure()
                optimizer.step()

    module = seeded(Manual)
    fit(module, "float16")
    assert_equal(module.net, plain("float16", batches()))


def test_a_step_that_is_not_finite_is_skipped_and_told() -> None:
    module = classifier()
    trainer = fit(module, "float16", data=batches(bad=3), max_epochs=1)
    expected = plain("float16", [b for i, b in enumerate(batches()) if i != 3], epochs=1)
    assert_equal(module.net, expected)
    logged = trainer.callback_metrics
    assert logged["ampconvert/skipped"].item() == 1
    assert logged["ampconvert/loss_scale"].item() == 32768


def test_resumes_where_it_stopped(tmp_path: Path) -> None:
    data = batches(bad=2)
    whole = classifier()
    fit(whole, "float16", data=data, max_epochs=2)

    first = classifier()
    trainer = fit(first, "float16", data=data, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    state = torch.load(tmp_path / "one.ckpt", weights_only=False)
    assert KEY in state["optimizer_states"][0] and not state.get("AmpconvertPrecision")

    second = classifier(seed=1)
    resumed = fit(second, "float16", data=data, max_epochs=2, ckpt_path=tmp_path / "one.ckpt")
    assert_equal(second.net, whole.net)
    [guard] = resumed.precision_plugin.guards
    assert (guard.skipped, guard.scale) == (2, 16384.0)


def test_a_module_with_a_forward_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    pl = lightning()

    class Whole(classifier_class(pl)):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) * 2

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

    module = seeded(Whole)
    fit(module, "float16")
    assert isinstance(module.forward, Forward) and module.forward.training.subgraphs
    assert not [r for r in caplog.records if r.name == "ampconvert.training"]

    net = seeded(network)
    twin = prepare_training(Twice(net), "float16")
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    skip_nonfinite_steps(optimizer, twin)
    for _ in range(2):
        train(twin, batches(), [optimizer])
    assert_equal(module.net, net)


def test_says_when_nothing_prepared_is_called(caplog: pytest.LogCaptureFixture) -> None:
    pl = lightning()

    class Past(classifier_class(pl)):  # type: ignore[misc]
        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            out = batch[0]
            for layer in self.net:
                out = layer(out)
            return F.cross_entropy(out, batch[1])

    with caplog.at_level(logging.WARNING, "ampconvert.training"):
        fit(seeded(Past), "float16")
    [record] = [r for r in caplog.records if r.name == "ampconvert.training"]
    assert "modules=[...]" in record.getMessage()

    caplog.clear()
    module = seeded(Past)
    fit(module, "float16", modules=["net.0", "net.3"])
    assert not [r for r in caplog.records if r.name == "ampconvert.training"]
    assert [name for name, m in module.named_modules() if "forward" in vars(m)] == [
        "net.0",
        "net.3",
    ]


def test_two_optimizers() -> None:
    """One overflow in each model lowers its scale once, whoever finds it. The first optimizer hears
    of the second model's overflow at its next step, and can't tell that it is none of its own.
    """
    pl = lightning()

    class Two(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.parts = nn.ModuleList([network(), network()])

        def training_step(self, batch: list[Tensor], _: int) -> None:
            for part, optimizer in zip(self.parts, self.optimizers(), strict=True):
                optimizer.zero_grad()
                self.manual_backward(F.cross_entropy(part(batch[0]), batch[1]))
                optimizer.step()

        def configure_optimizers(self) -> list[torch.optim.Optimizer]:
            return [torch.optim.AdamW(part.parameters(), lr=1e-2) for part in self.parts]

    module = seeded(Two)
    trainer = fit(module, "float16", data=batches(bad=1), max_epochs=1)
    first, second = trainer.precision_plugin.guards
    assert 1 <= first.skipped <= 2 and second.skipped == 1
    assert {t.scaling.value() for t in trainings_of(module)} == {32768.0}


def test_evaluates_what_it_trained() -> None:
    module = classifier()
    trainer = fit(module, "bfloat16")
    [results] = trainer.validate(module, DataLoader(dataset(batches()), 8), verbose=False)
    with torch.no_grad():
        right = [(module.net(x).argmax(-1) == y).float().mean() for x, y in batches()]
    assert results["accuracy"] == pytest.approx(float(torch.stack(right).mean()), abs=1e-6)


def test_the_other_package() -> None:
    pl = pytest.importorskip("pytorch_lightning")
    module = seeded(classifier_class(pl))
    plugin = AmpconvertPrecision("float16", package="pytorch_lightning")
    assert isinstance(plugin, pl.plugins.precision.Precision)
    fit(module, "float16", pl=pl, package="pytorch_lightning")
    assert_equal(module.net, plain("float16", batches()))


def test_the_plugin_can_be_pickled() -> None:
    lightning()
    plugin = AmpconvertPrecision("bf16", modules=["net"], loss_scale="layerwise")
    twin = pickle.loads(pickle.dumps(plugin))
    assert twin.settings == plugin.settings and type(twin) is type(plugin)
    assert twin.precision == "bf16-mixed"


def test_finds_the_outermost_modules_with_a_forward() -> None:
    """Through lists and dictionaries, which have none; a loss or metric has no parameters."""

    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.ModuleList([network()])})
            self.again = self.parts["a"]
            self.loss = nn.CrossEntropyLoss()

    steps = Steps()
    assert called_modules(steps) == [steps.parts["a"], steps.parts["b"][0]]
    whole = Twice(network())
    assert called_modules(whole) == [whole, whole.net]
    assert called_modules(nn.ModuleList()) == []


def test_refuses_what_makes_no_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="package is one of lightning, pytorch_lightning"):
        AmpconvertPrecision("float16", package="fabric")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("sys.modules", {})
    with pytest.raises(UserError, match="pip install lightning"):
        AmpconvertPrecision("float16")


def test_refuses_names_that_no_module_has() -> None:
    lightning()
    module = Twice(network())
    with pytest.raises(UserError, match=r"no module named .encoder.; there are net, net\.0"):
        AmpconvertPrecision("float16", modules=["encoder"]).convert_module(module)
    with pytest.raises(UserError, match="ModuleList has no module with a forward"):
        AmpconvertPrecision("float16").convert_module(nn.ModuleList())
    with pytest.raises(UserError, match="use fp16 or bf16"):
        AmpconvertPrecision("int8")


class Twice(nn.Module):
    """A module around another."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * 2


def lightning() -> Any:
    return pytest.importorskip("lightning.pytorch")


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 4))


def classifier_class(pl: Any) -> type[Any]:
    class Classifier(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch: list[Tensor], _: int) -> None:
            right = self.net(batch[0]).argmax(-1) == batch[1]
            self.log("accuracy", right.float().mean(), batch_size=len(right))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    return Classifier


def classifier(seed: int = 0) -> Any:
    return seeded(classifier_class(lightning()), seed)


def seeded(make: Callable[[], Any], seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return make()


def batches(bad: int | None = None) -> list[tuple[Tensor, Tensor]]:
    """Six batches of eight; number `bad` has an infinity in it."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for i in range(6):
        x = torch.randn(8, 6, generator=generator)
        if i == bad:
            x[0, 0] = torch.inf
        made.append((x, torch.randint(4, (8,), generator=generator)))
    return made


def dataset(data: list[tuple[Tensor, Tensor]]) -> TensorDataset:
    return TensorDataset(torch.cat([x for x, _ in data]), torch.cat([y for _, y in data]))


def fit(
    module: Any,
    dtype: str,
    *,
    data: list[tuple[Tensor, Tensor]] | None = None,
    pl: Any = None,
    max_epochs: int = 2,
    modules: Iterable[str] = (),
    package: str | None = None,
    ckpt_path: Path | None = None,
    **options: Any,
) -> Any:
    trainer = (pl or lightning()).Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        devices=1,
        plugins=AmpconvertPrecision(dtype, modules=list(modules), package=package),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, DataLoader(dataset(data or batches()), 8), ckpt_path=ckpt_path)
    return trainer


def plain(
    dtype: str,
    data: list[tuple[Tensor, Tensor]],
    *,
    clip: str | None = None,
    accumulate: int = 1,
    epochs: int = 2,
) -> nn.Module:
    """The same training without Lightning."""
    model = prepare_training(seeded(network), dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    if dtype == "float16":
        skip_nonfinite_steps(optimizer, model)
    for _ in range(epochs):
        train(model, data, [optimizer], clip, accumulate)
    return model


def train(
    model: nn.Module,
    data: list[tuple[Tensor, Tensor]],
    optimizers: list[torch.optim.Optimizer],
    clip: str | None = None,
    accumulate: int = 1,
) -> None:
    for i, (x, y) in enumerate(data):
        (F.cross_entropy(model(x), y) / accumulate).backward()
        if (i + 1) % accumulate:
            continue
        if clip == "norm":
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        if clip == "value":
            nn.utils.clip_grad_value_(model.parameters(), 0.1)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


def assert_equal(model: nn.Module, expected: nn.Module) -> None:
    for (name, value), (_, other) in zip(
        model.state_dict().items(), expected.state_dict().items(), strict=True
    ):
        assert torch.equal(value, other), name

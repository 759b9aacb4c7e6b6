"""Hugging Face's Trainer with the callback trains as a plain loop does, and resumes exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ampconvert.errors import UserError
from ampconvert.training.prepare import Forward, prepare_training
from ampconvert.training.steps import KEY, skip_nonfinite_steps

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from ampconvert.training.transformers import AmpconvertCallback  # noqa: E402

# The Trainer warns of what small runs lack.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("dtype", ["float16", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_trains_as_with_the_two_lines(dtype: str, tmp_path: Path) -> None:
    model = gpt()
    trainer = run(model, tmp_path, dtype, optimizers=(adamw(model), None))
    assert_equal(model, by_hand(dtype, tmp_path))
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 6
    if dtype == "float16":
        assert {entry["ampconvert/loss_scale"] for entry in logged} == {65536.0}
        assert [entry["ampconvert/steps"] for entry in logged] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_resumes_where_it_stopped(tmp_path: Path) -> None:
    """With a step skipped on the way: then the loss scale is not the first one."""
    whole = gpt()
    run(whole, tmp_path / "whole", "float16", poison=2, save_steps=3)
    state = torch.load(tmp_path / "whole/checkpoint-3/optimizer.pt", weights_only=True)
    assert state[KEY]["skipped"] == 1

    again = gpt(seed=1)
    callback = AmpconvertCallback("float16")
    trainer = trainer_of(again, tmp_path / "again", callback, save_steps=3)
    trainer.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-3"))
    assert_equal(again, whole)
    assert callback.guard is not None
    assert (callback.guard.skipped, callback.guard.scale) == (1, 32768.0)


@pytest.mark.slow
def test_a_skipped_step_does_not_move_the_learning_rate(tmp_path: Path) -> None:
    model = gpt()
    trainer = run(model, tmp_path, "float16", poison=1, lr_scheduler_type="linear")
    rates = [e["learning_rate"] for e in trainer.state.log_history if "learning_rate" in e]
    assert rates[1] == rates[2] and rates[0] > rates[1] and rates[2] > rates[3]


@pytest.mark.slow
def test_the_model_is_as_it_was_but_for_its_weights(tmp_path: Path) -> None:
    model = gpt()
    names = list(model.state_dict())
    trainer = run(model, tmp_path / "run", "float16")
    assert isinstance(model.forward, Forward)
    assert list(model.state_dict()) == names
    assert trainer.evaluate()["eval_loss"] > 0
    ids = torch.arange(5)[None]
    assert model.eval().generate(ids, max_new_tokens=3, do_sample=False).shape == (1, 8)
    model.save_pretrained(tmp_path / "saved")
    loaded = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "saved")
    assert_equal(loaded, model)


@pytest.mark.slow
def test_training_goes_on(tmp_path: Path) -> None:
    """A second train() keeps what the first one learnt of the loss scale."""
    callback = AmpconvertCallback("float16")
    trainer = trainer_of(gpt(), tmp_path, callback, Poison(1))
    trainer.train()
    training = trainer.model.forward.training
    trainer.train()
    assert trainer.model.forward.training is training
    assert callback.guard is not None and callback.guard.scale == 32768.0 / 2


@pytest.mark.slow
def test_accumulates_and_clips(tmp_path: Path) -> None:
    model, arguments = gpt(), {"gradient_accumulation_steps": 2, "max_grad_norm": 0.05}
    run(model, tmp_path, "float16", optimizers=(adamw(model), None), **arguments)
    assert_equal(model, by_hand("float16", tmp_path, **arguments))


@pytest.mark.parametrize("name", ["bf16", "bf16_full_eval", "torch_compile"])
def test_refuses_arguments_that_do_the_same_work(name: str, tmp_path: Path) -> None:
    trainer = trainer_of(gpt(), tmp_path, AmpconvertCallback("bfloat16"), **{name: True})
    with pytest.raises(UserError, match=f"leave {name} out of TrainingArguments"):
        trainer.train()


class Poison(transformers.TrainerCallback):  # type: ignore[misc]
    """Makes the gradient of one step infinite."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            next(kwargs["model"].parameters()).grad.view(-1)[0] = torch.inf


def gpt(seed: int = 0) -> Any:
    config = transformers.GPT2Config(
        vocab_size=16, n_positions=8, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0,
        attn_pdrop=0, use_cache=False, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(seed)
    return transformers.GPT2LMHeadModel(config)


def data() -> list[dict[str, Tensor]]:
    """Twelve sentences of eight words."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(16, (12, 8), generator=generator)
    return [{"input_ids": row, "labels": row} for row in ids]


def run(model: Any, folder: Path, dtype: str, poison: int | None = None, **arguments: Any) -> Any:
    callbacks = [] if poison is None else [Poison(poison)]
    trainer = trainer_of(model, folder, AmpconvertCallback(dtype), *callbacks, **arguments)
    trainer.train()
    return trainer


def by_hand(dtype: str, folder: Path, **arguments: Any) -> nn.Module:
    """The Trainer without the callback, given a prepared model and a guarded optimizer."""
    model = prepare_training(gpt(), dtype)
    optimizer = adamw(model)
    if dtype == "float16":
        skip_nonfinite_steps(optimizer, model)
    trainer_of(model, folder, optimizers=(optimizer, None), **arguments).train()
    return model


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-2)


def trainer_of(
    model: Any, folder: Path, *callbacks: Any, optimizers: Any = (None, None), **arguments: Any
) -> Any:
    settings = {
        "max_steps": 6, "per_device_train_batch_size": 2, "learning_rate": 1e-2,
        "lr_scheduler_type": "constant", "logging_steps": 1, "save_strategy": "no",
        "report_to": "none", "disable_tqdm": True, "use_cpu": True, "seed": 0,
    }  # fmt: skip
    if "save_steps" in arguments:
        settings["save_strategy"] = "steps"
    return transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(str(folder), **(settings | arguments)),
        train_dataset=data(),
        eval_dataset=data(),
        callbacks=list(callbacks),
        optimizers=optimizers,
    )


def assert_equal(model: nn.Module, expected: nn.Module) -> None:
    for (name, value), (_, other) in zip(
        model.state_dict().items(), expected.state_dict().items(), strict=True
    ):
        assert torch.equal(value, other), name

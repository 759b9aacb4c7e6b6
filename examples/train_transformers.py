"""Training with Hugging Face's Trainer: one callback.

    pip install transformers accelerate
    python examples/train_transformers.py --dtype fp16

A GPT-2 of two layers learns to write Python, character by character, from a file of the standard
library. It is built from a configuration: nothing is downloaded.
"""

import argparse
import inspect
import tempfile

import torch
from torch.utils.data import Dataset
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from ampconvert.training.transformers import AmpconvertCallback

LENGTH = 64


class Characters(Dataset):
    """Pieces of a text, int64[LENGTH] each."""

    def __init__(self, text: str) -> None:
        ids = torch.tensor(list(text.encode()))
        self.pieces = ids[: len(ids) // LENGTH * LENGTH].view(-1, LENGTH)

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.pieces[i], "labels": self.pieces[i]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dtype", choices=("fp16", "bf16"), default="fp16")
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()

    set_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=gpt(),
            args=TrainingArguments(
                folder,
                max_steps=options.steps,
                per_device_train_batch_size=16,
                learning_rate=3e-3,
                logging_steps=options.steps // 4,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=Characters(inspect.getsource(argparse)),
            callbacks=[AmpconvertCallback(options.dtype)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    for entry in trainer.state.log_history:
        if "loss" in entry:
            scale = entry.get("ampconvert/loss_scale", 1)
            print(f"step {entry['step']}: loss {entry['loss']:.3f}, loss scale {scale:g}")


def gpt() -> GPT2LMHeadModel:
    """Two layers of width 64 over bytes."""
    config = GPT2Config(
        vocab_size=256, n_positions=LENGTH, n_embd=64, n_layer=2, n_head=4,
        bos_token_id=0, eos_token_id=0, use_cache=False,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


if __name__ == "__main__":
    main()

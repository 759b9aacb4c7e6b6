"""A character-level GPT that the zoo trains itself: norms and attention written out by hand."""

from __future__ import annotations

import string

import torch
from torch import nn

from ..data import TEXT, cache_folder
from ..registry import Sample, batches_of, entry

CHARACTERS = "\n" + string.printable[:95]  # what else the text holds becomes "?"
WIDTH, LAYERS, HEADS, HIDDEN, CONTEXT = 128, 4, 4, 352, 64
STEPS, ROWS = 400, 32


class RmsNorm(nn.Module):
    """Root mean square norm of x [..., width], as many models spell it: pow, mean, rsqrt."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., width] scaled to a root mean square of 1, then by the weight."""
        found: torch.Tensor = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight
        return found


class Block(nn.Module):
    """Causal self-attention and SwiGLU (Shazeer 2020), each behind a norm and with a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention, self.before_mlp = RmsNorm(WIDTH), RmsNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.gate = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.up = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.down = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """x [rows, length, width] and an additive mask [length, length]."""
        x = x + self.out(self._attend(self.before_attention(x), mask))
        inner = self.before_mlp(x)
        found: torch.Tensor = x + self.down(nn.functional.silu(self.gate(inner)) * self.up(inner))
        return found

    def _attend(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        rows, length, _ = x.shape
        q, k, v = (
            part.view(rows, length, HEADS, WIDTH // HEADS).transpose(1, 2)
            for part in self.qkv(x).split(WIDTH, dim=-1)
        )
        scores = q @ k.transpose(-1, -2) * (WIDTH // HEADS) ** -0.5 + mask
        mixed: torch.Tensor = scores.softmax(-1) @ v
        return mixed.transpose(1, 2).reshape(rows, length, WIDTH)


class SmallGpt(nn.Module):
    """Character ids [rows, length up to CONTEXT] to logits [rows, length, len(CHARACTERS)]."""

    mask: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(len(CHARACTERS), WIDTH)
        self.position = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = RmsNorm(WIDTH)
        self.head = nn.Linear(WIDTH, len(CHARACTERS), bias=False)
        self.register_buffer("mask", torch.full((CONTEXT, CONTEXT), -1e4).triu(1))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """The logits of each next character."""
        length = ids.shape[1]
        x = self.token(ids) + self.position.weight[:length]
        for block in self.blocks:
            x = block(x, self.mask[:length, :length])
        logits: torch.Tensor = self.head(self.norm(x))
        return logits


@entry("small_gpt", domain="text", trained=True, logits=True)
def small_gpt() -> Sample:
    """A pre-norm GPT of four layers with RMSNorm written out, trained in place on characters."""
    model, text = SmallGpt(), _encoded()
    path = cache_folder() / "small_gpt.pt"
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
    else:
        _train(model, text)
        torch.save(model.state_dict(), path)
    far = len(text) // 5
    return Sample(
        model,
        batches_of(lambda i: text[i * far : i * far + 4 * CONTEXT].view(4, CONTEXT)),
        "trained in place",
        TEXT,
    )


def _encoded() -> torch.Tensor:
    from pydoc_data.topics import topics

    place = {character: i for i, character in enumerate(CHARACTERS)}
    text = "\n".join(topics[key] for key in sorted(topics))
    return torch.tensor([place.get(c, place["?"]) for c in text])


def _train(model: SmallGpt, text: torch.Tensor) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=STEPS)
    for step in range(STEPS):
        make = torch.Generator().manual_seed(step)
        starts = torch.randint(len(text) - CONTEXT - 1, (ROWS, 1), generator=make)
        rows = text[starts + torch.arange(CONTEXT + 1)]
        logits, wanted = model(rows[:, :-1]), rows[:, 1:, None]
        loss = (logits.logsumexp(-1) - logits.gather(-1, wanted)[..., 0]).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()

"""Balancing a pole on a cart (Barto, Sutton and Anderson 1983), many carts at once, and its policy.

The physics are those of the classic control task: a force of 10 N to the left or right, Euler steps
of 20 ms, the end at 12 degrees or 2.4 m. The policy learns by advantage actor-critic, with
generalised advantages (Schulman et al. 2016).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

GRAVITY, CART, POLE, HALF_LENGTH, FORCE, STEP_S = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
MAX_ANGLE, MAX_PLACE = 12 * math.pi / 180, 2.4
LIMIT = 200  # steps of an episode at most
GAMMA, LAMBDA = 0.98, 0.95
ENTROPY, VALUE = 0.01, 0.5  # weights of these terms in the loss

Model = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Segment:
    """What some steps of all carts showed: states [n, 4], actions, returns and advantages [n]."""

    states: Tensor
    actions: Tensor
    returns: Tensor
    advantages: Tensor


def push(state: Tensor, action: Tensor) -> Tensor:
    """The states [n, 4] (place, speed, angle, its speed) 20 ms after a push: 0 left, 1 right."""
    place, speed, angle, turning = state.unbind(-1)
    force = FORCE * (2.0 * action - 1.0)
    sin, cos = angle.sin(), angle.cos()
    total = CART + POLE
    drive = (force + POLE * HALF_LENGTH * turning.square() * sin) / total
    twist = (GRAVITY * sin - cos * drive) / (
        HALF_LENGTH * (4.0 / 3.0 - POLE * cos.square() / total)
    )
    pull = drive - POLE * HALF_LENGTH * twist * cos / total
    moved = (speed, pull, turning, twist)
    return torch.stack(
        [old + STEP_S * d for old, d in zip((place, speed, angle, turning), moved, strict=True)], -1
    )


def fallen(state: Tensor) -> Tensor:
    """Which of the states [n, 4] end an episode."""
    return (state[:, 0].abs() > MAX_PLACE) | (state[:, 2].abs() > MAX_ANGLE)


def segments(model: Model, carts: int, steps: int, seed: int) -> Iterator[Segment]:
    """Endless segments of `steps` steps with `carts` carts, driven by what `model` is by then."""
    generator = torch.Generator().manual_seed(seed)
    state, age = _fresh(carts, generator), torch.zeros(carts)
    while True:
        seen: list[tuple[Tensor, ...]] = []
        for _ in range(steps):
            with torch.no_grad():
                scores, value = model(state)
            chances = scores.float().softmax(-1)[:, 1].nan_to_num(0.5)
            action = (torch.rand(carts, generator=generator) < chances).float()
            after, age = push(state, action), age + 1
            down, out = fallen(after), age >= LIMIT
            seen.append((state, action, value.float(), down, out & ~down))
            over = down | out
            state = torch.where(over[:, None], _fresh(carts, generator), after)
            age = torch.where(over, 0.0, age)
        with torch.no_grad():
            last = model(state)[1].float()
        yield _learned(seen, last)


def _fresh(carts: int, generator: torch.Generator) -> Tensor:
    return 0.1 * torch.rand(carts, 4, generator=generator) - 0.05


def _learned(seen: list[tuple[Tensor, ...]], last: Tensor) -> Segment:
    states, actions, values, down, cut = (torch.stack(column) for column in zip(*seen, strict=True))
    advantages, running, after = torch.zeros_like(values), torch.zeros_like(last), last
    for t in reversed(range(len(seen))):
        # An episode that was cut at the limit did not fail: its own value stands for what follows.
        ahead = torch.where(cut[t], values[t], after) * ~down[t]
        surprise = 1.0 + GAMMA * ahead - values[t]
        running = surprise + GAMMA * LAMBDA * running * ~(down[t] | cut[t])
        advantages[t], after = running, values[t]
    returns = (advantages + values).flatten()
    flat = advantages.flatten()
    scaled = (flat - flat.mean()) / (flat.std() + 1e-6)
    return Segment(states.flatten(0, 1), actions.flatten().long(), returns, scaled)


def actor_critic(model: Model, segment: Segment) -> Tensor:
    """The loss: policy gradient, squared error of the value, and a bonus for entropy."""
    scores, value = model(segment.states)
    chances = scores.float().log_softmax(-1)
    taken = chances.gather(1, segment.actions[:, None]).squeeze(1)
    error = (segment.returns - value.float()).square().mean() / 100
    entropy = -(chances.exp() * chances).sum(-1).mean()
    return -(taken * segment.advantages).mean() + VALUE * error - ENTROPY * entropy


def balance(model: Model, carts: int = 32) -> float:
    """The mean share of LIMIT steps that the likelier action keeps a pole up."""
    state, up = _fresh(carts, torch.Generator().manual_seed(12345)), torch.ones(carts).bool()
    lasted = torch.zeros(carts)
    for _ in range(LIMIT):
        with torch.no_grad():
            scores, _ = model(state)
        state = push(state, scores.float().argmax(-1).float())
        up &= ~fallen(state)
        lasted += up
        if not up.any():
            break
    return float(lasted.mean()) / LIMIT

"""Reinforcement learning: policies as stable-baselines3 builds them."""

from __future__ import annotations

from typing import Any

from ..data import random_batches
from ..registry import Sample, entry
from ..wrap import Call


@entry("sb3_mlp_policy", domain="reinforcement", logits=True)
def sb3_mlp_policy() -> Sample:
    """An actor-critic MLP over eight observations: action logits and the value."""
    import numpy as np
    from gymnasium.spaces import Box, Discrete
    from stable_baselines3.common.policies import ActorCriticPolicy

    space = Box(-np.inf, np.inf, (8,), np.float32)
    policy = ActorCriticPolicy(space, Discrete(4), lambda _: 3e-4)
    return Sample(Call(policy, _actor_critic), random_batches((4, 8), scale=3.0))


@entry("sb3_cnn_policy", domain="reinforcement", logits=True)
def sb3_cnn_policy() -> Sample:
    """The Nature CNN policy over four stacked 84 x 84 frames, bytes 0..255 in."""
    import numpy as np
    import torch
    from gymnasium.spaces import Box, Discrete
    from stable_baselines3.common.policies import ActorCriticCnnPolicy

    space = Box(0, 255, (4, 84, 84), np.uint8)
    policy = ActorCriticCnnPolicy(space, Discrete(6), lambda _: 3e-4)
    frames = [
        torch.randint(0, 256, (1, 4, 84, 84), generator=torch.Generator().manual_seed(i)).byte()
        for i in range(4)
    ]
    return Sample(Call(policy, _actor_critic), [((frame,), {}) for frame in frames])


def _actor_critic(policy: Any, observation: Any) -> Any:
    """Action logits and value, without drawing an action."""
    features = policy.extract_features(observation)
    actor, critic = policy.mlp_extractor(features)
    return policy.action_net(actor), policy.value_net(critic)


@entry("sac_actor", domain="reinforcement")
def sac_actor() -> Sample:
    """SAC's actor: clamped log-std, a tanh-squashed sample, its log-probability."""
    import torch
    from torch import nn

    class Actor(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(17, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
            self.mean, self.log_std = nn.Linear(256, 6), nn.Linear(256, 6)

        def forward(
            self, seen: torch.Tensor, noise: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            h = self.body(seen)
            log_std = self.log_std(h).clamp(-20, 2)
            normal = torch.distributions.Normal(self.mean(h), log_std.exp(), validate_args=False)
            raw = normal.loc + normal.scale * noise
            action = raw.tanh()
            log_prob = normal.log_prob(raw) - torch.log(1 - action**2 + 1e-6)  # type: ignore[no-untyped-call]
            return action, log_prob.sum(-1)

    return Sample(Actor(), random_batches((4, 17), (4, 6)))

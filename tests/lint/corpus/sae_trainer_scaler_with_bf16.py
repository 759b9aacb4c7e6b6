# Thread: https://github.com/decoderesearch/SAELens/pull/723
# Title: fix: remove the unused GradScaler from SAETrainer
# Wrong: autocast is fixed to bfloat16, so the GradScaler has nothing to do: it costs a check each step and can skip steps silently.
import contextlib

import torch


class SparseTrainer:
    def __init__(self, sae, activations, cfg):
        self.sae, self.activations, self.cfg = sae, activations, cfg
        self.optimizer = torch.optim.Adam(sae.parameters(), lr=cfg.lr, betas=(0.9, 0.999))
        self.grad_scaler = torch.amp.GradScaler("cuda", enabled=True)  # expect: AMP207
        if cfg.autocast:
            self.autocast_if_enabled = torch.autocast("cuda", dtype=torch.bfloat16)
        else:
            self.autocast_if_enabled = contextlib.nullcontext()

    def step(self, x):
        self.sae.train()
        with self.autocast_if_enabled:
            out = self.sae.training_forward_pass(x, dead_neurons=self.cfg.dead)
        self.grad_scaler.scale(out.loss).backward()
        self.grad_scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.sae.parameters(), 1.0)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        self.optimizer.zero_grad()
        return out

    def fit(self, steps):
        for _ in range(steps):
            self.step(next(self.activations))

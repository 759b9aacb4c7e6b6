# Thread: https://github.com/hirofumi0810/neural_sp/pull/136
# Title: Fix bug in mixed precision training
# Wrong: update() runs after every micro-batch, so gradients made with different loss scales are added up before the step.
import torch


class ASRLoop:
    def __init__(self, model, optimizer, accum_grad_n_steps):
        self.model = model
        self.optimizer = optimizer
        self.n_accum = accum_grad_n_steps
        self.scaler = torch.amp.GradScaler("cuda")
        self.count = 0

    def train_batch(self, feats, labels):
        with torch.autocast("cuda", dtype=torch.float16):
            loss = self.model(feats, labels) / self.n_accum
        self.scaler.scale(loss).backward()
        self.count += 1
        if self.count % self.n_accum == 0:
            self.scaler.step(self.optimizer)
            self.optimizer.zero_grad()
        self.scaler.update()  # expect: AMP206
        return loss.item() * self.n_accum

    def run(self, loader, epochs):
        for _ in range(epochs):
            for feats, labels in loader:
                self.train_batch(feats.cuda(), labels.cuda())

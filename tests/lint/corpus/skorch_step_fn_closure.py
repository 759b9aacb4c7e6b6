# Thread: https://github.com/skorch-dev/skorch/pull/826
# Title: Experimental support for accelerate
# Wrong: The train step is handed to the scaler as closure=..., which GradScaler.step refuses with a RuntimeError.
import torch


class NetWrapper:
    def __init__(self, module, criterion, optimizer, lr=0.01):
        self.module_ = module.cuda()
        self.criterion_ = criterion()
        self.optimizer_ = optimizer(self.module_.parameters(), lr=lr)
        self.scaler_ = torch.amp.GradScaler("cuda")

    def train_step_single(self, Xi, yi):
        with torch.autocast("cuda", dtype=torch.float16):
            loss = self.criterion_(self.module_(Xi), yi)
        self.scaler_.scale(loss).backward()
        return loss

    def train_step(self, Xi, yi):
        accumulated = []

        def step_fn():
            self.optimizer_.zero_grad()
            loss = self.train_step_single(Xi, yi)
            accumulated.append(loss.detach())
            return loss

        self.scaler_.step(self.optimizer_, closure=step_fn)  # expect: AMP213
        self.scaler_.update()
        return accumulated[-1]

    def fit(self, batches, max_epochs=10):
        for _ in range(max_epochs):
            for Xi, yi in batches:
                self.train_step(Xi.cuda(), yi.cuda())
        return self

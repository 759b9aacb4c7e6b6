# Thread: https://github.com/languini-kitchen/languini-kitchen/pull/7
# Title: Unscale gradients before logging
# Wrong: Gradient norms are logged between backward and the step without unscale_, so the curves jump with the loss scale.
import torch


class LMTrainer:
    def __init__(self, config, logger, model, opt, train_batches):
        self.c, self.logger = config, logger
        self.model, self.opt = model, opt
        self.train_batches = train_batches
        self.scaler = torch.amp.GradScaler("cuda", enabled=config.use_amp)

    def train(self):
        for step in range(self.c.steps):
            x, y = next(self.train_batches)
            with torch.autocast("cuda", dtype=torch.float16, enabled=self.c.use_amp):
                loss = torch.nn.functional.cross_entropy(self.model(x).flatten(0, 1), y.flatten())
            self.scaler.scale(loss).backward()
            if step % self.c.log_every == 0:
                for name, p in self.model.named_parameters():
                    self.logger.log({name: p.grad.norm().item()}, step)  # expect: AMP204|AMP214
            self.scaler.unscale_(self.opt)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.c.clip)
            self.scaler.step(self.opt)
            self.scaler.update()
            self.opt.zero_grad()

# Thread: https://github.com/espnet/espnet/pull/2362
# Title: Fix amp
# Wrong: When the gradient norm is not finite the loop continues before scaler.update(), although unscale_ was called: RuntimeError on the next batch.
import logging
import math

import torch


class SpeechTrainer:
    def __init__(self, model, optimizer, scaler, options):
        self.model, self.optimizer = model, optimizer
        self.scaler, self.options = scaler, options

    def train_one_epoch(self, iterator, reporter):
        for _, batch in reporter.measure_iter_time(iterator, "iter_time"):
            with torch.autocast("cuda", dtype=torch.float16):
                loss, stats, weight = self.model(**batch)
            self.scaler.scale(loss).backward()
            self.scaler.unscale_(self.optimizer)
            norm = torch.nn.utils.clip_grad_norm_(
                self.model.parameters(), max_norm=self.options.grad_clip
            )
            if not math.isfinite(norm.item()):
                logging.warning("the grad norm is %s. Skipping the update.", norm)
                self.optimizer.zero_grad()
                continue  # expect: AMP203|AMP215
            self.scaler.step(self.optimizer)  # may: AMP203
            self.scaler.update()  # may: AMP203
            self.optimizer.zero_grad()
            reporter.register({"grad_norm": norm, **stats}, weight)

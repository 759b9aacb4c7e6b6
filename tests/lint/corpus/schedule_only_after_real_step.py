# Thread: https://github.com/WatChMaL/WatChMaL/pull/106
# Title: Some fixes / improvements for AMP
# Right: The schedule moves only when the scale did not drop, that is when the optimizer really stepped.
import torch


class Engine:
    def __init__(self, model, optimizer, scheduler, amp=False):
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.scaler = None
        if amp:
            self.scaler = torch.amp.GradScaler("cuda")

    def step(self, data, labels, train=True):
        with torch.autocast("cuda", dtype=torch.float16, enabled=self.scaler is not None):
            outputs = self.model(data)
            loss = torch.nn.functional.cross_entropy(outputs, labels)
        if not train:
            return loss
        self.optimizer.zero_grad()
        if self.scaler is None:
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            return loss
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        before = self.scaler.get_scale()
        self.scaler.update()
        if self.scaler.get_scale() >= before:
            self.scheduler.step()
        return loss

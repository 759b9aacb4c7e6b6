# Thread: https://github.com/facebookresearch/fairseq2/issues/1346
# Title: Attempted unscale_ but _scale is None after resuming training.
# Wrong: The trainer's own state_dict leaves the loss scaler out, so training resumed after an OOM starts with a fresh scale.
import torch


class FP16Trainer:
    def __init__(self, model, optimizer, window=128):
        self.model = model
        self.optimizer = optimizer
        self.step_nr = 0
        self.loss_scaler = torch.amp.GradScaler("cuda", growth_interval=window)

    def state_dict(self):
        return {  # expect: AMP208
            "step_nr": self.step_nr,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state):
        self.step_nr = state["step_nr"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def run_step(self, batch):
        with torch.autocast("cuda", dtype=torch.float16):
            loss = self.model(batch)
        self.loss_scaler.scale(loss).backward()
        self.loss_scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
        self.loss_scaler.step(self.optimizer)
        self.loss_scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.step_nr += 1

    def save(self, path):
        torch.save(self.state_dict(), path)

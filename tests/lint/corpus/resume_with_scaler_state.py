# Thread: https://github.com/mosaicml/composer/pull/1376
# Title: Fix AMP resumption with grad scaler
# Right: The scaler exists before the checkpoint is loaded, is saved next to the optimizer and restored if the file has it.
from pathlib import Path

import torch


class ResumableTrainer:
    def __init__(self, model, lr=1e-3, load_path=None):
        self.model = model.cuda()
        self.opt = torch.optim.Adam(self.model.parameters(), lr=lr)
        self.scaler = torch.amp.GradScaler("cuda")
        self.batches = 0
        if load_path is not None:
            self._load(Path(load_path))

    def _load(self, path):
        state = torch.load(path, map_location="cpu")
        self.model.load_state_dict(state["model"])
        self.opt.load_state_dict(state["opt"])
        if "scaler" in state:
            self.scaler.load_state_dict(state["scaler"])
        self.batches = state["batches"]

    def save(self, path):
        state = {"model": self.model.state_dict(), "opt": self.opt.state_dict()}
        state["scaler"] = self.scaler.state_dict()
        state["batches"] = self.batches
        torch.save(state, path)

    def fit(self, loader, loss_fn):
        for x, y in loader:
            with torch.autocast("cuda", dtype=torch.float16):
                loss = loss_fn(self.model(x.cuda()), y.cuda())
            self.opt.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.opt)
            self.scaler.update()
            self.batches += 1

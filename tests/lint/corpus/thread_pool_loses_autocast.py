# Thread: https://github.com/pytorch/pytorch/pull/60706
# Title: bfloat16 and cpu/cuda support for autocast and moving autocast from torch.cuda.amp to torch
# Wrong: autocast is entered in the main thread only; its state is thread-local, so the models in the worker threads run in float32.
from concurrent.futures import ThreadPoolExecutor

import torch


class Ensemble:
    def __init__(self, members):
        self.members = [m.eval().to(f"cuda:{i}") for i, m in enumerate(members)]
        self.pool = ThreadPoolExecutor(max_workers=len(members))

    def _one(self, index, batch):
        with torch.no_grad():
            return self.members[index](batch.to(f"cuda:{index}")).softmax(dim=-1).cpu()

    def predict(self, batch):
        with torch.autocast("cuda", dtype=torch.float16):  # expect: AMP107
            jobs = [self.pool.submit(self._one, i, batch) for i in range(len(self.members))]  # may: AMP107
        return torch.stack([job.result() for job in jobs]).mean(dim=0)

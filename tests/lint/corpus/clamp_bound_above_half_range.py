# Thread: https://github.com/pytorch/pytorch/issues/153187
# Title: Inconsistent overflow handling in `torch.clamp_min` between CPU and CUDA for float16 tensors
# Wrong: A half tensor is clamped at a bound that float16 cannot hold: an error on the CPU, a bound without effect on CUDA.
import numpy as np
import torch


def depth_to_half(path):
    raw = torch.from_numpy(np.load(path))
    metres = raw.to(torch.float16)
    return torch.clamp(metres, max=185208.0)  # expect: AMP403


class DepthReader:
    def __init__(self, paths):
        self.paths = list(paths)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        depth = depth_to_half(self.paths[index])
        valid = depth > 0
        return {"depth": depth, "valid": valid}

# Thread: https://github.com/karpathy/nanoGPT/pull/106
# Title: use the ``enabled`` arg in GradScaler
# Right: One scaler serves all dtypes: it is enabled for float16 only and a no-op otherwise, so the loop needs no branches.
import argparse

import torch
from torch.nn import functional as F

parser = argparse.ArgumentParser()
parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16", "float16"])
parser.add_argument("--iters", type=int, default=1000)


def main(model, stream):
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    scaler = torch.amp.GradScaler("cuda", enabled=(args.dtype == "float16"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    for _ in range(args.iters):
        x, y = next(stream)
        with torch.autocast("cuda", dtype=dtype, enabled=dtype is not torch.float32):
            logits = model(x)
            loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

# Thread: https://github.com/datawhalechina/happy-llm/pull/195
# Title: Add: autocast传递默认参数,防止强制使用FP16,其它类型训练失效
# Wrong: --dtype bfloat16 turns the scaler off, but autocast is called without a dtype and so runs in float16, unscaled.
import argparse

import torch

from tiny_llm import PretrainDataset, Transformer

parser = argparse.ArgumentParser()
parser.add_argument("--dtype", default="bfloat16")
parser.add_argument("--accumulation_steps", type=int, default=8)
parser.add_argument("--grad_clip", type=float, default=1.0)
args = parser.parse_args()

model = Transformer(dim=1024, n_layers=18).cuda()
scaler = torch.amp.GradScaler("cuda", enabled=args.dtype in ["float16"])
optimizer = torch.optim.Adam(model.parameters(), lr=2e-4)
ctx = torch.autocast("cuda")  # expect: none (the dtype flag never reaches autocast; needs data flow over argparse)

loader = torch.utils.data.DataLoader(PretrainDataset("corpus.jsonl"), batch_size=64)
for step, (X, Y, mask) in enumerate(loader):
    with ctx:
        out = model(X.cuda(), Y.cuda())
        loss = (out.last_loss * mask.flatten().cuda()).sum() / mask.sum()
        loss = loss / args.accumulation_steps
    scaler.scale(loss).backward()
    if (step + 1) % args.accumulation_steps == 0:
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.grad_clip)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

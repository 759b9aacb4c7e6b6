# Thread: https://github.com/pytorch/pytorch/pull/36601
# Title: Amp gradient accumulation example
# Right: unscale_, step and update are called only in the iterations that step; the loss is divided by the number of micro-batches.
import torch
from torch import nn


def epoch(net, loader, opt, scaler, iters_to_accumulate, max_norm=None):
    net.train()
    loss_fn = nn.MSELoss()
    opt.zero_grad(set_to_none=True)
    for i, (source, target) in enumerate(loader):
        with torch.autocast(device_type="cuda", dtype=torch.float16):
            output = net(source.cuda())
            loss = loss_fn(output, target.cuda()) / iters_to_accumulate
        scaler.scale(loss).backward()

        if (i + 1) % iters_to_accumulate == 0:
            if max_norm is not None:
                scaler.unscale_(opt)
                nn.utils.clip_grad_norm_(net.parameters(), max_norm)
            scaler.step(opt)
            scaler.update()
            opt.zero_grad(set_to_none=True)


def main(net, loader):
    opt = torch.optim.AdamW(net.parameters(), lr=3e-4)
    scaler = torch.amp.GradScaler("cuda")
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 50)
    for _ in range(50):
        epoch(net, loader, opt, scaler, iters_to_accumulate=4, max_norm=1.0)
        schedule.step()

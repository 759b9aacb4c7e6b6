# Thread: https://github.com/pytorch/vision/pull/4874
# Title: fix bug in training model by amp
# Wrong: The AMP branch steps through the scaler and then falls through to clipping and a second optimizer.step() of the float32 path.
import torch
from torch import nn


def train_one_epoch(model, criterion, optimizer, loader, device, args, ema=None, scaler=None):
    model.train()
    for i, (image, target) in enumerate(loader):
        image, target = image.to(device), target.to(device)
        with torch.autocast("cuda", dtype=torch.float16, enabled=scaler is not None):
            output = model(image)
            loss = criterion(output, target)

        optimizer.zero_grad()
        if scaler is not None:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        else:
            loss.backward()
        if args.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), args.clip_grad_norm)
        optimizer.step()  # expect: AMP202
        if ema is not None and i % args.ema_steps == 0:
            ema.update_parameters(model)


def main(args, model, loader):
    scaler = torch.amp.GradScaler("cuda") if args.amp else None
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs)
    for _ in range(args.epochs):
        train_one_epoch(model, nn.CrossEntropyLoss(), optimizer, loader, "cuda", args, None, scaler)
        schedule.step()

# Thread: https://github.com/pytorch/vision/pull/4923
# Title: save grad_scaler if use amp for better resume
# Wrong: The checkpoint holds model, optimizer and schedule but not the scaler; a resumed run starts again from the initial loss scale.
import os

import torch
from torch import nn


def train_one_epoch(model, criterion, optimizer, loader, scaler):
    model.train()
    for image, target in loader:
        image, target = image.cuda(), target.cuda()
        with torch.autocast("cuda", dtype=torch.float16):
            loss = criterion(model(image), target)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()


def main(args, model, loader):
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    lr_scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=30)
    scaler = torch.amp.GradScaler("cuda")
    criterion = nn.CrossEntropyLoss(label_smoothing=args.label_smoothing)
    if args.resume:
        saved = torch.load(args.resume, map_location="cpu")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        lr_scheduler.load_state_dict(saved["lr_scheduler"])
        args.start_epoch = saved["epoch"] + 1
    for epoch in range(args.start_epoch, args.epochs):
        train_one_epoch(model, criterion, optimizer, loader, scaler)
        lr_scheduler.step()
        checkpoint = {  # expect: AMP208
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "lr_scheduler": lr_scheduler.state_dict(),
            "epoch": epoch,
        }
        torch.save(checkpoint, os.path.join(args.output_dir, "checkpoint.pth"))  # may: AMP208

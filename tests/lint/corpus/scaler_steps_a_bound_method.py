# Thread: https://github.com/davda54/sam/issues/11
# Title: SAM with Mixed precision training
# Wrong: scaler.step is given SAM's bound methods instead of an optimizer; GradScaler looks for param_groups and fails.
import torch

from sam import SAM


def train_epoch(model, loader, loss_fn, lr):
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=lr)
    scaler = torch.amp.GradScaler("cuda")
    for images, labels in loader:
        images, labels = images.cuda(), labels.cuda()
        with torch.autocast("cuda", dtype=torch.float16):
            loss = loss_fn(model(images), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer.first_step)  # expect: AMP213
        scaler.update()
        optimizer.zero_grad()

        with torch.autocast("cuda", dtype=torch.float16):
            again = loss_fn(model(images), labels)
        scaler.scale(again).backward()
        scaler.step(optimizer.second_step)  # expect: AMP213
        scaler.update()
        optimizer.zero_grad()

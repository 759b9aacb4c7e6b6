# Thread: https://github.com/milesial/Pytorch-UNet/issues/468
# Title: Gradients are clipped before the unscaling
# Wrong: clip_grad_norm_ sees gradients that are still multiplied by the loss scale, so the clip at 1.0 shrinks nearly every update.
import argparse

import torch
from torch import nn, optim

from unet import UNet
from unet_data import loaders


def train_model(model, device, epochs, batch_size, lr, amp, gradient_clipping=1.0):
    train_loader, val_loader = loaders(batch_size)
    optimizer = optim.RMSprop(model.parameters(), lr=lr, weight_decay=1e-8, momentum=0.999)
    scheduler = optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max", patience=5)
    grad_scaler = torch.amp.GradScaler("cuda", enabled=amp)
    criterion = nn.CrossEntropyLoss()
    for epoch in range(epochs):
        model.train()
        for batch in train_loader:
            images, true_masks = batch["image"].to(device), batch["mask"].to(device)
            with torch.autocast(device.type, dtype=torch.float16, enabled=amp):
                loss = criterion(model(images), true_masks)
            optimizer.zero_grad(set_to_none=True)
            grad_scaler.scale(loss).backward()
            nn.utils.clip_grad_norm_(model.parameters(), gradient_clipping)  # expect: AMP204
            grad_scaler.step(optimizer)
            grad_scaler.update()
        scheduler.step(validate(model, val_loader, device))


@torch.inference_mode()
def validate(net, loader, device):
    net.eval()
    hits = [(net(b["image"].to(device)).argmax(1).cpu() == b["mask"]).float().mean() for b in loader]
    return torch.stack(hits).mean()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--amp", action="store_true")
    args = parser.parse_args()
    train_model(UNet(3, 2).cuda(), torch.device("cuda"), 5, 4, 1e-5, args.amp)

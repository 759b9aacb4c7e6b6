# Thread: https://github.com/bcmi/SLBR-Visible-Watermark-Removal/issues/10
# Title: AUTOMATIC MIXED PRECISION - BCELOSS
# Wrong: The mask loss is nn.BCELoss on sigmoid outputs and runs under autocast: "unsafe to autocast".
import torch
from torch import nn


class Losses(nn.Module):
    def __init__(self):
        super().__init__()
        self.content = nn.L1Loss()
        self.mask_loss = nn.BCELoss()  # expect: AMP407

    def forward(self, images, target, masks, mask):
        total = self.content(images[-1], target)
        for predicted in masks:
            total = total + self.mask_loss(predicted, mask)  # may: AMP407
        return total


class Watermark:
    def __init__(self, net, lr=1e-3):
        self.net = net.cuda()
        self.loss = Losses()
        self.optimizer = torch.optim.Adam(net.parameters(), lr=lr)
        self.scaler = torch.amp.GradScaler("cuda")

    def train(self, loader):
        for image, target, mask in loader:
            with torch.autocast("cuda", dtype=torch.float16):
                images, logits = self.net(image.cuda())
                masks = [torch.sigmoid(m) for m in logits]
                loss = self.loss(images, target.cuda(), masks, mask.cuda())
            self.optimizer.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()

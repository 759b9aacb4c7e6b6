# Thread: https://github.com/NVIDIA/apex/issues/973
# Title: tensor.bmm() with unexpected autocast to float16
# Wrong: The features are cast with .float(), yet under autocast bmm casts them back to float16 and the Gram matrix overflows to nan.
import torch
from torch import nn
from torchvision.models import vgg19


class StyleLoss(nn.Module):
    LAYERS = (8, 17, 26, 35)

    def __init__(self):
        super().__init__()
        self.vgg = vgg19(weights="DEFAULT").features.eval().requires_grad_(False)

    def grams(self, image):
        found = []
        for index, layer in enumerate(self.vgg):
            image = layer(image)
            if index in self.LAYERS:
                b, c, h, w = image.shape
                flat = image.view(b, c, h * w).float()
                found.append(torch.bmm(flat, flat.transpose(1, 2)) / (c * h * w))  # expect: AMP111
        return found

    def forward(self, fake, real):
        return sum(nn.functional.l1_loss(a, b) for a, b in zip(self.grams(fake), self.grams(real)))


def inpaint_step(net, style, opt, scaler, masked, image):
    with torch.autocast("cuda", dtype=torch.float16):
        out = net(masked)
        loss = nn.functional.l1_loss(out, image) + 250 * style(out, image)
    opt.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(opt)
    scaler.update()
    return loss.item()

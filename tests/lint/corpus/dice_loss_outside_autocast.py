# Thread: https://github.com/qubvel-org/segmentation_models.pytorch/issues/463
# Title: Mixed Precision (float16) lead to nan loss (soft_dice_score is inf)
# Wrong: The dice score is summed outside autocast from half outputs: 512*512 pixels pass 65504, the sum is inf and the loss nan.
import segmentation_models_pytorch as smp
import torch


def dice(probabilities, target):
    intersection = torch.sum(probabilities * target)
    return 1 - 2 * intersection / (torch.sum(probabilities + target) + 1.0)


class Job:
    def __init__(self, lr=1e-4):
        self.net = smp.Unet("resnet18", classes=1, activation="sigmoid").cuda()
        self.opt = torch.optim.Adam(self.net.parameters(), lr=lr)
        self.scaler = torch.amp.GradScaler("cuda")

    def step(self, image, mask):
        image, mask = image.cuda(), mask.cuda()
        with torch.autocast("cuda", dtype=torch.float16):
            predicted = self.net(image)
        intersection = torch.sum(predicted * mask)  # may: AMP113
        loss = 1 - 2 * intersection / (predicted.sum() + mask.sum())  # expect: AMP113
        self.opt.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.opt)
        self.scaler.update()
        return loss.item()

    @torch.no_grad()
    def evaluate(self, loader):
        self.net.eval()
        scores = [dice(self.net(x.cuda()), y.cuda()).item() for x, y in loader]
        self.net.train()
        return 1 - sum(scores) / len(scores)

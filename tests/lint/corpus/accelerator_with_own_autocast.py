# Thread: https://github.com/huggingface/accelerate/issues/2487
# Title: improve documentation for mixed precision with torch.cuda.amp.cast
# Wrong: Accelerate already autocasts the prepared model; a second torch autocast and scaler around it double the loss scaling.
import torch
from accelerate import Accelerator
from torch import nn

accelerator = Accelerator(mixed_precision="fp16", gradient_accumulation_steps=2)


class DepthNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Conv2d(3, 64, 3, padding=1)
        self.head = nn.Conv2d(64, 1, 1)

    def forward(self, rgb):
        return self.head(torch.relu(self.encoder(rgb)))


def fit(loader, lr=1e-4, epochs=10):
    net = DepthNet()
    opt = torch.optim.AdamW(net.parameters(), lr=lr)
    net, opt, loader = accelerator.prepare(net, opt, loader)
    scaler = torch.amp.GradScaler("cuda")  # expect: AMP008
    for _ in range(epochs):
        for rgb, depth in loader:
            with accelerator.accumulate(net):
                with torch.autocast("cuda", dtype=torch.float16):  # expect: AMP008
                    loss = nn.functional.l1_loss(net(rgb), depth)
                accelerator.backward(scaler.scale(loss))  # may: AMP008
                opt.step()  # may: AMP202 AMP008
                opt.zero_grad()

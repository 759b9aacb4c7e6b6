# Thread: https://github.com/pytorch/pytorch/pull/133938
# Title: [CUDA][AMP] Fix autocast_dtype
# Wrong: The autocast dtype is thread-local, so nn.DataParallel's replica threads fall back to float16 though the script asked for bfloat16 and has no scaler.
import torch
from torch import nn
from torchvision.models import resnet34


def main(loader, epochs=20):
    net = nn.DataParallel(resnet34(num_classes=200).cuda())
    optim = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    ce = nn.CrossEntropyLoss(label_smoothing=0.1)
    for epoch in range(epochs):
        net.train()
        for images, labels in loader:
            images, labels = images.cuda(), labels.cuda()
            with torch.autocast("cuda", dtype=torch.bfloat16):  # expect: AMP107
                loss = ce(net(images), labels)
            optim.zero_grad(set_to_none=True)
            loss.backward()
            optim.step()
        torch.save(net.module.state_dict(), f"epoch{epoch:02d}.pt")

# Thread: https://github.com/NVIDIA/apex/issues/1912
# Title: Cannot import amp from apex
# Wrong: apex no longer ships apex.amp, so the script dies at its import on a fresh install.
import argparse

import torch
import torchvision
from apex import amp  # expect: AMP005
from torch.utils.data import DataLoader


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--opt-level", default="O1")
    parser.add_argument("--epochs", type=int, default=30)
    args = parser.parse_args()

    net = torchvision.models.resnet50(num_classes=100).cuda()
    sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net, sgd = amp.initialize(net, sgd, opt_level=args.opt_level)  # may: AMP005
    loss_fn = torch.nn.CrossEntropyLoss()
    to_tensor = torchvision.transforms.ToTensor()
    loader = DataLoader(torchvision.datasets.ImageFolder(args.data, to_tensor), batch_size=64)

    for epoch in range(args.epochs):
        for images, labels in loader:
            loss = loss_fn(net(images.cuda()), labels.cuda())
            sgd.zero_grad()
            with amp.scale_loss(loss, sgd) as scaled:  # may: AMP005
                scaled.backward()
            sgd.step()


if __name__ == "__main__":
    main()

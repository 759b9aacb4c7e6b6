# Thread: https://github.com/davda54/sam/issues/7
# Title: Accelerated training with floating point fp16
# Wrong: Both SAM passes run in float16 autocast and call backward on the unscaled loss: no scaler, gradients underflow.
import torch
from sam import SAM
from torchvision.models import wide_resnet50_2


def main(loader, epochs=200):
    model = wide_resnet50_2(num_classes=100).cuda()
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.05, lr=0.1, momentum=0.9)
    criterion = torch.nn.CrossEntropyLoss(reduction="none")
    for _ in range(epochs):
        for images, labels in loader:
            images, labels = images.cuda(), labels.cuda()
            with torch.autocast("cuda", dtype=torch.float16):  # expect: AMP212
                loss = criterion(model(images), labels)
            loss.mean().backward()  # may: AMP212
            optimizer.first_step(zero_grad=True)

            with torch.autocast("cuda", dtype=torch.float16):  # may: AMP212
                second = criterion(model(images), labels)
            second.mean().backward()  # may: AMP212
            optimizer.second_step(zero_grad=True)

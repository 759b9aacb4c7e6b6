# Thread: https://github.com/pytorch/pytorch/issues/82076
# Title: Autocast documentation examples would break
# Wrong: torch.autocast() needs a device_type; the example copied from the docs raises a TypeError.
import torch
import torch.nn as nn

net = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 10)).cuda()
optimiser = torch.optim.SGD(net.parameters(), lr=0.05)
scaler = torch.amp.GradScaler("cuda")
criterion = nn.CrossEntropyLoss()


def one_pass(batches):
    running = 0.0
    for pixels, digits in batches:
        optimiser.zero_grad()
        with torch.autocast():  # expect: AMP101
            output = net(pixels.flatten(1).cuda())
            loss = criterion(output, digits.cuda())
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
        running += loss.item()
    return running / len(batches)

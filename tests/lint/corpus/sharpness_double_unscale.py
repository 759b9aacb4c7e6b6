# Thread: https://github.com/davda54/sam/issues/97
# Title: How to use SAM with torch.cuda.amp.GradScaler
# Wrong: Both halves of a SAM step call unscale_ on the same optimizer before one update(): the second call raises a RuntimeError.
import torch
from sam import SAM


def train(model, loader, epochs, clip=5.0):
    criterion = torch.nn.CrossEntropyLoss()
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cuda")

    def scaled_pass(x, y):
        with torch.autocast("cuda", dtype=torch.float16):
            loss = criterion(model(x), y)
        scaler.scale(loss).backward()
        return loss

    for _ in range(epochs):
        for x, y in loader:
            x, y = x.cuda(), y.cuda()
            loss = scaled_pass(x, y)
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.first_step(zero_grad=True)  # may: AMP202

            scaled_pass(x, y)
            scaler.unscale_(optimizer)  # expect: AMP205
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.second_step(zero_grad=True)  # may: AMP202
            scaler.update()
        print(loss.item())

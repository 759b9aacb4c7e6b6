# Thread: https://discuss.pytorch.org/t/torch-autocasts-gradient/169003
# Title: torch.autocast's gradient
# Right: The usual loop: float32 weights, forward and loss under autocast, scaled backward, step and update outside; the gradients are float32 as they should be.
import torch


def see(width=10, classes=5, rounds=3):
    model = torch.nn.Linear(width, classes).cuda()
    for p in model.parameters():
        p.data.fill_(0)
    optimizer = torch.optim.SGD(model.parameters(), 0.001)
    scaler = torch.amp.GradScaler("cuda")
    for _ in range(rounds):
        x = torch.rand(3, width, device="cuda")
        with torch.autocast("cuda", dtype=torch.float16):
            out = model(x)
            loss = out.mean()
        print(out.dtype, loss.dtype)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        print(next(model.parameters()).grad.dtype)
        scaler.step(optimizer)
        scaler.update()


see()

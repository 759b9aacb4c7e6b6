# Thread: https://github.com/pytorch/pytorch/issues/25081
# Title: Automatic mixed precision for Pytorch
# Right: The gradients for the penalty are made from the scaled loss, divided by the scale, and the penalty is computed under autocast again.
import torch


def penalised_step(model, loss_fn, optimizer, scaler, batch, weight=0.1):
    inputs, target = batch
    optimizer.zero_grad()
    with torch.autocast("cuda", dtype=torch.float16):
        output = model(inputs)
        loss = loss_fn(output, target)

    scaled = torch.autograd.grad(
        outputs=scaler.scale(loss), inputs=model.parameters(), create_graph=True
    )
    inv_scale = 1.0 / scaler.get_scale()
    grads = [g * inv_scale for g in scaled]

    with torch.autocast("cuda", dtype=torch.float16):
        penalty = 0
        for g in grads:
            penalty = penalty + g.pow(2).sum()
        loss = loss + weight * penalty.sqrt()

    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    return loss.item()


def run(model, loss_fn, loader, lr):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    scaler = torch.amp.GradScaler("cuda")
    return [penalised_step(model, loss_fn, optimizer, scaler, batch) for batch in loader]

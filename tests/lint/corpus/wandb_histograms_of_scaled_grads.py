# Thread: https://github.com/wandb/wandb/issues/9092
# Title: [Bug-App]: Gradient logging issues when using torch.amp.GradScaler
# Wrong: The logged histograms show gradients still multiplied by the loss scale, so they look huge and jump when the scale changes.
import torch
import wandb


def log_gradients(net, step):
    rows = {}
    for name, p in net.named_parameters():
        rows[f"gradients/{name}"] = wandb.Histogram(p.grad.float().cpu().numpy())
    wandb.log(rows, step=step)


def train(net, loader, optimizer):
    scaler = torch.amp.GradScaler("cuda")
    wandb.init(project="diffusion")
    for step, (latent, text, noise) in enumerate(loader):
        with torch.autocast("cuda", dtype=torch.float16):
            loss = torch.nn.functional.mse_loss(net(latent, text), noise)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        largest = max(p.grad.abs().max().item() for p in net.parameters())  # expect: AMP214|AMP204
        wandb.log({"loss": loss.item(), "max_grad": largest}, step=step)
        if step % 500 == 0:
            log_gradients(net, step)  # may: AMP204 AMP214
        scaler.step(optimizer)
        scaler.update()

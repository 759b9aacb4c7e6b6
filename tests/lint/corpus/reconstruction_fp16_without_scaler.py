# Thread: https://github.com/engichang1467/Open-Rig3R/issues/35
# Title: autocast defaults to fp16 with no GradScaler — gradients can silently underflow to zero
# Wrong: autocast without a dtype means float16 on CUDA and no GradScaler exists, so small gradients flush to zero without a word.
import torch
from torch.amp import autocast


class MultiTask(torch.nn.Module):
    def forward(self, out, truth):
        points = torch.nn.functional.mse_loss(out["points"], truth["points"])
        rays = 1 - torch.nn.functional.cosine_similarity(out["rays"], truth["rays"], dim=-1).mean()
        return points + 0.1 * rays


def train(model, loader, epochs, lr=1e-4):
    device = "cuda"
    objective = MultiTask()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    for epoch in range(epochs):
        for images, metadata, truth in loader:
            optimizer.zero_grad()
            with autocast(device_type=device):  # expect: AMP212
                loss = objective(model(images.to(device), metadata), truth)
            loss.backward()  # may: AMP212
            optimizer.step()
        print(epoch, loss.item())

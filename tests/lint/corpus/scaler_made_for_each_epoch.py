# Thread: https://github.com/conservationtechlab/animl-py/issues/298
# Title: GradScaler should be initialized once, not per epoch
# Wrong: The per-epoch helper builds the scaler, so its state is thrown away after every epoch.
import torch


def _train_epoch(loader, model, optimizer, device, mixed_precision=False):
    model.train()
    scaler = torch.amp.GradScaler("cuda", enabled=mixed_precision)  # expect: AMP209
    loss_fn = torch.nn.CrossEntropyLoss()
    total = 0.0
    for image, label in loader:
        image, label = image.to(device), label.to(device)
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16, enabled=mixed_precision):
            loss = loss_fn(model(image), label)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        total += loss.item()
    return total / len(loader)


def train_classifier(cfg, model, loader, device="cuda"):
    optimizer = torch.optim.SGD(model.parameters(), lr=cfg["lr"], weight_decay=cfg["decay"])
    best = float("inf")
    for epoch in range(cfg["epochs"]):
        loss = _train_epoch(loader, model, optimizer, device, cfg["mixed_precision"])
        if loss < best:
            best = loss
            torch.save(model.state_dict(), cfg["weights"])
        print(f"{epoch}: {loss:.4f}")

# Thread: https://github.com/oke-aditya/pytorch_cnn_trainer/pull/10
# Title: Adds Support PyTorch 1.6 Fp16
# Wrong: The scaler is built inside the batch loop: its scale starts at 65536 each time and never adapts.
import torch
from tqdm import tqdm


def train_step(model, train_loader, criterion, device, optimizer, num_batches=None, fp16=False):
    model = model.to(device)
    model.train()
    seen, correct, total = 0, 0, 0.0
    for inputs, target in tqdm(train_loader):
        inputs, target = inputs.to(device), target.to(device)
        optimizer.zero_grad()
        if fp16:
            scaler = torch.amp.GradScaler(device.type)  # expect: AMP209
            with torch.autocast(device.type, dtype=torch.float16):
                output = model(inputs)
                loss = criterion(output, target)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        else:
            output = model(inputs)
            loss = criterion(output, target)
            loss.backward()
            optimizer.step()
        correct += (output.argmax(1) == target).sum().item()
        seen += target.numel()
        total += loss.item()
        if num_batches is not None and seen >= num_batches * target.numel():
            break
    return total / max(1, len(train_loader)), correct / seen

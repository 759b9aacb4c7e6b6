# Thread: https://github.com/microsoft/Swin-Transformer/issues/311
# Title: AMP + Accumulation-steps Fails
# Wrong: With accumulation > 1 unscale_ runs for every micro-batch but update() only for each step: "unscale_() has already been called".
import time

import torch


def train_one_epoch(config, model, data_loader, optimizer, epoch, lr_scheduler, scaler):
    model.train()
    optimizer.zero_grad()
    num_steps = len(data_loader)
    started = time.time()
    for idx, (img, mask, _) in enumerate(data_loader):
        with torch.autocast("cuda", dtype=torch.float16, enabled=config.AMP_ENABLE):
            loss = model(img.cuda(), mask.cuda()) / config.TRAIN.ACCUMULATION_STEPS
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)  # expect: AMP206
        grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.TRAIN.CLIP_GRAD)
        if (idx + 1) % config.TRAIN.ACCUMULATION_STEPS == 0:
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        if idx % config.PRINT_FREQ == 0:
            print(f"[{epoch}][{idx}/{num_steps}] norm {grad_norm:.4f}")
    lr_scheduler.step()
    print(f"epoch {epoch} takes {time.time() - started:.0f}s")

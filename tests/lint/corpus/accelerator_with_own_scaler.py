# Thread: https://github.com/huggingface/accelerate/issues/357
# Title: AssertionError: No inf checks were recorded prior to update.
# Wrong: The script prepares everything with Accelerator(fp16) and still drives its own GradScaler, which never sees the prepared step: "No inf checks were recorded".
import torch
from accelerate import Accelerator
from torch.amp import GradScaler


def train(model, optimizer, loader, scheduler, epochs):
    accelerator = Accelerator(mixed_precision="fp16")
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    scaler = GradScaler("cuda")  # expect: AMP008

    for epoch in range(epochs):
        model.train()
        for batch in loader:
            out = model(**batch)
            accelerator.backward(scaler.scale(out.loss))  # may: AMP008
            scaler.step(optimizer)  # may: AMP008
            scaler.update()  # may: AMP008
            optimizer.zero_grad()
        scheduler.step()
        accelerator.print(epoch, out.loss.item())
    accelerator.save_state("last")

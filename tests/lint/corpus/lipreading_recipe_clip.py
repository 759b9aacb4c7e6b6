# Thread: https://github.com/k2-fsa/icefall/pull/2081
# Title: Add VSR (lip reading) recipe using GRID dataset
# Wrong: The recipe clips to 1.0 with scaler.unscale_ commented out; it clips scaled gradients and steps the schedule on skipped steps too.
import torch
from torch.nn.parallel import DistributedDataParallel as DDP


def train_one_epoch(params, model, optimizer, scheduler, graph_compiler, train_dl, scaler, rank):
    model.train()
    tot_loss = 0.0
    for batch_idx, batch in enumerate(train_dl):
        params.batch_idx_train += 1
        with torch.autocast("cuda", dtype=torch.float16, enabled=params.use_fp16):
            loss, info = model(batch["video"].to(rank), graph_compiler(batch["text"]))
        scaler.scale(loss).backward()

        grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)  # expect: AMP204
        scaler.step(optimizer)
        scaler.update()
        scheduler.step_batch(params.batch_idx_train)  # may: AMP211
        optimizer.zero_grad()

        tot_loss = 0.98 * tot_loss + 0.02 * loss.item()
        if batch_idx % params.log_interval == 0 and rank == 0:
            print(f"batch {batch_idx} loss {tot_loss:.4f} norm {grad_norm.item():.2f}")
    return tot_loss


def wrap(model, rank):
    return DDP(model.to(rank), device_ids=[rank], find_unused_parameters=True)

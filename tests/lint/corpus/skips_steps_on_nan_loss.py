# Thread: https://github.com/karpathy/nanoGPT/pull/227
# Title: Skip step if loss is nan
# Wrong: A nan loss is skipped silently: it hides the overflow behind it and hangs distributed runs when only one rank skips.
import torch
import torch.distributed as dist

dist.init_process_group("nccl")
device = f"cuda:{dist.get_rank()}"


def train(model, optimizer, scaler, batches, max_iters):
    done = 0
    while done < max_iters:
        X, Y = next(batches)
        with torch.autocast("cuda", dtype=torch.float16):
            logits = model(X.to(device))
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), Y.to(device).flatten())
        if torch.isnan(loss):  # expect: AMP215
            print("nan loss, skipping")
            continue
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        done += 1

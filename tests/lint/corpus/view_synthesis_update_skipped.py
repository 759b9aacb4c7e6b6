# Thread: https://github.com/Haian-Jin/LVSM/pull/19
# Title: hotfix(train): resolve GradScaler RuntimeError when skipping optimizer…
# Wrong: scaler.update() is called only when the step is taken; after a skipped step unscale_ raises "already been called since the last update()".
import torch


def fit(cfg, model, optimizer, scheduler, loader):
    scaler = torch.amp.GradScaler("cuda", enabled=cfg.use_amp)
    taken = 0
    for it, batch in enumerate(loader):
        with torch.autocast("cuda", dtype=torch.float16, enabled=cfg.use_amp):
            result = model(batch)
        scaler.scale(result.loss_metrics.loss).backward()
        scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.grad_clip)
        if norm > cfg.allowed_gradnorm:
            print(f"step {it} grad norm too large {norm:.3f}, skipping optimizer step")
        else:
            scaler.step(optimizer)  # may: AMP203
            scaler.update()  # expect: AMP203
            taken += 1
        optimizer.zero_grad(set_to_none=True)
        if taken >= cfg.train_steps:
            break
    return taken

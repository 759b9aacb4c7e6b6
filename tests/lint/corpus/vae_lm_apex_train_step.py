# Thread: https://github.com/ImKeTT/AdaVAE/pull/1
# Title: Migrate Apex to PyTorch AMP
# Wrong: The language model's training step depends on apex.amp, which is deprecated and was removed.
import apex.amp  # may: AMP005
import torch


def prepare(vae, optimizer, fp16, level="O2"):
    if not fp16:
        return vae, optimizer
    vae, optimizer = apex.amp.initialize(vae, optimizer, opt_level=level)  # expect: AMP005
    return vae, optimizer


def train_step(vae, optimizer, tokens, mask, beta, fp16, clip=1.0):
    vae.train()
    reconstruction, kl = vae(tokens, attention_mask=mask)
    loss = reconstruction.mean() + beta * kl.mean()
    if fp16:
        with apex.amp.scale_loss(loss, optimizer) as scaled:  # may: AMP005
            scaled.backward()
        torch.nn.utils.clip_grad_norm_(apex.amp.master_params(optimizer), clip)  # may: AMP005
    else:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), clip)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item(), kl.mean().item()

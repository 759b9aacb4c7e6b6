# Thread: https://github.com/yk7333/d3po/issues/6
# Title: ValueError : Attemting to unscale fp16 Gradients
# Wrong: Without LoRA the trained UNet is moved to float16 together with the frozen parts; its float16 gradients cannot be unscaled.
import torch
from diffusers import StableDiffusionPipeline


def load(name, device):
    pipeline = StableDiffusionPipeline.from_pretrained(name)
    pipeline.vae.requires_grad_(False)
    pipeline.text_encoder.requires_grad_(False)
    pipeline.vae.to(device, dtype=torch.float16)
    pipeline.text_encoder.to(device, dtype=torch.float16)
    unet = pipeline.unet
    unet.to(device, dtype=torch.float16)  # expect: AMP302|AMP106
    return pipeline, unet


def train(name, samples, lr=3e-5):
    pipeline, unet = load(name, "cuda")
    optimizer = torch.optim.AdamW(unet.parameters(), lr=lr, eps=1e-8)  # may: AMP303
    scaler = torch.amp.GradScaler("cuda")
    for latents, t, prompt_embeds, noise in samples:
        with torch.autocast("cuda", dtype=torch.float16):
            predicted = unet(latents, t, prompt_embeds).sample
            loss = torch.nn.functional.mse_loss(predicted, noise)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    return pipeline

# Thread: https://github.com/afiaka87/glide-finetune/issues/5
# Title: Training on half precision leads to nan values
# Wrong: AdamW's eps of 1e-8 is zero in float16: after the first step weights with small gradients are nan.
import torch

from glide_lite import create_model_and_diffusion, get_uncond_tokens


def base_train_step(model, diffusion, batch, device):
    tokens, masks, images = (x.to(device) for x in batch)
    t = torch.randint(0, 1000, (images.shape[0],), device=device)
    noise = torch.randn_like(images, device=device)
    x_t = diffusion.q_sample(images, t, noise=noise).half()
    epsilon, _ = model(x_t, t, tokens=tokens, mask=masks).chunk(2, dim=1)
    return torch.nn.functional.mse_loss(epsilon, noise.half())


def run(loader, lr=1e-5, weight_decay=0.0):
    model, diffusion, options = create_model_and_diffusion("base")
    model.to("cuda")
    model.convert_to_fp16()
    model.half()  # expect: AMP302
    optimizer = torch.optim.AdamW(  # expect: AMP303
        [p for p in model.parameters() if p.requires_grad],
        lr=lr,
        weight_decay=weight_decay,
    )
    for batch in loader:
        loss = base_train_step(model, diffusion, batch, "cuda")
        loss.backward()
        optimizer.step()
        model.zero_grad()
    return get_uncond_tokens(options)

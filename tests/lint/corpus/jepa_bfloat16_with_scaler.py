# Thread: https://github.com/facebookresearch/ijepa/issues/64
# Title: Why there is no **unscale_** when you use amp?
# Wrong: The bfloat16 path drives a GradScaler; bfloat16 has float32's range and needs no loss scaling.
import copy

import torch
import torch.nn.functional as F


def main(args, encoder, predictor, loader):
    use_bfloat16 = args["meta"]["use_bfloat16"]
    target_encoder = copy.deepcopy(encoder).requires_grad_(False)
    params = list(encoder.parameters()) + list(predictor.parameters())
    optimizer = torch.optim.AdamW(params, lr=1e-3)
    scaler = torch.amp.GradScaler("cuda") if use_bfloat16 else None  # expect: AMP207

    for imgs, masks_enc, masks_pred in loader:
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=use_bfloat16):
            with torch.no_grad():
                h = F.layer_norm(target_encoder(imgs), (target_encoder.embed_dim,))
            z = predictor(encoder(imgs, masks_enc), masks_enc, masks_pred)
            loss = F.smooth_l1_loss(z, h)
        if use_bfloat16:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        else:
            loss.backward()
            optimizer.step()
        optimizer.zero_grad()

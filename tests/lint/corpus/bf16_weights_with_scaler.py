# Thread: https://github.com/pytorch/pytorch/issues/127176
# Title: RuntimeError: "_amp_foreach_non_finite_check_and_unscale_cuda" not implemented for 'BFloat16'
# Wrong: The model is cast to bfloat16 and its gradients go through GradScaler, whose unscale kernel has no BFloat16: RuntimeError at the step.
import torch
from transformers import AutoModelForCausalLM


def finetune(name, loader, lr=1e-5):
    model = AutoModelForCausalLM.from_pretrained(name).to("cuda", dtype=torch.bfloat16)  # expect: AMP302|AMP106
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    scaler = torch.amp.GradScaler("cuda")  # expect: AMP207
    for batch in loader:
        batch = {k: v.to("cuda") for k, v in batch.items()}
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(**batch).loss
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    return model

# Thread: https://github.com/karpathy/nanoGPT/issues/635
# Title: FutureWarning: `torch.cuda.amp.GradScaler(args...)` is deprecated.
# Wrong: The script already uses torch.amp.autocast but still builds its scaler from torch.cuda.amp, which warns at start.
import torch
from torch.nn import functional as F

from gpt import GPT, GPTConfig, get_batch

dtype = "float16"
max_iters = 2000
accum = 8
grad_clip = 1.0
ptdtype = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]
ctx = torch.amp.autocast(device_type="cuda", dtype=ptdtype)

model = GPT(GPTConfig(n_layer=6, n_head=6, n_embd=384)).to("cuda")
scaler = torch.cuda.amp.GradScaler(enabled=(dtype == "float16"))  # expect: AMP002
optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95))

X, Y = get_batch("train")
for it in range(max_iters):
    for micro in range(accum):
        with ctx:
            logits = model(X)
            loss = F.cross_entropy(logits.view(-1, logits.size(-1)), Y.view(-1)) / accum
        X, Y = get_batch("train")
        scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    if it % 100 == 0:
        print(it, loss.item() * accum)

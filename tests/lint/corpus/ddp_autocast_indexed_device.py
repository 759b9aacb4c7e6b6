# Thread: https://github.com/karpathy/build-nanogpt/pull/16
# Title: Fix device type in autocast
# Wrong: Under DDP the device string is "cuda:<rank>" and it is passed as autocast's device_type, which knows only "cuda".
import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP

from gpt2 import GPT, GPTConfig, DataLoaderLite

dist.init_process_group(backend="nccl")
rank = int(os.environ["LOCAL_RANK"])
torch.cuda.set_device(rank)

model = GPT(GPTConfig(vocab_size=50304)).to(f"cuda:{rank}")
model = DDP(model, device_ids=[rank])
optimizer = model.module.configure_optimizers(weight_decay=0.1, learning_rate=6e-4)
loader = DataLoaderLite(B=16, T=1024, rank=rank)

for step in range(19073):
    optimizer.zero_grad()
    x, y = loader.next_batch()
    x, y = x.to(f"cuda:{rank}"), y.to(f"cuda:{rank}")
    with torch.autocast(device_type=f"cuda:{rank}", dtype=torch.bfloat16):  # expect: AMP101
        logits, loss = model(x, y)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    if rank == 0 and step % 250 == 0:
        print(f"{step}: {loss.item():.4f}")
dist.destroy_process_group()

# Thread: https://github.com/pytorch/pytorch/issues/54912
# Title: [autocast] DataParallel in a single process - possibly outdated docs
# Right: parallel_apply re-enters autocast in the replica threads, so float16 autocast around a DataParallel call works as it stands.
import torch
from torch import nn

from bert_small import BertClassifier, batches

model = nn.DataParallel(BertClassifier(layers=4).cuda())
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
scaler = torch.amp.GradScaler("cuda")
loss_fn = nn.CrossEntropyLoss()

for ids, mask, label in batches("train.jsonl", size=64):
    optimizer.zero_grad()
    with torch.autocast("cuda", dtype=torch.float16):
        logits = model(ids.cuda(), mask.cuda())
        loss = loss_fn(logits, label.cuda())
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()

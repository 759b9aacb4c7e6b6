# Thread: https://github.com/LAION-AI/CLIP_benchmark/issues/136
# Title: Warning fix: `torch.cuda.amp.autocast(args...)` is deprecated. Please use `torch.amp.autocast('cuda', args...)` instead."
# Wrong: The evaluation enters autocast through the torch.cuda.amp alias, so every batch of a run on a new torch prints a FutureWarning.
import torch
from tqdm import tqdm


def text_weights(model, tokenizer, names, templates, device):
    columns = []
    for name in tqdm(names):
        prompts = tokenizer([t.format(c=name) for t in templates]).to(device)
        embedded = model.encode_text(prompts)
        embedded = embedded / embedded.norm(dim=-1, keepdim=True)
        columns.append(embedded.mean(dim=0))
    return torch.stack(columns, dim=1)


@torch.no_grad()
def top1(model, loader, weights, device, amp=True):
    right, seen = 0, 0
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        with torch.cuda.amp.autocast(enabled=amp):  # expect: AMP001
            scores = 100.0 * model.encode_image(images) @ weights
        right += (scores.argmax(dim=-1) == labels).sum().item()
        seen += labels.numel()
    return right / seen

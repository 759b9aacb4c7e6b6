# Thread: https://github.com/linkedin/Liger-Kernel/pull/1324
# Title: [Perf] Use direct FLCE weight-gradient accumulation for FP16, BF16, and FP32
# Wrong: The out= form does not take part in autocast: it meets a float32 chunk and a half one and raises a dtype error.
import torch


def chunked_head(hidden, weight, bias, labels, chunk=1024):
    """Cross entropy over the vocabulary, a chunk of rows at a time."""
    total = hidden.new_zeros(())
    buffer = torch.empty(chunk, weight.shape[0], device=hidden.device, dtype=hidden.dtype)
    for start in range(0, hidden.shape[0] - chunk + 1, chunk):
        rows = hidden[start:start + chunk]
        torch.addmm(bias, rows, weight.t(), out=buffer)  # expect: AMP110
        total = total + torch.nn.functional.cross_entropy(
            buffer, labels[start:start + chunk], reduction="sum"
        )
    return total / labels.numel()


def evaluate(body, head, loader):
    losses = []
    with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16):
        for ids, labels in loader:
            rows = body(ids).flatten(0, 1)
            losses.append(chunked_head(rows, head.weight, head.bias, labels.flatten()).item())
    return sum(losses) / len(losses)

import hashlib
import math
import torch
from torch import nn, Tensor


class TinyLM(nn.Module):
    def __init__(self, vocab: int, width: int) -> None:
        super().__init__()
        self.tok = nn.Embedding(vocab, width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, vocab)
        self.width = width

    def forward(self, ids: Tensor) -> Tensor:
        h = self.tok(ids)
        q, k, v = self.qkv(h).chunk(3, dim=-1)
        att = (q @ k.transpose(-2, -1)) / math.sqrt(self.width)
        mask = torch.triu(torch.ones(ids.size(1), ids.size(1), dtype=torch.bool), 1)
        att = att.masked_fill(mask, float("-inf")).softmax(-1)
        return self.out(h + att @ v)


def get_batch(stream: Tensor, size: int, length: int) -> tuple[Tensor, Tensor]:
    starts = torch.randint(len(stream) - length - 1, (size,))
    x = torch.stack([stream[s:s + length] for s in starts])
    y = torch.stack([stream[s + 1:s + length + 1] for s in starts])
    return x, y


@torch.no_grad()
def estimate_loss(model: nn.Module, stream: Tensor) -> float:
    model.eval()
    losses = torch.zeros(5)
    for k in range(5):
        x, y = get_batch(stream, 16, 8)
        logits = model(x)
        losses[k] = nn.functional.cross_entropy(logits.view(-1, logits.size(-1)), y.view(-1)).item()
    model.train()
    return losses.mean().item()


def main() -> None:
    torch.manual_seed(1337)
    stream = torch.arange(400) * 7 % 11
    model = TinyLM(11, 24)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for it in range(80):
        x, y = get_batch(stream, 16, 8)
        logits = model(x)
        B, T, C = logits.shape
        loss = nn.functional.cross_entropy(logits.view(B * T, C), y.view(B * T))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if it % 20 == 0:
            print(f"iter {it}: loss {loss.item()!r} val loss {estimate_loss(model, stream)!r}")
    print(f"loss {loss.item()!r}")
    print("parameters", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())


if __name__ == "__main__":
    main()

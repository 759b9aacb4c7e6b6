# Thread: https://github.com/dotnet/TorchSharp/issues/1135
# Title: value cannot be converted to type at::Half without overflow
# Wrong: The causal mask uses float32's largest number for half weights: the fill raises an overflow error.
import torch
from torch import nn


class CausalBlock(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)

    def forward(self, x):
        weight = self.q(x) @ self.k(x).transpose(-2, -1) * x.shape[-1] ** -0.5
        mask = torch.ones_like(weight).triu(1).to(torch.bool)
        weight = weight.masked_fill(mask, -torch.finfo(torch.float32).max)  # expect: AMP401
        return weight.softmax(dim=-1) @ self.v(x)


class Chat:
    def __init__(self, blocks, embedding, head):
        self.blocks = nn.Sequential(*blocks).cuda().half()
        self.embedding = embedding.cuda().half()
        self.head = head.cuda().half()

    @torch.inference_mode()
    def next_token(self, ids):
        hidden = self.blocks(self.embedding(ids.cuda()))
        return self.head(hidden[:, -1]).argmax(dim=-1)

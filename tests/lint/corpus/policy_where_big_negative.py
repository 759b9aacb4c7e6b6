# Thread: https://github.com/huggingface/lerobot/pull/710
# Title: Possible fix in eager attention (for AMP): Use safe negative constant for half-precision masking
# Wrong: The eager attention masks half weights with -2.38e38 through torch.where; the number does not fit half precision.
import torch
from torch import nn


class ActionExpert(nn.Module):
    def __init__(self, width=1024, heads=8, use_amp=True):
        super().__init__()
        self.heads = heads
        self.use_amp = use_amp
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, embeds, attention_mask):
        with torch.autocast("cuda", dtype=torch.float16, enabled=self.use_amp):
            q, k, v = self.split(self.q(embeds)), self.split(self.k(embeds)), self.split(self.v(embeds))
            att_weights = torch.matmul(q, k.transpose(2, 3)) * q.shape[-1] ** -0.5
            big_neg = -2.3819763e38  # may: AMP401
            masked = torch.where(attention_mask[:, None, :, :], att_weights, big_neg)  # expect: AMP401
            probs = nn.functional.softmax(masked, dim=-1).to(v.dtype)
            return torch.matmul(probs, v).transpose(1, 2).flatten(2)

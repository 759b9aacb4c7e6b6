# Thread: https://github.com/MinishLab/model2vec/pull/368
# Title: fix: normalize float16 embeddings without NaNs
# Wrong: The norm of half embeddings is guarded with 1e-32, which is zero in float16: an empty text gives nan.
import torch


class StaticEmbedder:
    def __init__(self, table, tokenizer, normalize=True):
        self.table = table.to(torch.float16)
        self.tokenizer = tokenizer
        self.normalize = normalize

    def encode_ids(self, ids):
        if not ids:
            return torch.zeros(self.table.shape[1], dtype=torch.float16)
        return self.table[torch.tensor(ids)].mean(dim=0)

    def encode(self, texts):
        rows = torch.stack([self.encode_ids(self.tokenizer(text)) for text in texts])
        if self.normalize:
            length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
            rows = rows / (length + 1e-32)  # expect: AMP404
        return rows

    def similarity(self, left, right):
        return self.encode(left) @ self.encode(right).t()

# Thread: https://github.com/Vaibhavs10/fast-whisper-finetuning/issues/14
# Title: RuntimeError: expected mat1 and mat2 to have the same dtype, but got: c10::Half != float
# Wrong: The training batch is cast to half while the head stays in float32; its linear layer raises "Half != float".
import torch
from torch import nn


class SpeechHead(nn.Module):
    def __init__(self, features=384, labels=30):
        super().__init__()
        self.proj = nn.Linear(features, 128)
        self.out = nn.Linear(128, labels)

    def forward(self, x):
        return self.out(torch.nn.functional.gelu(self.proj(x))).mean(dim=1)


model = SpeechHead().to("cuda")
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)


def train(dataloader, epochs=3):
    for _ in range(epochs):
        for inputs, targets in dataloader:
            inputs = inputs.half().to("cuda")  # expect: AMP301
            optimizer.zero_grad()
            outputs = model(inputs)  # may: AMP301
            loss = criterion(outputs, targets.to("cuda"))
            loss.backward()
            optimizer.step()

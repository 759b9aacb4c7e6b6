# Thread: https://github.com/jindongwang/Deep-learning-activity-recognition/issues/10
# Title: Bug in code
# Wrong: The network ends in a softmax layer and is trained with CrossEntropyLoss, which expects raw scores.
import torch
from torch import nn

classifier = nn.Sequential(
    nn.Conv1d(9, 32, kernel_size=9),
    nn.ReLU(),
    nn.MaxPool1d(2),
    nn.Flatten(),
    nn.Linear(32 * 60, 6),
    nn.Softmax(dim=1),  # expect: AMP406
).cuda()
criterion = nn.CrossEntropyLoss()  # may: AMP406
optimizer = torch.optim.SGD(classifier.parameters(), lr=0.001, momentum=0.9)
scaler = torch.amp.GradScaler("cuda")


def train(train_loader, n_epoch=100):
    for e in range(n_epoch):
        correct, total = 0, 0
        for sample, target in train_loader:
            sample, target = sample.cuda(), target.cuda().long()
            with torch.autocast("cuda", dtype=torch.float16):
                output = classifier(sample)
                loss = criterion(output, target)  # may: AMP406
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            correct += (output.argmax(1) == target).sum().item()
            total += target.numel()
        print(f"epoch {e}: {100.0 * correct / total:.2f}")

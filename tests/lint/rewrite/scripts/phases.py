# After the transfer learning tutorial: one loop for both phases.
from __future__ import annotations

import copy
import hashlib
import time

import torch
import torch.nn as nn
import torch.optim as optim
from torch.optim import lr_scheduler

device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
torch.manual_seed(40)
inputs_all = torch.randn(160, 3, 8, 8)
labels_all = (inputs_all.mean(dim=(1, 2, 3)) > 0).long()
dataloaders = {
    "train": list(zip(inputs_all[:128].split(32), labels_all[:128].split(32))),
    "val": list(zip(inputs_all[128:].split(32), labels_all[128:].split(32))),
}


def train_model(model, criterion, optimizer, scheduler, num_epochs=5):
    since = time.time()
    best_acc = 0.0
    best = copy.deepcopy(model.state_dict())
    for epoch in range(num_epochs):
        for phase in ["train", "val"]:
            if phase == "train":
                model.train()
            else:
                model.eval()
            running_loss = 0.0
            running_corrects = 0
            for inputs, labels in dataloaders[phase]:
                inputs = inputs.to(device)
                labels = labels.to(device)
                optimizer.zero_grad()
                with torch.set_grad_enabled(phase == "train"):
                    outputs = model(inputs)
                    _, preds = torch.max(outputs, 1)
                    loss = criterion(outputs, labels)
                    if phase == "train":
                        loss.backward()
                        optimizer.step()
                running_loss += loss.item() * inputs.size(0)
                running_corrects += torch.sum(preds == labels.data)
            if phase == "train":
                scheduler.step()
            epoch_loss = running_loss / (len(dataloaders[phase]) * 32)
            if phase == "train":
                print(f"{phase} loss {epoch_loss!r}")
            if phase == "val" and running_corrects > best_acc:
                best_acc = running_corrects
                best = copy.deepcopy(model.state_dict())
    assert time.time() >= since
    model.load_state_dict(best)
    return model


net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2)).to(device)
sgd = optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
net = train_model(net, nn.CrossEntropyLoss(), sgd, lr_scheduler.StepLR(sgd, step_size=3, gamma=0.3))
print("parameters", hashlib.sha256(b"".join(p.detach().cpu().numpy().tobytes() for p in net.parameters())).hexdigest())

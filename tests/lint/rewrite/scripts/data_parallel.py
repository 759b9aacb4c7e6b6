import hashlib
import torch
import torch.nn as nn
import torch.nn.functional as F


class ConvNet(nn.Module):
    def __init__(self):
        super(ConvNet, self).__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6 * 4 * 4, 2)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn(self.conv(x))), 2)
        return self.fc(x.flatten(1))


torch.manual_seed(17)
device = "cuda:0" if torch.cuda.is_available() else "cpu"
model = ConvNet().to(device)
model = nn.DataParallel(model)
criterion = nn.CrossEntropyLoss().to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

images = torch.randn(160, 1, 8, 8)
labels = (images.mean(dim=(1, 2, 3)) > 0).long()
for epoch in range(6):
    running = 0.0
    for start in range(0, 160, 32):
        img = images[start:start + 32].to(device)
        lab = labels[start:start + 32].to(device)
        out = model(img)
        loss = criterion(out, lab)
        model.zero_grad()
        loss.backward()
        optimizer.step()
        running += loss.item()
    print('epoch', epoch, 'loss', running / 5)
bits = b"".join(v.cpu().numpy().tobytes() for v in model.module.state_dict().values())
print('parameters', hashlib.sha1(bits).hexdigest())

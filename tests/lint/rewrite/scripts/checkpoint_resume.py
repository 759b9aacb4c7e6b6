import hashlib
import os
import tempfile

import torch
import torch.nn as nn


def save_checkpoint(path, model, optimizer, epoch):
    state = {
        'epoch': epoch,
        'model_state': model.state_dict(),
        'optimizer_state': optimizer.state_dict(),
    }
    torch.save(state, path)


def load_checkpoint(path, model, optimizer):
    ckpt = torch.load(path)
    model.load_state_dict(ckpt['model_state'])
    optimizer.load_state_dict(ckpt['optimizer_state'])
    return ckpt['epoch']


def fit(model, optimizer, start, stop):
    crit = nn.L1Loss()
    for epoch in range(start, stop):
        g = torch.Generator().manual_seed(epoch)
        losses = 0.
        for _ in range(10):
            x = torch.randn(32, 5, generator=g)
            y = x.abs().sum(1, keepdim=True)
            loss = crit(model(x), y)
            optimizer.zero_grad(); loss.backward(); optimizer.step()
            losses += loss.item()
        print(f'epoch {epoch} loss {losses / 10!r}')


def make():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 32), nn.ReLU(), nn.Linear(32, 1))
    return model, torch.optim.Adam(model.parameters(), lr=5e-3)


def main():
    path = os.path.join(tempfile.mkdtemp(), 'last.pt')
    model, optimizer = make()
    fit(model, optimizer, 0, 6)
    save_checkpoint(path, model, optimizer, 6)

    model, optimizer = make()
    epoch = load_checkpoint(path, model, optimizer)
    fit(model, optimizer, epoch, 12)
    print('parameters', hashlib.md5(b''.join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())


main()

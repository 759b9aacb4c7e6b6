"""WGAN with weight clipping: several steps of the critic for each of the generator."""
import hashlib
import torch
from torch import nn, optim

torch.manual_seed(51)
G = nn.Sequential(nn.Linear(3, 24), nn.ReLU(), nn.Linear(24, 2))
D = nn.Sequential(nn.Linear(2, 24), nn.ReLU(), nn.Linear(24, 1))
opt_g = optim.RMSprop(G.parameters(), lr=1e-3)
opt_d = optim.RMSprop(D.parameters(), lr=1e-3)
n_critic = 3
distances = []

for iteration in range(60):
    for _ in range(n_critic):
        real = torch.randn(32, 2) + 1.5
        noise = torch.randn(32, 3)
        opt_d.zero_grad()
        d_loss = -D(real).mean() + D(G(noise).detach()).mean()
        d_loss.backward()
        opt_d.step()
        for p in D.parameters():
            p.data.clamp_(-0.1, 0.1)
    opt_g.zero_grad()
    g_loss = -D(G(torch.randn(32, 3))).mean()
    g_loss.backward()
    opt_g.step()
    distances.append(d_loss.item())

print("loss", sum(distances[:10]) / 10)
print("loss", sum(distances[-10:]) / 10)
print("parameters", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in [*G.parameters(), *D.parameters()])).hexdigest())

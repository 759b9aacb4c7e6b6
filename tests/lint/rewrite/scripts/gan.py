import hashlib
import torch
import torch.nn as nn

torch.manual_seed(21)
latent_dim = 4

generator = nn.Sequential(nn.Linear(latent_dim, 32), nn.ReLU(), nn.Linear(32, 2))
discriminator = nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
adversarial_loss = nn.BCEWithLogitsLoss()
optimizer_G = torch.optim.Adam(generator.parameters(), lr=2e-3, betas=(0.5, 0.999))
optimizer_D = torch.optim.Adam(discriminator.parameters(), lr=2e-3, betas=(0.5, 0.999))

for it in range(80):
    real = torch.randn(64, 2) * 0.5 + 2.0
    valid = torch.ones(64, 1)
    fake = torch.zeros(64, 1)

    # -----------------
    #  Train Generator
    # -----------------
    optimizer_G.zero_grad()
    z = torch.randn(64, latent_dim)
    gen = generator(z)
    g_loss = adversarial_loss(discriminator(gen), valid)
    g_loss.backward()
    optimizer_G.step()

    # ---------------------
    #  Train Discriminator
    # ---------------------
    optimizer_D.zero_grad()
    real_loss = adversarial_loss(discriminator(real), valid)
    fake_loss = adversarial_loss(discriminator(gen.detach()), fake)
    d_loss = (real_loss + fake_loss) / 2
    d_loss.backward()
    optimizer_D.step()

    if it % 20 == 19:
        print(f"[{it}] loss {d_loss.item()!r} loss {g_loss.item()!r}")

both = [*generator.parameters(), *discriminator.parameters()]
print("parameters", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in both)).hexdigest())

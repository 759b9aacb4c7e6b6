import hashlib
import itertools
import torch
from torch import nn


class System:
    """Two modules with an optimizer each, stepped together; metrics go to NumPy."""

    def __init__(self, width):
        self.encoder = nn.Sequential(nn.Linear(12, width), nn.ReLU())
        self.decoder = nn.Linear(width, 12)
        self.optimizers = {
            "enc": torch.optim.Adam(self.encoder.parameters(), lr=4e-3),
            "dec": torch.optim.Adam(self.decoder.parameters(), lr=4e-3),
        }
        self.step_count = 0

    def compute_loss(self, batch):
        code = self.encoder(batch)
        restored = self.decoder(code)
        loss = nn.functional.mse_loss(restored, batch)
        sparsity = 1e-3 * code.abs().mean()
        return loss + sparsity, restored

    def training_step(self, batch):
        for opt in self.optimizers.values():
            opt.zero_grad()
        loss, restored = self.compute_loss(batch)
        loss.backward()
        for part in (self.encoder, self.decoder):
            nn.utils.clip_grad_norm_(part.parameters(), 1.0)
        for opt in self.optimizers.values():
            opt.step()
        self.step_count += 1
        return loss.item(), restored

    def predict(self, batch):
        self.encoder.eval()
        with torch.no_grad():
            return self.decoder(self.encoder(batch)).numpy()


torch.manual_seed(23)
system = System(16)
stream = torch.randn(90, 24, 3) @ torch.randn(3, 12)
for n, item in enumerate(stream):
    value, _ = system.training_step(item)
    if n % 15 == 0:
        print("loss", value)
assert system.predict(stream[0]).dtype.name == "float32"
weights = itertools.chain(system.encoder.parameters(), system.decoder.parameters())
print("parameters", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in weights)).hexdigest())

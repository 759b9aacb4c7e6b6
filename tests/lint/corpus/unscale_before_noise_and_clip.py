# Thread: https://github.com/rwth-i6/returnn/pull/1595
# Title: Torch: unscale gradients before noise and clipping
# Right: Gradients are unscaled once, in the iteration that steps, before noise is added and before they are clipped.
import torch


class Updater:
    def __init__(self, network, optimizer, noise=0.0, clip_global_norm=None, amp=False):
        self.network, self.optimizer = network, optimizer
        self.noise, self.clip = noise, clip_global_norm
        self._grad_scaler = torch.amp.GradScaler("cuda", enabled=amp)

    def _add_noise(self):
        for p in self.network.parameters():
            if p.grad is not None:
                p.grad.add_(torch.randn_like(p.grad) * self.noise)

    def step(self, loss, last_of_accumulation=True):
        self._grad_scaler.scale(loss).backward()
        if not last_of_accumulation:
            return
        self._grad_scaler.unscale_(self.optimizer)
        if self.noise > 0.0:
            self._add_noise()
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
        self._grad_scaler.step(self.optimizer)
        self._grad_scaler.update()
        self.optimizer.zero_grad()


def train(network, loader, lr):
    updater = Updater(network, torch.optim.Adam(network.parameters(), lr=lr), clip_global_norm=5.0, amp=True)
    for x, y in loader:
        with torch.autocast("cuda", dtype=torch.float16):
            loss = torch.nn.functional.cross_entropy(network(x.cuda()), y.cuda())
        updater.step(loss)

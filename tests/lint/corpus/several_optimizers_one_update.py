# Thread: https://github.com/galilai-group/stable-pretraining/pull/333
# Title: [BugFix] Fix AMP with multiple optimizers in manual optimization
# Right: All optimizers are unscaled and stepped first; the shared scaler is updated once at the end.
import torch


class MultiOptimizerStep:
    def __init__(self, optimizers, clip=None):
        self.optimizers = dict(optimizers)
        self.scaler = torch.amp.GradScaler("cuda")
        self.clip = clip

    def parameters(self, name):
        return [p for group in self.optimizers[name].param_groups for p in group["params"]]

    def __call__(self, losses):
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(sum(losses)).backward()
        for name, optimizer in self.optimizers.items():
            self.scaler.unscale_(optimizer)
            if self.clip is not None:
                torch.nn.utils.clip_grad_norm_(self.parameters(name), self.clip)
        for optimizer in self.optimizers.values():
            self.scaler.step(optimizer)
        self.scaler.update()


def probe_step(backbone, probe, stepper, x, y):
    with torch.autocast("cuda", dtype=torch.float16):
        z = backbone(x)
        loss = torch.nn.functional.cross_entropy(probe(z.detach()), y)
        ssl = torch.nn.functional.mse_loss(z[0::2], z[1::2])
    stepper([ssl, loss])

# Thread: https://github.com/NVIDIA/apex/issues/654
# Title: Gradient Overflow Until ZeroFloatDivision on WGAN-GP
# Wrong: The penalty is built from gradients of the scaled output that are never divided by the scale: it explodes and the scale falls to zero.
import torch


class CriticStep:
    def __init__(self, critic, generator, lr=1e-4, gp_weight=10.0):
        self.critic, self.generator, self.gp_weight = critic, generator, gp_weight
        self.opt = torch.optim.Adam(critic.parameters(), lr=lr, betas=(0.5, 0.9))
        self.scaler = torch.amp.GradScaler("cuda")

    def _gradient_penalty(self, real, fake):
        alpha = torch.rand(real.size(0), 1, 1, device=real.device)
        mixed = (alpha * real + (1 - alpha) * fake).detach().requires_grad_(True)
        with torch.autocast("cuda", dtype=torch.float16):
            score = self.critic(mixed)
        gradients = torch.autograd.grad(  # expect: AMP214
            outputs=self.scaler.scale(score.sum()),
            inputs=mixed,
            create_graph=True,
        )[0]
        norms = gradients.flatten(1).norm(2, dim=1)
        return self.gp_weight * ((norms - 1) ** 2).mean()

    def __call__(self, real, noise):
        with torch.autocast("cuda", dtype=torch.float16):
            fake = self.generator(noise).detach()
            wasserstein = self.critic(fake).mean() - self.critic(real).mean()
        loss = wasserstein + self._gradient_penalty(real, fake.float())
        self.opt.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.opt)
        self.scaler.update()

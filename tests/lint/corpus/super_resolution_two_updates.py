# Thread: https://github.com/neosr-project/neosr/pull/9
# Title: Gradient clipping + automatic max_norm, fix double scale.update
# Wrong: One scaler serves two optimizers but update() is called after each of them; it belongs once at the end of the iteration.
import torch


class ImageModel:
    def __init__(self, net_g, net_d, losses, opt):
        self.net_g, self.net_d, self.losses = net_g, net_d, losses
        self.optimizer_g = torch.optim.AdamW(net_g.parameters(), lr=opt["lr_g"])
        self.optimizer_d = torch.optim.AdamW(net_d.parameters(), lr=opt["lr_d"])
        self.gradscaler = torch.amp.GradScaler("cuda", init_scale=2.0**5)

    def optimize_parameters(self, lq, gt):
        self.net_d.requires_grad_(False)
        self.optimizer_g.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype=torch.float16):
            output = self.net_g(lq)
            l_g_total = self.losses.pixel(output, gt) + self.losses.gan(self.net_d(output), True)
        self.gradscaler.scale(l_g_total).backward()
        self.gradscaler.step(self.optimizer_g)
        self.gradscaler.update()  # expect: AMP210

        self.net_d.requires_grad_(True)
        self.optimizer_d.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype=torch.float16):
            l_d = self.losses.gan(self.net_d(gt), True)
            l_d = l_d + self.losses.gan(self.net_d(output.detach()), False)
        self.gradscaler.scale(l_d).backward()
        self.gradscaler.step(self.optimizer_d)
        self.gradscaler.update()  # may: AMP210

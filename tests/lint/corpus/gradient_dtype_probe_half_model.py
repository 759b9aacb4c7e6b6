# Thread: https://discuss.pytorch.org/t/is-autocast-failing-to-cast-gradients/197299
# Title: Is autocast failing to cast gradients?
# Wrong: To get half gradients under autocast the model is cast with half(); the weights that the optimizer updates are float16 from then on.
import torch
import torch.nn as nn


class Probe:
    def __init__(self, width=8):
        self.net = nn.Linear(width, 1).to("cuda")
        self.net.half()  # expect: AMP106|AMP302
        self.sgd = torch.optim.SGD(self.net.parameters(), lr=1e-3)

    def gradient_dtype(self, rows):
        with torch.autocast(device_type="cuda", dtype=torch.float16):  # may: AMP212
            value = self.net(rows).mean()
        self.sgd.zero_grad()
        value.backward()  # may: AMP212
        self.sgd.step()
        return self.net.weight.grad.dtype


def main():
    probe = Probe()
    rows = torch.randn(12, 8, device="cuda")
    print(probe.gradient_dtype(rows))


if __name__ == "__main__":
    main()

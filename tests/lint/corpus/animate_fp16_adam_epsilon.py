# Thread: https://github.com/jinxixiang/magic_animate_unofficial/issues/6
# Title: FP16 causes NAN after optimizer.step
# Wrong: The float16 model is trained with adam_epsilon 1e-8, which rounds to zero; the loss is nan after optimizer.step.
import torch
from torch import nn

from animate import AppearanceEncoder, MotionUNet


class Joint(nn.Module):
    def __init__(self):
        super().__init__()
        self.appearance = AppearanceEncoder()
        self.motion = MotionUNet()

    def forward(self, frames, pose, t):
        return self.motion(frames, t, self.appearance(frames[:, 0]), pose)


def train(loader, weight_dtype=torch.float16, learning_rate=1e-5, adam_epsilon=1e-8):
    net = Joint().to("cuda", dtype=torch.float16)  # expect: AMP302
    optimizer = torch.optim.AdamW(net.parameters(), lr=learning_rate, eps=1e-8)  # expect: AMP303
    for frames, pose, t, noise in loader:
        frames, pose, noise = (x.to("cuda", weight_dtype) for x in (frames, pose, noise))
        loss = nn.functional.mse_loss(net(frames, pose, t.to("cuda")).float(), noise.float())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()

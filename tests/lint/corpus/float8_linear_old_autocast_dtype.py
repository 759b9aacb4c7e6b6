# Thread: https://github.com/pytorch/ao/issues/1522
# Title: Float8Linear autocast's `torch.get_autocast_gpu_dtype()` is deprecated
# Wrong: The layer asks torch.get_autocast_gpu_dtype(), which is deprecated and knows nothing of autocast on other devices.
import torch
from torch import nn

from lowbits import cast_to_float8, scaled_mm


class Float8Linear(nn.Linear):
    def __init__(self, *args, config=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.config = config

    def cast_input(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_autocast_enabled():
            target = torch.get_autocast_gpu_dtype()  # expect: AMP004
            x = x.to(target)
        return cast_to_float8(x, self.config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = scaled_mm(self.cast_input(x), self.weight.t())
        if self.bias is not None:
            y = y + self.bias.to(y.dtype)
        return y

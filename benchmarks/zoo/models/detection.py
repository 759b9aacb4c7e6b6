"""Detection: the networks up to their raw boxes and scores, without non-maximum suppression."""

from __future__ import annotations

from ..data import PHOTOS, photo
from ..from_onnx import load
from ..packages import submodule
from ..registry import Sample, batches_of, entry
from ..wrap import Outputs

FACES = "real photographs (scikit-image)"


@entry("detr_resnet50", domain="detection", logits=True)
def detr_resnet50() -> Sample:
    """DETR with a ResNet-50: encoder and decoder over image features, class logits and boxes."""
    from transformers import DetrConfig, DetrForObjectDetection

    config = DetrConfig(use_timm_backbone=False, use_pretrained_backbone=False, backbone=None)
    module = Outputs(
        DetrForObjectDetection(config), "logits", "pred_boxes", names=("pixel_values",)
    )
    return Sample(module, batches_of(lambda i: photo(i, (320, 320))), data=PHOTOS)


@entry("yolos_tiny", domain="detection", logits=True)
def yolos_tiny() -> Sample:
    """YOLOS-tiny: a plain ViT with detection tokens."""
    from transformers import YolosConfig, YolosForObjectDetection

    config = YolosConfig(
        hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768,
        image_size=[256, 256],
    )  # fmt: skip
    module = Outputs(
        YolosForObjectDetection(config), "logits", "pred_boxes", names=("pixel_values",)
    )
    return Sample(module, batches_of(lambda i: photo(i, 256)), data=PHOTOS)


def _mtcnn(name: str, size: int) -> Sample:
    mtcnn = submodule("facenet_pytorch", "models.mtcnn")
    bare = (127.5 / 255,) * 3
    scale = (128 / 255,) * 3  # facenet-pytorch feeds (pixel - 127.5) / 128
    batches = batches_of(lambda i: photo(i, size, bare, scale))
    return Sample(getattr(mtcnn, name)(), batches, "trained in facenet-pytorch", FACES)


@entry("mtcnn_pnet", domain="detection", trained=True)
def mtcnn_pnet() -> Sample:
    """MTCNN's proposal network over a whole photograph."""
    return _mtcnn("PNet", 160)


@entry("mtcnn_rnet", domain="detection", trained=True)
def mtcnn_rnet() -> Sample:
    """MTCNN's refinement network."""
    return _mtcnn("RNet", 24)


@entry("mtcnn_onet", domain="detection", trained=True)
def mtcnn_onet() -> Sample:
    """MTCNN's output network: box, landmarks, score."""
    return _mtcnn("ONet", 48)


@entry("yolov8n", domain="detection", trained=True)
def yolov8n() -> Sample:
    """YOLOv8n as nudenet ships it: boxes in pixels up to 320 beside scores in 0..1."""
    module = load("nudenet", "320n.onnx", {"images": (1, 3, 320, 320)})
    unit = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return Sample(module, batches_of(lambda i: photo(i, 320, *unit)), "trained in nudenet", PHOTOS)

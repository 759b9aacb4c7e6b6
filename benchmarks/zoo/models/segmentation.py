"""Segmentation of photographs and of medical images and volumes."""

from __future__ import annotations

from ..data import PHOTOS, photo, random_batches
from ..registry import Sample, batches_of, entry
from ..wrap import Call, Outputs, settle

MEDICAL = "real medical image (scikit-image)"
TISSUE = ("immunohistochemistry", "retina", "cell", "microaneurysms")


@entry("segformer_b0", domain="segmentation", logits=True, axis=1)
def segformer_b0() -> Sample:
    """SegFormer-B0: attention with reduced keys, a linear decoder over four scales."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    module = Outputs(
        SegformerForSemanticSegmentation(SegformerConfig()), "logits", names=("pixel_values",)
    )
    return settle(Sample(module.eval(), batches_of(lambda i: photo(i, 256)), data=PHOTOS))


@entry("deeplabv3_resnet50", domain="segmentation", logits=True, axis=1)
def deeplabv3_resnet50() -> Sample:
    """torchvision's DeepLabV3: dilated convolutions and bilinear resizes."""
    from torchvision.models import segmentation

    model = segmentation.deeplabv3_resnet50(weights_backbone=None)
    module = Call(model, lambda m, x: m(x)["out"])
    return settle(Sample(module.eval(), batches_of(lambda i: photo(i, 224)), data=PHOTOS))


@entry("unet_resnet34", domain="segmentation")
def unet_resnet34() -> Sample:
    """segmentation-models-pytorch's U-Net with a ResNet-34 encoder."""
    import segmentation_models_pytorch as smp

    model = smp.Unet("resnet34", encoder_weights=None)
    return settle(Sample(model.eval(), batches_of(lambda i: photo(i, 224)), data=PHOTOS))


@entry("monai_unet_2d", domain="medical", logits=True, axis=1)
def monai_unet_2d() -> Sample:
    """MONAI's U-Net: residual units, instance normalisation, PReLU."""
    from monai.networks.nets import UNet

    model = UNet(2, 3, 2, (16, 32, 64, 128, 256), (2, 2, 2, 2), num_res_units=2)
    return Sample(model, batches_of(lambda i: photo(i, 192, names=TISSUE)), data=MEDICAL)


@entry("monai_unet_3d", domain="medical", logits=True, axis=1)
def monai_unet_3d() -> Sample:
    """The same in three dimensions over a small volume."""
    from monai.networks.nets import UNet

    model = UNet(3, 1, 2, (16, 32, 64, 128), (2, 2, 2), num_res_units=2)
    return Sample(model, random_batches((1, 1, 48, 48, 48)))


@entry("monai_unetr", domain="medical", logits=True, axis=1)
def monai_unetr() -> Sample:
    """UNETR: a transformer encoder over volume patches, a convolutional decoder."""
    from monai.networks.nets import UNETR

    model = UNETR(1, 2, (32, 32, 32), feature_size=8, hidden_size=192, mlp_dim=384, num_heads=6)
    return Sample(model, random_batches((1, 1, 32, 32, 32)))


@entry("monai_segresnet", domain="medical", logits=True, axis=1)
def monai_segresnet() -> Sample:
    """SegResNet: group normalisation and trilinear upsampling."""
    from monai.networks.nets import SegResNet

    model = SegResNet(3, init_filters=8, in_channels=1, out_channels=3)
    return Sample(model, random_batches((1, 1, 32, 32, 32)))

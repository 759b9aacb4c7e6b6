# Thread: https://github.com/VCasecnikovs/Yet-Another-YOLOv4-Pytorch/issues/6
# Title: Error using F.binary_cross_entropy in model.py with autocast
# Wrong: The YOLO head calls F.binary_cross_entropy on sigmoid outputs; under autocast torch refuses it.
import torch
import torch.nn.functional as F
from torch import nn


class YoloHead(nn.Module):
    def __init__(self, channels, anchors=3, classes=80):
        super().__init__()
        self.conv = nn.Conv2d(channels, anchors * (5 + classes), 1)
        self.anchors = anchors

    def forward(self, x, obj_mask=None, tconf=None, tcls=None):
        b, _, h, w = x.shape
        prediction = self.conv(x).view(b, self.anchors, -1, h, w).permute(0, 1, 3, 4, 2)
        pred_conf = torch.sigmoid(prediction[..., 4])
        pred_cls = torch.sigmoid(prediction[..., 5:])
        if tconf is None:
            return torch.cat([prediction[..., :4], pred_conf[..., None], pred_cls], dim=-1)
        noobj_mask = ~obj_mask
        loss = F.binary_cross_entropy(pred_conf[obj_mask], tconf[obj_mask])  # expect: AMP407
        loss = loss + F.binary_cross_entropy(pred_conf[noobj_mask], tconf[noobj_mask])  # expect: AMP407
        return loss + F.binary_cross_entropy(pred_cls[obj_mask], tcls[obj_mask])  # expect: AMP407


def train_batch(backbone, head, batch, optimizer, scaler):
    with torch.autocast("cuda", dtype=torch.float16):
        loss = head(backbone(batch.images), batch.obj_mask, batch.tconf, batch.tcls)
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()

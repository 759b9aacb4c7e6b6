# Thread: https://github.com/Megvii-BaseDetection/YOLOX/issues/336
# Title: fp16 training with torch1.9 got runtime error
# Right: The matching cost with binary_cross_entropy runs in a region with autocast disabled, on float32 inputs; the real losses use logits.
import torch
import torch.nn.functional as F


@torch.no_grad()
def class_cost(cls_preds, obj_preds, gt_classes, num_classes):
    with torch.autocast("cuda", enabled=False):
        joint = cls_preds.float().sigmoid() * obj_preds.float().sigmoid()
        hot = F.one_hot(gt_classes, num_classes).float()
        hot = hot[:, None].expand(-1, joint.shape[0], -1)
        joint = joint.sqrt()[None].expand(hot.shape[0], -1, -1)
        return F.binary_cross_entropy(joint, hot, reduction="none").sum(-1)


def training_losses(model, assign, images, boxes, classes, num_classes=80):
    with torch.autocast("cuda", dtype=torch.float16):
        cls_preds, obj_preds, box_preds = model(images)
        cost = class_cost(cls_preds, obj_preds, classes, num_classes)
        matched, positive = assign(cost, box_preds, boxes)
        loss_obj = F.binary_cross_entropy_with_logits(obj_preds, positive)
        loss_cls = F.cross_entropy(cls_preds[matched], classes)
    return loss_obj + loss_cls


def step(model, assign, batch, optimizer, scaler):
    loss = training_losses(model, assign, *batch)
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()

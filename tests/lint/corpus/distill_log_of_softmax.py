# Thread: https://github.com/pytorch/pytorch/issues/795
# Title: F.log_softmax raises nan values
# Wrong: log(softmax(x)) is taken in two steps from half scores; classes below float16's range give log(0) = -inf.
import torch
import torch.nn.functional as F


def soft_targets(teacher, images, temperature):
    with torch.no_grad():
        return torch.softmax(teacher(images) / temperature, dim=1)


def distil(student, teacher, loader, optimizer, temperature=4.0):
    student.cuda().train()
    teacher.cuda().half().eval()
    scaler = torch.amp.GradScaler("cuda")
    for images, labels in loader:
        images, labels = images.cuda(), labels.cuda()
        target = soft_targets(teacher, images.half(), temperature)
        with torch.autocast("cuda", dtype=torch.float16):
            scores = student(images)
            log_p = torch.log(F.softmax(scores / temperature, dim=1))  # expect: AMP405
            loss = F.kl_div(log_p, target, reduction="batchmean") * temperature**2
            loss = loss + F.cross_entropy(scores, labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

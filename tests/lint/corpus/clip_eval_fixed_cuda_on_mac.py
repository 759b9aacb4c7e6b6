# Thread: https://github.com/mlfoundations/open_clip/pull/654
# Title: use MPS and explicitly disable autocast & GradScaler for non-CUDA
# Wrong: The device is chosen at run time but autocast is fixed to "cuda": on a Mac it warns, disables itself and runs in float32.
import torch


def pick_device():
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


@torch.no_grad()
def image_features(model, loader):
    device = pick_device()
    model = model.to(device).eval()
    chunks = []
    for images, _ in loader:
        with torch.autocast("cuda", dtype=torch.float16):  # expect: AMP101
            chunk = model.encode_image(images.to(device))
        chunks.append(chunk.float().cpu())
    return torch.cat(chunks)

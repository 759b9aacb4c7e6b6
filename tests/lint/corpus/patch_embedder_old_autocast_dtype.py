# Thread: https://github.com/mahmoodlab/HEST/pull/124
# Title: fix torch.amp.autocast
# Wrong: Feature extraction asks the deprecated alias for a dtype; the call warns and will go away.
from pathlib import Path

import h5py
import torch
from torch.utils.data import DataLoader


class PatchEncoder(torch.nn.Module):
    def __init__(self, backbone, precision=torch.float16):
        super().__init__()
        self.backbone = backbone
        self.precision = precision

    def forward(self, patches):
        return self.backbone(patches)


def embed_slide(encoder: PatchEncoder, patches: DataLoader, target: Path, device: str) -> None:
    encoder.eval().to(device)
    with h5py.File(target, "w") as out, torch.inference_mode():
        rows = []
        for batch in patches:
            with torch.cuda.amp.autocast(dtype=encoder.precision):  # expect: AMP001
                rows.append(encoder(batch["img"].to(device)).float().cpu())
        out.create_dataset("embeddings", data=torch.cat(rows).numpy())

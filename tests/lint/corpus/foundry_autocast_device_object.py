# Thread: https://github.com/mosaicml/llm-foundry/pull/302
# Title: Fix autocast dtype
# Wrong: autocast is given a torch.device object where it wants the device type as a string; it raises on entry.
import torch
from torch import nn

DEVICE = torch.device("cuda:0")
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Generator:
    def __init__(self, model: nn.Module, tokenizer, precision: str = "bf16"):
        self.model = model.to(DEVICE).eval()
        self.tokenizer = tokenizer
        self.dtype = DTYPES[precision]

    @torch.inference_mode()
    def __call__(self, prompts, max_new_tokens=64):
        tokens = self.tokenizer(prompts, return_tensors="pt", padding=True).to(DEVICE)
        with torch.autocast(DEVICE, self.dtype):  # expect: AMP101
            out = self.model.generate(**tokens, max_new_tokens=max_new_tokens)
        return self.tokenizer.batch_decode(out, skip_special_tokens=True)

# Thread: https://github.com/huggingface/transformers/pull/42055
# Title: Use `torch.get_autocast_dtype` instead of `torch.get_autocast_gpu_dtype`
# Wrong: The dtype for flash attention is read with the old per-device functions, which print a DeprecationWarning on each call.
import torch


def attention_dtype(query: torch.Tensor, module: torch.nn.Module):
    if query.dtype != torch.float32:
        return None
    if query.device.type == "cpu":
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None  # expect: AMP004
    if torch.is_autocast_enabled():
        return torch.get_autocast_gpu_dtype()  # expect: AMP004
    for layer in module.modules():
        if isinstance(layer, torch.nn.Linear):
            return layer.weight.dtype
    return None


def flash_forward(module, query, key, value, kernel):
    wanted = attention_dtype(query, module)
    if wanted is not None:
        query, key, value = (t.to(wanted) for t in (query, key, value))
    return kernel(query, key, value, causal=module.is_causal)

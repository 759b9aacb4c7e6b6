# Thread: https://github.com/luyug/GradCache/issues/21
# Title: `TypeError: __call__() takes 2 positional arguments but 3 were given` when using `@cached` and `@autocast`
# Wrong: @autocast is written without parentheses, so the class itself wraps the function and the call fails with a TypeError.
import torch
from grad_cache.functional import cached, cat_input_tensor
from torch import autocast


@cached
@autocast  # expect: AMP105
def encode_audio(model, clip):
    return model.forward_audio(clip)


@cached
@autocast  # expect: AMP105
def encode_video(model, frames):
    return model.forward_visual(frames)


@cat_input_tensor
def contrast(audio, video, temperature=0.07):
    scores = audio @ video.t() / temperature
    labels = torch.arange(scores.size(0), device=scores.device)
    return torch.nn.functional.cross_entropy(scores, labels)


def accumulate(model, batches, caches):
    for clip, frames in batches:
        a, undo_a = encode_audio(model, clip)
        v, undo_v = encode_video(model, frames)
        caches.append((a, v, undo_a, undo_v))
    return caches

# Thread: https://github.com/QwenLM/Qwen/issues/32
# Title: RuntimeError: value cannot be converted to type at::Half without overflow
# Wrong: The end token's score is set to 2**30 to force a stop; the scores of the float16 model cannot hold it and the write raises.
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessor, LogitsProcessorList


class StopWords(LogitsProcessor):
    def __init__(self, stops, eos_token_id):
        self.stops = [list(s) for s in stops if s]
        self.eos_token_id = eos_token_id

    def _ends_with_stop(self, tokens):
        return any(tokens[-len(stop):] == stop for stop in self.stops)

    def __call__(self, input_ids, scores):
        for i, tokens in enumerate(input_ids.tolist()):
            if self._ends_with_stop(tokens):
                scores[i, self.eos_token_id] = float(2**30)  # expect: AMP403|AMP401
        return scores


def chat(name, prompt, stops):
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForCausalLM.from_pretrained(name, torch_dtype=torch.float16).cuda().eval()
    stop_ids = [tokenizer.encode(word) for word in stops]
    rules = LogitsProcessorList([StopWords(stop_ids, tokenizer.eos_token_id)])
    inputs = tokenizer(prompt, return_tensors="pt").to("cuda")
    out = model.generate(**inputs, logits_processor=rules, max_new_tokens=128)
    return tokenizer.decode(out[0], skip_special_tokens=True)

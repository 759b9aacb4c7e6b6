# Thread: https://github.com/yanqiangmiffy/InstructGLM/issues/24
# Title: 预测时，torch.set_default_tensor_type(torch.cuda.HalfTensor)的问题
# Wrong: The default tensor type is switched to a CUDA half type while the model loads and back after; it pins dtype and device of everything made in between.
import torch
from peft import PeftModel
from transformers import AutoModel, AutoTokenizer

BASE = "THUDM/chatglm-6b"


def load(adapter):
    torch.set_default_tensor_type(torch.cuda.HalfTensor)  # expect: AMP305
    model = AutoModel.from_pretrained(BASE, trust_remote_code=True, device_map="auto")
    model = PeftModel.from_pretrained(model, adapter)
    torch.set_default_tensor_type(torch.cuda.FloatTensor)  # expect: AMP305
    return model.eval()


def answer(model, tokenizer, question, limit=150):
    ids = tokenizer.encode(f"Instruction: {question}\nAnswer: ", return_tensors="pt").cuda()
    with torch.no_grad():
        out = model.generate(input_ids=ids, max_length=limit, do_sample=False)
    return tokenizer.decode(out[0])


if __name__ == "__main__":
    tok = AutoTokenizer.from_pretrained(BASE, trust_remote_code=True)
    print(answer(load("output/lora"), tok, "Name three rivers."))

# Thread: https://github.com/mst272/LLM-Dojo/issues/11
# Title: Attempting to unscale FP16 gradients
# Wrong: The weights are loaded in float16 and fp16=True adds a GradScaler: the first step fails with "Attempting to unscale FP16 gradients".
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments


def create_model(path):
    base = AutoModelForCausalLM.from_pretrained(  # expect: AMP007|AMP302
        path,
        torch_dtype=torch.float16,
        use_cache=False,
    )
    lora = LoraConfig(r=64, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(base, lora)


def sft(path, dataset, collator, out):
    args = TrainingArguments(  # may: AMP007
        output_dir=out,
        fp16=True,
        gradient_accumulation_steps=4,
        per_device_train_batch_size=2,
        max_grad_norm=1.0,
        learning_rate=1e-4,
    )
    trainer = Trainer(
        model=create_model(path), args=args, train_dataset=dataset, data_collator=collator
    )
    trainer.train()

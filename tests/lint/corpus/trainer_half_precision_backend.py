# Thread: https://github.com/huggingface/transformers/pull/41404
# Title: Remove deprecated args in Trainer for v5
# Wrong: half_precision_backend was removed from TrainingArguments in transformers 5: unexpected keyword argument.
from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers import Trainer, TrainingArguments

checkpoint = "distilbert-base-uncased"
tokenizer = AutoTokenizer.from_pretrained(checkpoint)
model = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=2)


def encode(rows):
    return tokenizer(rows["sentence"], truncation=True, padding="max_length", max_length=128)


sst2 = load_dataset("glue", "sst2").map(encode, batched=True)
training_args = TrainingArguments(
    output_dir="runs/sst2",
    fp16=True,
    half_precision_backend="apex",  # expect: AMP007
    per_device_train_batch_size=32,
    num_train_epochs=3,
)
Trainer(
    model=model,
    args=training_args,
    train_dataset=sst2["train"],
    eval_dataset=sst2["validation"],
).train()

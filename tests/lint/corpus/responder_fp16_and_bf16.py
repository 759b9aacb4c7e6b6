# Thread: https://github.com/Eiztrips/ai-responder/issues/7
# Title: At most one of fp16 and bf16 can be True, but not both
# Wrong: The CUDA settings turn on fp16 and bf16 together and TrainingArguments raises a ValueError.
import logging

from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

log = logging.getLogger(__name__)


class ModelTrainer:
    def __init__(self, name, out):
        self.out = out
        self.tokenizer = AutoTokenizer.from_pretrained(name)
        self.model = AutoModelForCausalLM.from_pretrained(name)

    def fit(self, dataset, collate, epochs=3):
        args = TrainingArguments(  # expect: AMP007
            output_dir=self.out,
            num_train_epochs=epochs,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=8,
            learning_rate=2e-5,
            fp16=True,
            bf16=True,
            logging_steps=50,
        )
        trainer = Trainer(
            model=self.model, args=args, train_dataset=dataset, data_collator=collate
        )
        trainer.train()
        trainer.save_model(self.out)
        log.info("saved to %s", self.out)

"""Training in the low type against float32 and torch.autocast: accuracy, time, memory, failures."""

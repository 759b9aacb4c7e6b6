# Thread: https://github.com/ewrfcas/MVSFormer/issues/8
# Title: KeyError: 'optimizer'
# Wrong: The fp16 branch steps through the scaler but no loss was ever scaled: "Attempted step but _scale is None".
import torch


class DepthTrainer:
    def __init__(self, model, optimizer, scheduler, fp16=True, finetune=None):
        self.model = model
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.fp16 = fp16
        self.scaler = torch.amp.GradScaler("cuda", enabled=fp16)
        if finetune:
            self.model.load_state_dict(torch.load(finetune)["state_dict"])

    def _train_epoch(self, loader, depth_loss):
        self.model.train()
        for sample in loader:
            self.optimizer.zero_grad()
            with torch.autocast("cuda", dtype=torch.float16, enabled=self.fp16):
                outputs = self.model(sample["imgs"].cuda(), sample["proj"].cuda())
                loss = depth_loss(outputs, sample["depth"].cuda(), sample["mask"].cuda())
            loss.backward()  # expect: AMP201
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.scheduler.step()

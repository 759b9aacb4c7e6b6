# Thread: https://github.com/vturrisi/solo-learn/issues/367
# Title: Are all the weights available from 16-bit precision? Not 16-mixed?
# Wrong: precision=16 is a legacy value; Lightning warns that it is kept for historical reasons and runs 16-mixed, which misleads readers of the recipe.
import lightning.pytorch as pl
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint

from ssl_methods import BarlowTwins
from ssl_data import build_loader


def pretrain(cfg):
    pl.seed_everything(cfg.seed)
    method = BarlowTwins(cfg)
    loader = build_loader(cfg.data, batch_size=cfg.batch_size)
    trainer = pl.Trainer(
        max_epochs=cfg.epochs,
        accelerator="gpu",
        devices=cfg.devices,
        strategy="ddp",
        precision=16,  # expect: AMP006
        sync_batchnorm=True,
        callbacks=[LearningRateMonitor(), ModelCheckpoint(dirpath=cfg.out)],
    )
    trainer.fit(method, loader)
    return trainer.callback_metrics

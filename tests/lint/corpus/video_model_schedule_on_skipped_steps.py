# Thread: https://github.com/hkchengrex/STCN/issues/44
# Title: About optimizer.step()
# Wrong: do_pass steps the schedule after scaler.step whether or not the optimizer stepped, and torch warns about the order.
import torch
from torch import nn, optim


class STModel:
    def __init__(self, para, net, loss_computer, local_rank=0):
        self.para = para
        self.net = nn.parallel.DistributedDataParallel(net.cuda(), device_ids=[local_rank])
        self.loss_computer = loss_computer
        self.optimizer = optim.Adam(net.parameters(), lr=para["lr"], weight_decay=1e-7)
        self.scheduler = optim.lr_scheduler.MultiStepLR(self.optimizer, para["steps"], para["gamma"])
        if para["amp"]:
            self.scaler = torch.amp.GradScaler("cuda")

    def do_pass(self, data, it=0):
        with torch.autocast("cuda", dtype=torch.float16, enabled=self.para["amp"]):
            out = self.net(data["rgb"].cuda(), data["mask"].cuda())
            losses = self.loss_computer(data, out, it)
        self.optimizer.zero_grad(set_to_none=True)
        if self.para["amp"]:
            self.scaler.scale(losses["total_loss"]).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            losses["total_loss"].backward()
            self.optimizer.step()
        self.scheduler.step()  # expect: AMP211

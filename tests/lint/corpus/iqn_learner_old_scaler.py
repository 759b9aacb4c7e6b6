# Thread: https://github.com/Linesight-RL/linesight/issues/51
# Title: Replace deprecated torch.cuda.amp.GradScaler()
# Wrong: The learner process builds torch.cuda.amp.GradScaler, which is deprecated and prints a FutureWarning for every learner.
import torch
import torch_optimizer


def make_learner(online, target, cfg):
    optimizer = torch_optimizer.RAdam(online.parameters(), lr=cfg.lr, eps=1e-4)
    scaler = torch.cuda.amp.GradScaler()  # expect: AMP002
    return Learner(online, target, optimizer, scaler, cfg.tau)


class Learner:
    def __init__(self, online, target, optimizer, scaler, tau):
        self.online, self.target = online, target
        self.optimizer, self.scaler, self.tau = optimizer, scaler, tau

    def train_on_batch(self, replay, huber):
        self.optimizer.zero_grad(set_to_none=True)
        states, actions, returns = replay.sample()
        with torch.amp.autocast(device_type="cuda", dtype=torch.float16):
            q = self.online(states).gather(1, actions)
            loss = huber(q, returns)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_value_(self.online.parameters(), 30)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.online.parameters()):
                slow.lerp_(fast, self.tau)
        return loss.item()

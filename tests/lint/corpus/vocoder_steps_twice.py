# Thread: https://github.com/IAHispano/Applio/pull/860
# Title: optimizer step bugfix
# Wrong: After scaler.step(optim) the plain optim.step() is called too, on top of the scaler and even when the scaler skipped the step.
import torch
from torch.nn import functional as F


def train_and_evaluate(nets, optims, scaler, loader, losses, fp16_run):
    net_g, net_d = nets
    optim_g, optim_d = optims
    for phone, pitch, wave in loader:
        with torch.autocast("cuda", dtype=torch.float16, enabled=fp16_run):
            fake, mel_fake, mel_real = net_g(phone.cuda(), pitch.cuda())
            real_score, fake_score = net_d(wave.cuda()), net_d(fake.detach())
            loss_d = losses.discriminator(real_score, fake_score)
        optim_d.zero_grad()
        scaler.scale(loss_d).backward()
        scaler.step(optim_d)

        with torch.autocast("cuda", dtype=torch.float16, enabled=fp16_run):
            loss_mel = F.l1_loss(mel_fake, mel_real) * 45
            loss_g = loss_mel + losses.generator(net_d(fake))
        optim_g.zero_grad()
        scaler.scale(loss_g).backward()
        scaler.step(optim_g)
        scaler.update()

        optim_g.step()  # expect: AMP202
        optim_d.step()  # expect: AMP202

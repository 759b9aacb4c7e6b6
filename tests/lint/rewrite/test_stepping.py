"""What the loop does with gradients, in small scripts: whole results."""

from __future__ import annotations

from tests.lint.rewrite.rewritten import AUTOCAST, MADE, after


def test_unscaled_once_inside_of_the_guard_and_the_scheduler_waits() -> None:
    assert (
        after("""\
def train(model, loader, optimizer, scheduler, accumulate=4):
    for i, (x, y) in enumerate(loader):
        loss = ((model(x) - y) ** 2).mean() / accumulate
        loss.backward()
        if (i + 1) % accumulate == 0:
            # not too far
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            log(sum(p.grad.norm() for p in model.parameters()))
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()


net = nn.Linear(4, 1)
adam = torch.optim.Adam(net.parameters())
train(net, [], adam, torch.optim.lr_scheduler.ExponentialLR(adam, 0.9))
""")
        == f"""\
def train(model, loader, optimizer, scheduler, accumulate=4, *, scaler):
    for i, (x, y) in enumerate(loader):
        {AUTOCAST}
            loss = ((model(x) - y) ** 2).mean() / accumulate
        scaler.scale(loss).backward()
        if (i + 1) % accumulate == 0:
            # not too far
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            log(sum(p.grad.norm() for p in model.parameters()))
            scaler.step(optimizer)
            scale_before = scaler.get_scale()
            scaler.update()
            if scaler.get_scale() >= scale_before:
                scheduler.step()
            optimizer.zero_grad()


net = nn.Linear(4, 1)
adam = torch.optim.Adam(net.parameters())
{MADE}
train(net, [], adam, torch.optim.lr_scheduler.ExponentialLR(adam, 0.9), scaler=scaler)
"""
    )


def test_ways_out_between_unscale_and_update_update_too() -> None:
    assert (
        after("""\
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x in []:
    optimizer.zero_grad()
    model(x).sum().backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for p in model.parameters():
        if p.grad is None: break
    if not norm.isfinite(): continue
    optimizer.step()
""")
        == f"""\
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
{MADE}
for x in []:
    optimizer.zero_grad()
    {AUTOCAST}
        loss = model(x).sum()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for p in model.parameters():
        if p.grad is None: break
    if not norm.isfinite():
        scaler.update()
        continue
    scaler.step(optimizer)
    scaler.update()
"""
    )


def test_a_step_under_a_guard_against_nan_updates_behind_it() -> None:
    assert (
        after("""\
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x in []:
    optimizer.zero_grad()
    loss = model(x).mean()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    if norm.isfinite():
        optimizer.step()
""")
        == f"""\
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
{MADE}
for x in []:
    optimizer.zero_grad()
    {AUTOCAST}
        loss = model(x).mean()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    if norm.isfinite():
        scaler.step(optimizer)
    scaler.update()
"""
    )


def test_sums_over_processes_come_before_the_scale_is_taken_off() -> None:
    assert (
        after("""\
import torch.distributed as dist
def average(model):
    for p in model.parameters():
        dist.all_reduce(p.grad)
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x in []:
    optimizer.zero_grad()
    loss = model(x).mean()
    loss.backward()
    average(model)
    optimizer.step()
""").count("unscale_")
        == 0
    )


def test_an_optimizer_made_anew_gets_a_new_scaler() -> None:
    text = after("""\
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
def epoch():
    for x in []:
        optimizer.zero_grad()
        loss = model(x).mean()
        loss.backward()
        optimizer.step()
epoch()
optimizer.zero_grad()
optimizer = torch.optim.Adam(model.parameters())
epoch()
""")
    assert text.count(MADE) == 2

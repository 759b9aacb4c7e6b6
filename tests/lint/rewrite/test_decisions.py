"""What goes under autocast, in small scripts: whole results."""

from __future__ import annotations

from ampconvert.lint.rewrite import rewrite
from tests.lint.rewrite.rewritten import AUTOCAST, HEAD, MADE, after


def test_forward_and_loss_run_under_autocast_and_nothing_else() -> None:
    assert (
        after("""\
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x, y in []:
    x = x + 1  # data
    # the model
    output = model(x)

    loss = nn.functional.mse_loss(output, y)
    optimizer.zero_grad(); loss.backward(); optimizer.step()  # all three
    print(loss.item())
""")
        == f"""\
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
{MADE}
for x, y in []:
    x = x + 1  # data
    # the model
    {AUTOCAST}
        output = model(x)

        loss = nn.functional.mse_loss(output, y)
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(optimizer)  # all three
    scaler.update()
    print(loss.item())
"""
    )


def test_bfloat16_needs_no_scaler() -> None:
    assert (
        after(
            """\
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x, y in []:
    loss = nn.functional.mse_loss(model(x), y)
    loss.backward()
    optimizer.step()
""",
            "bfloat16",
        )
        == f"""\
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x, y in []:
    {AUTOCAST}
        loss = nn.functional.mse_loss(model(x), y)
    loss.backward()
    optimizer.step()
"""
    )


def test_the_loss_of_a_method_is_followed_to_where_the_model_runs() -> None:
    assert (
        after("""\
class Pix:
    def __init__(self):
        self.device = torch.device("cpu")
        self.net = nn.Linear(4, 4).to(self.device)
        self.opt = torch.optim.Adam(self.net.parameters())

    def forward(self, x):
        self.fake = self.net(x)

    def backward(self, y):
        self.loss = (self.fake - y).abs().mean()
        self.loss.backward()

    def optimize(self, x, y):
        self.forward(x)
        self.opt.zero_grad()
        self.backward(y)
        self.opt.step()
""")
        == """\
class Pix:
    def __init__(self):
        self.device = torch.device("cpu")
        self.net = nn.Linear(4, 4).to(self.device)
        self.opt = torch.optim.Adam(self.net.parameters())
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=AMP_ENABLED)

    def forward(self, x):
        self.fake = self.net(x)

    def backward(self, y):
        with torch.amp.autocast(self.device.type, dtype=AMP_DTYPE, enabled=AMP_ENABLED):
            self.loss = (self.fake - y).abs().mean()
        self.scaler.scale(self.loss).backward()

    def optimize(self, x, y):
        with torch.amp.autocast(self.device.type, dtype=AMP_DTYPE, enabled=AMP_ENABLED):
            self.forward(x)
        self.opt.zero_grad()
        self.backward(y)
        self.scaler.step(self.opt)
        self.scaler.update()
"""
    )


def test_a_loss_that_is_handed_over_gets_a_line_under_autocast() -> None:
    assert (
        after("""\
def step(loss, optimizer):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


model = nn.Linear(4, 1)
opt = torch.optim.SGD(model.parameters(), lr=0.1)
for x, y in []:
    with torch.no_grad():
        teacher = model(x)
    out = model(x)
    step(nn.functional.mse_loss(out, teacher), opt)
""")
        == f"""\
def step(loss, optimizer, scaler):
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()


model = nn.Linear(4, 1)
opt = torch.optim.SGD(model.parameters(), lr=0.1)
{MADE}
for x, y in []:
    {AUTOCAST}
        with torch.no_grad():
            teacher = model(x)
        out = model(x)
        batch_loss = nn.functional.mse_loss(out, teacher)
    step(batch_loss, opt, scaler=scaler)
"""
    )


def test_binary_cross_entropy_of_probabilities_stays_in_float32() -> None:
    assert (
        after("""\
criterion = nn.BCELoss()
model = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x, y in []:
    optimizer.zero_grad()
    p = model(x)
    loss = criterion(p.squeeze(), y) + criterion(model(-x), 1 - y)
    loss.backward()
    optimizer.step()
    print((p > 0.5).sum())
""")
        == f"""\
criterion = nn.BCELoss()
model = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
{MADE}
for x, y in []:
    optimizer.zero_grad()
    {AUTOCAST}
        p = model(x)
        output = model(-x)
    loss = criterion(p.squeeze().float(), y) + criterion(output.float(), 1 - y)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    print((p > 0.5).sum())
"""
    )


def test_the_sigmoid_goes_where_probabilities_go_nowhere_else() -> None:
    text = after("""\
criterion = nn.BCELoss()
model = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x, y in []:
    optimizer.zero_grad()
    loss = criterion(model(x).squeeze(), y)
    loss.backward()
    optimizer.step()
""")
    assert "criterion = nn.BCEWithLogitsLoss()" in text
    assert "nn.Sequential(nn.Linear(4, 1), nn.Identity())" in text
    assert f"    {AUTOCAST}\n        loss = criterion(model(x).squeeze(), y)\n" in text


def test_casts_of_inputs_go_but_what_else_they_do_stays() -> None:
    assert (
        after("""\
device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
model = nn.Linear(4, 1).to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x, y in []:
    x = x.half()
    y = y.to(device, dtype=torch.float16)
    loss = nn.functional.mse_loss(model(x.to(device).half()), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""")
        == """\
device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
model = nn.Linear(4, 1).to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler(device.type, enabled=AMP_ENABLED)
for x, y in []:
    y = y.to(device)
    with torch.amp.autocast(device.type, dtype=AMP_DTYPE, enabled=AMP_ENABLED):
        loss = nn.functional.mse_loss(model(x.to(device)), y)
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
"""
    )


def test_masks_fit_the_type() -> None:
    done = rewrite(
        HEAD
        + """\
class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q = nn.Linear(4, 4)

    def forward(self, x, mask):
        scores = self.q(x) @ x.transpose(1, 2)
        scores = scores.masked_fill(mask, -1e9)
        return scores.softmax(-1) @ x


model = Attention()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x, mask in []:
    optimizer.zero_grad()
    loss = model(x, mask).mean()
    loss.backward()
    optimizer.step()
"""
    )
    assert "scores.masked_fill(mask, torch.finfo(scores.dtype).min)" in done.text
    assert [step.line for step in done.steps if "finfo" in step.what] == [10]

# Thread: https://github.com/NVIDIA/apex/issues/193
# Title: About the Documentation Example
# Wrong: Model and data are cast to half by hand although mixed precision is on; AMP wants float32 parameters and makes the casts itself.
import torch

N, D_in, D_out = 64, 1024, 16

model = torch.nn.Linear(D_in, D_out).cuda().half()  # expect: AMP106|AMP302
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
scaler = torch.amp.GradScaler("cuda")

x = torch.randn(N, D_in, device="cuda")
y = torch.randn(N, D_out, device="cuda")

for t in range(500):
    with torch.autocast("cuda", dtype=torch.float16):
        y_pred = model(x.half())  # expect: AMP106
        loss = torch.nn.functional.mse_loss(y_pred, y)
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
print(loss.item())

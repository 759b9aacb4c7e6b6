import torch

weights = torch.load("weights.pt")
answer = torch.solve(weights["b"], weights["a"])

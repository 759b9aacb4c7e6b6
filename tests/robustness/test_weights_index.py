"""Indices of sharded weights that name what they must not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ampconvert.errors import UserError
from ampconvert.frontends.weights import load_weights


@pytest.mark.parametrize("shard", ["w.safetensors.index.json", 3, ["a"], "", None])
def test_an_index_that_names_no_weights(tmp_path: Path, shard: object) -> None:
    index = tmp_path / "w.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"weight": shard}}))
    with pytest.raises(UserError, match=r"index\.json: "):
        load_weights(torch.nn.Linear(2, 2), index)

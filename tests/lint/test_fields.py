"""Fields of objects: what a class says of them, and what instances may have instead."""

from __future__ import annotations

import ast

from ampconvert.lint.source import Source


def test_a_fields_default_is_not_all_that_it_may_be() -> None:
    source = Source(
        "import torch\n"
        "class Way:\n"
        "    dtype: str = 'float32'\n"
        "def run(way: Way):\n"
        "    return {'float32': torch.float32, 'float16': torch.float16}[way.dtype]\n"
    )
    returned = source.nodes(ast.Return)[0].value
    assert returned is not None
    assert source.tensors.types(returned) == {"float32", "float16"}

"""Source lines out of the stack traces that torch.export and torch.onnx keep per operator."""

from __future__ import annotations

import re
from pathlib import PurePath

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


def source_line(trace: str) -> str:
    """The innermost source line outside PyTorch, as file:line; "" where there is none."""
    own = [
        (path, line)
        for path, line in _FRAME.findall(trace)
        if "/torch/" not in path.replace("\\", "/") and not path.startswith("<")  # traced again
    ]
    if not own:
        return ""
    path, line = own[-1]
    return f"{PurePath(path.replace(chr(92), '/')).name}:{line}"

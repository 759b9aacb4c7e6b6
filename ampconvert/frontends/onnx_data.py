"""The data of an ONNX model's weights, read when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from ampconvert.frontends.onnx_load import numbers


def tensor_of(value: ir.Value) -> ir.TensorProtocol:
    """The data behind an initialiser, or behind the result of a Constant node."""
    node = value.producer()
    if node is None:
        assert value.const_value is not None
        return value.const_value
    ((name, attr),) = node.attributes.items()
    if attr.type == ir.AttributeType.TENSOR:
        return attr.as_tensor()
    kinds = {"value_float": np.float32, "value_floats": np.float32}
    if name in ("value_string", "value_strings"):
        return ir.tensor(attr.value if name == "value_strings" else [attr.value])
    return ir.tensor(np.array(attr.value, kinds.get(name, np.int64)))


def data_of(value: ir.Value) -> Callable[[], np.ndarray[Any, Any]] | None:
    """What loads a weight's numbers; None where they are no numbers."""
    if value.producer() is None and value.const_value is None:
        return None
    if tensor_of(value).dtype == ir.DataType.STRING:
        return None
    return lambda: numbers(tensor_of(value))

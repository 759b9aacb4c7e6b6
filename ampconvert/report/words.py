"""Numbers, types and sizes as people read them."""

from __future__ import annotations

import math
from collections.abc import Iterable

TYPE_NAMES = {"float16": "FP16", "bfloat16": "BF16", "float32": "FP32", "float64": "FP64"}


# What a terminal would obey: control characters (C0 but tab and newline, DEL, C1), and the marks
# that turn the direction of text. C0 has pictures of its own in Unicode, of one cell each.
_OBEYED = {
    **{code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"},
    0x7F: 0x2421,
    **dict.fromkeys((*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)), 0xFFFD),
}

_ESCAPES = {code: f"\\u{code:04x}" for code in _OBEYED if code >= 0x20}


def printable(text: str) -> str:
    """The text with a picture of as many characters for what a terminal would obey: names come from
    models and sources, and an escape sequence in one must not reach the screen.
    """
    return text.translate(_OBEYED)


def escaped(json: str) -> str:
    """JSON with such characters as escapes of its own; those below a space always are."""
    return json.translate(_ESCAPES)


def type_name(dtype: str) -> str:
    """FP16 for "float16" and so on; types without a short name as they are."""
    return TYPE_NAMES.get(dtype, dtype)


def verdict_name(name: str, low: str) -> str:
    """A verdict as it reads for `low`: "FP16-safe" becomes "BF16-safe"."""
    return name.replace("FP16", type_name(low))


def size(count: float) -> str:
    """Bytes in decimal units: 86.7 MB."""
    return _scaled(count, ("bytes", "kB", "MB", "GB", "TB"))


def operations(count: float) -> str:
    """Floating point operations: 2.1 GFLOP."""
    return _scaled(count, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"))


def percent(share: float) -> str:
    """A share of 1 as a percentage; only exactly everything is 100 %, only exactly nothing 0 %."""
    if math.isnan(share):
        return "-"
    if 0 < share < 0.001:
        return "<0.1%"
    if 0.999 < share < 1:
        return ">99.9%"
    return f"{share * 100:.1f}".removesuffix(".0") + "%"


def figure(number: float | None) -> str:
    """Three significant digits, or "-" for none."""
    if number is None:
        return "-"
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "inf" if number > 0 else "-inf"
    if number == 0:
        return "0"
    if 1e-2 <= abs(number) < 1e6:
        return f"{number:.3g}" if abs(number) < 1000 else f"{number:.0f}"
    mantissa, exponent = f"{number:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def decibels(number: float | None) -> str:
    """A ratio in whole decibels: 58 dB; inf where nothing is off, -inf where everything is."""
    if number is None or math.isnan(number):
        return "-"
    return f"{number:.0f} dB" if math.isfinite(number) else figure(number)


def duration(seconds: float) -> str:
    """Seconds, and minutes from the second one on."""
    if seconds >= 120:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{seconds:.1f} s" if seconds >= 0.05 else f"{seconds * 1000:.0f} ms"


def plural(count: int, one: str, many: str = "") -> str:
    """A count with its noun: 1 cast, 2 casts."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(names: Iterable[str], limit: int = 5) -> str:
    """The first few names with commas, and how many more there are."""
    given = list(names)
    more = f" and {len(given) - limit} more" if len(given) > limit else ""
    return ", ".join(given[:limit]) + more


def randomness(random: object, source: object) -> str:
    """That numbers are random, where what is said of their source does not tell already."""
    return " (random numbers)" if random and "random" not in str(source) else ""


def dimensions(shape: Iterable[object]) -> str:
    """A shape as 2x3x224x224, or scalar."""
    return "x".join(str(d) for d in shape) or "scalar"


def short_op(op: str) -> str:
    """An operator without aten:: or onnx::, which go without saying."""
    if op == "ampconvert::phi":  # no operator: where a branch or loop hands on a value
        return "branch or loop value"
    for namespace in ("aten::", "onnx::"):
        op = op.removeprefix(namespace)
    return op


def _scaled(count: float, units: tuple[str, ...]) -> str:
    if not math.isfinite(count):
        return figure(count)
    number, unit = float(count), 0
    while abs(number) >= 999.5 and unit < len(units) - 1:
        number /= 1000
        unit += 1
    return f"{number:.0f} {units[0]}" if unit == 0 else f"{number:.3g} {units[unit]}"

"""The report's page as text: what it holds, what it says is missing, and that it holds no more."""

from __future__ import annotations

import base64
import copy
import hashlib
import itertools
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import ampconvert.report.html as html_page
from ampconvert.report.html import page
from ampconvert.report.html_data import number, packed, script_data
from ampconvert.report.html_elements import clean, element, written
from benchmarks.report.made import report

HOSTILE = "</script><img src=x onerror=alert(1)>\u2028\"'&<b>\ud800\u202e"
ASSETS = Path(html_page.__file__).parent / "page"
SECTIONS = ("verdict", "next", "model", "depth", "ranges", "casts", "parity", "hazards", "notes",
            "provenance")  # fmt: skip


class Document(HTMLParser):
    """Start tags with their attributes, and the text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in self.raw else ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        (self.raw[self._inside] if self._inside else self.said).append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.said).split())

    def ids(self) -> set[str]:
        return {str(attributes["id"]) for _, attributes in self.tags if attributes.get("id")}


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    return report(60)


@pytest.fixture(scope="module")
def document(data: dict[str, Any]) -> Document:
    return Document(page(data))


def test_every_part_is_there_in_order(document: Document) -> None:
    found = [a["id"] for tag, a in document.tags if tag == "section"]
    assert found == list(SECTIONS)


def test_the_verdict_says_how_it_was_measured(document: Document) -> None:
    assert "Parity held" in document.text
    assert "by the emulated model on ONNX Runtime's CPU provider" in document.text
    assert "No GPU ran." in document.text
    assert "not measured" in document.text  # the predicted time


def test_a_failure_is_named(data: dict[str, Any]) -> None:
    failed = copy.deepcopy(data)
    failed["ok"] = failed["parity"]["ok"] = failed["parity"]["outputs"][0]["ok"] = False
    failed["parity"]["outputs"][0] |= {"finite": False, "rel_l2": "NaN", "note": "3 are NaN"}
    failed["parity"]["first_bad"] = {
        "tensor": "scores", "node": "matmul_3", "op": "MatMul", "absmax": 93512.0, "bad": 3,
        "total": 9, "batch": 0, "metadata": {"ampconvert.where": "net.py:7"},
    }  # fmt: skip
    text = Document(page(failed)).text
    assert "Parity FAILED" in text and "Parity held" not in text
    assert (
        "First bad tensor: scores, made by MatMul matmul_3 (net.py:7): 93512 in FP32; "
        "FP16 ends at 65504." in text
    )
    assert "logits: 3 are NaN" in text


def test_what_ran_on_a_gpu_is_not_called_emulated(data: dict[str, Any]) -> None:
    ran = copy.deepcopy(data)
    ran["parity"] |= {"how": "CUDA provider", "low_nodes": 7, "total_nodes": 9}
    text = Document(page(ran)).text
    assert "by the model itself: CUDA provider; 7 of 9 nodes ran in FP16." in text
    assert "emulated" not in text


def test_no_parity_is_no_success(data: dict[str, Any]) -> None:
    unchecked = Document(page({**data, "ok": None, "parity": None, "attempts": []})).text
    assert "Parity NOT MEASURED" in unchecked and "--no-verify" in unchecked
    analyzed = Document(page({**data, "command": "analyze", "parity": None})).text
    assert "Parity NOT MEASURED" in analyzed and "converts nothing" in analyzed


def test_a_plan_of_an_older_version_says_what_is_missing() -> None:
    kept = ("node", "verdict", "runs_in", "class", "rule", "reason", "source", "evidence", "figure")
    nodes = [{key: node[key] for key in kept} for node in report(30)["nodes"]]
    document = Document(page({"dtype": "float16", "nodes": nodes}))
    assert "This is a plan file that holds the verdicts alone, and no parity." in document.text
    assert "--no-verify" not in document.text  # nobody asked for that
    assert "an older ampconvert" in document.text
    for missing in ("errors of its operators", "ranges of its values", "list of casts"):
        assert f"This report holds no {missing}" in document.text
    assert set(SECTIONS) <= document.ids()


@pytest.mark.parametrize("key", [*report(1), "everything"])
def test_any_part_may_be_missing_or_null(data: dict[str, Any], key: str) -> None:
    fewer = {} if key == "everything" else {k: v for k, v in data.items() if k != key}
    assert "</html>" in page(fewer)
    assert "</html>" in page({**data, key: None})


@pytest.mark.parametrize("key", list(report(1)["nodes"][0]))
def test_any_figure_of_an_operator_may_be_missing(data: dict[str, Any], key: str) -> None:
    for nodes in (
        [{k: v for k, v in node.items() if k != key} for node in data["nodes"]],
        [{**node, key: None} for node in data["nodes"]],
    ):
        assert "</html>" in page({**data, "nodes": nodes})


def test_a_comparison_has_no_model(data: dict[str, Any]) -> None:
    compared = {
        "schema": 1, "command": "verify", "version": "0.1.0", "ok": True, "low": "float16",
        "reference": "model.py", "candidate": "other.onnx", "reference_ran": "FP64",
        "inputs": data["inputs"], "parity": data["parity"], "notes": ["a note"],
        "seconds_total": 1.5,
    }  # fmt: skip
    document = Document(page(compared))
    assert "model" not in document.ids() and {"verdict", "parity"} <= document.ids()
    for said in ("model.py, run in FP64", "other.onnx: FP16", "a note"):
        assert said in document.text


def test_the_front_of_pareto_is_a_table(data: dict[str, Any]) -> None:
    front = {
        **data, "command": "pareto", "parity": None, "seconds_full": 4e-4, "points": [
            {"point": 0, "seconds": 2e-4, "full_ops": 3, "casts": 1, "predicted_error": 1e-3,
             "measured_error": 2e-3, "finite": True},
            {"point": 1, "seconds": 1e-4, "full_ops": 0, "casts": 0, "predicted_error": "Infinity",
             "measured_error": "Infinity", "finite": False},
        ],
    }  # fmt: skip
    text = Document(page(front)).text
    assert "none was measured" in text  # the times
    assert "200 us 2.00 3 1 1.0e-3 2.0e-3" in text
    assert "100 us 4.00 0 0 inf not finite" in text


def test_all_that_the_terminal_says_is_told(data: dict[str, Any]) -> None:
    hazard = {
        "code": "AMP601", "name": "epsilon-below-range", "severity": "warning", "message": "eps!",
        "advice": "take a larger one", "handled": "", "open": True, "nodes": ["gelu_20"],
        "where": {"text": "layer.0 (net.py:3)", "node": "gelu_20"},
    }  # fmt: skip
    repair = {"kind": "scale-squares", "nodes": ["pow_1"], "reason": "its squares", "where": "n:1"}
    full = {
        **data,
        "hazards": [hazard],
        "lint": [{**hazard, "code": "AMP204", "name": "clip", "message": "clips"}],
        "repairs_made": [repair],
        "repairs_offered": [{"kind": "log-softmax", "repairs": [repair], "error": [1e-2, 1e-3],
                             "seconds": [2e-4, 1e-4], "required": [3, 1]}],
        "repairs_declined": [{**repair, "reason": "no room"}],
        "loss_scale": {"window": [14, 23], "recommended": 524288.0, "reason": "Enough.",
                       "loss": "the sum", "outside": [{"name": "t", "smallest": 1, "largest": 2,
                       "largest_gradient": 1e-5, "lost": 0.5, "scope": "", "where": ""}]},
        "proof": {"bounds": {}, "domains": [{"node": data["nodes"][0]["node"], "clear": False,
                  "reason": "may reach zero"}], "assumed": {"l.*": ["a"]}, "notes": ["a loop"],
                  "seconds": 2.0},
        "notes": ["one thing"], "unused_rules": ["typo"], "casts_onnx": 77,
        "attempts": [{"aim": 1e-3, "predicted": 9e-4, "measured": 8e-4, "seconds": 1e-4, "full": 4,
                      "ok": True}],
        "files": {"onnx": {"path": "/home/someone/secret/m.onnx", "bytes": 1000}},
    }  # fmt: skip
    text = Document(page(full)).text
    for said in (
        "AMP601 epsilon-below-range", "eps!", "take a larger one", "AMP204 clip",
        "Made: scale-squares in 1 place", "3 → 1", "1.0e-3", "No scale-squares at pow_1 (n:1)",
        "2^14 to 2^23; use 524288.", "Tensors outside the window", "Assumed: l.* stays",
        "A loop.", "0 of 1 argument", "one thing", "Matched nothing: 'typo'",
        "77 Cast nodes in the ONNX file", "Found in 1 parity run", "m.onnx, 1 kB",
        "1 hazard open", "AT RISK",
    ):  # fmt: skip
        assert said in text, said
    assert "secret" not in page(full)  # folders say more than a reader of the page should know


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("torch", ("Parity held", "by the emulated model", "Net converted to FP16")),
        ("onnx failed", ("Parity FAILED", "What to do next")),
        ("onnx unverified", ("Parity NOT MEASURED", "as --no-verify asks")),
        ("onnx pareto", ("Parity NOT MEASURED", "plans to choose from", "Time against error")),
        ("verify failed", ("Parity FAILED", "First bad tensor: big", "half.onnx compared")),
        ("old plan", ("Parity NOT MEASURED", "the verdicts alone")),
        ("torch analyze", ("converts nothing", "PROVED", "Loss scale")),
    ],
)
def test_what_the_commands_really_print(kind: str, said: tuple[str, ...]) -> None:
    from tests.report.reports import REPORTS

    text = Document(page(REPORTS[kind]())).text
    for words in said:
        assert words in text, words


def test_names_of_a_model_are_never_markup(data: dict[str, Any]) -> None:
    hostile = _everywhere(report(40), HOSTILE)
    text = page(hostile, title=HOSTILE)
    found = Document(text)
    harmless = Document(page(report(40)))
    assert [t for t, _ in found.tags if t in ("img", "b", "script", "style", "iframe")] == [
        t for t, _ in harmless.tags if t in ("img", "b", "script", "style", "iframe")
    ]
    assert not [a for _, a in found.tags if any(name.startswith("on") for name in a)]
    text.encode("utf-8")  # a lone surrogate can't be written to a file
    assert "onerror=alert(1)" in found.text
    assert "\u202e" not in text


def test_data_can_not_end_their_script(data: dict[str, Any]) -> None:
    text = script_data({"nodes": [{"node": HOSTILE}]})
    assert not re.search("[<>&\u2028\u2029]", text)
    assert json.loads(text)["nodes"]["node"]["values"] == [HOSTILE]


def test_the_policy_allows_what_is_in_the_page_and_no_more(document: Document) -> None:
    policy = next(
        str(a["content"]) for t, a in document.tags
        if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )  # fmt: skip
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    allowed = set(re.findall(r"'(sha256-[^']+)'", policy))
    code = [text for text in document.raw["script"] if not text.startswith("{")]
    styles = [*document.raw["style"], (ASSETS / "vendor/plot-style.css").read_text("utf-8")]
    assert allowed == {_hash(text) for text in (*code, *styles)}
    assert not any("style" in a for _, a in document.tags)  # the policy would ignore it


def test_nothing_is_loaded_from_elsewhere(document: Document) -> None:
    assert not [a for t, a in document.tags if t in ("link", "img", "iframe", "object", "base")]
    assert not [a for _, a in document.tags if "src" in a]
    addresses = [a["href"] for t, a in document.tags if t == "a"]
    assert addresses and all(str(address).startswith("#") for address in addresses)


def test_links_lead_to_parts_that_are_there(document: Document) -> None:
    for tag, attributes in document.tags:
        if tag == "a":
            assert str(attributes["href"]).removeprefix("#") in document.ids()


def test_headings_are_in_order(document: Document) -> None:
    levels = [int(tag[1]) for tag, _ in document.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(levels))


def test_without_scripts_the_summary_is_there(document: Document) -> None:
    """What a script draws is said to be missing; the rest is in the page as text."""
    assert "Scripts are off" in document.text
    for said in ("FP16-safe", "Worst operators", "Weights", "Relative L2 error of logits"):
        assert said in document.text


def test_the_same_data_give_the_same_page(data: dict[str, Any]) -> None:
    assert page(data) == page(json.loads(json.dumps(data)))


def test_the_page_stays_small() -> None:
    """The libraries are 270 kB, an operator takes some 350 bytes; a comparison draws a plot."""
    empty, some = len(page({"nodes": []})), len(page(report(100)))
    assert empty < 90_000
    assert some < 450_000
    assert (len(page(report(1100))) - some) / 1000 < 500


def test_numbers_survive_the_packing(data: dict[str, Any]) -> None:
    found = packed(data)
    columns = found["nodes"]
    for place, node in enumerate(data["nodes"]):
        assert columns["node"]["values"][place] == node["node"]
        assert columns["scope"]["words"][columns["scope"]["at"][place]] == node["scope"]
        error = columns["output_error"]["numbers"][place]
        assert math.isclose(error, node["output_error"], rel_tol=1e-5, abs_tol=0)
        decision = found["decisions"][columns["decision"]["values"][place]]
        assert decision["reason"] == node["reason"]
        assert columns["seen"]["values"][place][0][0] == node["node"]


@pytest.mark.parametrize(
    ("value", "found"),
    [("Infinity", math.inf), ("-Infinity", -math.inf), (1.5, 1.5), (None, None), (True, None),
     ("text", None)],
)  # fmt: skip
def test_numbers_of_the_json(value: Any, found: float | None) -> None:
    assert number(value) == found


def test_elements_escape_text_and_attributes() -> None:
    made = element("p", "<b>&", element("i", '"'), "tail<", class_='a"b', hidden=True, title=None)
    assert written(made) == (
        '<p class="a&quot;b" hidden="">&lt;b&gt;&amp;<i>"</i>tail&lt;</p>'
    )  # fmt: skip
    assert clean("a\x00b\ud800\u202ec") == "a\ufffdb\ufffd\ufffdc"


@pytest.mark.parametrize("path", sorted(ASSETS.glob("*.*")), ids=lambda p: p.name)
def test_files_of_the_page_are_short_and_used(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 400
    assert path.suffix == ".css" or path.name in html_page.SCRIPTS
    assert "innerHTML" not in text and "eval(" not in text


def test_what_is_vendored_is_what_its_page_says() -> None:
    told = (ASSETS / "vendor/VENDOR.md").read_text("utf-8")
    for name in ("plot.js", "plot-style.css"):
        digest = hashlib.sha256((ASSETS / "vendor" / name).read_bytes()).hexdigest()
        assert digest in told, name


def _everywhere(data: Any, text: str) -> Any:
    """`data` with `text` behind every string that is a name and not a word of ours."""
    if isinstance(data, dict):
        words = ("command", "dtype", "class", "runs_in", "from", "to", "evidence", "severity")
        return {
            key: value if key in words else _everywhere(value, text) for key, value in data.items()
        }
    if isinstance(data, list):
        return [_everywhere(value, text) for value in data]
    return data + text if isinstance(data, str) else data


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode()}"

"""The report as one page of HTML that needs nothing else: no network, no server, no other file.

`page` makes it from the object that `--json` prints, and from nothing else. A content security
policy allows the page's own script and styles by their hashes, and forbids all other.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any
from xml.etree.ElementTree import Element

from ampconvert.report import html_findings, html_model, html_parity, html_verdict
from ampconvert.report.html_data import has_plots, script_data
from ampconvert.report.html_elements import Child, clean, element, written

Data = Mapping[str, Any]

# Joined in this order into one script, each using what stands in those before it.
SCRIPTS = ("words.js", "elements.js", "model.js", "rows.js", "window.js", "tree.js", "details.js",
           "chart.js", "plots.js", "page.js")  # fmt: skip


def page(data: Data, title: str = "") -> str:
    """The report on `data`, the object that `ampconvert ... --json` prints, as one HTML file.

    `data` is in nothing but what JSON has (`jsonable.plain`).

    Takes the data of convert, analyze, verify and --pareto, and of plan files of older versions:
    what is missing is said to be. `title` stands in place of the model's name. The same data give
    the same text.
    """
    script, style = _script(), _asset("page.css")
    vendor = _asset("vendor/plot.js") if has_plots(data) else ""
    styles = [style, *([_asset("vendor/plot-style.css")] if vendor else [])]
    policy = _policy([script, *([vendor] if vendor else [])], styles)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", _title(data, title)),
    )
    body = element("body", *_body(data, title))
    # ElementTree leaves what stands in these elements as it is; each is checked for its end tag.
    parts = [
        '<!doctype html>\n<html lang="en" data-theme="auto">\n',
        written(head).removesuffix("</head>"),
        f"<style>{_inside(style, 'style')}</style></head>\n",
        written(body).removesuffix("</body>"),
        f'\n<script type="application/json" id="report-data">{script_data(data)}</script>\n',
        f"<script>{_inside(vendor, 'script')}</script>\n" if vendor else "",
        f"<script>{_inside(script, 'script')}</script>\n</body>\n</html>\n",
    ]
    return "".join(parts)


def _title(data: Data, title: str) -> str:
    name = html_verdict.name_of(data, title) or "model"
    return clean(f"{html_verdict.standing(data)[1]}: {name} | ampconvert report")


def _body(data: Data, title: str) -> list[Child]:
    sections = [
        html_verdict.verdict(data), html_verdict.next_steps(data), *_about_the_model(data),
        html_parity.section(data), *_findings(data), html_findings.repairs(data),
        html_findings.loss_scale(data), html_findings.notes(data), html_findings.provenance(data),
    ]  # fmt: skip
    shown = [one for one in sections if one is not None]
    return [
        element("a", "Skip to the report", href="#verdict", class_="skip"),
        element("header", html_verdict.heading(data, title), _theme_button(), class_="top"),
        element("nav", element("ul", _links(shown)), aria_label="Parts of the report"),
        element("noscript", element("p", "Scripts are off: the tree of operators and the plots are "
                                    "not shown. Everything else is.", class_="notice")),
        element("main", shown, id="report"),
        element("div", id="status", role="status", aria_live="polite", class_="unseen"),
    ]  # fmt: skip


def _about_the_model(data: Data) -> Iterable[Element | None]:
    if html_verdict.is_comparison(data):
        return ()  # two models were run, and none was read
    return (
        html_model.model(data), html_model.depth(data), html_model.ranges(data),
        html_model.time_and_error(data), html_model.casts(data),
    )  # fmt: skip


def _findings(data: Data) -> Iterable[Element]:
    return () if html_verdict.is_comparison(data) else (html_findings.hazards(data),)


def _links(sections: Iterable[Element]) -> list[Element]:
    return [
        element("li", element("a", _NAMES[name], href=f"#{name}"))
        for one in sections
        if (name := one.get("id", "")) in _NAMES
    ]


_NAMES = {
    "verdict": "Verdict", "next": "Next", "model": "Model", "depth": "Error", "ranges": "Ranges",
    "front": "Time and error", "casts": "Casts", "parity": "Parity", "hazards": "Hazards",
    "repairs": "Repairs", "loss-scale": "Loss scale", "notes": "Notes",
    "provenance": "Provenance",
}  # fmt: skip


def _theme_button() -> Element:
    return element("button", "Theme: automatic", type="button", id="theme", hidden=True)


def _policy(scripts: Iterable[str], styles: Iterable[str]) -> str:
    """Nothing but these scripts and styles, and no HTML made from text by a script."""
    return "; ".join([
        "default-src 'none'",
        f"script-src {' '.join(_hash(s) for s in scripts)}",
        f"style-src {' '.join(_hash(s) for s in styles)}",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ])  # fmt: skip


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _inside(text: str, tag: str) -> str:
    """`text`, one of the package's own files, after a look that it can't end its element."""
    if f"</{tag}" in text.lower() or "<!--" in text:
        raise ValueError(f"a file of the page holds </{tag} or <!--")
    return text


@cache
def _script() -> str:
    """The page's own script: its files one after another, seen by nothing outside of it."""
    joined = "\n".join(_asset(name) for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{joined}\n}})();\n'


@cache
def _asset(name: str) -> str:
    """A file of the page, with the same ends of lines everywhere."""
    found = files("ampconvert.report") / "page"
    for part in name.split("/"):
        found = found / part
    return found.read_text(encoding="utf-8").replace("\r\n", "\n")

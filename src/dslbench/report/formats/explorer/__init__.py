"""The page of all runs: one file to explore, which fetches nothing and runs nothing that a record says."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import Any

# In this order: each uses only what stands before it.
_SCRIPTS = ("words.js", "chart.js", "details.js", "table.js", "main.js")


def page(content: Mapping[str, Any]) -> str:
    """The page for what `report.exploring.content` found; equal content gives equal text.

    Data stand in a block that is read as JSON, never as markup or script; the policy in the head lets
    the browser run this page's own script and nothing else, and fetch nothing.
    """
    style, body = _read("page.css"), _read("page.html")
    script = '"use strict";\n(() => {\n' + "".join(map(_read, _SCRIPTS)) + "})();\n"
    start = content["settings"][content["order"][0]]
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    filled = body.replace("{{answer}}", escape(start["answer"] or "No dense run to compare with."))
    filled = filled.replace("{{setting}}", escape(start["text"]))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>dslbench: which way, and what does it cost?</title>\n<style>{style}</style>\n"
        f'</head>\n<body>\n{filled}<script type="application/json" id="data">{embedded(content)}</script>\n'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def embedded(content: Any) -> str:
    """JSON that stands in a page: no text in it can end its block, or begin a comment."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    for character in "<>&":  # they stand within strings only
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _read(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"sha256-{digest}"

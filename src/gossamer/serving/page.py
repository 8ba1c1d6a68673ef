"""The description of the server for people: one page, which needs nothing from elsewhere."""

from __future__ import annotations

import re
from html import escape
from typing import Any

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h2 { font: 600 1.05rem ui-monospace, monospace; margin: 2rem 0 .3rem; border-top: 1px solid #ddd; padding-top: 1rem; }
h2 span { background: #e8eef7; border-radius: .3rem; padding: .1rem .4rem; margin-right: .5rem; }
table { border-collapse: collapse; } td { padding: .1rem 1rem .1rem 0; vertical-align: top; } code { background: #f4f4f4; }
@media (prefers-color-scheme: dark) { body { background: #181a1d; color: #ddd; } h2 { border-color: #444; }
h2 span { background: #2b3a52; } code { background: #2a2c30; } }
"""


def of(schema: dict[str, Any]) -> str:
    """The page of an OpenAPI description."""
    title = f"{schema['info']['title']} {schema['info']['version']}"
    parts = [_operation(path, verb, said) for path, verbs in schema["paths"].items() for verb, said in verbs.items()]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f"<p>Classifiers of images over HTTP. "
        f'The same for machines: <a href="/openapi.json">openapi.json</a>.</p>{"".join(parts)}</body></html>'
    )


def _operation(path: str, verb: str, said: dict[str, Any]) -> str:
    lines = [f"<h2><span>{verb.upper()}</span>{escape(path)}</h2>"]
    lines += [f"<p>{_coded(text)}</p>" for text in said.get("description", "").split("\n\n") if text]
    rows = [(f"<code>{escape(p['name'])}</code>", f"in the {escape(p['in'])}") for p in said.get("parameters", ())]
    rows += [("body", escape(" or ".join(said["requestBody"]["content"])))] if "requestBody" in said else []
    rows += [(escape(code), _coded(answer["description"])) for code, answer in sorted(said["responses"].items())]
    return "".join([*lines, "<table>", *(f"<tr><td>{a}</td><td>{b}</td></tr>" for a, b in rows), "</table>"])


def _coded(text: str) -> str:
    """HTML of a text in which names stand between backticks."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))

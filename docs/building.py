"""What the site makes from the source when it is built (mkdocs calls `on_page_markdown`), so that it cannot get stale.

Error messages, names of the Python API and the methods' papers fill the comment of their name in a page; `<!-- from FILE -->` and
`<!-- from FILE: HEADING -->` take a file of the checkout, or one section of it.
"""

from __future__ import annotations

import ast
import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
SOURCE = DOCS.parent / "src" / "gossamer"
KINDS = {
    "FileNotFoundError",
    "FileExistsError",
    "NotADirectoryError",
    "IsADirectoryError",
    "BlockingIOError",
    "OSError",
}
"""Errors of the system that we raise with words of ours; `UserError` and what inherits from it is read from errors.py."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The text of a page, filled."""
    for name, made in (("messages", messages), ("public names", public_names), ("papers", papers)):
        if f"<!-- {name} -->" in markdown:
            markdown = markdown.replace(f"<!-- {name} -->", made())
    return re.sub(r"<!-- from (\S+?)(?:: (.+))? -->", lambda found: taken(*found.groups()), markdown)


def taken(name: str, heading: str | None) -> str:
    """A file of the checkout, or what stands under one heading of it, with links as they are in the folder of the site."""
    text = (DOCS.parent / name).read_text(encoding="utf-8")
    if heading is not None:
        if f"\n## {heading}\n" not in text:
            raise ValueError(f"{name} has no heading '## {heading}', which a page of the site takes from it")
        text = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return (
        text.strip()
        .replace("](docs/", "](")
        .replace("](CONTRIBUTING.md)", "](contributing.md)")
        .replace("](CHANGELOG.md)", "](changelog.md)")
    )


def messages(source: Path = SOURCE) -> str:
    """Every message of an error that a user can mend, by file."""
    kinds = KINDS | user_errors(source)
    parts = []
    for path in sorted(source.rglob("*.py")):
        if found := sorted(set(messages_of(ast.parse(path.read_text(encoding="utf-8")), kinds)), key=str.lower):
            lines = "\n".join(
                f"- {html.escape(text, quote=False)}".replace("`", "\\`").replace("*", "\\*") for text in found
            )
            parts.append(f"## {path.relative_to(source).with_suffix('')}\n\n{lines.replace('_', chr(92) + '_')}")
    return "\n\n".join(parts)


def user_errors(source: Path = SOURCE) -> set[str]:
    """`UserError` and the classes of errors.py that inherit from it."""
    tree = ast.parse((source / "errors.py").read_text(encoding="utf-8"))
    classes = {
        node.name: {ast.unparse(base) for base in node.bases} for node in tree.body if isinstance(node, ast.ClassDef)
    }
    return {"UserError"} | {name for name, bases in classes.items() if "UserError" in bases}


def messages_of(tree: ast.Module, kinds: set[str]) -> Iterator[str]:
    """What a file says when it raises one of these errors, or requires something."""
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        nodes = list(ast.walk(function))
        words = {
            target.id: node.value
            for node in nodes
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for call in (node for node in nodes if isinstance(node, ast.Call) and node.args):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            if name in kinds or name == "_require":
                text = " ".join(spelled(call.args[-1], words).split())
                if len(re.findall(r"[A-Za-z]{2,}", text)) > 2:
                    yield text


def spelled(node: ast.expr, words: dict[str, ast.expr]) -> str:
    """The text of an expression, with … for what is only known when it is said."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return re.sub("…[…\\s]*…", "…", "".join(spelled(part, words) for part in node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return spelled(node.left, words) + spelled(node.right, words)
    if isinstance(node, ast.Name) and node.id in words:
        return spelled(words[node.id], {k: v for k, v in words.items() if k != node.id})
    return "…"


def public_names() -> str:
    """A heading with the docstring of every name that `gossamer` offers: methods last."""
    import gossamer as gm

    where = {name: f"{defined(gm._WHERE[name], name)}.{name}" for name in gm.__all__ if name in gm._WHERE}
    del where["METHODS"]
    methods = [name for name, path in where.items() if re.fullmatch(r"gossamer\.methods\.\w+\.\w+", path)]
    verbs = [name for name in where if name not in methods]
    parts = ["## Verbs and models", *(f"::: {where[name]}" for name in verbs)]
    return "\n\n".join([*parts, "## Methods", *(f"::: {where[name]}" for name in methods)])


def defined(module: str, name: str) -> str:
    """The module that a name of `module` is written in: that one, or the one it is imported from. Nothing is imported for it."""
    path = SOURCE.joinpath(*module.split(".")[1:])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
            return defined(node.module or module, name)
    return module


def papers() -> str:
    """A table of the pages that name a paper under their title."""
    lines = ["| page | paper |", "|---|---|"]
    for path in sorted(DOCS.glob("*.md")):
        title, _, rest = path.read_text(encoding="utf-8").removeprefix("# ").partition("\n\n")
        cited = " ".join(rest.partition("\n\n")[0].split())
        if "arXiv" in cited and re.match(r"[A-Z]\.", cited):  # begins with its authors
            lines.append(f"| [{title.partition(':')[0]}]({path.name}) | {cited} |")
    return "\n".join(lines)

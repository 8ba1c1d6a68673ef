"""What stands in the tables of a report, as a reader without a browser finds it."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any


class Page(HTMLParser):
    """The tables of a report by their names: rows of (value, text), heading row included; and every tag with its attributes."""

    def __init__(self, text: str):
        super().__init__()
        self.tables: dict[str, list[list[tuple[str | None, str]]]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.table, self.cell, self.script = "", False, False
        self.feed(text)
        self.close()

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows that the page carries."""
        return json.loads(self.scripts[0])

    def body(self, table: str) -> dict[str, list[tuple[str | None, str]]]:
        """First cell of a row -> its other cells."""
        return {row[0][1]: row[1:] for row in self.tables[table][1:]}

    def values(self, table: str, column: int) -> dict[str, float | None]:
        """First cell of a row -> the value behind one of its other cells."""
        return {
            name: None if row[column][0] is None else float(row[column][0]) for name, row in self.body(table).items()
        }

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tags.append((tag, named))
        if tag == "table":
            self.table = str(named["data-table"])
            self.tables[self.table] = []
        elif tag == "tr":
            self.tables[self.table].append([])
        elif tag in ("td", "th"):
            self.tables[self.table][-1].append((named.get("data-value"), ""))
            self.cell = True
        elif tag == "script":
            self.script = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.cell = False
            value, text = self.tables[self.table][-1][-1]
            self.tables[self.table][-1][-1] = (value, " ".join(text.split()))
        elif tag == "script":
            self.script = False

    def handle_data(self, data: str) -> None:
        if self.cell:
            value, text = self.tables[self.table][-1][-1]
            self.tables[self.table][-1][-1] = (value, text + data)
        if self.script:
            self.scripts.append(data)

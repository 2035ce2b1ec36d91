"""Tables of text for the terminal, at most 79 columns wide, and for notebooks, as plain HTML."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

WIDTH = 79


class Table(NamedTuple):
    """A table whose first column names the rows.

    Attributes:
        title: What the table shows.
        columns: Names of the columns.
        rows: Cells of each row, one per column.

    >>> print(Table("rates", ("layer", "rate Hz"), [("1", "10.2"), ("2", "9.8")]))
    rates
    layer  rate Hz
        1     10.2
        2      9.8
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def row_count(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        """The table; columns that do not fit into the width go on below, beside the rows' names."""
        lines = [self.columns, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        blocks: list[list[int]] = []
        for k in range(1, len(widths)):
            if not blocks or sum(widths[c] + 2 for c in (*blocks[-1], k)) - 2 > WIDTH:
                blocks.append([0])
            blocks[-1].append(k)
        cells = lambda line, block: "  ".join(line[c].rjust(widths[c]) for c in block)
        tables = ["\n".join(cells(line, block) for line in lines) for block in blocks]
        return f"{self.title}\n" + "\n\n".join(tables)

    def _repr_html_(self) -> str:
        cells = lambda tag, line: "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in line)
        rows = "".join(f"<tr>{cells('td', row)}</tr>" for row in self.rows)
        head = f"<thead><tr>{cells('th', self.columns)}</tr></thead>"
        caption = f"<caption>{html.escape(self.title)}</caption>"
        return f"<table>{caption}{head}<tbody>{rows}</tbody></table>"


def report_text(findings: Sequence[str], tables: Sequence[Table]) -> str:
    """A report: what was found, then the numbers."""
    wrapped = [textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in findings]
    return "\n".join(wrapped) + "\n\n" + "\n\n".join(map(str, tables))


def report_html(findings: Sequence[str], tables: Sequence[Table]) -> str:
    """The same as HTML."""
    found = "".join(f"<li>{html.escape(line)}</li>" for line in findings)
    return f"<ul>{found}</ul>" + "".join(table._repr_html_() for table in tables)

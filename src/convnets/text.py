"""Text for people: tables, counts, durations, lines that fit the terminal."""

import csv
import io
import re
import shutil
import textwrap
from collections.abc import Collection, Iterable, Sequence
from typing import Any

COMMAND = re.compile(r"\b(python|rm|pip|make|tensorboard) ")  # to be copied and typed


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = (0,), gap: str = "  ") -> list[str]:
    """The rows as lines whose columns stand below each other: those in `left` to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = ["<" if index in left else ">" for index in range(len(widths))]
    return [
        gap.join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)) for row in rows
    ]


def as_markdown(header: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """A Markdown table that reads as well in a terminal, its columns aligned as `aligned` does."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*escaped, strict=True)]
    rule = "|".join("-" * (width + 1) + ("-" if index in left else ":") for index, width in enumerate(widths))
    head, *body = [f"| {line} |" for line in aligned(escaped, left, " | ")]
    return [head, f"|{rule}|", *body]


def as_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The table as comma-separated values; None is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def size(num_bytes: int) -> str:
    """Bytes in the largest unit that leaves at least one; powers of 1,000."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes} B"


def terminal_width() -> int:
    """Columns of the terminal, or of COLUMNS; so many that nothing is folded where there is neither."""
    return shutil.get_terminal_size((10_000, 24)).columns


def folded(text: str, width: int) -> str:
    """Break lines that are longer than `width`: between columns (two spaces) where there are any, else between words.

    A line with a command stays whole, for it would not work in two; so does one with a word or path that does not fit.
    """
    return "\n".join(_folded_line(line, width) for line in text.split("\n"))


def _folded_line(line: str, width: int) -> str:
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    longest = max(map(len, line.split()), default=0)
    if len(line) <= width or len(indent) + longest > width or COMMAND.search(line):
        return line
    lines = [""]
    for column in re.split(r"(?<=\S)(?=  )", line):
        if lines[-1] and len(lines[-1] + column) > width:
            lines.append(indent + column.lstrip())
        else:
            lines[-1] += column
    wrapper = textwrap.TextWrapper(width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(map(wrapper.fill, lines))


def count(number: int, noun: str) -> str:
    """A number of things: 1 run, 2,000 runs."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 4.2 s, 3 min 20 s, 5 h 07 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"

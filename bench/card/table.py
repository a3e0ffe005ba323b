"""The report of ``bench.card`` as text."""

from __future__ import annotations

from typing import Any


def table(report: dict) -> str:
    """Returns the report for a terminal: for each section its question, its status and a column per figure."""
    size = "tiny networks: the figures say nothing about speed" if report["tiny"] else "networks of the published size"
    lines = [f"FaceLoom on one card, {report['seconds']:.0f} s, {size}."]
    for name, section in report["sections"].items():
        status = section["status"] + (f" ({section['reason']})" if section["reason"] else "")
        lines += ["", f"{name}: {section['question']} {status}, {section['seconds']:.0f} s", *_columns(section["rows"])]
    return "\n".join(lines)


def _columns(rows: list[dict]) -> list[str]:
    """Lines of aligned cells; lists of raw figures are left to the JSON, errors and notes stand below."""
    keys = [key for key in dict.fromkeys(key for row in rows for key in row)
            if key not in ("error", "note") and not any(isinstance(row.get(key), (list, dict)) for row in rows)]
    cells = [keys, *([_cell(row.get(key)) for key in keys] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(keys))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in cells] if rows else []
    for row in rows:
        label = " ".join(str(value) for value in list(row.values())[:2])
        lines += [f"  {label}: {row[key]}" for key in ("error", "note") if row.get(key)]
    return lines


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)

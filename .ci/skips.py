"""Fails where more tests skip than are allowed, or for a reason that nobody wrote down.

``python .ci/skips.py .ci/skips.txt quick=quick.xml slow=slow.xml [--without reference]``: the reports are pytest's ``--junitxml``, and
the names before them are the runs that the table tells apart. Each line of the table says for which run, how many, what must be missing for
the line to hold (``-``: nothing; a word: that it was given after ``--without``), and for what reason: a regular expression that fits its
start.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple


class Allowed(NamedTuple):
    run: str
    most: int
    missing: str
    reason: str

    def fits(self, run: str, reason: str, without: Collection[str]) -> bool:
        return self.run == run and (self.missing == "-" or self.missing in without) and re.match(self.reason, reason) is not None


def read_table(text: str) -> list[Allowed]:
    """The lines of the table; those that are empty or start with # say nothing."""
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            try:
                run, most, missing, reason = line.split(None, 3)
                re.compile(reason)
                rows.append(Allowed(run, int(most), missing, reason.rstrip()))
            except (ValueError, re.error) as error:
                raise SystemExit(f"line {number} of the table is not 'run most missing reason': {error}") from None
    return rows


def reasons(report: ET.Element) -> Iterator[str]:
    """Why each test of a junit report was skipped. Tests that are expected to fail are not among them."""
    for skipped in report.iter("skipped"):
        if skipped.get("type") == "pytest.xfail":
            continue
        reason = skipped.get("message") or ""
        if reason == "collection skipped":  # a whole file; the text is the repr of (path, line, reason)
            reason = str(ast.literal_eval(skipped.text or "")[-1])
        yield reason.removeprefix("Skipped: ")


def complaints(table: list[Allowed], skipped: Mapping[str, Counter[str]], without: Collection[str]) -> list[str]:
    """One line for each row of the table that is exceeded and each reason that no row fits. ``skipped``: run -> reason -> tests."""
    found = []
    for run, counts in skipped.items():
        used: Counter[Allowed] = Counter()
        for reason, number in sorted(counts.items()):
            row = next((row for row in table if row.fits(run, reason, without)), None)
            if row is None:
                found.append(f"{run}: {number} skipped for a reason that is not in the table: {reason}")
            else:
                used[row] += number
        found += [f"{run}: {number} skipped where {row.most} may: {row.reason}" for row, number in used.items() if number > row.most]
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("reports", nargs="+", metavar="RUN=REPORT")
    parser.add_argument("--without", action="append", default=[], help="what this machine has not")
    arguments = parser.parse_args(argv)
    table = read_table(arguments.table.read_text(encoding="utf-8"))
    skipped = {}
    for run, report in (pair.split("=", 1) for pair in arguments.reports):
        tree = ET.parse(report).getroot()
        skipped[run] = Counter(reasons(tree))
        print(f"{run}: {sum(1 for _ in tree.iter('testcase'))} tests, {skipped[run].total()} skipped")
        for reason, number in skipped[run].most_common():
            print(f"  {number:5}  {reason}")
    found = complaints(table, skipped, arguments.without)
    print(*found, sep="\n", end="\n" if found else "", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

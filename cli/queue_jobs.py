"""What ``queue`` runs: one job for each combination of inputs, and the manifest of what became of each."""

from __future__ import annotations

import copy
import csv
import glob
import hashlib
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from ..models.errors import FaceLoomError
from ..models.files.cache import write_file
from .folder import pictures_in
from .queue_graph import Graph, Info, find_input, input_options, read_value, takes_files

PAIRS = ("order", "name", "all")
MANIFEST = "faceloom-queue.json"
_SEEDS = ("seed", "noise_seed")

Place = tuple[str, str]  # node id, input name


@dataclass(frozen=True)
class Value:
    """What an input is set to. text: the value, or the path of the file to upload. file: whether it is one. name: what results are called
    after it."""

    text: str
    file: bool
    name: PurePath


@dataclass
class Job:
    """One prompt. name: of its results, without suffix. graph: with local paths in place of files, which ``files`` lists."""

    name: PurePath
    graph: Graph
    files: dict[Place, Path] = field(default_factory=dict)
    tries: int = 0

    def recipe(self, digests: Mapping[Path, str]) -> str:
        """Return a hash of all that decides the result: the graph, and the contents of its files."""
        graph = copy.deepcopy(self.graph)
        for (number, name), path in self.files.items():
            graph[number]["inputs"][name] = digests[path]
        return hashlib.sha256(json.dumps(graph, sort_keys=True).encode()).hexdigest()


def make_jobs(graph: Graph, info: Info, settings: Sequence[str], each: Sequence[str], table: Path | None, pair: str, count_seeds: bool
              ) -> list[Job]:
    """Return the jobs in order. settings, each: ``NODE=value`` and ``NODE=files`` of the command line. table: a CSV file whose first row
    names inputs. FaceLoomError where a word names no input, or the lists do not fit together."""
    graph = copy.deepcopy(graph)
    fixed = Job(PurePath("result"), graph)
    for word in settings:
        place, text = _split(graph, info, word)
        _fill(fixed, info, place, Value(text, _is_file(graph, info, place, text), PurePath("result")))
    rows = _rows(graph, info, each, table, pair)
    jobs, taken = [], set[str]()
    for index, row in enumerate(rows or [{}]):
        job = Job(PurePath("result"), copy.deepcopy(graph), dict(fixed.files))
        names = [value.name for value in row.values()]
        for place, value in row.items():
            _fill(job, info, place, value)
        if names:
            first, *others = names if pair == "all" and table is None else names[:1]
            job.name = first.with_name("+".join([first.name, *(other.name for other in others)]))
        if count_seeds:
            _count_seeds(job.graph, index)
        stem, number = job.name.name, 2
        while str(job.name).lower() in taken:
            job.name, number = job.name.with_name(f"{stem}_{number}"), number + 1
        taken.add(str(job.name).lower())
        jobs.append(job)
    return jobs


def _split(graph: Graph, info: Info, word: str) -> tuple[Place, str]:
    """Split ``NODE=value``."""
    name, sign, text = word.partition("=")
    if not sign:
        raise FaceLoomError(f"{word!r} must be NODE=value, such as \"Source: the person\"=me.jpg.")
    return find_input(graph, info, name.strip()), text


def _is_file(graph: Graph, info: Info, place: Place, text: str) -> bool:
    """Whether a value is a file of this machine; FaceLoomError for a file input whose value looks like a path to nothing."""
    number, name = place
    if not takes_files(input_options(info, graph[number]["class_type"]).get(name, {})):
        return False
    if not os.path.isfile(text) and (os.sep in text or "/" in text):
        raise FaceLoomError(f"{text} does not exist.")
    return os.path.isfile(text)


def _fill(job: Job, info: Info, place: Place, value: Value) -> None:
    number, name = place
    job.files.pop(place, None)
    if value.file:
        job.files[place] = Path(value.text)
    job.graph[number]["inputs"][name] = value.text if value.file else read_value(job.graph, info, number, name, value.text)


def _rows(graph: Graph, info: Info, each: Sequence[str], table: Path | None, pair: str) -> list[dict[Place, Value]]:
    """Return the values of the changing inputs, job by job."""
    rows = [] if table is None else _table_rows(graph, info, table)
    lists: dict[Place, list[Value]] = {}
    for word in each:
        place, text = _split(graph, info, word)
        lists[place] = _files(text)
    if not lists:
        return rows
    if rows:
        raise FaceLoomError("Give the changing inputs either with --each or with --csv.")
    if pair == "all":
        return [dict(zip(lists, values)) for values in itertools.product(*lists.values())]
    if pair == "name":
        by_name = [{value.name: value for value in values} for values in lists.values()]
        common = [name for name in by_name[0] if all(name in names for names in by_name)]
        if not common:
            raise FaceLoomError("The folders of --each have no file names in common; use --pair order or --pair all.")
        return [{place: names[name] for place, names in zip(lists, by_name)} for name in common]
    counts = {len(values) for values in lists.values()}
    if len(counts) > 1:
        told = ", ".join(f"{len(values)}" for values in lists.values())
        raise FaceLoomError(f"The lists of --each have {told} files; make them equally long, or use --pair name or --pair all.")
    return [dict(zip(lists, values)) for values in zip(*lists.values())]


def _files(text: str) -> list[Value]:
    """Return the files of a folder with its subfolders, or those that a pattern names."""
    if os.path.isdir(text):
        files = [(path, path.relative_to(text)) for path in pictures_in(Path(text), True, clips=True).pictures]
    else:
        files = [(Path(path), PurePath(os.path.basename(path))) for path in sorted(glob.glob(text, recursive=True)) if os.path.isfile(path)]
        if not files and os.path.isfile(text):
            files = [(Path(text), PurePath(os.path.basename(text)))]
    if not files:
        raise FaceLoomError(f"{text} holds no pictures or clips; name a folder, a file or a pattern such as 'photos/*.jpg'.")
    return [Value(str(path), True, name.with_suffix("")) for path, name in files]


def _table_rows(graph: Graph, info: Info, table: Path) -> list[dict[Place, Value]]:
    """Read a CSV file: the first row names inputs, every other one is a job. Paths are relative to the file."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            heads, *lines = [line for line in csv.reader(stream) if any(line)] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FaceLoomError(f"{table} cannot be read as CSV ({error}).") from error
    places = [find_input(graph, info, head.strip()) for head in heads]
    rows = []
    for number, line in enumerate(lines, 2):
        if len(line) != len(places):
            raise FaceLoomError(f"Line {number} of {table} has {len(line)} values for {len(places)} inputs.")
        row = {}
        for place, text in zip(places, line):
            beside = table.parent / text
            is_file = text != "" and _is_file(graph, info, place, str(beside))
            row[place] = Value(str(beside) if is_file else text, is_file, PurePath(Path(text).stem or f"row{number}"))
        rows.append(row)
    if not rows:
        raise FaceLoomError(f"{table} has no jobs; its first row names inputs, and every row after it is a job.")
    return rows


def _count_seeds(graph: Graph, index: int) -> None:
    for node in graph.values():
        for name in _SEEDS:
            if isinstance(node["inputs"].get(name), int):
                node["inputs"][name] = (node["inputs"][name] + index) % (1 << 64)


class Manifest:
    """What became of every job, in a JSON file beside the results, so that a second run does only what is missing."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / MANIFEST
        self.records: dict[str, dict[str, Any]] = {}
        if self.path.is_file():
            try:
                self.records = {record["job"]: record for record in json.loads(self.path.read_text(encoding="utf-8"))["jobs"]}
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise FaceLoomError(f"{self.path} is damaged; delete it, and all jobs are done again.") from error

    def is_done(self, job: Job, recipe: str) -> bool:
        """Whether the results of this job, from these contents, are there."""
        record = self.records.get(job.name.as_posix(), {})
        files = record.get("outputs") or []
        return record.get("status") == "done" and record.get("recipe") == recipe and bool(files) and all(
            (self.path.parent / file).is_file() for file in files)

    def add(self, job: Job, record: Mapping[str, Any]) -> None:
        """Record a job and write the file."""
        name = job.name.as_posix()
        self.records[name] = {"job": name, **record}
        write_file(self.path, json.dumps({"jobs": list(self.records.values())}, indent=1, ensure_ascii=False).encode())

"""Run a ComfyUI workflow for every picture of a folder, on a running server, and bring the results back under the pictures' names.

WORKFLOW  the graph as saved from the canvas (.json), or its API form
NODE      a node by its title, its id or its type, with .input where it has several: "Swap.strength"

A second run with the same OUT does only what is missing, has changed or has failed. Prompts of other people are left alone; Ctrl-C takes
back its own.

exit codes: 0 all done; 1 some failed (named on stderr, the others are there); 2 the request cannot be carried out; 130 interrupted
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..models.errors import FaceLoomError
from . import INTERRUPTED, OK, SOME_FAILED
from .queue_graph import read_workflow
from .queue_jobs import PAIRS, Job, Manifest, make_jobs
from .queue_server import Refused, Server, ServerGone, failure

if TYPE_CHECKING:
    from tqdm import tqdm

_TRIES = 3  # of a prompt that the server lost
_GLANCE = 0.1  # seconds between two looks at the server


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``queue`` to its parser."""
    add = parser.add_argument
    add("workflow", type=Path, metavar="WORKFLOW")
    add("--each", action="append", default=[], metavar="NODE=FILES",
        help="a folder or a pattern; one job for each of its pictures or clips; may be repeated, see --pair")
    add("--csv", type=Path, metavar="FILE", help="one job for each row; the first row names NODEs; paths are relative to the file")
    add("--pair", choices=PAIRS, default="order",
        help="how several --each go together: one by one in order, by equal file names, or each with each (default: order)")
    add("--set", action="append", default=[], metavar="NODE=VALUE", help="a value or a file for all jobs; may be repeated")
    add("--count-seeds", action="store_true", help="every job has seeds one higher than the job before it")
    add("--out", type=Path, required=True, metavar="FOLDER", help="where the results and faceloom-queue.json go")
    add("--server", default="http://127.0.0.1:8188", metavar="URL", help="of the running ComfyUI (default: http://127.0.0.1:8188)")
    add("--header", action="append", default=[], metavar="NAME:VALUE", help="sent with every request, for a server behind a proxy")
    add("--ahead", type=int, default=4, metavar="N", help="how many jobs wait in the server's queue at most (default: 4)")
    add("--wait", type=float, default=120, metavar="SECONDS", help="how long a server that went away is waited for (default: 120)")
    add("--dry-run", action="store_true", help="print the API form of the first job and how many there are, and queue nothing")
    add("--json", action="store_true", help="print a JSON document about all jobs at the end")
    add("--quiet", action="store_true", help="no progress bar")


def run(arguments: argparse.Namespace) -> int:
    """Queues the jobs. Returns the exit code; see ``cli/__init__.py``."""
    if not 1 <= arguments.ahead <= 1000:
        raise FaceLoomError("--ahead must be from 1 to 1000.")
    if not 0 <= arguments.wait <= 1e6:
        raise FaceLoomError("--wait must be from 0 to 1000000 seconds.")
    server = Server(arguments.server, dict(_header(word) for word in arguments.header))
    info = server.object_info()
    graph = read_workflow(arguments.workflow, info)
    jobs = make_jobs(graph, info, arguments.set, arguments.each, arguments.csv, arguments.pair, arguments.count_seeds)
    if arguments.dry_run:
        print(json.dumps(jobs[0].graph, indent=2, ensure_ascii=False))
        print(f"faceloom: {len(jobs)} job{'s' if len(jobs) > 1 else ''}; nothing was queued.", file=sys.stderr)
        return OK
    manifest = Manifest(arguments.out)
    batch = _Batch(server, manifest, jobs, arguments)
    interrupted = batch.run()
    counts = batch.counts
    if arguments.json:
        print(json.dumps({"counts": counts, "interrupted": interrupted, "jobs": list(manifest.records.values())}, indent=2))
    else:
        print(", ".join(f"{count} {status}" for status, count in counts.items() if count) or "nothing done", "→", arguments.out)
    if interrupted:
        print("faceloom: interrupted; the same command goes on with what is missing.", file=sys.stderr)
        return INTERRUPTED
    return SOME_FAILED if counts["failed"] else OK


def _header(word: str) -> tuple[str, str]:
    name, sign, value = word.partition(":")
    if not sign or not name.strip() or "\n" in word or "\r" in word:
        raise FaceLoomError(f"{word!r} must be NAME:VALUE, such as Authorization:Bearer 123.")
    return name.strip(), value.strip()


class _Batch:
    """Runs jobs on a server, a few of them ahead."""

    def __init__(self, server: Server, manifest: Manifest, jobs: Sequence[Job], arguments: argparse.Namespace) -> None:
        self.server, self.manifest, self.jobs = server, manifest, jobs
        self.ahead, self.patience, self.quiet = arguments.ahead, arguments.wait, arguments.quiet
        self.counts = {"done": 0, "there already": 0, "failed": 0}
        self.digests: dict[Path, str] = {}
        self.uploaded: dict[Path, str] = {}
        self.queued: dict[str, tuple[Job, dict]] = {}  # by prompt id: the job and the graph that the server has

    def run(self) -> bool:
        """Does all jobs. Returns whether Ctrl-C ended it early."""
        from tqdm import tqdm

        with tqdm(total=len(self.jobs), unit="job", file=sys.stderr, disable=self.quiet) as bar:
            waiting = self._missing(bar)
            try:
                while waiting or self.queued:
                    self._patiently(lambda: self._step(waiting, bar))
                return False
            except KeyboardInterrupt:
                self._take_back()
                return True
            except FaceLoomError:
                self._take_back()
                raise

    def _missing(self, bar: tqdm) -> list[Job]:
        """Returns the jobs that are to be done, the next one last."""
        missing = []
        for job in self.jobs:
            try:
                for path in job.files.values():
                    self.digests.setdefault(path, hashlib.sha256(path.read_bytes()).hexdigest())
            except OSError as error:
                self._failed(job, f"{error.filename} cannot be read ({error.strerror}).", bar)
                continue
            if self.manifest.is_done(job, job.recipe(self.digests)):
                self.counts["there already"] += 1
                bar.update()
            else:
                missing.append(job)
        return missing[::-1]

    def _patiently(self, step) -> None:
        """Does a step; while the server is away, tries it again."""
        end = None
        while True:
            try:
                return step()
            except ServerGone as error:
                if end is None:
                    end = time.monotonic() + self.patience
                    print("faceloom: the server does not answer; waiting for it.", file=sys.stderr)
                if time.monotonic() > end:
                    raise FaceLoomError(f"{error} The same command goes on with what is missing.") from error
                time.sleep(1)

    def _step(self, waiting: list[Job], bar: tqdm) -> None:
        """Queues jobs up to the number ahead, and takes in those that are done."""
        while waiting and len(self.queued) < self.ahead:
            self._queue(waiting[-1], bar)
            waiting.pop()
        there = self.server.waiting() if self.queued else set()
        finished = False
        for prompt, (job, graph) in list(self.queued.items()):
            if prompt in there:
                continue
            entry = self.server.history(prompt)
            finished = True
            if entry is None:
                self._lost(prompt, waiting, bar)
            elif problem := failure(entry, graph):
                del self.queued[prompt]
                self._failed(job, problem, bar, prompt)
            else:
                self._done(prompt, entry, bar)
        if self.queued and not finished:
            time.sleep(_GLANCE)

    def _queue(self, job: Job, bar: tqdm) -> None:
        graph = copy.deepcopy(job.graph)
        for (number, name), path in job.files.items():
            if path not in self.uploaded:
                self.uploaded[path] = self.server.upload(path, self.digests[path])
            graph[number]["inputs"][name] = self.uploaded[path]
        try:
            self.queued[self.server.queue(graph)] = (job, graph)
        except Refused as error:
            self._failed(job, str(error), bar)

    def _lost(self, prompt: str, waiting: list[Job], bar: tqdm) -> None:
        """Queues a prompt again that a restarted server does not know any more."""
        job, _ = self.queued.pop(prompt)
        job.tries += 1
        if job.tries < _TRIES:
            waiting.append(job)
        else:
            self._failed(job, f"The server lost it {_TRIES} times.", bar, prompt)

    def _done(self, prompt: str, entry: dict, bar: tqdm) -> None:
        """Fetches the results of a prompt and records it."""
        job, _ = self.queued[prompt]
        files = [file for node in (entry.get("outputs") or {}).values() for values in node.values() if isinstance(values, list)
                 for file in values if isinstance(file, dict) and file.get("type") == "output" and file.get("filename")]
        if not files:
            del self.queued[prompt]
            return self._failed(job, "The workflow saved nothing; add a node such as Save Image.", bar, prompt)
        from ..models.files.cache import write_file

        outputs = []
        for index, file in enumerate(files, 1):
            name = job.name.with_name(f"{job.name.name}{f'_{index}' if index > 1 else ''}{Path(file['filename']).suffix}")
            content = self.server.fetch(file)
            (self.manifest.path.parent / name).parent.mkdir(parents=True, exist_ok=True)
            write_file(self.manifest.path.parent / name, content)
            outputs.append(name.as_posix())
        del self.queued[prompt]
        self.counts["done"] += 1
        self._record(job, {"status": "done", "prompt_id": prompt, "outputs": outputs})
        bar.update()

    def _failed(self, job: Job, problem: str, bar: tqdm, prompt: str | None = None) -> None:
        self.counts["failed"] += 1
        bar.write(f"faceloom: {job.name}: {problem}", file=sys.stderr)
        self._record(job, {"status": "failed", "prompt_id": prompt, "error": problem})
        bar.update()

    def _record(self, job: Job, record: dict) -> None:
        known = all(path in self.digests for path in job.files.values())
        inputs = {f"{number}.{name}": {"path": str(path), "sha256": self.digests.get(path)} for (number, name), path in job.files.items()}
        self.manifest.path.parent.mkdir(parents=True, exist_ok=True)
        self.manifest.add(job, {**record, "inputs": inputs, "recipe": job.recipe(self.digests) if known else None})

    def _take_back(self) -> None:
        """Takes its own prompts off the server."""
        try:
            self.server.cancel(list(self.queued))
        except FaceLoomError as error:
            print(f"faceloom: its prompts may still be queued: {error}", file=sys.stderr)

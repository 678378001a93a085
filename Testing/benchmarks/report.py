"""The evidence: this project's methods beside other tools, on a folder of images, in one run.

    python Testing/benchmarks/report.py FOLDER [--out DIR] [--quick] [--pairs 21-22,23-24] [--linear affine]

`pairs.py` says how FOLDER can look (a table, Learn2Reg, OASIS, plain files). Every pair is first aligned by
this project's linear stage (``--linear none``: taken as it lies), and every method starts from that, with
the moving image resampled once: what is compared is the deformation alone. A registration is a fresh process
on the CPU; its whole wall time counts, from start to exit, files read and written, and beside it the same
less the time that the interpreter and the imports alone take. `scoring.py` judges every transform by the
original labels, landmarks or images.

``results.json`` and ``results.csv`` grow as results come, and a second call goes on where the first stopped.
In the end stand ``report.md`` (medians and quartiles; what beat what) and ``report.png`` (accuracy against
time). Timings mean something only while nothing else runs: the load before each run is kept.

A tool that is not installed is told and left out; ``--peer-python`` names an interpreter that has the tools
when this one has not. The tools get glibc's faster allocator settings too, unless ``--plain-allocator``;
this project sets its own. ``--quick``: two pairs, the presets ``prediction`` and ``fast``, quick tools only.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from children import Cost, environment, run
from contenders import OURS, PRESETS, START, TOOLS, Contender, contenders, register
from pairs import Pair, find_pairs
from report_tables import Record, by_pair, compared, plot, table

HERE = Path(__file__).resolve().parent
QUICK_TOOLS = ("demons", "ants-quick", "convexadam")
QUICK_PAIRS = 2
VERSIONS = ("torch", "numpy", "SimpleITK")


class Report:
    """Runs contenders on pairs and keeps what came out."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.out: Path = arguments.out.resolve()
        self.out.mkdir(parents=True, exist_ok=True)
        self.file = self.out / "results.json"
        kept = self.file.is_file() and not arguments.again
        self.everything: list[Record] = json.loads(self.file.read_text()) if kept else []
        self.probed: dict[str, float | None] = {}

    @property
    def settings(self) -> Record:
        """What results must share to be compared."""
        a = self.arguments
        return {
            "threads": a.threads,
            "linear": a.linear,
            "options": a.options,
            "tuned_allocator": not a.plain_allocator,
            "cores": os.cpu_count(),
        }

    def records(self, chosen: list[Contender], pairs: list[Pair]) -> list[Record]:
        """What was measured of these with these settings, now or earlier."""
        methods, names = {c.name for c in chosen}, {pair.name for pair in pairs}
        return [
            record
            for record in self.everything
            if record["settings"] == self.settings and record["method"] in methods and record["pair"] in names
        ]

    def variables(self, ours: bool) -> dict[str, str]:
        return environment(self.arguments.threads, not ours and not self.arguments.plain_allocator)

    def probe(self, contender: Contender) -> float | None:
        """Seconds to start and import what it needs, everything being cached; None: not installed."""
        if contender.imports not in self.probed:
            python = sys.executable if contender.ours else self.arguments.peer_python
            log = self.out / "import.log"
            command = [python, "-c", f"import {contender.imports}"]
            costs = [run(command, self.variables(contender.ours), log) for _ in range(3)]
            if costs[-1].code:
                print(f"{contender.name}: not installed ({_last_line(log)})", flush=True)
            self.probed[contender.imports] = None if costs[-1].code else min(cost.wall for cost in costs)
        return self.probed[contender.imports]

    def start(self, pair: Pair) -> Path:
        """The folder with the shared start of a pair: ``forward.h5``, ``inverse.h5``, ``warped.nii.gz``.

        Raises:
            RuntimeError: the linear stage failed.
        """
        folder = self.out / f"linear-{self.arguments.linear}" / pair.name
        if not (folder / "quality.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            command = register(pair.fixed, pair.moving, folder, self.arguments.threads)
            stage = ["--method", "classical", "--representation", self.arguments.linear]
            log = folder / "log.txt"
            if run([*command, *stage], self.variables(True), log).code:
                raise RuntimeError(f"{pair.name}: the linear stage failed ({_last_line(log)})")
        return folder

    def measure(self, contender: Contender, pair: Pair, imports: float) -> None:
        """One registration and its score, unless it is there already; a failure is told."""
        if self.records([contender], [pair]):
            return
        aligned = None if self.arguments.linear == "none" else self.start(pair)
        out = self.out / contender.name / pair.name
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        cost, load = None, os.getloadavg()[0]
        if contender.name != START:
            moving = pair.moving if aligned is None else aligned / "warped.nii.gz"
            a = self.arguments
            command = contender.command(pair.fixed, moving, out, a.peer_python, a.threads, a.options.split())
            cost = run(command, self.variables(contender.ours), out / "log.txt")
            if cost.code or not (out / "forward.h5").is_file():
                last = _last_line(out / "log.txt") or cost.code
                print(f"{contender.name} {pair.name}: failed ({last})", flush=True)
                return
        record = {"method": contender.name, "pair": pair.name, "ours": contender.ours}
        record |= self.score(pair, out if cost else None, aligned, out / "score.txt")
        record |= _costs(cost, imports) | {"load_before": round(load, 2), "settings": self.settings}
        self.everything.append(record)
        self.save()
        accuracy = next(f"{key} {record[key]:.4f}" for key in ("mean_dice", "tre", "nmi") if key in record)
        print(f"{contender.name} {pair.name}: {accuracy}, {record['wall_s']:.1f} s", flush=True)
        if not self.arguments.keep:
            for file in out.iterdir():
                if file.suffix != ".txt":
                    file.unlink()

    def score(self, pair: Pair, found: Path | None, aligned: Path | None, log: Path) -> Record:
        """Of the transforms in `found` after those in `aligned`."""
        command = [sys.executable, str(HERE / "scoring.py")]
        for flag, files in {
            "--fixed": [pair.fixed_judged or pair.fixed],
            "--moving": [pair.moving_judged or pair.moving],
            "--labels": [pair.fixed_labels, pair.moving_labels],
            "--landmarks": [pair.fixed_landmarks, pair.moving_landmarks],
            "--forward": [folder / "forward.h5" for folder in (aligned, found) if folder],
            "--inverse": self.inverses(found, aligned),
        }.items():
            if files and None not in files:
                command += [flag, *map(str, files)]
        if run(command, dict(os.environ), log).code:
            raise RuntimeError(f"{pair.name} could not be scored: see {log}")
        return json.loads(_last_line(log))

    @staticmethod
    def inverses(found: Path | None, aligned: Path | None) -> list[Path]:
        """The files of the inverse map, if the method wrote one: its own is applied last."""
        files = [folder / "inverse.h5" for folder in (found, aligned) if folder]
        return files if all(file.is_file() for file in files) else []

    def save(self) -> None:
        """Both files, whole or not at all."""
        plain = [
            {k: v for k, v in r.items() if k not in ("dice", "hd95", "settings")} for r in self.everything
        ]
        for record, row in zip(self.everything, plain, strict=True):
            row |= record["settings"]
            row |= {f"{k}_{label}": v for k in ("dice", "hd95") for label, v in record.get(k, {}).items()}
        columns = list(dict.fromkeys(key for row in plain for key in row))
        unfinished = self.out / "results.part"
        with unfinished.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, columns)
            writer.writeheader()
            writer.writerows(plain)
        unfinished.replace(self.out / "results.csv")
        unfinished.write_text(json.dumps(self.everything, indent=1))
        unfinished.replace(self.file)

    def finish(self, records: list[Record]) -> None:
        """The table, the comparisons and the plot."""
        verdicts = "\n".join(f"* {line}" for line in compared(records))
        text = f"{_machine()}\n\n{table(records)}\n\n{by_pair(records)}\n\n{verdicts}\n"
        (self.out / "report.md").write_text(text, encoding="utf-8")
        print(f"\n{text}")
        try:
            plot(records, self.out / "report.png")
        except ImportError:
            print("matplotlib is not installed, so there is no plot.")


def _costs(cost: Cost | None, imports: float) -> Record:
    if cost is None:
        return {"wall_s": 0.0, "work_s": 0.0, "cpu_s": 0.0, "peak_mb": 0.0}
    work = max(0.0, cost.wall - imports)
    return {"wall_s": cost.wall, "work_s": work, "cpu_s": cost.cpu, "peak_mb": cost.peak_mb}


def _last_line(log: Path) -> str:
    return "".join(log.read_text(errors="replace").strip().splitlines()[-1:])


def _machine() -> str:
    """Date, machine and versions, one line."""
    processor = next(
        (
            line.split(":")[1].strip()
            for line in _lines(Path("/proc/cpuinfo"))
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    found = []
    for name in VERSIONS:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    where = f"{processor}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    return f"{datetime.date.today()}: {where}, {', '.join(found)}."


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmark-results"))
    parser.add_argument("--quick", action="store_true", help="a first look, in minutes")
    parser.add_argument("--pairs", help="comma-separated, fixed first: 21-22,23-24 (default: all)")
    parser.add_argument(
        "--methods", help=f"comma-separated (default: all of {START}, {', '.join((*OURS, *TOOLS))})"
    )
    parser.add_argument("--presets", help="of ours (default: prediction,fast,balanced)")
    parser.add_argument(
        "--linear", choices=("none", "rigid", "affine"), default="affine", help="shared start"
    )
    parser.add_argument("--options", default="", help="more options for ours, as '--representation b-spline'")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has the other tools")
    parser.add_argument("--plain-allocator", action="store_true", help="leave glibc's defaults to the tools")
    parser.add_argument("--keep", action="store_true", help="keep the transforms")
    parser.add_argument("--again", action="store_true", help="forget earlier results")
    return parser.parse_args()


def main() -> int:
    """Run what was asked for, write the report."""
    arguments = parse()
    methods: Any = arguments.methods or ",".join((START, *OURS, *(QUICK_TOOLS if arguments.quick else TOOLS)))
    presets = arguments.presets or ("prediction,fast" if arguments.quick else "prediction,fast,balanced")
    try:
        unknown = set(presets.split(",")) - set(PRESETS)
        if unknown:
            raise ValueError(f"There is no preset {sorted(unknown)[0]}; choose {', '.join(PRESETS)}.")
        chosen = contenders(methods.split(","), presets.split(","))
        pairs = find_pairs(arguments.folder, arguments.pairs)
    except (OSError, ValueError) as error:
        print(f"report.py: {error}", file=sys.stderr)
        return 2
    pairs = pairs[:QUICK_PAIRS] if arguments.quick and not arguments.pairs else pairs
    report = Report(arguments)
    imports = {c.name: 0.0 if c.name == START else report.probe(c) for c in chosen}
    # One pair after another, so that a run stopped early has compared every method on the same pairs.
    for pair in pairs:
        for contender in chosen:
            seconds = imports[contender.name]
            if seconds is None:
                continue
            try:
                report.measure(contender, pair, seconds)
            except RuntimeError as error:
                print(f"report.py: {error}", file=sys.stderr)
                break
    records = report.records(chosen, pairs)
    if not records:
        print("report.py: nothing could be measured.", file=sys.stderr)
        return 1
    report.finish(records)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A template from many images: affine first, then rounds of registering, averaging, taking the mean out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..atomic import remove_temporaries, write_text
from ..batch.names import RECORD
from ..batch.pool import Outcome
from ..batch.rows import Row, check_rows
from ..batch.run import LONGEST_MINUTES, check_minutes, run_batch
from ..errors import InputError, RegistrationError
from ..folder_lock import locked
from ..frame import Frame
from ..initial import load_transform
from ..io import read_volume, write_volume
from ..overwriting import check_overwriting
from ..progress import CancelToken, ProgressCallback, Reporter
from ..transform_files import write_displacement, write_linear
from ..transforms import LinearTransform, Transform
from .affine import centred
from .average import Average, Maps, Numbers, Source, averaged, unbiased

STATE = "template.json"
MAPS = "maps"
_AFFINE = "affine"
_AFFINE_ROUNDS = 2
"""To one of the images, then to the first mean, in which no image is special."""


@dataclass(frozen=True)
class Work:
    """Who does the registrations, and how they are told about: as of `batch.run.run_batch`."""

    workers: int | None = None
    scheduler: str | None = None
    told: Callable[[Outcome, int], None] | None = None
    pair_minutes: float | None = LONGEST_MINUTES


def template_name(iteration: int, labels: bool = False) -> str:
    """The file of an iteration's average; iteration 0 is the mean of the affinely aligned images."""
    return f"template-{iteration}{'_labels' if labels else ''}.nii.gz"


def build_template(
    sources: Sequence[Source],
    folder: str | Path,
    iterations: int = 4,
    options: Mapping[str, Any] | None = None,
    work: Work | None = None,
    resume: bool = False,
    keep: bool = False,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    counted: Callable[[int, Numbers], None] | None = None,
) -> list[Numbers]:
    """Build a template that no image is nearer to than another.

    Iteration 0 is the mean of the affinely aligned images, in their mean shape and in the pose and voxels of
    the first image. Each later one registers every image to the template before it, takes the mean
    deformation out of the maps by its inverse, and averages the images through them. `folder` gets, for each
    that is complete, ``template-K.nii.gz`` (and ``template-K_labels.nii.gz``) and
    ``iteration-K/summary.html``, besides ``affine/NAME.h5`` and ``maps/NAME.h5``: from the first and the last
    template's points to each image's, so that it resamples the image onto the template.

    Args:
        sources: at least two.
        folder: for the results.
        iterations: after iteration 0.
        options: keyword options of `pipeline.register` for the registrations, but no files.
        work: who does them.
        resume: go on from what is in the folder; also to more iterations.
        keep: keep each registration's own results as well.
        progress, cancel: as of `pipeline.register`.
        counted: told the numbers of each iteration, also of those that were there.

    Returns:
        The numbers of each iteration, from 0.

    Raises:
        InputError: sources that cannot be used, or a folder that holds something else.
        RegistrationError: an image could not be registered.
        Cancelled: the token was set; `resume` goes on.
    """
    if len(sources) < 2:
        raise InputError("A template needs at least two images.")
    if iterations < 0:
        raise InputError("The number of iterations must not be negative.")
    if work is not None:
        check_minutes(work.pair_minutes)
    folder = Path(folder)
    rows = [Row(k, s.name, {"fixed": str(s.image), "moving": str(s.image)}) for k, s in enumerate(sources, 1)]
    check_rows(rows)
    for source in sources:
        if source.labels is not None and not source.labels.exists():
            raise InputError(f"The labels {source.labels} do not exist.")
        check_overwriting(
            [folder / template_name(k, labels) for k in range(iterations + 1) for labels in (False, True)],
            {"image": source.image, "labels": source.labels},
        )
    if len({source.labels is None for source in sources}) > 1:
        raise InputError("Labels are needed for all images, or for none.")
    with locked(folder):
        remove_temporaries(folder)
        state = _State(folder, sources, dict(options or {}), resume)
        builder = _Builder(sources, state, work or Work(), keep, Reporter(progress, cancel), iterations)
        return builder.run(counted or (lambda iteration, numbers: None))


class _State:
    """What is known of a template's folder: what it is made from, and the iterations that are complete."""

    def __init__(
        self, folder: Path, sources: Sequence[Source], options: dict[str, Any], resume: bool
    ) -> None:
        self.folder, self._path = folder, folder / STATE
        self.options = {**options, "threads": options.get("threads") or 1}
        images = [{k: v and str(v) for k, v in asdict(source).items()} for source in sources]
        self._made_from = {"images": images, "options": self.options}
        self.numbers: list[Numbers] = []
        if not self._path.exists():
            self.save()
            return
        if not resume:
            raise InputError(f"{folder} holds a template; go on with --resume, or choose another folder.")
        try:
            known = json.loads(self._path.read_text(encoding="utf-8"))
            complete = [Numbers(**numbers) for numbers in known.pop("iterations")]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"{self._path} cannot be read; choose another folder.") from error
        if known != json.loads(json.dumps(self._made_from)):
            raise InputError(
                f"The template in {folder} is made from other images or options; choose another folder."
            )
        for numbers in complete:  # up to the first that has lost its average
            if not _is_filled(folder / template_name(len(self.numbers))):
                break
            self.numbers.append(numbers)

    def save(self) -> None:
        state = {**self._made_from, "iterations": [asdict(numbers) for numbers in self.numbers]}
        write_text(self._path, json.dumps(state, indent=2) + "\n")


def _is_filled(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


class _Builder:
    """The rounds, one after the other."""

    def __init__(
        self,
        sources: Sequence[Source],
        state: _State,
        work: Work,
        keep: bool,
        report: Reporter,
        iterations: int,
    ) -> None:
        self._sources, self._state, self._work, self._keep = sources, state, work, keep
        self._report, self._iterations, self._folder = report, iterations, state.folder
        self._rounds = _AFFINE_ROUNDS + iterations

    def run(self, counted: Callable[[int, Numbers], None]) -> list[Numbers]:
        for iteration, numbers in enumerate(self._state.numbers):
            counted(iteration, numbers)
        self._clean()
        while len(self._state.numbers) <= self._iterations:
            iteration = len(self._state.numbers)
            self._complete(self._iteration(iteration) if iteration else self._affine())
            counted(iteration, self._state.numbers[-1])
        self._report("Done", 1.0)
        return self._state.numbers

    def _affine(self) -> Average:
        """Affine maps to the mean shape, written to a folder, and the mean of the images through them."""
        target, frame = self._sources[0].image, read_volume(self._sources[0].image).frame
        for k in range(_AFFINE_ROUNDS):
            moving, d = [s for s in self._sources if s.image != target], frame.dimension
            self._register(f"affine-{k + 1}", k, target, moving)
            found = [
                self._map(f"affine-{k + 1}", s, frame) if s in moving else LinearTransform.identity(d)
                for s in self._sources
            ]
            maps, frame = centred(found, frame)
            if k + 1 < _AFFINE_ROUNDS:
                target = self._folder / f"affine-{k + 1}" / "mean.nii.gz"
                if not target.exists():  # once written it stays, since the next round goes by it
                    write_volume(averaged(self._sources, maps.__getitem__, frame).image, target)
                frame = read_volume(target).frame
        folder = self._folder / _AFFINE
        folder.mkdir(exist_ok=True)
        for source, linear in zip(self._sources, maps, strict=True):
            write_linear(linear.matrix.numpy(), folder / f"{source.name}.h5")
        return averaged(self._sources, maps.__getitem__, frame)

    def _iteration(self, iteration: int) -> Average:
        """Every image registered to the last template, and the unbiased mean of the images."""
        name = f"iteration-{iteration}"
        target = self._folder / template_name(iteration - 1)
        template = read_volume(target)
        frame = template.frame
        self._register(name, _AFFINE_ROUNDS + iteration - 1, target, self._sources)
        affine = [load_transform(self._affine_file(s), frame.dimension) for s in self._sources]
        maps, shift = unbiased(lambda index: self._map(name, self._sources[index], frame), affine, template)
        self._write_maps(maps, frame)
        return averaged(self._sources, maps, frame, shift)

    def _register(self, name: str, round_: int, target: Path, moving: Sequence[Source]) -> None:
        """Bring images onto the target; what was done before stays. The first rounds are affine, the later
        ones begin with the affine maps."""
        rows = []
        for number, source in enumerate(moving, 1):
            own: dict[str, Any] = {"fixed": str(target.resolve()), "moving": str(source.image)}
            if round_ < _AFFINE_ROUNDS:
                own["representation"] = "affine"
            else:
                own["initial"] = str(self._affine_file(source).resolve())
            rows.append(Row(number, source.name, {"symmetric": "off", **self._state.options, **own}))
        part = self._report.part(round_ / self._rounds, (round_ + 0.95) / self._rounds)
        entries = run_batch(
            rows,
            self._folder / name,
            workers=self._work.workers,
            scheduler=self._work.scheduler,
            resume=True,
            progress=lambda p: part(f"{name}: {p.stage}", p.fraction),
            told=self._work.told,
            pair_minutes=self._work.pair_minutes,
            picture=round_ >= _AFFINE_ROUNDS,
        )
        failed = [entry.row.name for entry in entries if entry.state != "done"]
        if failed:
            raise RegistrationError(
                f"{len(failed)} of {len(rows)} images could not be registered ({', '.join(failed[:5])}); "
                f"{self._folder / name} has the details. Go on with --resume, or leave them out."
            )
        self._report(f"{name}: averaging", (round_ + 0.95) / self._rounds)

    def _complete(self, average: Average) -> None:
        """Write an iteration's average, note it as complete, and remove what only led to it."""
        iteration = len(self._state.numbers)
        if average.labels is not None:
            write_volume(average.labels, self._folder / template_name(iteration, labels=True), labels=True)
        write_volume(average.image, self._folder / template_name(iteration))
        self._state.numbers.append(average.numbers)
        self._state.save()
        self._clean()

    def _clean(self) -> None:
        """Remove single registrations of complete iterations, unless they are to be kept."""
        if self._keep or not self._state.numbers:
            return
        for k in range(_AFFINE_ROUNDS):
            shutil.rmtree(self._folder / f"affine-{k + 1}", ignore_errors=True)
        for iteration in range(1, len(self._state.numbers)):
            for source in self._sources:
                shutil.rmtree(self._folder / f"iteration-{iteration}" / source.name, ignore_errors=True)

    def _write_maps(self, maps: Maps, frame: Frame) -> None:
        folder = self._folder / MAPS
        folder.mkdir(exist_ok=True)
        spacing = self._state.options.get("output_spacing")
        frame = frame if spacing is None else frame.with_spacing(spacing)
        for index, source in enumerate(self._sources):
            field = maps(index).field(frame)
            write_displacement(field.mm(), frame, folder / f"{source.name}.h5")

    def _affine_file(self, source: Source) -> Path:
        return self._folder / _AFFINE / f"{source.name}.h5"

    def _map(self, name: str, source: Source, frame: Frame) -> Transform:
        folder = self._folder / name / source.name
        files = json.loads((folder / RECORD).read_text(encoding="utf-8"))["files"]
        return load_transform(folder / files["forward.h5"], frame.dimension)

"""Pairs of images in a folder (standard library only: a process that measures others stays small).

Four forms are understood, the first that is there:

* ``pairs.csv`` with the columns ``fixed`` and ``moving``, paths relative to the folder, and, where there
  are any, ``fixed_labels`` and ``moving_labels``, ``fixed_landmarks`` and ``moving_landmarks`` (files that
  ``deepregistration register`` takes), ``fixed_judged`` and ``moving_judged`` (images to judge a
  map by in the place of those registered), ``name``;
* a ``*dataset.json`` of Learn2Reg: its ``registration_val`` pairs (or the first of ``registration_test``,
  ``registration_train``), label images of the same name in ``labelsTr`` or ``labelsTs``;
* a folder per subject, as in OASIS: ``aligned_norm`` (or ``norm``, ``image``, ``brain``) beside
  ``aligned_seg35`` (or ``seg``, ``labels``);
* files ``brainX.nii.gz`` (or ``imageX``, ``imgX``, ``volumeX``, or any image, its name being X), labels
  ``labelsX.nii.gz`` (or ``labelX``, ``segX``) beside them or none.

In the last two, sorted by name, the first two are a pair, fixed first, then the next two; a list such as
``21-22,24-23`` chooses others. Extensions are those of NIfTI, NRRD and MetaImage.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_EXTENSION = r"\.(?:nii\.gz|nii|nrrd|nhdr|mha|mhd)"
_IMAGE = re.compile(rf"(?:brain|image|img|volume)s?[_-]?(.+?){_EXTENSION}", re.IGNORECASE)
_LABELS = re.compile(rf"(?:label|seg)s?[_-]?(.+?){_EXTENSION}", re.IGNORECASE)
_ANY = re.compile(rf"(.+?){_EXTENSION}", re.IGNORECASE)
_SUBJECT_IMAGE = re.compile(rf"(aligned_norm|norm|image|brain){_EXTENSION}", re.IGNORECASE)
_SUBJECT_LABELS = re.compile(rf"(aligned_seg35|seg|labels?){_EXTENSION}", re.IGNORECASE)
_PARTS = ("labels", "landmarks", "judged")
_CHALLENGE_LISTS = ("registration_val", "registration_test", "registration_train")


@dataclass(frozen=True)
class Pair:
    """Two images, with what of label maps, landmarks and images to judge by both have."""

    name: str
    fixed: Path
    moving: Path
    fixed_labels: Path | None = None
    moving_labels: Path | None = None
    fixed_landmarks: Path | None = None
    moving_landmarks: Path | None = None
    fixed_judged: Path | None = None
    moving_judged: Path | None = None


def find_pairs(folder: Path, wanted: str | None = None) -> list[Pair]:
    """The pairs of `folder`, all of them or those of the comma-separated list `wanted` (``21-22,23-24``).

    Raises:
        ValueError: nothing is there, or something wanted is not.
    """
    names = [name.strip() for name in wanted.split(",")] if wanted else None
    challenge = sorted(folder.glob("*dataset.json"))
    if (folder / "pairs.csv").is_file():
        pairs = _chosen(_from_table(folder / "pairs.csv"), names)
    elif challenge:
        pairs = _chosen(_from_challenge(challenge[0]), names)
    else:
        pairs = _from_names(*(_by_subject(folder) or _by_name(folder)), names)
    if not pairs:
        raise ValueError(f"{folder} holds no pairs.csv, no Learn2Reg dataset and no two images.")
    missing = [p for pair in pairs for p in vars(pair).values() if isinstance(p, Path) and not p.is_file()]
    if missing:
        raise ValueError(f"{missing[0]} does not exist.")
    return pairs


def _from_table(table: Path) -> dict[str, Pair]:
    with table.open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    pairs = {}
    for row in rows:
        absent = {"fixed", "moving"} - row.keys()
        if absent:
            raise ValueError(f"{table} has no column {sorted(absent)[0]}.")
        files = ["fixed", "moving", *(f"{side}_{part}" for part in _PARTS for side in ("fixed", "moving"))]
        paths = {key: table.parent / row[key] for key in files if row.get(key)}
        name = row.get("name") or f"{_stem(paths['fixed'])}-{_stem(paths['moving'])}"
        pairs[name] = Pair(name, **paths)
    return pairs


def _from_challenge(description: Path) -> dict[str, Pair]:
    """Learn2Reg's pairs; paths in the file are relative to its folder."""
    told = json.loads(description.read_text(encoding="utf-8"))
    rows = next((told[key] for key in _CHALLENGE_LISTS if told.get(key)), [])
    pairs = {}
    for row in rows:
        images = [description.parent / row[key] for key in ("fixed", "moving")]
        labels = [
            path.parents[1] / path.parent.name.replace("images", "labels") / path.name for path in images
        ]
        if not all(path.is_file() for path in labels):
            labels = []
        name = "-".join(_stem(path) for path in images)
        pairs[name] = Pair(name, *images, *labels)
    return pairs


def _from_names(images: dict[str, Path], labels: dict[str, Path], names: list[str] | None) -> list[Pair]:
    known = sorted(images, key=_natural)
    if names is None:
        keys = list(zip(known[::2], known[1::2], strict=False))
    else:
        keys = _chosen({f"{a}-{b}": (a, b) for a in known for b in known}, names)
    both = {(a, b): (labels[a], labels[b]) for a, b in keys if a in labels and b in labels}
    return [Pair(f"{a}-{b}", images[a], images[b], *both.get((a, b), ())) for a, b in keys]


def _by_subject(folder: Path) -> tuple[dict[str, Path], dict[str, Path]] | None:
    """Images and labels by subject, where each has a folder."""
    found: tuple[dict[str, Path], dict[str, Path]] = ({}, {})
    for subject in sorted(path for path in folder.iterdir() if path.is_dir()):
        for paths, pattern in zip(found, (_SUBJECT_IMAGE, _SUBJECT_LABELS), strict=True):
            matches = [path for path in sorted(subject.iterdir()) if pattern.fullmatch(path.name)]
            if matches:
                paths[subject.name] = matches[0]
    return found if len(found[0]) > 1 else None


def _by_name(folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    labels, images = _matching(folder, _LABELS), _matching(folder, _IMAGE)
    if len(images) < 2:
        taken = set(labels.values())
        images = {key: path for key, path in _matching(folder, _ANY).items() if path not in taken}
    return images, labels


def _matching(folder: Path, pattern: re.Pattern[str]) -> dict[str, Path]:
    found = ((pattern.fullmatch(path.name), path) for path in sorted(folder.iterdir()))
    return {match[1]: path for match, path in found if match}


def _chosen(known: Mapping[str, T], names: list[str] | None) -> list[T]:
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ValueError(f"There is no pair {unknown[0]}.")
    return list(known.values()) if names is None else [known[name] for name in names]


def _stem(path: Path) -> str:
    return re.sub(rf"{_EXTENSION}$", "", path.name)


def _natural(key: str) -> list[tuple[int, str]]:
    """Sorts 9 before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", key) if part]

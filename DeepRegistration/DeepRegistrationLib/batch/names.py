"""What the results of a pair are called; the entities of BIDS names are kept.

A BIDS name is ``sub-02_ses-1_run-2_T1w.nii.gz``: entities ``key-value``, then a suffix (Gorgolewski et al.:
The brain imaging data structure. Scientific Data 3, 2016). A transform of a derived data set is named by its
two ends, ``sub-02_from-T1w_to-MNI152_mode-image_xfm.h5``, where *from* and *to* say which way images go.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PICTURE = "picture.jpg"
RECORD = "pair.json"
"""What a finished pair's folder holds besides the results: options, inputs and the names of the files."""

TABLE, PAGE = "summary.csv", "summary.html"
"""What a batch's folder holds besides the pairs' folders: the numbers of all, and a page that shows them."""

_FILES = (
    "forward.h5",
    "inverse.h5",
    "warped.nii.gz",
    "quality.json",
    "features_fixed.nii.gz",
    "features_moving.nii.gz",
)
_NAME = re.compile(r"(?P<entities>(?:[a-z]+-[A-Za-z0-9+]+_)+)(?P<suffix>[A-Za-z0-9]+)")
_LONGEST = 120
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{k}" for port in ("com", "lpt") for k in range(1, 10))}
_EXTENSIONS = (".nii.gz", ".seg.nrrd", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm")


@dataclass(frozen=True)
class BidsName:
    """The entities (key, value) of a file name in their order, and the suffix."""

    entities: tuple[tuple[str, str], ...]
    suffix: str

    @property
    def prefix(self) -> str:
        return "_".join(f"{key}-{value}" for key, value in self.entities)


def stem(path: str | Path) -> str:
    """A file's or folder's name without the extension of an image."""
    name = Path(path).name
    return next((name[: -len(e)] for e in _EXTENSIONS if name.lower().endswith(e)), name)


def bids_name(path: str | Path) -> BidsName | None:
    """The parts of a name that begins with a subject (``sub-``) or template (``tpl-``); None for others."""
    match = _NAME.fullmatch(stem(path))
    if match is None:
        return None
    entities = tuple(tuple(part.split("-", 1)) for part in match["entities"].rstrip("_").split("_"))
    return BidsName(entities, match["suffix"]) if entities[0][0] in ("sub", "tpl") else None


def pair_name(fixed: str | Path, moving: str | Path) -> str:
    """What a pair is called if the table does not say: ``sub-02_from-T1w_to-sub01T1w`` for BIDS names,
    ``b_to-a`` for moving image b and fixed image a otherwise."""
    name = bids_name(moving)
    if name is None:
        return _plain(f"{stem(moving)}_to-{stem(fixed)}")
    return f"{name.prefix}_from-{name.suffix}_to-{_label(fixed, name)}"


def file_names(fixed: str | Path, moving: str | Path) -> dict[str, str]:
    """What `Registration.save`'s files are called in a pair's folder: as they are, unless the moving image
    has a BIDS name."""
    name = bids_name(moving)
    if name is None:
        return {file: file for file in _FILES}
    start, own, other = name.prefix, name.suffix, _label(fixed, name)
    names = (
        f"{start}_from-{own}_to-{other}_mode-image_xfm.h5",
        f"{start}_from-{other}_to-{own}_mode-image_xfm.h5",
        f"{start}_space-{other}_{own}.nii.gz",
        f"{start}_from-{own}_to-{other}_quality.json",
    )
    features = (f"{start}_space-{end}_desc-features_{own}.nii.gz" for end in (other, own))
    return dict(zip(_FILES, (*names, *features), strict=True))


def name_complaint(name: str) -> str | None:
    """Why a folder cannot be called this on one of the usual systems; None if it can."""
    if not name or name[0] == "." or name[-1] in ". ":
        return "it is empty, or begins or ends with a dot"
    if re.search(r'[\x00-\x1f\x7f/\\:*?"<>|]', name):
        return r'characters such as / \ : * ? " < > | and line breaks are not possible'
    if len(name.encode()) > _LONGEST:
        return f"it has more than {_LONGEST} characters"
    if name.lower() in (TABLE, PAGE):
        return "the summary has that name"
    return "the system keeps it for itself" if name.split(".")[0].lower() in _RESERVED else None


def _label(fixed: str | Path, moving: BidsName) -> str:
    """The fixed image as a BIDS label: a template's name, or what distinguishes it from the moving image."""
    name = bids_name(fixed)
    if name is None:
        return re.sub(r"[^A-Za-z0-9]", "", stem(fixed)) or "fixed"
    if name.entities[0][0] == "tpl":
        return name.entities[0][1].replace("+", "")
    differing = [entity for entity in name.entities if entity not in moving.entities]
    return "".join(re.sub(r"\+", "", key + value) for key, value in differing) + name.suffix


def _plain(name: str) -> str:
    name = re.sub(r'[\x00-\x1f\x7f/\\:*?"<>|]', "-", name).lstrip(".").rstrip(". ")
    while len(name.encode()) > _LONGEST:
        name = name[:-1]
    return name

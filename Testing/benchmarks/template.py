"""A template per iteration: sharpness, similarity and Dice against the mean of the affinely aligned images.

    python template.py 'slabs/brain*.nii.gz' --labels 'slabs/labels*.nii.gz' [--iterations 4] [--preset fast]
        [--representation diffeomorphic] [--method dio] [--workers N] [--folder DIR]

Iteration 0 is the affine mean. What is measured, see `DeepRegistrationLib.template.average.Numbers`: every
image is compared with the mean (the labels with the vote) of the others, so none with itself.
With --folder the run can be stopped and goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from DeepRegistrationLib.batch.names import stem
from DeepRegistrationLib.batch.rows import matched
from DeepRegistrationLib.template.average import Numbers, Source
from DeepRegistrationLib.template.build import Work, build_template


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("images", nargs="+")
    parser.add_argument("--labels")
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--representation", default="diffeomorphic")
    parser.add_argument("--method", default="dio")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--folder")
    options = parser.parse_args()
    sources = [
        Source(stem(path), Path(path).resolve(), options.labels and Path(fill(options.labels)).resolve())
        for path, fill in matched(options.images)
    ]
    begin = time.perf_counter()

    def counted(iteration: int, numbers: Numbers) -> None:
        seconds = round(time.perf_counter() - begin, 1)
        print(json.dumps({"iteration": iteration, **asdict(numbers), "seconds_so_far": seconds}), flush=True)

    chosen = {key: getattr(options, key) for key in ("preset", "representation", "method")}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary)
        work = Work(options.workers)
        build_template(sources, folder, options.iterations, chosen, work, resume=True, counted=counted)


if __name__ == "__main__":
    main()

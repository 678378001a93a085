"""From moving a landmark to the updated map, with a warm worker process: a Markdown table.

    python refine.py [--size 80 96 112] [--representation diffeomorphic] [--times 10] [--threads 2]

The pair is the embedded head with a known deformation. Each time another landmark of the moving image is
moved by 6 mm and the time is taken from handing the job over until forward and inverse field are back as
arrays. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import Any

from DeepRegistrationLib.worker.client import Failed, Finished, WorkerClient


def outcome(client: WorkerClient) -> tuple[Finished, float]:
    """The result of the running job, and the longest call of `poll` in seconds."""
    longest = 0.0
    while True:
        begin = time.perf_counter()
        events = client.poll()
        longest = max(longest, time.perf_counter() - begin)
        for event in events:
            if isinstance(event, Failed):
                raise SystemExit(f"{event.sentence}\n{event.details}")
            if isinstance(event, Finished):
                return event, longest
        time.sleep(0.005)


def problem(size: tuple[int, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and arrays of a registration of images of `size` voxels (x, y, z)."""
    from DeepRegistrationLib.demo.pair import demo_pair
    from DeepRegistrationLib.prepare import resampled
    from DeepRegistrationLib.worker.data import described

    pair = demo_pair(spacing=2.0)
    images = {"fixed": pair.fixed, "moving": pair.moving}
    images = {role: resampled(image, image.frame.resized(size)) for role, image in images.items()}
    landmarks = {
        "fixed": pair.fixed_landmarks.tolist(),
        "moving": pair.moving_landmarks.tolist(),
        "names": list(pair.landmark_names),
    }
    frames = {role: described(image.frame) for role, image in images.items()}
    arrays = {role: image.data[0].numpy() for role, image in images.items()}
    return {"frames": frames, "landmarks": landmarks}, arrays


def main() -> int:
    """Register once, refine often, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, nargs=3, default=[80, 96, 112], help="default: %(default)s")
    parser.add_argument("--representation", default="diffeomorphic", help="default: %(default)s")
    parser.add_argument("--preset", default="balanced", help="default: %(default)s")
    parser.add_argument("--times", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    arguments = parser.parse_args()
    parameters, arrays = problem(tuple(arguments.size))
    landmarks = parameters["landmarks"]
    parameters["options"] = {
        "representation": arguments.representation,
        "preset": arguments.preset,
        "threads": arguments.threads,
        "device": "cpu",
    }
    client = WorkerClient()
    client.submit("register", parameters, arrays)
    session = outcome(client)[0].result["session"]
    rows = []
    for k in range(arguments.times):
        name = landmarks["names"][k % len(landmarks["names"])]
        landmarks["moving"][k % len(landmarks["names"])][k % 3] += 6.0
        begin = time.perf_counter()
        client.submit("refine", {"session": session, "landmarks": landmarks})
        handed = time.perf_counter() - begin
        done, longest = outcome(client)
        seconds = time.perf_counter() - begin
        error = done.result["quality"]["landmarks"]["fitted"]["after"]["each_mm"][name]
        rows.append((seconds, done.result["quality"]["seconds"]["total"], 1e3 * max(handed, longest), error))
    client.stop()
    print("| | seconds | of which the engine | longest call ms | error of the moved landmark mm |")
    print("|---|---|---|---|---|")
    for label, measure in (("median", statistics.median), ("largest", max)):
        values = [measure(column) for column in zip(*rows, strict=True)]
        print(f"| {label} | {values[0]:.2f} | {values[1]:.2f} | {values[2]:.1f} | {values[3]:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())

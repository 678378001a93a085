"""Time and memory of a registration by a method that learns, and of its network alone: a Markdown table.

    python inference.py [--methods dio,gradicon,sitreg,nephi,svf-r2net,nsvf-r2net]
        [--configurations small,paper] [--sizes 80x96x112,160x192x224] [--preset balanced]
        [--threads 2] [--repeats 3] [--device cpu]

A row is a fresh process. It draws a network's weights at random, writes them into a weights file whose
working size is the images' own, reads it again, and registers a pair of noise images with it: what a network
costs does not depend on what it has learnt. "Network" is everything a method does before the solver (both
images through their networks, the map evaluated and judged), the median of some calls; "solver" is the shared
one afterwards, compositive representation, as many iterations as the preset allows unless it converges.
Megabytes are the process' peak up to the end of the network's part and of the whole, Python and torch
included (about 300); on a GPU torch's peak. GradICON's network is that of the second training stage. Times
mean nothing unless the machine is idle. The last column is what was published, on a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import children

METHODS = ("dio", "gradicon", "sitreg", "nephi", "svf-r2net", "nsvf-r2net")
PUBLISHED = {
    ("dio", "paper"): "0.44 + 1.69 s (A6000)",
    ("dio", "paper-unet-e"): "0.43 + 1.56 s (A6000)",
    ("dio", "paper-lku"): "0.80 + 1.46 s (A6000)",
    ("dio", "paper-lku-e"): "2.28 + 1.46 s (A6000)",
    ("gradicon", "paper"): "network 0.16 s, 3.1 GB at 175^3",
    ("sitreg", "paper"): "network 0.5 s",
    ("svf-r2net", "paper"): "network 0.9 s, 7.9 GB (Titan X)",
    ("nsvf-r2net", "paper"): "network 0.9 s, 8.5 GB (Titan X)",
}
"""At 160 x 192 x 224 voxels unless another size is named. Jena et al., arXiv 2406.07361 (network + solver);
GradICON: the log in the authors' repository; Honkamaa and Marttinen, arXiv 2303.10211; Joshi and Hong, MIDL
2022. NePhi gives none."""

HEAD = (
    "method",
    "configuration",
    "size",
    "parameters",
    "network s",
    "network MB",
    "solver s",
    "iterations",
    "together s",
    "together MB",
    "published",
)


def measure(method: str, configuration: str, size: tuple[int, ...], arguments: argparse.Namespace) -> dict:
    """One row, in this process; size in (x, y, z) order."""
    import torch
    from DeepRegistrationLib.allocator import use_large_heap
    from DeepRegistrationLib.filters import gaussian_smooth
    from DeepRegistrationLib.frame import Frame, Volume
    from DeepRegistrationLib.methods import MethodInput, method_by_name
    from DeepRegistrationLib.objective import PairObjective
    from DeepRegistrationLib.presets import finest_frame, preset_by_name, settings_for, similarity_for
    from DeepRegistrationLib.solver import solve
    from DeepRegistrationLib.transforms import Diffeomorphic, LinearTransform
    from DeepRegistrationLib.weights import load_weights

    use_large_heap()
    torch.set_num_threads(arguments.threads)
    device, preset = torch.device(arguments.device), preset_by_name(arguments.preset)
    identity, similarity = LinearTransform.identity(len(size)), similarity_for("lncc", preset)

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pt"
        parameters = write_random_weights(path, method, configuration, size)
        weights = load_weights(path, method, len(size))
    frame = Frame.regular(size, 1.0)
    noise = torch.rand(1, *frame.shape, generator=torch.Generator().manual_seed(0))
    fixed = gaussian_smooth(noise, (2.0,) * len(size)).sub_(0.4).mul_(5).clamp_(0, 1)
    del noise
    moving = fixed.roll((1, 2, 1)[: len(size)], tuple(range(1, len(size) + 1)))
    images = (Volume(image.to(device), frame) for image in (fixed, moving))
    pair = MethodInput(*images, identity, similarity, preset, weights)
    del fixed, moving

    laps = []
    for _ in range(arguments.repeats):
        prediction, begin = None, clock()  # so that no two are in memory at a time
        prediction = method_by_name(method).predict(pair)
        laps.append(clock() - begin)
    network_mb = peak_mb(device)

    begin = clock()
    start = Diffeomorphic(finest_frame(preset, frame), device)
    if prediction.start is not None:
        start.fit(prediction.start)
    objective = PairObjective(prediction.channels, identity)
    _, reports = solve(objective, start, settings_for(preset, "diffeomorphic", "lncc"))
    solver = clock() - begin
    return {
        "parameters": parameters,
        "network": median(laps),
        "network_mb": network_mb,
        "solver": solver,
        "iterations": [len(r.energies) for r in reports],
        "peak_mb": peak_mb(device),
    }


def write_random_weights(path: Path, method: str, configuration: str, size: tuple[int, ...]) -> int:
    """A weights file of an untrained network for images of `size`; returns its number of parameters."""
    import torch
    from DeepRegistrationLib.training import TASKS
    from DeepRegistrationLib.weights import save_weights

    task, d = TASKS[method], len(size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = task.network(configuration, d)
        for stage in range(len(task.stages(configuration))):
            network = task.enter_stage(network, stage)
    convention = {**task.convention(configuration, d), "shape": list(reversed(size))}
    save_weights(path, method, configuration, d, network.state_dict(), convention, {"trained": False})
    return sum(p.numel() for p in network.parameters())


def peak_mb(device: object) -> float:
    """Peak memory so far: torch's on a GPU, else the process'."""
    import resource

    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def row(method: str, configuration: str, size: str, arguments: argparse.Namespace) -> list[str]:
    """`measure` in a fresh process, as a table row."""
    command = [sys.executable, __file__, "--child", method, configuration, size]
    command += ["--preset", arguments.preset, "--threads", str(arguments.threads)]
    command += ["--repeats", str(arguments.repeats), "--device", arguments.device]
    start = [method, configuration, size.replace("x", " x ")]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        done = children.run(command, children.environment(arguments.threads, allocator=False), log)
        text = log.read_text()
    if done.code != 0:
        last = text.strip().splitlines()[-1:] or [f"ended with code {done.code}"]
        failed = last[0][:80].replace("|", "/")
        return [*start, failed, *[""] * (len(HEAD) - 5), published(method, configuration)]
    found = json.loads(text.strip().splitlines()[-1])
    return [
        *start,
        f"{found['parameters'] / 1e6:.2f} M",
        f"{found['network']:.2f}",
        f"{found['network_mb']:.0f}",
        f"{found['solver']:.1f}",
        " + ".join(map(str, found["iterations"])),
        f"{found['network'] + found['solver']:.1f}",
        f"{found['peak_mb']:.0f}",
        published(method, configuration),
    ]


def published(method: str, configuration: str) -> str:
    """What was published for a method in a configuration, if anything."""
    return PUBLISHED.get((method, configuration), "")


def main() -> int:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    choices = f"of {','.join(METHODS)}; default: %(default)s"
    parser.add_argument("--methods", default="dio,gradicon", help=choices)
    parser.add_argument("--configurations", default="small,paper", help="default: %(default)s")
    parser.add_argument("--sizes", default="80x96x112,160x192x224", help="default: %(default)s")
    parser.add_argument("--preset", default="balanced", help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=3, help="of the network; default: %(default)s")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        method, configuration, size = arguments.child
        print(json.dumps(measure(method, configuration, tuple(map(int, size.split("x"))), arguments)))
        return 0
    print("| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|", flush=True)
    for size in arguments.sizes.split(","):
        for method in arguments.methods.split(","):
            for configuration in arguments.configurations.split(","):
                print("| " + " | ".join(row(method, configuration, size, arguments)) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

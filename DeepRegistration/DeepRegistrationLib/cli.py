"""The command line: arguments in, one of `commands` run, one clear sentence and an exit code out.

Exit codes: 0 done; 2 something wrong with the arguments or inputs; 130 interrupted; 1 anything else.
Nothing heavy is imported before the arguments are understood.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import NoReturn

from . import __version__, catalogue
from .allocator import use_large_heap
from .errors import Cancelled, InputError, NotAvailableError, RegistrationError
from .stop_signals import stop_signals
from .streams import StreamError, drop_output, usable_streams

PROGRAM = "deepregistration"
DEBUG = "DEEPREGISTRATION_DEBUG"
"""Environment variable; when set, errors come with their traceback."""

METHODS = tuple(catalogue.METHODS)
REPRESENTATIONS = tuple(catalogue.REPRESENTATIONS)
SIMILARITIES = tuple(catalogue.SIMILARITIES)
PRESETS = tuple(catalogue.PRESETS)
LINEAR = tuple(catalogue.LINEAR_STAGES)
DEVICES = ("auto", "cpu", "cuda")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code (``--help`` and ``--version`` raise SystemExit(0))."""
    use_large_heap()
    with usable_streams():
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    try:
        with _terminable():
            options = _parser().parse_args(arguments)
            code = import_module(f".commands.{options.command}", __package__).run(options)
        sys.stdout.flush()
        return code or 0
    except (KeyboardInterrupt, Cancelled):
        return _fail("interrupted; nothing was written.", 130)
    except (InputError, NotAvailableError) as error:
        return _fail(str(error), 2)
    except (StreamError, BrokenPipeError) as error:
        drop_output()  # the interpreter must not try to flush it again
        return 1 if isinstance(error, BrokenPipeError) else _fail(str(error), 1)
    except RegistrationError as error:
        return _fail(str(error), 1)
    except Exception as error:  # the last line of defence: a person reads a sentence, not a traceback
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            return _fail("there is not enough memory; use --preset fast or a larger --output-spacing.", 1)
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        return _fail(f"unexpected internal error ({what}); {DEBUG}=1 shows where.", 1)


def _fail(message: str, code: int) -> int:
    if os.environ.get(DEBUG):
        traceback.print_exc()
    print(f"{PROGRAM}: error: {' '.join(message.split())}", file=sys.stderr)
    return code


@contextmanager
def _terminable() -> Iterator[None]:
    """Let a polite kill, or the end of the terminal, unwind like an interrupt: nothing half-written stays."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in stop_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Parser(argparse.ArgumentParser):
    """Complains in one sentence."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM, description="Deformable registration of medical images.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_register, _batch, _template, _evaluate, _apply, _methods, _train, _demo):
        add(commands)
    return parser


def _command(
    commands: argparse._SubParsersAction, name: str, help: str, more: str = ""
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name, help=help, description=f"{help[0].upper()}{help[1:]}. {more}".strip(), allow_abbrev=False
    )


def _register(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands,
        "register",
        "align a moving image with a fixed one",
        "Writes forward.h5 (fixed to moving points: resamples the moving image onto the fixed one), "
        "inverse.h5, warped.nii.gz (the moving image on the fixed grid) and quality.json.",
    )
    _files(parser, "--fixed", "--moving", required=True)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    _choices(parser)
    _strengths(parser)
    _prompts(parser)
    _features(parser)
    _machine(parser, "all")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say how large the working grid and the files would be and how much memory a run takes; write "
        "nothing",
    )
    _voice(parser)


def _batch(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands,
        "batch",
        "register many pairs",
        "The table's columns are register's options (fixed, moving, fixed_labels, method, ...) and name; "
        "options given here are for the rows that do not say otherwise. Without a table, --fixed and "
        "--moving FOLDER or 'folder/*.nii.gz' register many images with one. Writes a folder per pair, "
        "summary.csv and summary.html.",
    )
    parser.add_argument("table", nargs="?", metavar="PAIRS.csv", help="a row per pair; paths relative to it")
    _files(parser, "--fixed")
    parser.add_argument("--moving", nargs="+", metavar="FILE", help="images, a folder of them, or a pattern")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    _hands(parser)
    _choices(parser)
    _strengths(parser)
    _prompts(parser)
    _features(parser)
    _machine(parser, "1 for each pair")
    _voice(parser)


def _template(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands,
        "template",
        "average many images, their shape as their intensities",
        "Registers every image to the average again and again. Writes template-0.nii.gz (affinely aligned), "
        "template-1.nii.gz, ..., and maps/NAME.h5, which resamples an image onto the last template.",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="images, a folder of them, or a pattern")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--iterations", type=int, default=4, metavar="N", help="after the affine (default: 4)"
    )
    parser.add_argument(
        "--labels", metavar="PATTERN", help="label images: a folder with the same names, or 'labels*.nii.gz'"
    )
    parser.add_argument("--keep", action="store_true", help="keep the results of each registration as well")
    _hands(parser)
    _choices(parser)
    _strengths(parser)
    parser.set_defaults(symmetric="off")  # what counts is the fit to the template
    _machine(parser, "1 for each image")
    _voice(parser)


def _hands(parser: argparse.ArgumentParser) -> None:
    """Who does the work of a cohort."""
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes (default: as processors and memory allow)"
    )
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster, or its scheduler file")
    parser.add_argument(
        "--pair-minutes",
        type=float,
        default=1440.0,
        metavar="N",
        help="give up a pair that is not finished by then (default: 1440, a day)",
    )
    parser.add_argument("--resume", action="store_true", help="go on; what is finished stays")


def _choices(parser: argparse.ArgumentParser) -> None:
    _choice(parser, "--method", METHODS, "dio")
    _choice(parser, "--representation", REPRESENTATIONS, "diffeomorphic")
    _choice(parser, "--similarity", SIMILARITIES, "auto")
    _choice(parser, "--preset", PRESETS, "balanced")
    _choice(parser, "--linear", LINEAR, "affine")
    _files(parser, "--weights", what="trained weights of the method (default: those that come with it)")


def _prompts(parser: argparse.ArgumentParser) -> None:
    _files(parser, "--fixed-landmarks", "--moving-landmarks", what=".mrk.json, .fcsv or .csv")
    _files(parser, "--fixed-labels", "--moving-labels", what="label image")
    _files(parser, "--fixed-mask", "--moving-mask", what="image, not zero where the other image counts")
    _files(parser, "--initial", what="transform to start from, fixed to moving points")


def _features(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--features",
        action="store_true",
        help="also write what the method's network sees: features_fixed.nii.gz, features_moving.nii.gz",
    )


def _strengths(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--symmetric",
        choices=catalogue.SYMMETRIC,
        default="on",
        help="compare the images half-way between them, so that exchanging them exchanges the results "
        "(on), or in the fixed image's space alone (off; the default for templates alone)",
    )
    for name, text in catalogue.STRENGTHS.items():
        default = 0.0 if name == "regularity" else 1.0
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=float, default=default, metavar="X", help=text
        )


def _machine(parser: argparse.ArgumentParser, threads: str) -> None:
    _choice(parser, "--device", DEVICES, "auto")
    parser.add_argument("--threads", type=int, metavar="N", help=f"processor threads (default: {threads})")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="for representations that start at random"
    )
    parser.add_argument(
        "--output-spacing", type=float, metavar="MM", help="of the written transforms (default: the images')"
    )


def _voice(parser: argparse.ArgumentParser) -> None:
    quiet = parser.add_mutually_exclusive_group()
    quiet.add_argument(
        "--quiet", action="store_true", help="print nothing but errors and findings that ask for a look"
    )
    quiet.add_argument(
        "--json-progress",
        action="store_true",
        help='a line {"stage", "fraction", "objective", "seconds"} on standard output at each step',
    )


def _evaluate(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands,
        "evaluate",
        "measure a transform",
        "Writes nothing but a table: of what the transform does and, in the column 'inverse', what its "
        "inverse does to the fixed image.",
    )
    _files(parser, "--transform", what="fixed to moving points", required=True)
    _files(parser, "--inverse", what="moving to fixed points (default: computed from the transform)")
    _files(parser, "--fixed", "--moving")
    _files(parser, "--fixed-labels", "--moving-labels", what="label image")
    _files(parser, "--fixed-landmarks", "--moving-landmarks", what=".mrk.json, .fcsv or .csv")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")


def _apply(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands,
        "apply",
        "carry an image, labels or landmarks along a transform",
        "An image of the moving side is brought onto the reference's grid by forward.h5, one of the fixed "
        "side by inverse.h5. Points go where the transform maps them: landmarks of the fixed image onto the "
        "moving one by forward.h5, those of the moving image onto the fixed one by inverse.h5.",
    )
    _files(parser, "--transform", what="transform", required=True)
    _files(parser, "--input", what="image, or landmarks (.mrk.json, .fcsv, .csv)", required=True)
    _files(parser, "--reference", what="image whose grid the result gets; not needed for landmarks")
    _files(parser, "--output", what="where to write", required=True)
    parser.add_argument("--labels", action="store_true", help="nearest neighbour, for label images")


def _methods(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "methods", "list methods and transform representations")
    parser.add_argument("--json", action="store_true", help="print them as JSON")


def _train(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands,
        "train",
        "train a method's network",
        "Writes weights.pt (for register --weights), checkpoint.pt (for --resume), log.txt, log.jsonl and "
        "curve.png. Ctrl-C stops with a checkpoint. With --resume, what is not said is as it was.",
    )
    parser.add_argument("--method", metavar="NAME", help="what to train")
    configurations = "; ".join(f"{name}: {', '.join(c)}" for name, c in catalogue.CONFIGURATIONS.items())
    parser.add_argument("--config", metavar="NAME", help=f"of the method, {configurations}")
    parser.add_argument(
        "--data",
        metavar="SPEC",
        help="a folder with images/ (and labels/) or pairs.csv, at one voxel size with "
        "'FOLDER?voxel=MM&vary=AMOUNT'; or pairs drawn from label maps of people: "
        "'labels:FOLDER?option=value' (voxel, contrast=same|different|mixed, numbers=plain|freesurfer, "
        "image=any|t1|t2|inverted, strength, affine, held_out); or pairs that are made up: "
        "'generated:NAME?option=value&option=value'. anatomy: bodies of many kinds, deformed by known maps, "
        "at any contrast (size, contrast=same|different|mixed, "
        "body=any|head|trunk|limb|gland|abstract, strength and affine: of the deformation, labels and "
        "landmarks: how many, ultrasound and thin: share of such images and of slabs); "
        "shapes (size, pairs=any|same, hollow, edge); squares (size, side, apart)",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--start", metavar="FILE", help="weights to begin with, in the place of random ones (fine-tuning)"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the folder's checkpoint")
    parser.add_argument("--max-minutes", type=float, metavar="N", help="stop, with a checkpoint, after that")
    parser.add_argument("--checkpoint-minutes", type=float, default=5.0, metavar="N", help="(default: 5)")
    parser.add_argument("--steps", type=int, metavar="N", help="in all (default: the configuration's)")
    parser.add_argument("--seed", type=int, metavar="N", help="of everything random (default: 0)")
    parser.add_argument(
        "--batch", type=int, metavar="N", help="pairs in a step (default: the configuration's)"
    )
    parser.add_argument(
        "--anneal",
        action="store_true",
        help="let the learning rate rise for a fiftieth of the steps, then fall to nothing towards the end",
    )
    parser.add_argument(
        "--guidance",
        type=float,
        metavar="W",
        help="also count the distance from the known map of generated data, W for each voxel (default: 0)",
    )
    parser.add_argument(
        "--precision",
        choices=catalogue.PRECISIONS,
        help="of the networks' arithmetic (default: auto, half on GPUs that have it); bfloat16 is up to "
        "1.6 times as fast on processors made for it",
    )
    parser.add_argument(
        "--dimension", type=int, choices=(2, 3), metavar="D", help="2 or 3 (default: the data's)"
    )
    parser.add_argument(
        "--shape", type=int, nargs="+", metavar="N", help="voxels images are brought to, in (z) y x order"
    )
    _choice(parser, "--device", DEVICES, "auto")
    parser.add_argument("--threads", type=int, metavar="N", help="processor threads (default: all)")
    parser.add_argument("--half", action="store_true", help="write the weights in half precision")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")


def _demo(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands,
        "demo",
        "register a made-up pair of heads whose true deformation is known",
        "Prints a before/after table and writes the pair, the results and a picture to judge them by.",
    )
    parser.add_argument("--out", default="demo", metavar="DIR", help="folder for the results (default: demo)")
    parser.add_argument("--pair-only", action="store_true", help="write the pair and register nothing")


def _choice(parser: argparse.ArgumentParser, name: str, choices: Sequence[str], default: str) -> None:
    parser.add_argument(
        name,
        choices=choices,
        default=default,
        metavar="NAME",
        help=f"{', '.join(choices)} (default: {default})",
    )


def _files(parser: argparse.ArgumentParser, *names: str, what: str = "image", required: bool = False) -> None:
    for name in names:
        parser.add_argument(name, metavar="FILE", required=required, help=what)


if __name__ == "__main__":
    sys.exit(main())

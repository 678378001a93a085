"""The machine a run works on: threads, device, memory. What is changed is put back."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from .errors import InputError, NotAvailableError, RegistrationError, ResourceError
from .free_memory import available_memory as available_memory
from .memory import too_large_sentence
from .thread_count import check_threads


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """torch with this many threads for a while; None leaves its setting. Raises InputError."""
    before = torch.get_num_threads()
    if count is not None:
        check_threads(count)
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def surroundings(count: int | None) -> Iterator[None]:
    """What an engine run needs around it, and leaves as it was: threads, random numbers, gradients on."""
    with threads(count), torch.random.fork_rng(devices=[]), torch.enable_grad():
        yield


def device(name: str) -> torch.device:
    """The device for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        InputError: another name.
        NotAvailableError: ``cuda`` where there is none.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"There is no device '{name}'; choose auto, cpu or cuda.")
    if name == "cuda" and not torch.cuda.is_available():
        raise NotAvailableError("There is no usable CUDA device on this machine; choose the device cpu.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


@contextmanager
def out_of_memory_explained(needed: Callable[[], int]) -> Iterator[None]:
    """Turn running out of memory inside the body into a ResourceError; `needed` estimates the bytes."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RegistrationError) or not is_out_of_memory(error):
            raise
        raise ResourceError(too_large_sentence(needed())) from error


def let_go() -> None:
    """Hand back memory that nothing holds any more but torch keeps for later."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python's, torch's or ITK's says that memory ran out."""
    text = str(error).lower()
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or "allocate memory" in text
        or "bad_alloc" in text
        or "bad allocation" in text
        or "failed to map segment" in text  # of a library that is loaded late
    )

"""How failures are called on their way to the parent."""

from __future__ import annotations

from ..errors import InputError, NotAvailableError, OutputError, RegistrationError, ResourceError

KINDS: dict[type[RegistrationError], str] = {
    InputError: "input",
    NotAvailableError: "not-available",
    ResourceError: "resource",
    OutputError: "output",
}
"""How a failure is called, by the engine's exception."""


class TaskError(RegistrationError):
    """A failure with a kind of its own, such as ``unknown-session`` or ``no-torch``."""

    def __init__(self, sentence: str, kind: str) -> None:
        super().__init__(sentence)
        self.kind = kind

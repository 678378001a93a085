"""Which method and preset to choose: one recommendation for each kind of pair, as README has it."""

from __future__ import annotations

from html import escape

from slicer.i18n import tr as _


def advice() -> str:
    """The recommendations as HTML, a paragraph each."""
    cases = (
        (
            _("One contrast (CT and CT, two MR scans of a kind):"),
            _(
                "leave everything as it is: DIO, Balanced. Once refined, all methods end alike (by less than "
                "0.0006 Dice on the brains measured), Classical among them."
            ),
        ),
        (
            _("Two contrasts (MR and CT, MR and ultrasound):"),
            _(
                "Classical, Balanced, similarity Automatic; the trained methods have seen one contrast only. "
                "Landmark pairs or segmentations help more than any choice here."
            ),
        ),
        (
            _("Very different shapes (two people, before and after surgery):"),
            _(
                "Classical, Accurate, linear stage Affine; then landmark pairs or segmentations where it is "
                "wrong, and Refine."
            ),
        ),
        (
            _("Only seconds to spare:"),
            _("Classical, Fast: 0.002 Dice below Balanced, in about two thirds of its time."),
        ),
    )
    return "".join(
        f'<p style="margin: 0 0 5px 0"><b>{escape(when)}</b> {escape(what)}</p>' for when, what in cases
    )

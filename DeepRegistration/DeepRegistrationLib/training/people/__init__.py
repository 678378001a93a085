"""Pairs drawn from label maps of real people: real anatomy, made-up images.

``labels:FOLDER?option=value&...``  any two label maps of the folder make a pair. Each is moved and bent a
little, and its labels are given brightnesses at random, as SynthSeg (Billot et al., arXiv 2107.09559) and
SynthMorph (Hoffmann et al., arXiv 2004.10282) do, so that a network sees all people and all contrasts.
"""

from __future__ import annotations

from .pairs import PREFIX, PeoplePairs

__all__ = ["PREFIX", "PeoplePairs"]

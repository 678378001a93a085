"""FreeSurfer's numbers of brain structures (FreeSurferColorLUT.txt): two sides of one, and their tissue."""

from __future__ import annotations

LEFT_OF = {
    41: 2, 42: 3, 43: 4, 44: 5, 46: 7, 47: 8, 49: 10, 50: 11, 51: 12, 52: 13, 53: 17, 54: 18, 58: 26, 60: 28,
    62: 30, 63: 31, 137: 136, 164: 163,
}  # fmt: skip
"""The left structure of each right one."""

WHITE, GREY, DEEP, FLUID = "white", "grey", "deep", "fluid"

TISSUE_OF = {
    2: WHITE, 7: WHITE, 16: WHITE, 28: WHITE, 41: WHITE, 46: WHITE, 60: WHITE, 77: WHITE, 85: WHITE,
    3: GREY, 8: GREY, 17: GREY, 18: GREY, 26: GREY, 42: GREY, 47: GREY, 53: GREY, 54: GREY, 58: GREY,
    10: DEEP, 11: DEEP, 12: DEEP, 13: DEEP, 49: DEEP, 50: DEEP, 51: DEEP, 52: DEEP,
    4: FLUID, 5: FLUID, 14: FLUID, 15: FLUID, 24: FLUID, 43: FLUID, 44: FLUID, 30: FLUID, 62: FLUID,
}  # fmt: skip
"""Of the structures that have one."""

OUTSIDE_BRAIN = 500
"""From this number on the labels of SynthSeg's training maps are tissues around the brain."""

NO_STRUCTURE = (25, 57, 77, 30, 62, 80, 85)
"""Lesions, vessels and what else is too small or too rare to be found again; drawn, not taught."""

BRIGHTNESS = {
    "t1": {WHITE: 0.85, GREY: 0.55, DEEP: 0.68, FLUID: 0.18},
    "t2": {WHITE: 0.35, GREY: 0.55, DEEP: 0.42, FLUID: 0.95},
    "inverted": {WHITE: 0.15, GREY: 0.45, DEEP: 0.32, FLUID: 0.82},
}
"""Of the tissues in common contrasts, the brightest voxel of the head being 1; typical, as drawn around."""

"""What the label values of the made-up heads are called. Reading it needs no torch."""

from __future__ import annotations

LABEL_NAMES: dict[int, str] = {
    1: "skull",
    2: "cortex",
    3: "white matter",
    4: "ventricles",
    5: "caudate",
    6: "putamen",
    7: "thalamus",
    8: "hippocampus",
    9: "cerebellum",
    10: "brain stem",
    11: "eyes",
}
"""What the values of a label image mean; 0 is everything else."""

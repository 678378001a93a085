"""Weights of the scales in the self-adaptive correlation, as a table and a picture. Seconds.

    python adaptive_ncc_weights.py [--out adaptive_ncc_weights.png]

Tian et al. (arXiv 2206.05897, first version, Figure 2) show how the weight moves from coarse to fine scales
as images come to agree. Above: the weights of s_0 (finest) to s_4 (coarsest) where all scales disagree
equally, 1 - NCC from 1 to 0, for the threshold form and the parameter-free form. Below: those of two 3-D
images of noise-like texture, one shifted against the other, with the terms measured.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from DeepRegistrationLib.filters import gaussian_smooth
from DeepRegistrationLib.objectives import AdaptiveNCC
from DeepRegistrationLib.training.curve import Panel, draw_panels
from torch import Tensor

FORMS = ("threshold", "parameter-free")
LEVELS = 4


def equal_terms(form: str, values: Tensor) -> Tensor:
    """(N, levels + 1): weights where every scale's term is the value."""
    measure = AdaptiveNCC(form, LEVELS)
    return torch.stack([measure.weights_for(value.expand(LEVELS + 1)) for value in values])


def shifted_images(form: str, shifts: list[int], size: int = 64) -> tuple[Tensor, Tensor]:
    """Terms and weights (N, levels + 1) of a texture against itself, shifted by so many voxels."""
    generator = torch.Generator().manual_seed(0)
    texture = torch.zeros(1, 1, size, size, size + 2 * max(shifts))
    for sigma in (1.0, 2.0, 4.0, 8.0):
        part = gaussian_smooth(torch.randn(texture.shape, generator=generator), (sigma,) * 3)
        texture += part / part.std()
    measure, fixed = AdaptiveNCC(form, LEVELS), texture[..., :size].contiguous()
    terms, weights = [], []
    for shift in shifts:
        measure(texture[..., shift : shift + size].contiguous(), fixed)
        terms.append(measure.terms)
        weights.append(measure.weights)
    return torch.tensor(terms), torch.tensor(weights)


def markdown(head: list[str], columns: list[list[float]]) -> str:
    """A table of numbers with as many digits as one can read."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in zip(*columns, strict=True):
        lines.append("| " + " | ".join(f"{v:.3g}" for v in row) + " |")
    return "\n".join(lines)


def main() -> int:
    """Print the tables, draw the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("adaptive_ncc_weights.png"), help="default: %(default)s"
    )
    arguments = parser.parse_args()
    names = [f"s{k}" for k in range(LEVELS + 1)]
    values, few = (
        torch.linspace(1, 0, 201),
        torch.tensor([1.0, 0.5, 0.2, 0.1, 0.08, 0.06, 0.04, 0.02, 0.01, 0.0]),
    )
    shifts = list(range(0, 25))
    panels = []
    for form in FORMS:
        weights = equal_terms(form, values).T.tolist()
        curves = {name: (values.tolist(), w) for name, w in zip(names, weights, strict=True)}
        panels.append(Panel(curves, f"equal terms, {form} form", "1 - NCC of all scales", "weight"))
        print(f"\nAll scales' 1 - NCC equal, {form} form\n")
        print(markdown(["1 - NCC", *names], [few.tolist(), *equal_terms(form, few).T.tolist()]))
    for form in FORMS:
        terms, weights = shifted_images(form, shifts)
        curves = {name: (shifts, w) for name, w in zip(names, weights.T.tolist(), strict=True)}
        panels.append(Panel(curves, f"shifted images, {form} form", "shift, voxels", "weight"))
        print(f"\nTexture shifted against itself, {form} form (terms t, weights w)\n")
        head = ["shift", *(f"t {n}" for n in names), *(f"w {n}" for n in names)]
        rows = slice(None, None, 4)
        columns = [list(map(float, shifts[rows])), *terms[rows].T.tolist(), *weights[rows].T.tolist()]
        print(markdown(head, columns))
    draw_panels(arguments.out, panels)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A label map in the making: shapes painted over shapes, inside and along one another.

Lengths are in *units*: half the mean side of the image, or of the whole it is a part of. The canvas reaches
a fifth beyond the image on all sides and has finer voxels, so that images of it show partial volumes and a
deformation does not leave it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...demo.shapes import tube
from ...filters import spatial_gradient
from ...frame import Frame
from ...interpolation import sample
from ...inversion import invert_at
from .noise import enlarged, smooth_noise

MARGIN = 1.2
"""The canvas's side over the image's."""

FINENESS = 1.25
"""Voxels of the canvas along one of the image."""

AIR, LUNG, FLUID, FAT, MUSCLE, BONE, MARROW, GREY, WHITE, BLOOD, OTHER = range(11)
"""Tissues; from OTHER on they have no name."""

Node = Sequence[float]
"""A point of a tube: its coordinates and the radius there."""


@dataclass(frozen=True)
class Region:
    """Part of the canvas.

    Attributes:
        box: the voxels it may reach.
        distance: to its border at those, units, negative inside; not exact far away.
    """

    box: tuple[slice, ...]
    distance: Tensor

    def at(self, box: tuple[slice, ...]) -> Tensor:
        """The distance over a box within its own."""
        inner = (slice(b.start - s.start, b.stop - s.start) for b, s in zip(box, self.box, strict=True))
        return self.distance[tuple(inner)]

    def deeper(self, depth: float | Tensor) -> Region:
        """What is left when a layer is taken off."""
        return Region(self.box, self.distance + depth)

    def trimmed(self) -> Region:
        """The same in the smallest box that holds its inside."""
        inside, box, d = self.distance < 0, [], self.distance.ndim
        for dim in range(d):
            there = inside.flatten(dim + 1).any(-1) if dim + 1 < d else inside
            there = there.flatten(0, dim - 1).any(0) if dim else there
            seen = there.nonzero().flatten()
            first, last = (int(seen[0]), int(seen[-1]) + 1) if len(seen) else (0, 0)
            box.append(slice(self.box[dim].start + first, self.box[dim].start + last))
        return Region(tuple(box), self.at(tuple(box)))

    def without(self, other: Tensor) -> Region:
        """What is left of it where `other`, a distance over its box, is positive."""
        return Region(self.box, torch.maximum(self.distance, -other))


class Canvas:
    """Labels on a lattice around that of the image.

    Attributes:
        labels: (*S) uint8; 0 where nothing was painted.
        tissues: the tissue of each label.
        extent: half the sides of the image, or of the whole it is a part of, units, (x, y, z).
        points: (d, *S) coordinates in which shapes are simple: turned and bent a little.
        rough: (3, *S) smooth noise, coarse to fine, variance one.
        unit: voxels of the canvas in one unit.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        draw: np.random.Generator,
        device: torch.device | str = "cpu",
        whole: tuple[int, ...] | None = None,
    ) -> None:
        """
        Args:
            shape: of the image, array order.
            draw: where the numbers come from.
            device: where it is painted.
            whole: the shape of an image of all there is to see, where this one shows its middle.
        """
        n, all_sides = np.array(shape[::-1]), np.array((whole or shape)[::-1])
        size = np.ceil(n * MARGIN * FINENESS).astype(int)
        self.draw, self.device, self.dimension = draw, device, len(shape)
        self.extent = all_sides / all_sides.mean()
        self._size, self.unit = size, float(all_sides.mean() / 2 * FINENESS)
        frame = Frame.regular(tuple(size.tolist()))
        reach = MARGIN * n / all_sides.mean()
        self._voxels_a_unit = size / (2 * reach)
        self._reach = torch.tensor(reach, dtype=torch.float32, device=device)
        smooth = self._smooth()
        self._turn = _rotation(draw.normal(0, 0.15, (self.dimension,) * 2))
        turn = torch.from_numpy(self._turn).float().to(device)
        grid = frame.grid(device).mul_(self._reach).movedim(-1, 0)
        self.points = torch.einsum("ij,j...->i...", turn, grid + smooth[: self.dimension])
        self.rough = smooth[self.dimension :]
        self.labels = torch.zeros(frame.shape, dtype=torch.uint8, device=device)
        self.tissues = [AIR]
        self._next_tissue = OTHER

    def _smooth(self) -> Tensor:
        """What bends the coordinates (d, *S), and the roughness (3, *S); made at half the resolution."""
        half = tuple(-(-int(n) // 2) for n in self._size[::-1])
        strong, weak = self.uniform(0.02, 0.08), self.uniform(0.005, 0.025)

        def noise(sigma: float, channels: int) -> Tensor:
            return smooth_noise(half, sigma * self.unit / 2, channels, self.draw, self.device)

        self._bend = strong * noise(0.45, self.dimension) + weak * noise(0.15, self.dimension)
        self._slack = float(self._bend.abs().max())
        parts = torch.cat([self._bend, *(noise(sigma, 1) for sigma in (0.25, 0.1, 0.045))])
        return enlarged(parts, tuple(self._size[::-1]))

    def new_tissue(self) -> int:
        """A tissue that nothing else is made of."""
        self._next_tissue += 1
        return self._next_tissue - 1

    def uniform(self, low: float, high: float) -> float:
        return float(self.draw.uniform(low, high))

    def chance(self, share: float) -> bool:
        return bool(self.draw.random() < share)

    def direction(self) -> np.ndarray:
        """A random unit vector."""
        vector = self.draw.standard_normal(self.dimension)
        return vector / max(1e-6, float(np.linalg.norm(vector)))

    def paint(self, region: Region, tissue: int, label: int | None = None) -> int:
        """Cover a region's inside with a label, a new one unless said; returns it."""
        if label is None:
            label = len(self.tissues)
            self.tissues.append(tissue)
        self.labels[region.box].masked_fill_(region.distance < 0, label)
        return label

    def everywhere(self, depth: float = 1.0) -> Region:
        """The whole canvas as a region."""
        box = tuple(slice(0, int(n)) for n in self._size[::-1])
        return Region(box, torch.full_like(self.rough[0], -depth))

    def box(self, low: np.ndarray, high: np.ndarray, within: Region | None = None) -> tuple[slice, ...]:
        """Voxels between two corners, (x, y, z) in units on the canvas, that lie in another region's box."""
        return self._boxes(low[None], high[None], within)[0]

    def _boxes(
        self, low: np.ndarray, high: np.ndarray, within: Region | None = None
    ) -> list[tuple[slice, ...]]:
        """The same for N pairs of corners (N, d)."""
        scale = self._voxels_a_unit
        least, most = np.zeros(self.dimension, int), self._size
        if within is not None:
            least, most = np.array([(b.start, b.stop) for b in within.box[::-1]]).T
        first = np.clip(np.floor(low * scale + self._size / 2), least, most).astype(int)
        last = np.clip(np.ceil(high * scale + self._size / 2), first, most).astype(int)
        ends = zip(first[:, ::-1].tolist(), last[:, ::-1].tolist(), strict=True)
        return [tuple(slice(a, b) for a, b in zip(*pair, strict=True)) for pair in ends]

    def blob(
        self,
        centre: np.ndarray,
        radii: np.ndarray,
        rough: Sequence[float] = (0.04, 0.02, 0.0),
        within: Region | None = None,
        gap: float = 0.0,
        turned: bool = True,
    ) -> Region:
        """An ellipsoid with an uneven surface, turned at random; cut off `gap` inside another region."""
        turn = (
            _rotation(self.draw.normal(0, 1.0, (self.dimension,) * 2)) if turned else np.eye(self.dimension)
        )
        half = np.sqrt((turn.T**2) @ (radii**2)) + 2 * sum(rough)
        middle, half = self._turn.T @ centre, np.abs(self._turn.T) @ half + self._slack
        box = self.box(middle - half, middle + half, within)
        matrix = torch.from_numpy(turn / radii[:, None]).float().to(self.device)
        here = (slice(None), *box)
        away = self.points[here] - self._column(centre)
        norm = torch.einsum("ij,j...->i...", matrix, away).square_().sum(0).sqrt_()
        distance = (norm - 1) * float(radii.prod() ** (1 / self.dimension))
        for amount, noise in zip(rough, self.rough, strict=True):
            if amount:
                distance.add_(noise[box], alpha=amount)
        if within is not None:
            distance = torch.maximum(distance, within.at(box) + gap)
        return Region(box, distance)

    def tubes(self, lines: Sequence[Sequence[Node]], within: Region, gap: float = 0.0) -> Region:
        """Bent tubes, each through its nodes, cut off `gap` inside a region."""
        nodes = np.array([node for line in lines for node in line])
        nodes[:, :-1] = self._places(nodes[:, :-1])
        joined = np.concatenate([np.arange(len(line)) < len(line) - 1 for line in lines]).nonzero()[0]
        ends = nodes[joined], nodes[joined + 1]
        reach = 1.5 * np.maximum(*(end[:, -1:] for end in ends))
        low = np.minimum(*(end[:, :-1] for end in ends)) - reach
        high = np.maximum(*(end[:, :-1] for end in ends)) + reach
        outer = self.box(low.min(0), high.max(0), within)
        found = Region(outer, torch.ones([b.stop - b.start for b in outer], device=self.device))
        axes = [
            (torch.arange(n, device=self.device) - (n - 1) / 2).mul_(2 * r / n).view(-1, *(1,) * k)
            for k, (n, r) in enumerate(zip(self._size.tolist(), self._reach.tolist(), strict=True))
        ]
        boxes = self._boxes(low, high, found)
        for a, b, box in zip(*(end.tolist() for end in ends), boxes, strict=True):
            if any(side.start == side.stop for side in box):
                continue
            here = [axis[part] for axis, part in zip(axes, box[::-1], strict=True)]
            part = found.at(box)
            torch.minimum(part, tube(here, [tuple(a), tuple(b)]), out=part)
        return Region(outer, torch.maximum(found.distance, within.at(outer) + gap))

    def _places(self, points: np.ndarray) -> np.ndarray:
        """Where on the canvas coordinates (N, d) are found, (N, d) in units."""
        straight = torch.from_numpy(points @ self._turn).float().to(self.device)

        def bend(places: Tensor) -> Tensor:
            return sample(self._bend[None], places / self._reach)[0].movedim(0, -1)

        voxel = torch.full((self.dimension,), 1 / self.unit, device=self.device)
        moved, _ = invert_at(bend, straight, voxel, lambda places: -bend(places), 0.5, 5)
        return (straight + moved).cpu().double().numpy()

    def folded(
        self, region: Region, wavelength: float, depth: float, width: float, halves: bool = False
    ) -> Region:
        """A region with winding furrows that run inwards from its surface, as a cortex has.

        The furrows lie where a smooth random function is zero; it is read on a sphere around the middle
        (with `halves` around the middle of the left and of the right half) and changes little along rays.
        """
        if not bool((region.distance < 0).any()):
            return region  # a slab may miss it
        lattice = 64
        here = self.points[(slice(None), *region.box)]
        weight = (region.distance < 0).float()
        weight /= weight.sum().clamp_min(1)
        centre = (here * weight).flatten(1).sum(1)
        away = here - self._column(centre)
        length = away.square().sum(0).sqrt_().clamp_min_(1e-3)
        radius = float((length * weight).sum()) * 4 / 3
        if halves:
            side = away[0].sign()
            away[0] -= side * (0.5 * radius)
            away[1] += side * (0.1 * radius)  # the halves fold alike, not the same
            away[0] *= side
            radius *= 0.75
            length = away.square().sum(0).sqrt_().clamp_min_(1e-3)
        sphere = 0.7  # of half the lattice
        scale = sphere * lattice / 2 / radius  # voxels of the lattice per unit at the surface
        # zeros of smoothed noise are about 4.4 standard deviations apart
        noise = smooth_noise((lattice,) * self.dimension, wavelength / 4.4 * scale, 1, self.draw, self.device)
        slope = spatial_gradient(noise[None])[0, 0].square().sum(0, keepdim=True)
        distance = noise / (slope + 0.3 * slope.mean()).sqrt_() / scale
        on_sphere = away * (sphere * (0.85 + 0.15 * length / radius) / length)
        across = sample(distance[None], on_sphere.movedim(0, -1))[0, 0].abs_() * (length / radius) - width
        below = -region.distance - depth * (1 + 0.4 * self.rough[(0, *region.box)])
        return region.without(torch.maximum(across, below))

    def paint_cells(
        self, region: Region, tissues: Sequence[int | None], gap: float, along: float = 1.0
    ) -> None:
        """Fill a region with neighbouring cells, one of each tissue (None leaves it), their walls uneven.

        Args:
            region: what is filled.
            tissues: of the cells.
            gap: between two cells, up to.
            along: how many times as long as wide cells are in the direction of the last coordinate.
        """
        inside = (region.distance < 0).nonzero()
        if not len(inside):
            return
        chosen = inside[torch.from_numpy(self.draw.integers(0, len(inside), len(tissues))).to(self.device)]
        here = self.points[(slice(None), *region.box)] + 0.06 * self.rough[(0, *region.box)]
        here[-1] /= along
        nearest = torch.full_like(region.distance, 1e3)
        second, which = nearest.clone(), torch.zeros_like(nearest, dtype=torch.uint8)
        for k, seed in enumerate(here[(slice(None), *chosen.T)].T):
            distance = (here - self._column(seed)).square_().sum(0).sqrt_()
            which.masked_fill_(distance < nearest, k)
            torch.minimum(second, torch.maximum(distance, nearest), out=second)
            torch.minimum(nearest, distance, out=nearest)
        wall = torch.maximum(region.distance, nearest.sub_(second).mul_(0.5)).add_(gap)
        self.paint_many(Region(region.box, wall), which, tissues)

    def paint_many(self, region: Region, which: Tensor, tissues: Sequence[int | None]) -> None:
        """Cover a region's inside with new labels, of which `which` (uint8, over its box) tells the number,
        one for each tissue that is not None."""
        names = []
        for tissue in tissues:
            names.append(0 if tissue is None else len(self.tissues))
            self.tissues += [] if tissue is None else [tissue]
        table = torch.tensor(names, dtype=torch.uint8, device=self.device)
        found = table[which.int()]
        view = self.labels[region.box]
        view.copy_(torch.where((region.distance < 0) & (found > 0), found, view))

    def _column(self, point: np.ndarray | Tensor) -> Tensor:
        return torch.as_tensor(point, dtype=torch.float32, device=self.device).view(
            -1, *(1,) * self.dimension
        )


def _rotation(numbers: np.ndarray) -> np.ndarray:
    """A rotation matrix from a matrix of numbers, small for small ones."""
    skew = torch.from_numpy(numbers - numbers.T) / 2**0.5
    return torch.linalg.matrix_exp(skew).numpy()

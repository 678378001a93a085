"""Nothing that lies under a mask has a say: not in windows, gradients, scales of intensities or pyramids."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.inputs import load_inputs
from DeepRegistrationLib.objectives import LocalNCC
from DeepRegistrationLib.options import Options
from DeepRegistrationLib.registration import Registration
from DeepRegistrationLib.seen import also_seen, filled
from DeepRegistrationLib.session import Session
from DeepRegistrationLib.transforms import LinearTransform
from pair_support import FRAME, INNER, MAPPED, POINTS, ball, error, registered, within
from torch import Tensor

FIXED, MOVING = ball(MAPPED), ball(POINTS)
HOLE = within(POINTS, (15.0, 5.0, 0.0), 14.0)
AWAY = INNER & ~HOLE[0]


def other_content(image: Tensor, hole: Tensor) -> Tensor:
    noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(5))
    return torch.where(hole, 4000 * noise, image)


def apart(one: Registration, other: Registration) -> float:
    """Largest distance between two maps, mm."""
    difference = one.forward.map(POINTS) - other.forward.map(POINTS)
    return float(difference.norm(dim=-1).max())


@pytest.mark.parametrize("role", ["fixed", "moving"])
@pytest.mark.parametrize(
    "options",
    [{"similarity": s} for s in ("lncc", "mse", "ncc", "mind", "nmi", "mind-nmi")]
    + [{"linear": "affine"}, {"linear": "rigid", "representation": "rigid", "similarity": "nmi"}],
    ids=lambda options: options.get("linear", options.get("similarity")),
)
def test_images_that_differ_under_the_mask_alone_give_one_map(options: dict[str, Any], role: str) -> None:
    images = {"fixed": FIXED, "moving": MOVING}
    first = registered(**images, **{f"{role}_mask": ~HOLE}, **options)
    images[role] = other_content(images[role], HOLE)
    assert apart(first, registered(**images, **{f"{role}_mask": ~HOLE}, **options)) == 0


@pytest.mark.parametrize("name", ["lncc", "mse", "mind"])
def test_a_masked_cavity_is_no_worse_than_an_intact_image(name: str) -> None:
    """Tissue that was taken out, with the cavity masked; measured outside of it."""
    cavity = torch.where(HOLE, torch.zeros(()), FIXED)
    intact = error(registered(FIXED, MOVING, similarity=name), AWAY)
    masked = error(registered(cavity, MOVING, ~HOLE, similarity=name), AWAY)
    assert masked < intact + 0.15
    assert masked < error(registered(cavity, MOVING, similarity=name), AWAY) - 0.05


@pytest.mark.parametrize("name", ["mse", "lncc"])
@pytest.mark.parametrize("role", ["fixed", "moving"])
def test_a_mask_on_one_image_alone_does_as_well_as_both(role: str, name: str) -> None:
    """What is left out is brighter than all else, so that it would set one image's scale."""
    centre = (15.0, -10.0, 8.0)
    images = {"fixed": FIXED, "moving": MOVING}
    masks = {}
    for key, places in (("fixed", MAPPED), ("moving", POINTS)):
        images[key] = images[key] + 450 * within(places, centre, 16.0)
        masks[f"{key}_mask"] = ~within(places, centre, 20.0)
    where = INNER & masks["fixed_mask"][0]
    both = error(registered(**images, **masks, similarity=name), where)
    key = f"{role}_mask"
    one = error(registered(**images, **{key: masks[key]}, similarity=name), where)
    assert both < 0.9 and one < both + 0.3


def test_a_new_mask_hides_what_lies_under_it_from_a_refinement_too() -> None:
    """The first map has seen it; what is compared from then on has not."""

    def compared(image: Tensor) -> tuple[Tensor, ...]:
        inputs = load_inputs(Volume(image, FRAME), Volume(MOVING, FRAME))
        session = Session(inputs, Options(method="classical", preset="fast", linear="none"), "cpu")
        session.register()
        session.refine(masks=(Volume((~HOLE).float(), FRAME), None))
        assert session._standing is not None
        return tuple(c.fixed.data for c in session._standing.prediction.channels)

    for one, other in zip(compared(FIXED), compared(other_content(FIXED, HOLE)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("size", [(17, 12), (13, 9, 11), (14, 10, 1)])
def test_the_filling_goes_on_smoothly_and_knows_only_what_is_seen(size: tuple[int, ...]) -> None:
    frame = Frame.regular(size)
    plane = frame.points()[..., 0][None].float()
    mask = torch.ones_like(plane)
    mask[..., 4:8] = 0
    result = filled(Volume(plane, frame), Volume(mask, frame)).data
    seen = mask.bool()
    assert torch.equal(result[seen], plane[seen])
    assert float((result - plane)[~seen].abs().max()) < 3
    hidden = torch.where(seen, plane, torch.full_like(plane, 1e30))
    assert torch.equal(filled(Volume(hidden, frame), Volume(mask, frame)).data, result)
    whole = Volume(plane, frame)
    assert filled(whole, None) is whole and filled(whole, Volume(torch.ones_like(plane), frame)) is whole


def test_what_both_masks_leave_is_read_through_the_map() -> None:
    frame = Frame.regular((30, 30), 2.0)
    x = frame.points()[None, ..., 0]
    own, other = (Volume(v.float(), frame) for v in (x > -15, x < 15))
    shift = LinearTransform.from_parts(
        torch.eye(2, dtype=torch.float64), torch.tensor([4.0, 0.0], dtype=torch.float64)
    )
    found = also_seen(own, other, shift, own).data.bool()
    # 10 mm for the deformation that follows
    assert torch.equal(found, (x > -15 + 11) & (x < 15 - 4 - 10))
    assert torch.equal(also_seen(own, None, shift, own).data.bool(), x > -15 + 11)


def test_windows_under_masks_hold_only_what_is_weighed() -> None:
    a, b = (torch.rand(1, 1, 9, 10, 11, generator=torch.Generator().manual_seed(k)) for k in (1, 2))
    weight = torch.ones_like(a)
    weight[..., 4:] = 0
    measure = LocalNCC(2, gradient="centre").under_masks()
    results = []
    for extra in (0.0, 1e3):
        one, other = a.clone(), b.clone()
        one[..., 4:] += extra
        other[..., 4:] *= 1 + extra
        one.requires_grad_()
        value = measure.symmetric(one, other.requires_grad_(), weight)
        results.append((value.detach()[None], *torch.autograd.grad(value, (one, other))))
    for before, after in zip(*results, strict=True):
        assert torch.equal(
            before[..., :4] if before.ndim else before, after[..., :4] if after.ndim else after
        )
    alone = LocalNCC(2, gradient="centre")(a[..., :4].contiguous(), b[..., :4].contiguous())
    torch.testing.assert_close(results[0][0][0], alone, rtol=1e-5, atol=1e-6)

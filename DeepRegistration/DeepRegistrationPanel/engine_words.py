"""What the engine says, in the language of the application.

The engine knows no Slicer, so that translators would never be given its texts: they are written out here once
more, and a test compares them with the engine's own. A text that is not here is shown as the engine has it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from slicer.i18n import getContext, translate

_CONTEXT = getContext(__file__)
_STAGE = re.compile(r"(?P<name>.+), (?P<size>\d+(?: x \d+)*) voxels")


def in_words(text: str) -> str:
    """A text of the engine in the language of the application."""
    return translate(_CONTEXT, text) if text in ENGINE_TEXTS else text


def stage_in_words(stage: str) -> str:
    """What a run is doing, with the size that it works at, where there is one."""
    match = _STAGE.fullmatch(stage)
    if match is None:
        return in_words(stage)
    size = translate(_CONTEXT, _voxels(lambda text: text)).format(size=match["size"])
    return f"{in_words(match['name'])}, {size}"


def _voxels(_: Callable[[str], str]) -> str:
    return _("{size} voxels")


def _engine_texts(_: Callable[[str], str]) -> tuple[str, ...]:
    return (
        _("DIO"),
        _("Describes every place of both images by its surroundings and moves like onto like, step by step."),
        _(
            "The steps follow the similarity, landmarks and structures you chose, nothing hidden; "
            "whether the result may fold depends on the kind of transform."
        ),
        _("GradICON"),
        _("Trained networks propose the deformation from coarse to fine; it is then refined on your images."),
        _("Forward and inverse proposals undo each other approximately, by training; nothing is exact."),
        _("SITReg"),
        _("A trained network proposes both directions at once; the proposal is then refined on your images."),
        _(
            "The network's proposal is invertible, without folds, and the same whichever volume is the "
            "fixed one, up to rounding and interpolation; what refinement adds depends on the kind of "
            "transform."
        ),
        _("NePhi"),
        _(
            "Small networks give the displacement at any point; their proposal is then refined on your "
            "images."
        ),
        _("Folds in the proposal are made rare, not excluded; its memory hardly grows with the volumes."),
        _("SVF-R2Net"),
        _("A trained network proposes a deformation as one steady flow; it is then refined on your images."),
        _("Each step of the flow is limited in strength; folds in the proposal are made rare, not excluded."),
        _("NSVF-R2Net"),
        _("A trained network proposes a deformation as a flow that changes on the way; it is then refined."),
        _("Classical"),
        _("No network: the images themselves are compared, and the deformation is found step by step."),
        _("Rigid"),
        _("Rotation and translation only: the same bone, the same head on another day."),
        _("Affine"),
        _("Rotation, translation, scaling and shear of the whole image."),
        _("Free-form"),
        _("A free displacement at every voxel: the most flexible, but it may fold."),
        _("B-spline"),
        _("A smooth map from control points every few millimetres; bounded so that it cannot fold."),
        _("Stationary velocity"),
        _("A steady smooth flow: no folds, and the inverse is the flow backwards."),
        _("Geodesic"),
        _("The shortest smooth path from one shape to the other (LDDMM): for large changes; the slowest."),
        _("Diffeomorphic"),
        _("A chain of small smooth steps: large deformations without folds. The best default."),
        _("Neural field"),
        _("A small neural network gives the displacement at each point: smooth, but folds are not excluded."),
        _("Automatic"),
        _(
            "Chosen from the images: local correlation for one contrast, MIND with mutual information "
            "for two."
        ),
        _("Mean squared difference"),
        _("Same scanner, same units, as CT on CT."),
        _("Correlation"),
        _("Same contrast up to brightness and gain."),
        _("Local correlation"),
        _("Same contrast, with shading or a different gain from place to place."),
        _("Adaptive local correlation"),
        _("Local correlation at several window sizes at once."),
        _("Mutual information"),
        _("Two contrasts, such as CT and MR, that depend on one another."),
        _("MIND"),
        _("Two contrasts, such as MR and ultrasound, that share edges and texture."),
        _("MIND and mutual information"),
        _("Two contrasts, whatever they share."),
        _("Prediction only"),
        _("What the trained network proposes, not refined; without one, the linear stage."),
        _("Fast"),
        _("A first look."),
        _("Balanced"),
        _("Good for most pairs."),
        _("Accurate"),
        _("The most iterations, at the finest voxels."),
        _("None"),
        _("The images are deformed from where they lie."),
        _("First turned and shifted as a whole."),
        _("First turned, shifted, scaled and sheared as a whole."),
        _("Receiving images"),
        _("Reading the prompts"),
        _("Looking for a start"),
        _("Rigid alignment"),
        _("Affine alignment"),
        _("Predicting"),
        _("Features of the fixed image"),
        _("Features of the moving image"),
        _("Aligning the features"),
        _("Reading the neural field"),
        _("Adapting the network to the pair"),
        _("Deformable registration"),
        _("Inverting and resampling"),
        _("Measuring"),
        _("Done"),
        _("Handing over"),
    )


ENGINE_TEXTS = frozenset(_engine_texts(lambda text: text))
"""Texts of the catalogue, and of the stages of a run."""

"""What can be chosen, in words: read by the classes themselves, the command line and the Slicer panel.

No torch here, so that the panel can show it on a machine that has none.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MethodText:
    """How a method presents itself.

    Attributes:
        title: what people read.
        description: one line for people who choose.
        guarantee: what is certain about its results.
        publication: where it is described.
        learns: whether it has a network, which trained weights are for.
    """

    title: str
    description: str
    guarantee: str
    publication: str
    learns: bool = True


@dataclass(frozen=True)
class ChoiceText:
    """How a transform representation, a similarity, a preset or a linear stage presents itself."""

    title: str
    description: str


METHODS: dict[str, MethodText] = {
    "dio": MethodText(
        "DIO",
        "Describes every place of both images by its surroundings and moves like onto like, step by step.",
        "The steps follow the similarity, landmarks and structures you chose, nothing hidden; whether the "
        "result may fold depends on the kind of transform.",
        "Jena, Chaudhari, Gee: Deep implicit optimization enables robust learnable features for deformable "
        "image registration. Medical Image Analysis 103, 2025 (arXiv 2406.07361)",
    ),
    "gradicon": MethodText(
        "GradICON",
        "Trained networks propose the deformation from coarse to fine; it is then refined on your images.",
        "Forward and inverse proposals undo each other approximately, by training; nothing is exact.",
        "Tian et al.: GradICON: approximate diffeomorphisms via gradient inverse consistency. CVPR 2023 "
        "(arXiv 2206.05897)",
    ),
    "sitreg": MethodText(
        "SITReg",
        "A trained network proposes both directions at once; the proposal is then refined on your images.",
        "The network's proposal is invertible, without folds, and the same whichever volume is the fixed "
        "one, up to rounding and interpolation; what refinement adds depends on the kind of transform.",
        "Honkamaa, Marttinen: SITReg: multi-resolution architecture for symmetric, inverse consistent, and "
        "topology preserving image registration. MELBA 2024 (arXiv 2303.10211)",
    ),
    "nephi": MethodText(
        "NePhi",
        "Small networks give the displacement at any point; their proposal is then refined on your images.",
        "Folds in the proposal are made rare, not excluded; its memory hardly grows with the volumes.",
        "Tian et al.: NePhi: neural deformation fields for approximately diffeomorphic medical image "
        "registration. ECCV 2024 (arXiv 2309.07322)",
    ),
    "svf-r2net": MethodText(
        "SVF-R2Net",
        "A trained network proposes a deformation as one steady flow; it is then refined on your images.",
        "Each step of the flow is limited in strength; folds in the proposal are made rare, not excluded.",
        "Joshi, Hong: Diffeomorphic image registration using Lipschitz continuous residual networks. "
        "MIDL 2022",
    ),
    "nsvf-r2net": MethodText(
        "NSVF-R2Net",
        "A trained network proposes a deformation as a flow that changes on the way; it is then refined.",
        "Each step of the flow is limited in strength; folds in the proposal are made rare, not excluded.",
        "Joshi, Hong: Diffeomorphic image registration using Lipschitz continuous residual networks. "
        "MIDL 2022",
    ),
    "classical": MethodText(
        "Classical",
        "No network: the images themselves are compared, and the deformation is found step by step.",
        "The steps follow the similarity, landmarks and structures you chose, nothing hidden; whether the "
        "result may fold depends on the kind of transform.",
        "Avants et al.: Symmetric diffeomorphic image registration with cross-correlation. Medical Image "
        "Analysis 12, 2008; Heinrich et al.: MIND. Medical Image Analysis 16, 2012",
        learns=False,
    ),
}

REPRESENTATIONS: dict[str, ChoiceText] = {
    "rigid": ChoiceText(
        "Rigid", "Rotation and translation only: the same bone, the same head on another day."
    ),
    "affine": ChoiceText("Affine", "Rotation, translation, scaling and shear of the whole image."),
    "free-form": ChoiceText(
        "Free-form", "A free displacement at every voxel: the most flexible, but it may fold."
    ),
    "b-spline": ChoiceText(
        "B-spline", "A smooth map from control points every few millimetres; bounded so that it cannot fold."
    ),
    "stationary-velocity": ChoiceText(
        "Stationary velocity", "A steady smooth flow: no folds, and the inverse is the flow backwards."
    ),
    "geodesic": ChoiceText(
        "Geodesic",
        "The shortest smooth path from one shape to the other (LDDMM): for large changes; the slowest.",
    ),
    "diffeomorphic": ChoiceText(
        "Diffeomorphic",
        "A chain of small smooth steps: large deformations without folds. The best default.",
    ),
    "neural-field": ChoiceText(
        "Neural field",
        "A small neural network gives the displacement at each point: smooth, but folds are not excluded.",
    ),
}

SIMILARITIES: dict[str, ChoiceText] = {
    "auto": ChoiceText(
        "Automatic",
        "Chosen from the images: local correlation for one contrast, MIND with mutual information for two.",
    ),
    "mse": ChoiceText("Mean squared difference", "Same scanner, same units, as CT on CT."),
    "ncc": ChoiceText("Correlation", "Same contrast up to brightness and gain."),
    "lncc": ChoiceText(
        "Local correlation", "Same contrast, with shading or a different gain from place to place."
    ),
    "adaptive-ncc": ChoiceText(
        "Adaptive local correlation", "Local correlation at several window sizes at once."
    ),
    "nmi": ChoiceText("Mutual information", "Two contrasts, such as CT and MR, that depend on one another."),
    "mind": ChoiceText("MIND", "Two contrasts, such as MR and ultrasound, that share edges and texture."),
    "mind-nmi": ChoiceText("MIND and mutual information", "Two contrasts, whatever they share."),
}

ACROSS_CONTRASTS = ("mind", "nmi", "mind-nmi")
"""Similarities for images of different contrasts."""

PRECISIONS = ("auto", "float32", "bfloat16")
"""Of a training's arithmetic."""

PRESETS: dict[str, ChoiceText] = {
    "prediction": ChoiceText(
        "Prediction only", "What the trained network proposes, not refined; without one, the linear stage."
    ),
    "fast": ChoiceText("Fast", "A first look."),
    "balanced": ChoiceText("Balanced", "Good for most pairs."),
    "accurate": ChoiceText("Accurate", "The most iterations, at the finest voxels."),
}

LINEAR_STAGES: dict[str, ChoiceText] = {
    "none": ChoiceText("None", "The images are deformed from where they lie."),
    "rigid": ChoiceText("Rigid", "First turned and shifted as a whole."),
    "affine": ChoiceText("Affine", "First turned, shifted, scaled and sheared as a whole."),
}

SYMMETRIC = ("on", "off")
"""Whether both images are moved, to half-way between them, or the moving one alone."""

CONFIGURATIONS: dict[str, tuple[str, ...]] = {
    "dio": (
        *("small", "small-labels", "small-match", "structures"),
        *("paper", "paper-lku", "paper-unet-e", "paper-lku-e", "squares"),
    ),
    "gradicon": ("small", "small-alone", "paper"),
    "sitreg": ("small", "paper", "affine"),
    "nephi": ("small", "small-unet", "paper"),
    "svf-r2net": ("small", "small-lncc", "paper", "strict"),
    "nsvf-r2net": ("small", "small-lncc", "paper", "strict"),
}
"""What there is to train of each method: sizes of its network, and how it learns."""

STRENGTHS = {
    "landmark_weight": "how strongly landmarks pull, times the usual",
    "label_weight": "how strongly labels pull, times the usual",
    "stiffness": "how smooth the deformation is kept, times the usual",
    "regularity": "weight of the deformation's mean squared gradient (default: 0)",
}
"""Numbers that weigh what a registration minimises, by their names as options."""

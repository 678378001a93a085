"""Classical registration tools behind one function each, for side-by-side measurement.

Every function has the same form, ``(fixed_path, moving_path, out_dir) -> SimpleITK.Transform``; the transform
maps fixed points to moving points (LPS mm), the direction that `SimpleITK.Resample` wants. Tools that find
the inverse as well give both. None starts with a linear stage: pairs are expected to be aligned to begin
with. Numbers of threads come from the environment (``OMP_NUM_THREADS``,
``ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS``), set by whoever starts the process.

Every tool is optional and imported where it is used. In the Python package index they are SimpleITK, antspyx,
fireants, convexAdam and itk-elastix. Run as a program, one registration is done and its transform written
to ``OUT_DIR/forward.h5`` (the inverse, if there is one, to ``inverse.h5``)::

    python Testing/benchmarks/peers.py METHOD FIXED MOVING OUT_DIR
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import SimpleITK as sitk

PeerFunction = Callable[[Path, Path, Path], "sitk.Transform | tuple[sitk.Transform, sitk.Transform]"]


def demons(fixed_path: Path, moving_path: Path, out_dir: Path) -> sitk.Transform:
    """SimpleITK's diffeomorphic demons after histogram matching (Vercauteren et al., NeuroImage 2009).

    Three levels (shrink 4, 2, 1) of 100, 50 and 25 iterations; field smoothing 1.5 voxels.
    """
    fixed = _read(fixed_path)
    moving = sitk.Resample(_read(moving_path), fixed)  # it wants both on one lattice
    moving = sitk.HistogramMatching(moving, fixed, 256, 16, True)
    method = sitk.DiffeomorphicDemonsRegistrationFilter()
    method.SetSmoothDisplacementField(True)
    method.SetStandardDeviations(1.5)
    field: sitk.Image | None = None
    for shrink, iterations in ((4, 100), (2, 50), (1, 25)):
        level_fixed, level_moving = _shrunk(fixed, shrink), _shrunk(moving, shrink)
        method.SetNumberOfIterations(iterations)
        if field is None:
            field = method.Execute(level_fixed, level_moving)
        else:
            start = sitk.Resample(field, level_fixed, sitk.Transform(), sitk.sitkLinear, 0.0)
            field = method.Execute(level_fixed, level_moving, start)
    return sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))


def ants_cc(fixed_path: Path, moving_path: Path, out_dir: Path) -> tuple[sitk.Transform, sitk.Transform]:
    """ANTs SyN with local cross-correlation of radius 4 (Avants et al., Medical Image Analysis 2008)."""
    return _ants(fixed_path, moving_path, out_dir, syn_metric="CC", syn_sampling=4)


def ants_mi(fixed_path: Path, moving_path: Path, out_dir: Path) -> tuple[sitk.Transform, sitk.Transform]:
    """ANTs SyN with Mattes mutual information of 32 bins."""
    return _ants(fixed_path, moving_path, out_dir, syn_metric="mattes", syn_sampling=32)


def ants_quick(fixed_path: Path, moving_path: Path, out_dir: Path) -> tuple[sitk.Transform, sitk.Transform]:
    """The deformable stage of ``antsRegistrationSyNQuick``: mutual information, few iterations."""
    return _ants(fixed_path, moving_path, out_dir, "antsRegistrationSyNQuick[so]")


def _ants(
    fixed_path: Path, moving_path: Path, out_dir: Path, kind: str = "SyNOnly", **metric: str | int
) -> tuple[sitk.Transform, sitk.Transform]:
    """ANTsPy's registration of a kind with its own iterations and step: both directions."""
    import ants

    images = (ants.image_read(str(path)) for path in (fixed_path, moving_path))
    prefix = str(out_dir / "ants_")
    result = ants.registration(*images, type_of_transform=kind, outprefix=prefix, **metric)
    return _chain(result["fwdtransforms"], False), _chain(result["invtransforms"], True)


def _chain(files: list[str], inverse: bool) -> sitk.Transform:
    """ANTs' transforms as one; the first of the list is applied last, as in a composite transform."""
    transform = sitk.CompositeTransform(3)
    for name in files:
        if name.endswith(".mat"):
            linear = sitk.ReadTransform(name)
            transform.AddTransform(linear.GetInverse() if inverse else linear)
        else:
            field = sitk.ReadImage(name, sitk.sitkVectorFloat64)
            transform.AddTransform(sitk.DisplacementFieldTransform(field))
    return transform


def fireants_greedy(fixed_path: Path, moving_path: Path, out_dir: Path) -> sitk.Transform:
    """FireANTs' greedy registration (Jena et al., 2024): its step of 0.5, 200/100/50 iterations."""
    method, iterations = "greedy.GreedyRegistration", [200, 100, 50]
    return _fireants(method, iterations, fixed_path, moving_path, out_dir)


def fireants_syn(fixed_path: Path, moving_path: Path, out_dir: Path) -> sitk.Transform:
    """FireANTs' symmetric registration: the step of 0.5 and 100/75/50 iterations of its own LPBA40 script.

    Its default step of 0.1 is the weaker choice on brains.
    """
    return _fireants("syn.SyNRegistration", [100, 75, 50], fixed_path, moving_path, out_dir)


def _fireants(
    name: str, iterations: list[int], fixed_path: Path, moving_path: Path, out_dir: Path
) -> sitk.Transform:
    """Local cross-correlation of window 7, scales 4, 2 and 1, Adam; the rest as FireANTs has it."""
    from fireants.io.image import BatchedImages, Image

    # FireANTs wants 32 voxels along every axis at every scale, and a thin slab does not have them.
    for file in ("greedy", "syn", "deformation.compositive"):
        import_module(f"fireants.registration.{file}").MIN_IMG_SIZE = 8
    fixed, moving = (BatchedImages([Image(_read(path), device="cpu")]) for path in (fixed_path, moving_path))
    file, method = name.split(".")
    registration = getattr(import_module(f"fireants.registration.{file}"), method)(
        scales=[4, 2, 1],
        iterations=iterations,
        optimizer_lr=0.5,
        fixed_images=fixed,
        moving_images=moving,
        progress_bar=False,
    )
    registration.optimize()
    field = out_dir / "fireants.nii.gz"
    registration.save_as_ants_transforms(str(field))
    return sitk.DisplacementFieldTransform(sitk.ReadImage(str(field), sitk.sitkVectorFloat64))


def convexadam(fixed_path: Path, moving_path: Path, out_dir: Path) -> sitk.Transform:
    """ConvexAdam with MIND-SSC features and its defaults (Siebert et al., IEEE TMI 2024).

    It knows voxels only, so the moving image is first resampled onto the fixed grid.
    """
    import torch
    from convexAdam.convex_adam_MIND import convex_adam_pt

    fixed = _read(fixed_path)
    moving = sitk.Resample(_read(moving_path), fixed)
    voxels = convex_adam_pt(
        sitk.GetArrayFromImage(fixed),
        sitk.GetArrayFromImage(moving),
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    axes = np.asarray(fixed.GetDirection()).reshape(3, 3) * np.asarray(fixed.GetSpacing())
    return _field_transform(voxels[..., ::-1] @ axes.T, fixed)


def elastix(fixed_path: Path, moving_path: Path, out_dir: Path) -> sitk.Transform:
    """Elastix' default B-spline registration by mutual information (Klein et al., IEEE TMI 2010)."""
    import itk

    fixed, moving = (itk.imread(str(path), itk.F) for path in (fixed_path, moving_path))
    parameters = itk.ParameterObject.New()
    parameters.AddParameterMap(parameters.GetDefaultParameterMap("bspline"))
    _, result = itk.elastix_registration_method(
        fixed, moving, parameter_object=parameters, log_to_console=False
    )
    field = itk.transformix_deformation_field(moving, result)
    return _field_transform(itk.array_view_from_image(field), _read(fixed_path))


METHODS: dict[str, PeerFunction] = {
    "demons": demons,
    "ants-quick": ants_quick,
    "ants-cc": ants_cc,
    "ants-mi": ants_mi,
    "fireants-greedy": fireants_greedy,
    "fireants-syn": fireants_syn,
    "convexadam": convexadam,
    "elastix": elastix,
}


def _read(path: Path) -> sitk.Image:
    return sitk.ReadImage(str(path), sitk.sitkFloat32)


def _shrunk(image: sitk.Image, factor: int) -> sitk.Image:
    """`image` smoothed and cut into coarser voxels; an axis keeps at least eight of them."""
    if factor == 1:
        return image
    factors = [max(1, min(factor, n // 8)) for n in image.GetSize()]
    sigmas = [0.5 * f * s if f > 1 else 0.0 for f, s in zip(factors, image.GetSpacing(), strict=True)]
    return sitk.BinShrink(sitk.DiscreteGaussian(image, [s**2 for s in sigmas]), factors)


def _field_transform(displacement: np.ndarray, frame: sitk.Image) -> sitk.Transform:
    """A transform from displacements (*S, d) in LPS mm, (x, y, z) components, on the voxels of `frame`."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(displacement, dtype=np.float64), isVector=True)
    image.CopyInformation(frame)
    return sitk.DisplacementFieldTransform(image)


def main() -> int:
    """One registration."""
    parser = argparse.ArgumentParser(description="Run one classical registration tool on one pair.")
    parser.add_argument("method", choices=METHODS)
    for name in ("fixed", "moving", "out_dir"):
        parser.add_argument(name, type=Path)
    arguments = parser.parse_args()
    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    found = METHODS[arguments.method](arguments.fixed, arguments.moving, arguments.out_dir)
    both = found if isinstance(found, tuple) else (found,)
    for transform, name in zip(both, ("forward.h5", "inverse.h5"), strict=False):
        sitk.WriteTransform(transform, str(arguments.out_dir / name))
    return 0


if __name__ == "__main__":
    sys.exit(main())

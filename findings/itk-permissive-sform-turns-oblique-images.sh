#!/bin/bash
# What ITK makes of an oblique NIfTI image whose only frame is a sform with a slight shear. By itself it refuses
# the file; with ITK_NIFTI_SFORM_PERMISSIVE=ON, which its message and documentation offer for that, it reads it,
# warns of a "non-orthogonal sform", and hands over a direction that is not the nearest rotation to the sform
# but another one altogether: entries off by up to 0.8 for a shear of 0.001.
#
# Seen with SimpleITK 2.5.7 on Python 3.11 (sform = rotation by 0.2, 0.3 and 0.4 rad about x, y and z, spacing
# 1, 1.2 and 2.5 mm, each entry changed by about 0.001):
#   refused by itself: True
#   permissive: direction off by 0.81, last voxel off by 46.4 mm; nearest rotation: off by 0.000, 0.1 mm
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q SimpleITK==2.5.7 numpy
cat > "$folder/oblique.py" <<'P'
import os
import struct
import sys

import numpy as np
import SimpleITK as sitk


def turn(axis, angle):
    c, s = np.cos(angle), np.sin(angle)
    return np.insert(np.insert([[c, -s], [s, c]], axis, 0, 0), axis, np.eye(3)[axis], 1)


size, spacing = (40, 50, 30), np.array([1.0, 1.2, 2.5])
image = sitk.Image(size, sitk.sitkInt16)
image.SetSpacing(spacing.tolist())
image.SetDirection((turn(2, 0.4) @ turn(1, 0.3) @ turn(0, 0.2)).ravel().tolist())
path = sys.argv[1] + "/oblique.nii"
sitk.WriteImage(image, path)
data = bytearray(open(path, "rb").read())
struct.pack_into("<h", data, 252, 0)  # no qform
sform = np.array(struct.unpack_from("<12f", data, 280)).reshape(3, 4)
sform[:, :3] += 0.001 * np.random.default_rng(0).normal(size=(3, 3))
struct.pack_into("<12f", data, 280, *sform.ravel())
open(path, "wb").write(data)
lps = np.diag([-1, -1, 1]) @ sform[:, :3]
steps = np.linalg.norm(lps, axis=0)
u, _, vh = np.linalg.svd(lps / steps)
os.environ["ITK_NIFTI_SFORM_PERMISSIVE"] = "OFF"
try:
    sitk.ReadImage(path)
    refused = False
except RuntimeError:
    refused = True
os.environ["ITK_NIFTI_SFORM_PERMISSIVE"] = "ON"
read = np.array(sitk.ReadImage(path).GetDirection()).reshape(3, 3)
last = np.array(size) - 1


def off(direction):
    apart = direction * steps - lps
    return np.abs(direction - lps / steps).max(), float(np.linalg.norm(apart @ last))


there, nearest = off(read), off(u @ vh)
print(f"refused by itself: {refused}")
print(
    f"permissive: direction off by {there[0]:.2f}, last voxel off by {there[1]:.1f} mm; "
    f"nearest rotation: off by {nearest[0]:.3f}, {nearest[1]:.1f} mm"
)
sys.exit(0 if refused and there[1] > 20 and nearest[1] < 0.2 else 1)
P
"$folder/venv/bin/python" "$folder/oblique.py" "$folder" 2> /dev/null

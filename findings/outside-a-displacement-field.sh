#!/bin/bash
# What readers make of points outside of a displacement field's grid, and of a field with an affine map after
# it, in one ITK transform file. SimpleITK and ANTs take the field as zero there, Slicer goes on with the
# border's displacement; of a composite [affine, field] all three keep the affine map.
#
# Seen with SimpleITK 2.5.7, antspyx 0.6.3 and slicer-core 5.12.4.0 on Python 3.11:
#   field      SimpleITK 69.5  ANTs 69.5  Slicer 7.7
#   composite  SimpleITK 0.0  ANTs 0.0  Slicer 2.0
# (distance in mm, 15 mm beyond the grid, from where the affine map alone leads; inside all agree to 0.001).
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for name in ants slicer; do python3 -m venv "$folder/$name"; done
"$folder/ants/bin/pip" install -q antspyx==0.6.3 SimpleITK==2.5.7
"$folder/slicer/bin/pip" install -q slicer-core==5.12.4.0 numpy
cat > "$folder/make.py" <<'P'
import numpy as np
import SimpleITK as sitk

c, s = np.cos(0.5), np.sin(0.5)
turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
shift = np.array([60.0, 30.0, 0.0])
affine = sitk.AffineTransform(turn.ravel().tolist(), shift.tolist())
residual = np.zeros((16, 20, 24, 3))
residual[..., 2] = 2.0
points = np.stack(np.meshgrid(*map(np.arange, (16, 20, 24)), indexing="ij")[::-1], -1) * 1.0
whole = (points + residual) @ turn.T + shift - points
images = [sitk.GetImageFromArray(v, isVector=True) for v in (whole, residual)]
field, rest = map(sitk.DisplacementFieldTransform, images)
sitk.WriteTransform(field, "field.h5")
sitk.WriteTransform(sitk.CompositeTransform([affine, rest]), "composite.h5")
np.savez("points.npz", points=[[12.0, 9.0, 7.0], [38.0, 9.0, 7.0]], turn=turn, shift=shift)
P
cat > "$folder/itk.py" <<'P'
import ants
import numpy as np
import SimpleITK as sitk

known = np.load("points.npz")
for name in ("field", "composite"):
    readers = {
        "SimpleITK": sitk.ReadTransform(f"{name}.h5").TransformPoint,
        "ANTs": ants.read_transform(f"{name}.h5").apply_to_point,
    }
    for reader, read in readers.items():
        off = [np.linalg.norm(np.array(read(p.tolist())) - known["turn"] @ p - known["shift"]) for p in known["points"]]
        print(name, reader, *(f"{x:.1f}" for x in off))
P
cat > "$folder/slicer.py" <<'P'
import numpy as np
import slicer as s

known, flip, scene = np.load("points.npz"), np.diag([-1.0, -1.0, 1.0]), s.vtkMRMLScene()
for name in ("field", "composite"):
    node, storage = s.vtkMRMLTransformNode(), s.vtkMRMLTransformStorageNode()
    scene.AddNode(node)
    scene.AddNode(storage)
    storage.SetFileName(f"{name}.h5")
    assert storage.ReadData(node)
    read = node.GetTransformFromParent()
    off = [
        np.linalg.norm(flip @ np.array(read.TransformPoint(*(flip @ p))) - known["turn"] @ p - known["shift"])
        for p in known["points"]
    ]
    print(name, "Slicer", *(f"{x:.1f}" for x in off))
P
mv "$folder/slicer.py" "$folder/in_slicer.py"
cd "$folder"
ants/bin/python make.py
found=$(ants/bin/python itk.py && slicer/bin/python in_slicer.py)
echo "$found"
inside=$(echo "$found" | cut -d' ' -f3 | sort -u)
[ "$inside" = "2.0" ]
echo "$found" | awk '
  $1 == "composite" && $2 != "Slicer" && $4 != "0.0" { bad = 1 }
  $1 == "composite" && $2 == "Slicer" && $4 != "2.0" { bad = 1 }
  $1 == "field" && $2 != "Slicer" && $4 < 50 { bad = 1 }
  $1 == "field" && $2 == "Slicer" && ($4 > 20 || $4 < 5) { bad = 1 }
  END { exit bad }'

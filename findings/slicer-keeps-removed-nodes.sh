#!/bin/sh
# A node that was removed from the scene stays in memory, with all its voxels, after either of two ordinary calls
# of Slicer's Python:
#   scene.GetNodesByClass(name)      makes a collection that Python's wrapper never frees
#   VTKObservationMixin              keeps every object it has observed as a key, also after removeObserver
# What frees it: UnRegister(None) on the collection (slicer.util.getNodesByClass does so), removeObservers().
# Needs Python 3.10 to 3.13 and a package index; installs into a temporary folder. Fails if this changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q slicer-core==5.12.4.0
cat > "$folder/show.py" <<'PYTHON'
import gc
import importlib.metadata

import slicer
import slicer.util
import vtk

print("slicer-core", importlib.metadata.version("slicer-core"), "with VTK", vtk.vtkVersion.GetVTKVersion())
scene = slicer.mrmlScene = slicer.vtkMRMLScene()
kept = []


def freed(use):
    """Whether a node is freed once `use` has had it and it was removed from the scene."""
    gone, node = [], scene.AddNewNodeByClass("vtkMRMLTableNode")
    node.AddObserver("DeleteEvent", lambda *_: gone.append(1))
    use(node)
    scene.RemoveNode(node)
    del node
    gc.collect()
    return bool(gone)


def listed(node):
    list(scene.GetNodesByClass("vtkMRMLTableNode"))


def listed_and_unregistered(node):
    found = scene.GetNodesByClass("vtkMRMLTableNode")
    found.UnRegister(None)
    list(found)


class Listener(slicer.util.VTKObservationMixin):
    def hear(self, caller, event):
        pass


def observed(node, everything=False):
    listener = Listener()
    kept.append(listener)
    listener.addObserver(node, vtk.vtkCommand.ModifiedEvent, listener.hear)
    listener.removeObserver(node, vtk.vtkCommand.ModifiedEvent, listener.hear)
    if everything:
        listener.removeObservers()


found = {
    "nothing done with it": freed(lambda node: None),
    "GetNodesByClass": freed(listed),
    "GetNodesByClass, UnRegister": freed(listed_and_unregistered),
    "addObserver, removeObserver": freed(observed),
    "addObserver, removeObserver, removeObservers": freed(lambda node: observed(node, True)),
}
for name, value in found.items():
    print(f"{name}: {'freed' if value else 'KEPT'}")
expected = [True, False, True, False, True]
raise SystemExit(0 if list(found.values()) == expected else "This has changed.")
PYTHON
"$folder/env/bin/python" "$folder/show.py"
# Expected:
#   slicer-core 5.12.4.0 with VTK 9.6.0
#   nothing done with it: freed
#   GetNodesByClass: KEPT
#   GetNodesByClass, UnRegister: freed
#   addObserver, removeObserver: KEPT
#   addObserver, removeObserver, removeObservers: freed

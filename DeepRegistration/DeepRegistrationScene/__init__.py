"""The scene's side of DeepRegistration: MRML nodes to arrays and back, runs on nodes, what follows a run.

No Qt, so that it works in `PythonSlicer` and from the console; no torch, which lives in the worker process.
This package and what sits above it are the only places of RAS: arrays leave it in LPS millimetres.
"""

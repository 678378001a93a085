"""Stand-ins of the Slicer application, under which the unmodified module file runs in a test.

Real: the scene, nodes, module logics, displayable managers and `slicer.util` (from `slicer-core`), Qt's
widgets and event loop (PySide6, without a screen), the worker process. Stood in for: `qt`, `ctk` and the
qMRML widgets (`python_qt`, `ui_loader`, `ctk_widgets`, `mrml_widgets`), `slicer.app`, `slicer.modules` and
message boxes (`application`), the scripted-module base classes, `slicer.i18n`, `SampleData`, `PyTorchUtils`
(`scripted_module`), and the CMake macros that install an extension (`cmake`, `installed`). `slice_view` and
`grab` make pictures; `stall` measures how long the event loop stood still.

What a test on it shows: that the module's own code does what it should with a real scene, through real clicks
and events, under PythonQt's rules for properties, signals and slots; that VTK errors, exceptions in slots,
and widgets, properties or connections that do not exist cannot go unseen; that the installed files are
complete.

What it cannot show: PythonQt's own conversions and object lifetimes, the looks and the finer behaviour of the
real ctk and qMRML widgets, module discovery, packaging and start-up of the application, `PythonSlicer` as the
worker's interpreter, and Windows or macOS.

Use (in a test): the fixture `panel` is the module's widget object in a running `slicer_session`
(`.scene`, `.messages`, `.set_torch(...)`); click with pytest-qt's `qtbot`. Needs `slicer-core`, PySide6 and
pytest-qt (the extra `slicer`).
"""

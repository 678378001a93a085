"""A Slicer application without the application: real scene and logics, and messages kept for the tests."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
import slicer.util
import vtk
from PySide6 import QtCore, QtWidgets

from . import ctk_widgets, mrml_widgets, python_qt, scripted_module
from .slice_view import SliceView
from .ui_loader import make_loader

LOGICS = {
    "Colors": "vtkMRMLColorLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "Models": "vtkSlicerModelsLogic",
    "Tables": "vtkSlicerTablesLogic",
}


class ModuleManager(QtCore.QObject):
    cpp_class = True
    cpp_signals = ("moduleAboutToBeUnloaded(QString)",)
    moduleAboutToBeUnloaded = QtCore.Signal(str)

    def module(self, name: str) -> Any:
        return getattr(slicer.modules, name.lower(), None)


class LayoutManager(QtCore.QObject):
    """The three slice views, with real slice logics; what they show can be rendered."""

    cpp_class = True
    threeDViewCount = QtCore.Property(int, lambda self: 0)
    tableViewCount = QtCore.Property(int, lambda self: 0)
    plotViewCount = QtCore.Property(int, lambda self: 0)

    def __init__(self, application_logic: Any) -> None:
        super().__init__()
        self._layout = 2
        self._views = {name: SliceWidget(name, application_logic) for name in ("Red", "Yellow", "Green")}
        self._logics = vtk.vtkCollection()
        for view in self._views.values():
            self._logics.AddItem(view.sliceLogic())
        application_logic.SetSliceLogics(self._logics)

    def setLayout(self, layout: int) -> None:
        self._layout = layout

    layout = QtCore.Property(int, lambda self: self._layout, setLayout)

    def sliceViewNames(self) -> tuple[str, ...]:
        return tuple(self._views)

    def sliceWidget(self, name: str) -> Any:
        return self._views.get(name)

    def mrmlSliceLogics(self) -> Any:
        return self._logics

    def resetSliceViews(self) -> None:
        for view in self._views.values():
            view.sliceLogic().FitSliceToAll()

    def resetThreeDViews(self) -> None:
        pass

    def _close(self) -> None:
        for view in self._views.values():
            view._view.close()


class SliceWidget(QtCore.QObject):
    """What `layoutManager().sliceWidget(name)` gives."""

    cpp_class = True

    def __init__(self, name: str, application_logic: Any) -> None:
        super().__init__()
        self._view = SliceView(slicer.mrmlScene, name, application_logic)

    def sliceLogic(self) -> Any:
        return self._view.logic

    def mrmlSliceNode(self) -> Any:
        return self._view.logic.GetSliceNode()

    def mrmlSliceCompositeNode(self) -> Any:
        return self._view.logic.GetSliceCompositeNode()

    def sliceView(self) -> Any:
        return self

    def forceRender(self) -> None:
        pass

    def scheduleRender(self) -> None:
        pass

    def fitSliceToBackground(self) -> None:
        self._view.logic.FitSliceToBackground()


class IOManager:
    """Loading and saving, for the kinds of file that the tests meet."""

    _kinds = (
        (("mrb",), "SceneFile"),
        (("nrrd", "nii", "nii.gz", "mha"), "VolumeFile"),
        (("seg.nrrd",), "SegmentationFile"),
        (("h5", "tfm"), "TransformFile"),
        (("mrk.json", "fcsv"), "MarkupsFile"),
    )

    def fileType(self, filename: str) -> str:
        fits = [(s, kind) for suffixes, kind in self._kinds for s in suffixes if filename.endswith(f".{s}")]
        return max(fits, key=lambda entry: len(entry[0]))[1] if fits else ""

    def loadNodes(self, kind: str, properties: dict, loaded: Any, messages: Any = None) -> bool:
        path, modules = properties["fileName"], slicer.modules
        if kind == "SceneFile":
            return bool(slicer.mrmlScene.ReadFromMRB(path, bool(properties.get("clear"))))
        if kind == "VolumeFile":
            options = int(bool(properties.get("labelmap")))
            node = modules.volumes.logic().AddArchetypeVolume(path, Path(path).name.split(".")[0], options)
        elif kind == "TransformFile":
            node = modules.transforms.logic().AddTransform(path, slicer.mrmlScene)
        elif kind == "SegmentationFile":
            node = modules.segmentations.logic().LoadSegmentationFromFile(path)
        elif kind == "MarkupsFile":
            node = slicer.mrmlScene.GetNodeByID(modules.markups.logic().LoadMarkups(path, Path(path).name))
        else:
            raise NotImplementedError(f"the stand-in does not read {kind or path}")
        if node is not None:
            loaded.AddItem(node)
        return node is not None

    def fileWriterFileType(self, node: Any) -> str:
        return "NodeFile"

    def saveNodes(self, kind: str, properties: dict, messages: Any = None) -> bool:
        if kind == "SceneFile":
            return bool(slicer.mrmlScene.WriteToMRB(properties["fileName"]))
        node = slicer.mrmlScene.GetNodeByID(properties["nodeID"])
        if node.GetStorageNode() is None:
            node.AddDefaultStorageNode()
        node.GetStorageNode().SetFileName(properties["fileName"])
        return bool(node.GetStorageNode().WriteData(node))


class Application(QtCore.QObject):
    """`slicer.app`."""

    cpp_class = True
    cpp_signals = ("aboutToQuit()", "startupCompleted()", "lastWindowClosed()")
    aboutToQuit = QtCore.Signal()
    startupCompleted = QtCore.Signal()
    lastWindowClosed = QtCore.Signal()
    temporaryPath = ctk_widgets.stored(str, "")
    applicationName = QtCore.Property(str, lambda self: "Slicer")
    applicationVersion = QtCore.Property(str, lambda self: "5.12.4")
    majorVersion = QtCore.Property(int, lambda self: 5)
    minorVersion = QtCore.Property(int, lambda self: 12)
    os = QtCore.Property(str, lambda self: {"linux": "linux", "darwin": "macosx"}.get(sys.platform, "win"))
    slicerHome = QtCore.Property(str, lambda self: self.temporaryPath)
    launcherExecutableFilePath = QtCore.Property(str, lambda self: "")

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._testing = False
        self.temporaryPath = str(folder / "temporary")
        Path(self.temporaryPath).mkdir()
        self._settings = QtCore.QSettings(str(folder / "Slicer.ini"), QtCore.QSettings.IniFormat)
        self._modules, self._io = ModuleManager(self), IOManager()
        self._logic = slicer.vtkSlicerApplicationLogic()
        self._logic.SetTemporaryPath(self.temporaryPath)
        self._logic.SetMRMLScene(slicer.mrmlScene)
        self._layout: LayoutManager | None = None

    def mrmlScene(self) -> Any:
        return slicer.mrmlScene

    def applicationLogic(self) -> Any:
        return self._logic

    def layoutManager(self) -> LayoutManager:
        return self._layout

    def moduleManager(self) -> ModuleManager:
        return self._modules

    def coreIOManager(self) -> IOManager:
        return self._io

    ioManager = coreIOManager

    def settings(self) -> QtCore.QSettings:
        return self._settings

    userSettings = revisionUserSettings = settings

    def processEvents(self, flags: Any = QtCore.QEventLoop.AllEvents) -> None:
        QtWidgets.QApplication.processEvents(flags)

    def topLevelWidgets(self) -> list[Any]:
        return QtWidgets.QApplication.topLevelWidgets()

    def testingEnabled(self) -> bool:
        return self._testing

    def setOverrideCursor(self, cursor: Any) -> None:
        QtWidgets.QApplication.setOverrideCursor(cursor)

    def restoreOverrideCursor(self) -> None:
        QtWidgets.QApplication.restoreOverrideCursor()

    def palette(self) -> Any:
        return QtWidgets.QApplication.palette()

    def style(self) -> Any:
        return QtWidgets.QApplication.style()

    def pauseRender(self) -> None:
        pass

    def resumeRender(self) -> None:
        pass


class Messages:
    """What would have been shown to the user. `answers` says what the user presses, by default OK or Yes.

    Each entry of `shown` is (kind, text); kind is "message" or "delay". A message under the wait cursor
    raises: the cursor says that there is nothing to press.
    """

    def __init__(self) -> None:
        self.shown: list[tuple[str, str]] = []
        self.answers: list[Any] = []

    @property
    def texts(self) -> list[str]:
        return [text for _, text in self.shown]

    def box(self, text: str, parent: Any = None, **options: Any) -> Any:
        cursor = QtWidgets.QApplication.overrideCursor()
        if cursor is not None and cursor.shape() == QtCore.Qt.WaitCursor:
            raise RuntimeError(f"asked or told under the wait cursor: {text}")
        self.shown.append(("message", text))
        if self.answers:
            return self.answers.pop(0)
        wanted = options.get("standardButtons", QtWidgets.QMessageBox.Ok)
        yes = QtWidgets.QMessageBox.Yes
        return yes if wanted & yes else QtWidgets.QMessageBox.Ok

    def delay(self, message: str, autoCloseMsec: int = 1000, parent: Any = None, **options: Any) -> None:
        self.shown.append(("delay", message))
        slicer.app.processEvents()


def _family(name: str) -> dict[str, types.ModuleType]:
    """The imported modules that belong to a scripted module: by custom, those whose name begins with its."""
    return {key: found for key, found in sys.modules.items() if key.startswith(name)}


def _lies_in(module: types.ModuleType, folder: Path) -> bool:
    found = getattr(module, "__file__", None)
    return found is not None and Path(found).resolve().is_relative_to(folder)


class Session:
    """One application: `start` puts it in place of Slicer's own, `stop` takes it away again.

    Attributes: `app`, `scene`, `messages`, `torch` (what PyTorchUtils finds), `samples` (the registered
    sample data by name), `module` (once one is loaded).
    """

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []
        self.closed = False

    def start(self) -> Session:
        """Needs a QApplication."""
        python_qt.enforce_rules()
        self.folder = Path(tempfile.mkdtemp(prefix="slicer-harness-"))
        self._undo.append(lambda: shutil.rmtree(self.folder))
        self.messages, self.torch = Messages(), scripted_module.PyTorch()
        self._start_python()
        previous = vtk.vtkOutputWindow.GetInstance()
        self.forget_vtk_errors()
        self._undo.append(lambda: vtk.vtkOutputWindow.SetInstance(previous))
        self._start_scene()
        return self

    def _set(self, target: Any, name: str, value: Any) -> None:
        missing = object()
        before = vars(target).get(name, missing)
        setattr(target, name, value)
        self._undo.append(
            lambda: delattr(target, name) if before is missing else setattr(target, name, before)
        )

    def _module(self, name: str, module: types.ModuleType | None) -> None:
        missing = object()
        before = sys.modules.get(name, missing)
        sys.modules[name] = module
        self._undo.append(
            lambda: sys.modules.pop(name, None) if before is missing else sys.modules.update({name: before})
        )

    def _start_python(self) -> None:
        stand_ins = ctk_widgets.CLASSES | mrml_widgets.CLASSES
        ctk = types.ModuleType("ctk")
        vars(ctk).update(ctk_widgets.CLASSES)
        self._module("qt", python_qt.make_qt(QUiLoader=make_loader(stand_ins)))
        self._module("ctk", ctk)
        for name, module in (
            ("ScriptedLoadableModule", scripted_module.scripted_loadable_module()),
            ("i18n", scripted_module.translation()),
        ):
            self._module(f"slicer.{name}", module)
            self._set(slicer, name, module)
        data = scripted_module.sample_data()
        self.samples = data.sources
        self._module("SampleData", data)
        self._module("PyTorchUtils", self.torch.module())
        for name, kind in mrml_widgets.CLASSES.items():
            self._set(slicer, name, kind)
        self._set(slicer, "qSlicerScriptedLoadableModule", scripted_module.qSlicerScriptedLoadableModule)
        self._set(slicer, "modules", types.SimpleNamespace(sampledata=types.SimpleNamespace()))
        self._set(slicer, "selfTests", {})
        self._set(slicer.util, "messageBox", self.messages.box)
        self._set(slicer.util, "delayDisplay", self.messages.delay)

    def set_torch(self, **state: Any) -> None:
        """Change what PyTorchUtils finds: `extension`, `installed`, `install`."""
        for name, value in state.items():
            setattr(self.torch, name, value)
        sys.modules["PyTorchUtils"] = self.torch.module()

    def _start_scene(self) -> None:
        self.scene = slicer.vtkMRMLScene()
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(self.scene)
        self._set(slicer, "mrmlScene", self.scene)
        self._set(slicer, "app", Application(self.folder))
        self.app = slicer.app
        logic = self.app.applicationLogic()
        self.logics: dict[str, Any] = {}
        for name, kind in LOGICS.items():
            self.logics[name] = getattr(slicer, kind)()
            self.logics[name].SetMRMLApplicationLogic(logic)
            self.logics[name].SetMRMLScene(self.scene)
            logic.SetModuleLogic(name, self.logics[name])
            found = types.SimpleNamespace(name=name, logic=lambda name=name: self.logics[name])
            setattr(slicer.modules, name.lower(), found)
        self.files = slicer.vtkMRMLRemoteIOLogic()  # without it no .mrb file can be read
        cache = self.folder / "cache"
        cache.mkdir()
        self.files.GetCacheManager().SetRemoteCacheDirectory(str(cache))
        self.files.SetMRMLScene(self.scene)
        self.files.AddDataIOToScene()
        self.app._layout = LayoutManager(logic)
        self.window = QtWidgets.QMainWindow()
        self.window.setObjectName("qSlicerMainWindow")

    def load_module(self, path: Path, name: str | None = None) -> Any:
        """What the application does with a module file at start: import, declare, `startupCompleted`.

        Returns the module object that `slicer.modules.<name>` then is. Its widget is made by
        `widgetRepresentation()`. The file's folder is put in front of `sys.path`, as Slicer does; packages
        of the same name from elsewhere are set aside until `stop`.
        """
        name = name or path.stem
        folder = path.parent.resolve()
        aside = {key: found for key, found in _family(name).items() if not _lies_in(found, folder)}
        for key in aside:
            del sys.modules[key]
        sys.path.insert(0, str(folder))

        def forget() -> None:
            sys.path.remove(str(folder))
            for key in _family(name) if aside else [name]:
                sys.modules.pop(key, None)
            sys.modules.update(aside)

        self._undo.append(forget)
        spec = importlib.util.spec_from_file_location(name, path)
        classes = importlib.util.module_from_spec(spec)
        sys.modules[name] = classes
        spec.loader.exec_module(classes)
        module = scripted_module.qSlicerScriptedLoadableModule(name, str(path), classes)
        setattr(slicer.modules, name.lower(), module)
        setattr(slicer.modules, f"{name}Instance", getattr(classes, name)(module))
        self.app.startupCompleted.emit()
        self.module = module
        return module

    def open_panel(self, path: Path) -> Any:
        """Load the module file and enter its panel; returns the module's Python widget object."""
        frame = self.load_module(path).widgetRepresentation()
        frame.enter()
        frame.resize(480, 900)
        frame.show()
        return frame.self()

    def forget_vtk_errors(self) -> None:
        """Start listening anew: for a test that provokes an error."""
        self.vtk_messages = vtk.vtkStringOutputWindow()
        vtk.vtkOutputWindow.SetInstance(self.vtk_messages)

    def vtk_errors(self) -> str:
        text = self.vtk_messages.GetOutput()
        return text if "ERROR" in text.upper() else ""

    def close(self) -> str:
        """End the application as its user would; returns VTK's errors ("" for none)."""
        if self.closed:
            return self.vtk_errors()
        self.closed = True
        self.app.aboutToQuit.emit()
        module = getattr(self, "module", None)
        if module is not None and module._widget is not None:
            module._widget.exit()
            self.app.moduleManager().moduleAboutToBeUnloaded.emit(module.name)
            module._widget.close()
            module._widget.deleteLater()
        self.window.deleteLater()
        self.app._layout._close()
        self.app.processEvents()
        QtCore.QCoreApplication.sendPostedEvents(None, QtCore.QEvent.DeferredDelete)
        for logic in reversed(self.logics.values()):
            logic.SetMRMLScene(None)
        self.app.applicationLogic().SetMRMLScene(None)
        self.scene.Clear(True)
        self.files.RemoveDataIOFromScene()
        return self.vtk_errors()

    def stop(self) -> None:
        """Put everything back, whatever happened."""
        while self._undo:
            self._undo.pop()()

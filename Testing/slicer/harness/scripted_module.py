"""The Python modules of Slicer that are not in `slicer-core`, as far as a scripted module meets them."""

from __future__ import annotations

import ast
import functools
import os
import sys
import types
import unittest
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import slicer
from PySide6 import QtGui, QtWidgets
from slicer.util import VTKObservationMixin


class qSlicerScriptedLoadableModule:
    """A module as the application keeps it: what its Python class may set, and nothing else."""

    __slots__ = (
        "_widget",
        "acknowledgementText",
        "associatedNodeTypes",
        "categories",
        "contributors",
        "dependencies",
        "helpText",
        "hidden",
        "icon",
        "index",
        "name",
        "path",
        "python_classes",
        "title",
    )

    def __init__(self, name: str, path: str, python_classes: types.ModuleType) -> None:
        self.name, self.path, self.python_classes, self._widget = name, path, python_classes, None
        self.title, self.helpText, self.acknowledgementText = name, "", ""
        self.categories, self.dependencies, self.contributors = [], [], []
        self.associatedNodeTypes, self.hidden, self.index, self.icon = [], False, -1, QtGui.QIcon()

    def widgetRepresentation(self) -> Any:
        if self._widget is None:
            self._widget = self.createNewWidgetRepresentation()
            setattr(slicer.modules, f"{self.name}Widget", self._widget.self())
        return self._widget

    def createNewWidgetRepresentation(self) -> Any:
        widget = slicer.qSlicerScriptedLoadableModuleWidget(
            getattr(self.python_classes, f"{self.name}Widget")
        )
        widget.setMRMLScene(slicer.mrmlScene)
        widget.setup()
        return widget


class ScriptedLoadableModule:
    def __init__(self, parent: Any) -> None:
        self.parent = parent
        self.moduleName = type(self).__name__
        parent.title, parent.categories, parent.contributors = "", [], []
        parent.helpText = parent.acknowledgementText = ""
        icon = os.path.join(os.path.dirname(parent.path), "Resources", "Icons", f"{self.moduleName}.png")
        if os.path.exists(icon):
            parent.icon = QtGui.QIcon(icon)

    def resourcePath(self, filename: str) -> str:
        return os.path.join(os.path.dirname(slicer.util.modulePath(self.moduleName)), "Resources", filename)

    def getDefaultModuleDocumentationLink(self, docPage: str | None = None) -> str:
        return ""


class ScriptedLoadableModuleWidget:
    def __init__(self, parent: Any = None) -> None:
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.logic = None
        self.developerMode = slicer.util.settingsValue(
            "Developer/DeveloperMode", False, converter=slicer.util.toBool
        )
        if parent is None:
            self.parent = slicer.qMRMLWidget()
            self.parent.setLayout(QtWidgets.QVBoxLayout())
            self.parent.setMRMLScene(slicer.mrmlScene)
        else:
            self.parent = parent
        self.layout = self.parent.layout()
        if parent is None:
            self.setup()
            self.parent.show()
        slicer.app.moduleManager().connect(
            "moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded
        )

    def resourcePath(self, filename: str) -> str:
        return os.path.join(os.path.dirname(slicer.util.modulePath(self.moduleName)), "Resources", filename)

    def setup(self) -> None:
        pass

    def cleanup(self) -> None:
        pass

    def enter(self) -> None:
        pass

    def exit(self) -> None:
        pass

    def onReload(self) -> Any:
        return slicer.util.reloadScriptedModule(self.moduleName)

    def _onModuleAboutToBeUnloaded(self, moduleName: str) -> None:
        if moduleName == self.moduleName:
            self.cleanup()
            slicer.app.moduleManager().disconnect(
                "moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded
            )


class ScriptedLoadableModuleLogic:
    def __init__(self, parent: Any = None) -> None:
        super().__init__()
        self.parent = parent
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self) -> Any:
        if self.isSingletonParameterNode:
            node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
            if node:
                return node
        return next(iter(self.getAllParameterNodes()), None) or slicer.mrmlScene.AddNode(
            self.createParameterNode()
        )

    def getAllParameterNodes(self) -> list[Any]:
        nodes = slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")
        return [node for node in nodes if node.GetAttribute("ModuleName") == self.moduleName]

    def createParameterNode(self) -> Any:
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
        node.UnRegister(None)
        if self.isSingletonParameterNode:
            node.SetSingletonTag(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetModuleName(self.moduleName)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.messageDelay = 1000

    def delayDisplay(self, message: str, requestedDelay: int | None = None, msec: int | None = None) -> None:
        slicer.util.delayDisplay(message, 0)

    def runTest(self) -> None:
        pass


def scripted_loadable_module() -> types.ModuleType:
    """`slicer.ScriptedLoadableModule`, which modules import everything from."""
    module = types.ModuleType("slicer.ScriptedLoadableModule")
    for item in (
        ScriptedLoadableModule,
        ScriptedLoadableModuleWidget,
        ScriptedLoadableModuleLogic,
        ScriptedLoadableModuleTest,
        VTKObservationMixin,
    ):
        setattr(module, item.__name__, item)
    return module


class UntranslatableError(ValueError):
    """A text that no translator will ever be given."""


@functools.cache
def _marked(path: str) -> frozenset[str]:
    """The texts that a file writes out inside a call of `_`, which is where translators' tools find them."""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "_" and call.args]
    return frozenset(call.args[0].value for call in named if isinstance(call.args[0], ast.Constant))


def translation() -> types.ModuleType:
    """`slicer.i18n` in the language of the source; one that is not written out where marked fails."""
    module = types.ModuleType("slicer.i18n")
    files: dict[str, str] = {}

    def check(path: str, text: str) -> str:
        if text not in _marked(path):
            raise UntranslatableError(f"{text!r} is not written out in {Path(path).name}")
        return text

    def context(filename: str) -> str:
        path = Path(filename)
        package = path.with_name("__init__.py").is_file()
        name = f"{path.parent.name}.{path.stem}" if package else path.stem
        files[name] = filename
        return name

    module.getContext = context
    module.tr = lambda text: check(sys._getframe(1).f_code.co_filename, text)
    module.translate = lambda name, text, *_: check(files[name], text) if name in files else text
    return module


def sample_data() -> types.ModuleType:
    """`SampleData`: sources are registered, and loaded by their button in the module's panel (`press`).

    Only the button knows `customDownloader`: `downloadSample` and `downloadSamples` fetch the addresses of a
    source, so that one without addresses gives them nothing.
    """
    module = types.ModuleType("SampleData")
    sources: dict[str, Any] = {}
    lists = ("uris", "fileNames", "nodeNames", "loadFiles", "checksums")
    others = ("category", "sampleName", "thumbnailFileName", "loadFileType", "loadFileProperties")
    known = {*lists, *others, "customDownloader"}

    class SampleDataSource(types.SimpleNamespace):
        def __init__(self, **options: Any) -> None:
            super().__init__(**{key: None for key in known} | options)
            count = len(self.uris)  # a TypeError where there are none
            for name in lists:
                if getattr(self, name) is None:
                    setattr(self, name, [None] * count)
                if len(getattr(self, name)) != count:
                    raise ValueError("All fields of sample data source must have the same length")

    class SampleDataLogic:
        @staticmethod
        def registerCustomSampleDataSource(**options: Any) -> None:
            if unknown := set(options) - known:
                raise TypeError(f"registerCustomSampleDataSource has no argument {sorted(unknown)}")
            sources[options["sampleName"]] = SampleDataSource(**options)

        @staticmethod
        def sampleDataSourcesByCategory(category: str | None = None) -> list[Any]:
            return [source for source in sources.values() if category in (None, source.category)]

        def downloadSamples(self, name: str) -> list[Any]:
            source = sources.get(name)
            if source is not None and source.uris:
                raise NotImplementedError("the stand-in has no network")
            return []

        def downloadSample(self, name: str) -> Any:
            return self.downloadSamples(name)[0]

    def press(name: str) -> None:
        button = QtWidgets.QToolButton()
        button.connect("clicked()", lambda: sources[name].customDownloader(sources[name]))
        button.click()

    module.SampleDataLogic, module.SampleDataSource = SampleDataLogic, SampleDataSource
    module.sources, module.press = sources, press
    return module


@dataclass
class PyTorch:
    """What `PyTorchUtils` finds and does: set by a test before the panel asks.

    `extension` False stands for a Slicer without the PyTorch extension (the import fails). `install` is
    called in place of a real installation, with the options that installTorch was given; its answer is handed
    back. Before and after, events are processed, as the real one does with every line that pip writes.
    """

    extension: bool = True
    installed: bool = True
    install: Callable[..., Any] | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)

    def module(self) -> types.ModuleType | None:
        """The module to import, or None (which makes Python's import fail) without the extension."""
        if not self.extension:
            return None
        state = self
        module = types.ModuleType("PyTorchUtils")

        class PyTorchUtilsLogic:
            def torchInstalled(self) -> bool:
                return state.installed

            @property
            def torch(self) -> Any:
                import torch

                return torch

            def installTorch(
                self,
                askConfirmation: bool = False,
                forceComputationBackend: str | None = None,
                torchVersionRequirement: str | None = None,
                torchvisionVersionRequirement: str | None = None,
            ) -> Any:
                state.requests.append(
                    {
                        "askConfirmation": askConfirmation,
                        "forceComputationBackend": forceComputationBackend,
                        "torchVersionRequirement": torchVersionRequirement,
                        "torchvisionVersionRequirement": torchvisionVersionRequirement,
                    }
                )
                slicer.app.processEvents()
                torch = state.install(**state.requests[-1]) if state.install else None
                slicer.app.processEvents()
                return torch

        module.PyTorchUtilsLogic = PyTorchUtilsLogic
        return module

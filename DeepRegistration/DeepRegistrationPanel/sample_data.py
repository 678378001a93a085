"""The embedded example in Slicer's Sample Data module; nothing heavy is imported before somebody asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import qt
import slicer
from DeepRegistrationLib.errors import RegistrationError
from slicer.i18n import tr as _

CATEGORY = "DeepRegistration"
SAMPLE = "DeepRegistrationHeads"

_TOLD_MS = 5000
"""How long the status bar says how it went."""

_working = False


def register_sample_data(icons: Path) -> bool:
    """Add the example to the Sample Data module, once. To be called when the application has started.

    Args:
        icons: folder with the thumbnail, `SAMPLE`.png.

    Returns:
        Whether there is a Sample Data module.
    """
    try:
        import SampleData
    except ImportError:
        return False
    known = SampleData.SampleDataLogic.sampleDataSourcesByCategory(CATEGORY)
    if not any(source.sampleName == SAMPLE for source in known):
        # lists that are empty but of one length: nothing is downloaded
        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            category=CATEGORY,
            sampleName=SAMPLE,
            uris=[],
            fileNames=[],
            thumbnailFileName=str(icons / f"{SAMPLE}.png"),
            customDownloader=load_sample,
        )
    return True


def load_sample(source: Any = None) -> list[Any]:
    """What the button does: make the example, show it, and say what is going on meanwhile.

    Returns:
        The nodes; none where it could not be made (a message says why) or is being made already.
    """
    global _working
    if _working:  # the application processes its events meanwhile
        return []
    from DeepRegistrationScene.sample_data import sample_pair

    _working, failure, nodes = True, "", {}
    slicer.util.showStatusMessage(_("Making the two heads; this takes some seconds..."))
    slicer.app.setOverrideCursor(qt.Qt.WaitCursor)
    try:
        nodes = sample_pair(alive=_keep_drawing)
        show_volume(nodes["fixed"])
    except RegistrationError as error:
        failure = str(error)
    finally:
        _working = False
        slicer.app.restoreOverrideCursor()
        done = _("The two heads are in the scene.") if nodes else _("The two heads could not be made.")
        slicer.util.showStatusMessage(done, _TOLD_MS)
    if failure:
        slicer.util.errorDisplay(failure)
    return list(nodes.values())


def show_volume(volume: Any) -> None:
    """Show a volume in the slice views and make it the active one, as Slicer does with what it loads."""
    logic = slicer.app.applicationLogic()
    logic.GetSelectionNode().SetActiveVolumeID(volume.GetID())
    logic.PropagateVolumeSelection(1)  # 1: fit the views to it


def _keep_drawing() -> None:
    slicer.app.processEvents(qt.QEventLoop.ExcludeUserInputEvents)

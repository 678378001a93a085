"""Registration on nodes: from the console, from a script, and under the panel.

logic = SceneLogic()
nodes = logic.register(fixed, moving)          # waits; fixed and moving are volume nodes
moving.SetAndObserveTransformNodeID(nodes.forward.GetID())
nodes = logic.refine(nodes)                    # after landmarks were added or moved
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

import slicer
import vtk
from DeepRegistrationLib.errors import InputError, OutputError, RegistrationError
from DeepRegistrationLib.frame import Frame
from DeepRegistrationLib.worker.client import Progress, WorkerClient

from .apply_others import Carried, apply_to_others
from .choices import (
    Choices,
    Output,
    Outputs,
    Sides,
    check,
    choices_from,
    cold_refinement,
    filled_again,
    forward_of,
    with_prompts,
)
from .geometry import Node
from .jacobian_volume import jacobian_volume
from .many_logic import ManyLogic
from .parameters import Parameters, parameters_of
from .requests import Request, build_refinement, build_request, frame_from
from .results import (
    InVtk,
    RegistrationNodes,
    place,
    prepare,
    quality_from,
    settle_transforms,
    stored_quality,
)
from .runs import Callbacks, Landing, Run, Runner, Work
from .stamps import Stamp, choices_stamps, map_stamp
from .standing import Standing

_PAUSE = 0.01
"""Seconds between looks at the worker while a call waits."""


class SceneLogic(ManyLogic):
    """Registers, refines and applies; one run at a time, in a worker process that stays for the next one.

    With ``wait=True`` a call returns the result or raises. With ``wait=False`` it returns a `Run` at once;
    somebody then has to call `poll` every 20 to 50 ms, which puts the result into the scene and calls back.

    Args:
        client: the worker's client; one of its own by default.
    """

    def __init__(self, client: WorkerClient | None = None) -> None:
        super().__init__()
        self.runner = Runner(client or WorkerClient())
        self._standing: Standing | None = None
        self._observed: tuple[weakref.ref[Node], list[int]] | None = None
        self._observe()

    # Runs

    def register(
        self,
        fixed: Node,
        moving: Node,
        *,
        method: str = "dio",
        representation: str = "diffeomorphic",
        preset: str = "balanced",
        similarity: str = "auto",
        linear: str = "affine",
        landmarks: Sides | None = None,
        heldOut: Sequence[str] = (),
        segmentations: Sides | None = None,
        segments: Sides = (None, None),
        masks: Sides = (None, None),
        maskSegments: Sides = (None, None),
        initial: Node | None = None,
        forward: Output = True,
        inverse: Output = True,
        warped: Output = True,
        jacobian: Output = False,
        table: Output = True,
        features: bool = False,
        weights: str | None = None,
        device: str = "auto",
        threads: int | None = None,
        seed: int = 0,
        outputSpacing: float | None = None,
        name: str | None = None,
        wait: bool = True,
        progress: Callable[[Progress], object] | None = None,
        finished: Callable[[RegistrationNodes], object] | None = None,
        failed: Callable[[RegistrationError], object] | None = None,
        log: Callable[[str], object] | None = None,
    ) -> RegistrationNodes | Run:
        """Align a moving volume with a fixed one and put the result into the scene.

        Neither volume is changed. An image under a linear transform is registered where it is seen: harden
        that transform first, or put it under the result together with the image.

        Args:
            fixed, moving: volume nodes.
            method, representation, preset, similarity, linear, device, seed: names and numbers as
                `DeepRegistrationLib.register` has them.
            landmarks: a point list on the fixed and one on the moving image; matched by the labels both
                share, or by order where they share none.
            heldOut: names of landmark pairs that only measure.
            segmentations: two segmentations, whose segments are matched by name, or two label maps.
            segments: identifiers of the segments that count, for each segmentation; None: all.
            masks: segmentations or label maps where the images count; either may be None.
            maskSegments: identifiers of the segments that make up each mask; None: all.
            initial: transform node to start from, which moves the moving image towards the fixed one.
            forward, inverse, warped, jacobian, table: True to make a node, a node to fill, False for none.
            features: also make pictures of what the method compares (see `feature_pictures`).
            weights: file of trained weights; None: the ones that are shipped, if any.
            threads: processor threads; None: all but one.
            outputSpacing: of the transforms' grids, mm; None: the images' own.
            name: what new nodes' names begin with; the moving volume's name by default.
            wait: return when it is done; otherwise at once.
            progress, finished, failed, log: see `Callbacks`.

        Raises:
            InputError: nodes or options that cannot be used, or a run is going on already.
            NotAvailableError, ResourceError, OutputError, Cancelled: with a sentence for the user. On any
                failure the scene stays as it was.
        """
        choices = Choices(
            fixed,
            moving,
            {
                "method": method,
                "representation": representation,
                "preset": preset,
                "similarity": similarity,
                "linear": linear,
                "device": device,
                "threads": threads,
                "seed": seed,
                "weights": weights,
                "output_spacing": outputSpacing,
            },
            landmarks,
            tuple(heldOut),
            segmentations,
            segments,
            masks or (None, None),
            maskSegments,
            initial=initial,
            outputs=Outputs(forward, inverse, warped, jacobian, table, features, features),
            name=name,
        )
        run = self._register(choices, None, Callbacks(progress, finished, failed, log))
        return self._waited(run) if wait else run

    def registerFromParameters(
        self,
        parameters: Parameters | Node | None = None,
        wait: bool = True,
        progress: Callable[[Progress], object] | None = None,
        finished: Callable[[RegistrationNodes], object] | None = None,
        failed: Callable[[RegistrationError], object] | None = None,
        log: Callable[[str], object] | None = None,
    ) -> RegistrationNodes | Run:
        """Register as a parameter node says, and note the results in it.

        Args:
            parameters: the scene's own by default.
            wait, progress, finished, failed, log: as in `register`.

        Raises:
            As `register`.
        """
        parameters = parameters_of(parameters)
        choices = choices_from(parameters)
        run = self._register(choices, parameters, Callbacks(progress, finished, failed, log))
        return self._waited(run) if wait else run

    def refine(
        self,
        nodes: RegistrationNodes | Parameters | Node | None = None,
        wait: bool = True,
        progress: Callable[[Progress], object] | None = None,
        finished: Callable[[RegistrationNodes], object] | None = None,
        failed: Callable[[RegistrationError], object] | None = None,
        log: Callable[[str], object] | None = None,
        **prompts: Any,
    ) -> RegistrationNodes | Run:
        """Update the same nodes from where they stand, with the prompts as they are now.

        Where the worker still has the pair, images are not sent again and this takes seconds. Otherwise
        (after loading a scene, a worker that died, a forward transform or an image that was changed) it is a
        registration that starts from the forward transform.

        Args:
            nodes: what `register` returned, or a parameter node; by default the last result of this logic,
                or else the scene's parameter node.
            wait, progress, finished, failed, log: as in `register`.
            **prompts: landmarks, heldOut, segmentations, segments, masks or
                maskSegments instead of the ones before.

        Raises:
            As `register`; InputError also when there is no registration to refine.
        """
        if nodes is None and self._standing is not None:
            nodes = self._standing.nodes
        parameters = None if isinstance(nodes, RegistrationNodes) else parameters_of(nodes)
        choices = (
            filled_again(nodes.choices, nodes.nodes()) if parameters is None else choices_from(parameters)
        )
        choices = with_prompts(choices, prompts)
        run = self._refine(choices, parameters, Callbacks(progress, finished, failed, log))
        return self._waited(run) if wait else run

    def problem(self, parameters: Parameters | Node | None = None) -> str | None:
        """Why a parameter node cannot be registered, in a sentence; None when it can."""
        return self._problem(lambda: check(choices_from(parameters_of(parameters))))

    def refineProblem(self, parameters: Parameters | Node | None = None) -> str | None:
        """Why a parameter node's registration cannot be refined, in a sentence; None when it can."""

        def look() -> None:
            choices = choices_from(parameters_of(parameters))
            check(choices)
            if self._warm(choices) is None:
                forward_of(choices)

        return self._problem(look)

    def environment(
        self,
        wait: bool = True,
        finished: Callable[[dict[str, Any]], object] | None = None,
        failed: Callable[[RegistrationError], object] | None = None,
        log: Callable[[str], object] | None = None,
    ) -> dict[str, Any] | Run:
        """Ask the worker what it runs on: torch, device, memory (see `worker.tasks`)."""
        run = self.runner.start(Run(_asked("environment"), Callbacks(None, finished, failed, log)))
        return self._waited(run) if wait else run

    def methods(
        self,
        wait: bool = True,
        finished: Callable[[dict[str, Any]], object] | None = None,
        failed: Callable[[RegistrationError], object] | None = None,
    ) -> dict[str, Any] | Run:
        """Ask the worker for the methods and their trained weights (see `worker.tasks`)."""
        run = self.runner.start(Run(_asked("methods"), Callbacks(None, finished, failed)))
        return self._waited(run) if wait else run

    # A run in progress

    def isRunning(self) -> bool:
        """Whether something is being done."""
        return self.runner.run is not None

    def cancel(self) -> None:
        """Stop what is being done; within a second `poll` tells that it has stopped."""
        self.runner.cancel()

    def poll(self) -> None:
        """Take what the worker has said since the last call into the scene, and call back. Never waits."""
        self.runner.poll()

    def close(self) -> None:
        """End the worker, and the run if there is one; the logic can be used again."""
        self.runner.stop()
        self._standing = None
        self._unobserve()

    # After a run

    def applyToOthers(
        self,
        registration: RegistrationNodes,
        nodes: Sequence[Node],
        inverse: bool = False,
        harden: bool = True,
    ) -> list[Carried]:
        """Carry volumes, label maps, segmentations, markups, models of the moving image onto the fixed one.

        Args:
            registration: what `register` returned.
            nodes: what to carry.
            inverse: carry from the fixed to the moving image instead.
            harden: make copies; otherwise put the nodes under the transform.

        Raises:
            InputError: as `apply_others.apply_to_others`.
        """
        maps, reference = (registration.forward, registration.inverse), registration.choices.fixed
        if inverse:
            maps, reference = maps[::-1], registration.choices.moving
        return apply_to_others(*maps, nodes, reference, harden=harden)

    def jacobianVolume(
        self, transform: Node, reference: Node | None = None, node: Node | None = None
    ) -> Node:
        """A volume of a transform node's Jacobian determinants; see `jacobian_volume.jacobian_volume`."""
        return jacobian_volume(transform, reference, node)

    def quality(self, source: RegistrationNodes | Parameters | Node | None = None) -> dict[str, Any] | None:
        """The numbers of a registration.

        Args:
            source: its nodes, one of them (the table, or else the forward transform), or a parameter node;
                the scene's parameter node by default.
        """
        if isinstance(source, RegistrationNodes):
            return source.quality
        if source is None or isinstance(source, Parameters) or source.IsA("vtkMRMLScriptedModuleNode"):
            return quality_from(parameters_of(source))
        return stored_quality(source)

    def sampleData(self) -> dict[str, Node]:
        """Make the two heads of the Sample Data module's button, which takes some seconds.

        Returns:
            Nodes by name: ``fixed`` and ``moving`` volumes, ``fixed_landmarks`` and ``moving_landmarks``
            point lists, ``fixed_labels`` and ``moving_labels`` segmentations.

        Raises:
            NotAvailableError: they could not be made.
        """
        from .sample_data import sample_pair  # brings SimpleITK, which nothing else here needs

        return sample_pair()

    # How it is done

    def _register(
        self, choices: Choices, parameters: Parameters | None, callbacks: Callbacks, stands: bool = True
    ) -> Run:
        """Begin a registration; `stands`: whether it is what `refine` goes on from by default."""
        self.runner.refuse_second()
        self._observe()
        work = self._registration(build_request(choices), parameters, stands)
        return self.runner.start(Run(work, callbacks))

    def _refine(self, choices: Choices, parameters: Parameters | None, callbacks: Callbacks) -> Run:
        self.runner.refuse_second()
        self._observe()

        def cold() -> Work:
            self._standing = None
            request = build_request(cold_refinement(choices, forward_of(choices)))
            return self._registration(replace(request, choices=choices), parameters)

        standing = self._warm(choices)
        if standing is None:
            return self.runner.start(Run(cold(), callbacks))
        stamps = choices_stamps(choices)
        changed = [kind for kind in ("labels", "masks") if stamps[kind] != standing.stamps[kind]]
        request = build_refinement(choices, standing.session, standing.frames, changed)
        land = self._landing(request, parameters, standing.frames, stamps, warm=True)
        work = Work("refine", land, request.parameters, request.arrays, InVtk())
        return self.runner.start(Run(work, callbacks, otherwise=cold))

    def _registration(self, request: Request, parameters: Parameters | None, stands: bool = True) -> Work:
        described = request.parameters["frames"]
        frames = {side: frame_from(described[side]) for side in ("fixed", "moving")}
        stamps = choices_stamps(request.choices)
        land = self._landing(request, parameters, frames, stamps, warm=False, stands=stands)
        return Work("register", land, request.parameters, request.arrays, InVtk())

    def _landing(
        self,
        request: Request,
        parameters: Parameters | None,
        frames: dict[str, Frame],
        stamps: dict[str, Stamp],
        warm: bool,
        stands: bool = True,
    ) -> Landing:
        """What puts the worker's answer into the scene."""
        choices = request.choices

        def land(result: dict[str, Any], arrays: dict[str, Any]) -> Generator[None, None, RegistrationNodes]:
            prepared = yield from prepare(request, result, arrays)
            scene = slicer.mrmlScene
            for image, side in ((choices.fixed, "fixed"), (choices.moving, "moving")):
                if not scene.IsNodePresent(image):
                    raise OutputError(
                        f"The {side} volume was removed while the registration ran; its result was dropped."
                    )
            listed = parameters if parameters is not None and scene.IsNodePresent(parameters.node) else None
            nodes = place(prepared, listed, scene, warm)
            if stands:
                self._standing = Standing(result["session"], nodes, frames, stamps, map_stamp(nodes.forward))
            return nodes

        return land

    def _warm(self, choices: Choices) -> Standing | None:
        """What the worker has of this very registration, unless anything has been changed since."""
        standing = self._standing
        return standing if standing is not None and standing.serves(choices) else None

    def _problem(self, look: Callable[[], None]) -> str | None:
        try:
            self.runner.refuse_second()
            look()
        except InputError as error:
            return str(error)
        return None

    def _waited(self, run: Run) -> Any:
        """The result of a run, once it is there."""
        application = getattr(slicer, "app", None)
        try:
            while not run.done:
                self.poll()
                if application is not None:
                    application.processEvents()
                time.sleep(_PAUSE)
        except BaseException:
            if not run.done:
                self.runner.stop()
            raise
        if run.error is not None:
            raise run.error
        return run.result

    # The scene

    def _observe(self) -> None:
        """Hear of the scene being closed or read, and of nodes that go; or else of the scene there is now."""
        scene = getattr(slicer, "mrmlScene", None)
        if scene is None or (self._observed is not None and self._observed[0]() is scene):
            return
        self._unobserve()
        tags = [
            scene.AddObserver(scene.StartCloseEvent, _scene_closes),
            scene.AddObserver(scene.EndImportEvent, _scene_was_read),
            scene.AddObserver(scene.NodeRemovedEvent, _node_was_removed),
        ]
        self._observed = weakref.ref(scene), tags
        _LOGICS.add(self)

    def _unobserve(self) -> None:
        if self._observed is not None:
            scene, tags = self._observed[0](), self._observed[1]
            for tag in tags if scene is not None else ():
                scene.RemoveObserver(tag)
        self._observed = None


# Observers are functions of the module, which know the logics weakly: a logic must not be kept alive by the
# scene, and a method or closure could be called by a scene that Python's garbage collector takes with it.
_LOGICS: weakref.WeakSet[SceneLogic] = weakref.WeakSet()


def _scene_closes(scene: Node, event: str) -> None:
    for logic in list(_LOGICS):
        if logic._observed is not None and logic._observed[0]() is scene:
            logic._standing = None
            logic.runner.drop("The scene was closed, so the registration was stopped.")


@vtk.calldata_type(vtk.VTK_OBJECT)
def _node_was_removed(scene: Node, event: str, node: Node) -> None:
    for logic in list(_LOGICS):
        if logic._standing is not None and logic._observed is not None and logic._observed[0]() is scene:
            logic._standing = logic._standing.without(node)


def _scene_was_read(scene: Node, event: str) -> None:
    settle_transforms(scene)


def _asked(task: str) -> Work:
    def land(result: dict[str, Any], arrays: dict[str, Any]) -> Generator[None, None, dict[str, Any]]:
        yield from ()
        return result

    return Work(task, land)

"""Explores the latent space of a trained head in the browser: `python -m launch.view [--workdir W] [--port 8080]`.

Sliders move along the principal directions of the training codes. Identities and expressions can be selected,
interpolated and transferred; anchors and their regions can be shown, and the mesh can be saved. Needs the extra
`viewer` (viser).
"""

import dataclasses
import threading

import numpy as np
from absl import flags

from jaxface import config_file, meshes

from . import app

WORKDIR = flags.DEFINE_string("workdir", None, "workdir of a trained nphm model (default: the pretrained one)")
PORT = flags.DEFINE_integer(
    "port", 8080, "port on this machine at which the page is served", lower_bound=1, upper_bound=65535
)
RESOLUTION = flags.DEFINE_integer("resolution", 96, "grid points along each side of the head", 8, 1024)

# Number of principal directions with a slider, and the sliders' range in standard deviations.
SLIDERS, SLIDER_RANGE = 6, 3.0
MEAN, NEUTRAL = "mean", "neutral"
HOST = "127.0.0.1"
# Point size in model units.
ANCHOR_COLOR, ANCHOR_SIZE = (200, 40, 40), 0.012


class Page:
    """The page of an `explore.Explorer` on a viser server."""

    def __init__(self, server, explorer, resolution: int):
        self._server, self._explorer, self._resolution = server, explorer, resolution
        self._changed, self._sample, self.shown = threading.Event(), -1, None
        server.scene.set_up_direction("+y")
        server.initial_camera.position, server.initial_camera.look_at = (0.0, 0.0, 1.6), (0.0, 0.0, 0.0)
        self._add_identity_controls()
        self._add_expression_controls()
        self._add_display_controls()
        self._changed.set()

    def serve(self) -> None:
        """Updates the mesh until the process ends. Only the newest state is shown, as extraction takes seconds."""
        while self._changed.wait():
            self.refresh()

    def refresh(self) -> None:
        """Shows the current state of the controls."""
        self._changed.clear()
        view = self.view_state()
        self.shown = self._explorer.mesh(view)
        # Without a unit: the page shows model units, in which the anchors are given too.
        self._server.scene.add_glb("/head", meshes.encode(self.shown, ".glb"))
        anchors = self._explorer.anchors(view)
        self._server.scene.add_point_cloud(
            "/anchors",
            anchors if len(anchors) else np.zeros((1, 3), np.float32),
            ANCHOR_COLOR,
            point_size=ANCHOR_SIZE,
            visible=bool(self.anchors.value and len(anchors)),
        )

    def view_state(self):
        """The `explore.ViewState` of the controls."""
        from jaxface.systems.nphm.surface.explore import ViewState

        return ViewState(
            person=_row(self.person.value, MEAN),
            other=_row(self.other.value, MEAN),
            between=self.between.value,
            sample=self._sample,
            identity=tuple(slider.value for slider in self.identity),
            scan=_row(self.scan.value, NEUTRAL) if self.scan else -1,
            expression=tuple(slider.value for slider in self.expression),
            regions=self.regions.value,
            resolution=self._resolution,
        )

    def _add_identity_controls(self) -> None:
        gui, people = self._server.gui, self._explorer.people
        names = [MEAN, *map(str, range(len(people.codes)))]
        with gui.add_folder("Identity"):
            self.person = self._watch(gui.add_dropdown("person", names, initial_value=MEAN))
            self.other = self._watch(gui.add_dropdown("interpolate to", names, initial_value=MEAN))
            self.between = self._watch(gui.add_slider("interpolation", 0.0, 1.0, 0.05, 0.0))
            self.identity = self._add_sliders(min(SLIDERS, len(people.directions)))
            random, reset = gui.add_button("random person"), gui.add_button("reset")
        random.on_click(lambda _: self.set_sample(self._sample + 1))
        reset.on_click(lambda _: self.set_sample(-1))
        self.person.on_update(lambda _: self.set_sample(-1))

    def set_sample(self, sample: int) -> None:
        """Shows the random person of a seed, with -1 the selected person, and resets the identity sliders."""
        self._sample = sample
        for slider in self.identity:
            slider.value = 0.0
        self._changed.set()

    def _add_expression_controls(self) -> None:
        self.scan, self.expression, scans = None, [], self._explorer.scans
        if scans is None:
            return
        gui = self._server.gui
        with gui.add_folder("Expression"):
            names = [NEUTRAL, *map(str, range(len(scans.codes)))]
            self.scan = self._watch(gui.add_dropdown("expression of scan", names, initial_value=NEUTRAL))
            self.expression = self._add_sliders(min(SLIDERS, len(scans.directions)))

    def _add_display_controls(self) -> None:
        gui = self._server.gui
        with gui.add_folder("Display"):
            self.anchors = self._watch(gui.add_checkbox("anchors", False))
            self.regions = self._watch(gui.add_checkbox("regions", False))
            for ending in meshes.ENCODED:
                gui.add_button(f"save {ending[1:]}").on_click(lambda event, ending=ending: self.save(event, ending))

    def save(self, event, ending: str) -> None:
        """Sends the displayed mesh to the browser that requested it."""
        if self.shown is not None:
            event.client.send_file_download(f"head{ending}", meshes.encode(in_mm(self.shown), ending, "mm"))

    def _add_sliders(self, count: int) -> list:
        sliders = []
        for number in range(1, count + 1):
            slider = self._server.gui.add_slider(f"direction {number}", -SLIDER_RANGE, SLIDER_RANGE, 0.1, 0.0)
            sliders.append(self._watch(slider))
        return sliders

    def _watch(self, control):
        control.on_update(lambda _: self._changed.set())
        return control


def in_mm(mesh: meshes.Mesh) -> meshes.Mesh:
    """A mesh in model units, in millimetres."""
    return dataclasses.replace(mesh, vertices=meshes.MM_PER["nphm"] * mesh.vertices)


def _row(name: str, none: str) -> int:
    """The row of a code selected in a dropdown, -1 for the entry `none`."""
    return -1 if name == none else int(name)


def main(argv: list[str]) -> None:
    """Serves the page of the model until the process ends."""
    del argv
    import viser

    from jaxface.inference import Predictor
    from jaxface.systems.nphm.surface import explore, head_model

    if WORKDIR.value:
        config_file.check_system(WORKDIR.value, "nphm")
    predictor = Predictor.from_workdir(WORKDIR.value) if WORKDIR.value else Predictor.pretrained("nphm")
    explorer = explore.Explorer(head_model.load(predictor.config, predictor.params))
    # This machine only: viser listens on all network interfaces by default.
    Page(viser.ViserServer(host=HOST, port=PORT.value), explorer, RESOLUTION.value).serve()


if __name__ == "__main__":
    app.run(main)

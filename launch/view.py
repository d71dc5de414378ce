"""Looks at a trained head in the browser: `python -m launch.view [--workdir W] [--port 8080]`.

Sliders move along the leading directions of the training codes; people and expressions are picked, mixed and borrowed;
anchors and the regions around them are shown; what is seen can be saved. Needs the extra `viewer` (viser).
"""

import threading

import numpy as np
from absl import flags

from jaxface import meshes
from jaxface.errors import UserError

from . import app

WORKDIR = flags.DEFINE_string("workdir", None, "workdir of a trained nphm model; default: the one that ships")
PORT = flags.DEFINE_integer("port", 8080, "where the page is served on this machine")
RESOLUTION = flags.DEFINE_integer("resolution", 96, "grid points along each side of the head")

SLIDERS = 6
MEAN, REST = "mean", "at rest"
ANCHOR_SIZE = 0.012


class Page:
    """The page of one explorer on a viser server: what its controls ask for, and the mesh that answers."""

    def __init__(self, server, explorer, resolution: int):
        self._server, self._explorer, self._resolution = server, explorer, resolution
        self._changed, self._sample, self.shown = threading.Event(), -1, None
        server.scene.set_up_direction("+y")
        server.initial_camera.position, server.initial_camera.look_at = (0.0, 0.0, 1.6), (0.0, 0.0, 0.0)
        self._person_controls()
        self._expression_controls()
        self._looks()
        self._changed.set()

    def serve(self) -> None:
        """Answers changes until the program is stopped: the newest only, as an extraction takes seconds."""
        while self._changed.wait():
            self.refresh()

    def refresh(self) -> None:
        """Shows what the controls ask for now."""
        self._changed.clear()
        wish = self.wish()
        self.shown = self._explorer.show(wish)
        self._server.scene.add_glb("/head", meshes.encode(self.shown, ".glb"))
        anchors = self._explorer.anchors(wish)
        self._server.scene.add_point_cloud(
            "/anchors",
            anchors if len(anchors) else np.zeros((1, 3), np.float32),
            (200, 40, 40),
            point_size=ANCHOR_SIZE,
            visible=bool(self.anchors.value and len(anchors)),
        )

    def wish(self):
        """The `explore.Wish` of the controls."""
        from jaxface.systems.nphm.surface.explore import Wish

        return Wish(
            person=_row(self.person.value, MEAN),
            other=_row(self.other.value, MEAN),
            between=self.between.value,
            sample=self._sample,
            identity=tuple(slider.value for slider in self.identity),
            scan=_row(self.scan.value, REST) if self.scan else -1,
            expression=tuple(slider.value for slider in self.expression),
            regions=self.regions.value,
            resolution=self._resolution,
        )

    def _person_controls(self) -> None:
        gui, people = self._server.gui, self._explorer.people
        names = [MEAN, *map(str, range(len(people.table)))]
        with gui.add_folder("Person"):
            self.person = self._watched(gui.add_dropdown("person", names, initial_value=MEAN))
            self.other = self._watched(gui.add_dropdown("towards", names, initial_value=MEAN))
            self.between = self._watched(gui.add_slider("between", 0.0, 1.0, 0.05, 0.0))
            self.identity = self._sliders(min(SLIDERS, len(people.directions)))
            self.random, self.reset = gui.add_button("random person"), gui.add_button("back")
        self.random.on_click(lambda _: self.draw(self._sample + 1))
        self.reset.on_click(lambda _: self.draw(-1))
        self.person.on_update(lambda _: self.draw(-1))

    def draw(self, sample: int) -> None:
        """Shows the random person of a seed; with -1 the person that is picked, the sliders back in the middle."""
        self._sample = sample
        for slider in self.identity:
            slider.value = 0.0
        self._changed.set()

    def _expression_controls(self) -> None:
        self.scan, self.expression, scans = None, [], self._explorer.scans
        if scans is None:
            return
        gui = self._server.gui
        with gui.add_folder("Expression"):
            names = [REST, *map(str, range(len(scans.table)))]
            self.scan = self._watched(gui.add_dropdown("expression of scan", names, initial_value=REST))
            self.expression = self._sliders(min(SLIDERS, len(scans.directions)))

    def _looks(self) -> None:
        gui = self._server.gui
        with gui.add_folder("Look"):
            self.anchors = self._watched(gui.add_checkbox("anchors", False))
            self.regions = self._watched(gui.add_checkbox("regions", False))
            for ending in meshes.ENCODED:
                gui.add_button(f"save {ending[1:]}").on_click(lambda event, ending=ending: self.save(event, ending))

    def save(self, event, ending: str) -> None:
        """Sends the mesh that is shown to the browser that asked."""
        if self.shown is not None:
            event.client.send_file_download(f"head{ending}", meshes.encode(self.shown, ending))

    def _sliders(self, count: int) -> list:
        gui = self._server.gui
        return [self._watched(gui.add_slider(f"direction {i + 1}", -3.0, 3.0, 0.1, 0.0)) for i in range(count)]

    def _watched(self, control):
        control.on_update(lambda _: self._changed.set())
        return control


def _row(name: str, none: str) -> int:
    return -1 if name == none else int(name)


def main(_: list[str]) -> None:
    try:
        import viser
    except ImportError as error:
        raise UserError("the page needs viser: pip install 'jaxface[viewer]'") from error
    from jaxface.inference import Predictor
    from jaxface.systems.nphm.surface import explore

    predictor = Predictor.from_workdir(WORKDIR.value) if WORKDIR.value else Predictor.pretrained("nphm")
    if predictor.config.system != "nphm":
        raise UserError(f"launch.view shows heads of nphm; {WORKDIR.value} holds a model of {predictor.config.system}")
    explorer = explore.load(predictor.config, predictor.params)
    Page(viser.ViserServer(port=PORT.value), explorer, RESOLUTION.value).serve()


if __name__ == "__main__":
    app.run(main)

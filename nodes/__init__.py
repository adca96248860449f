"""What a user sees: the one list of nodes."""

from __future__ import annotations

from ..host.api import ComfyExtension, io
from ..host.folders import register_model_folders
from .demo_photo import DemoPhoto
from .demo_scene import DemoScene
from .load_demo_models import LoadDemoModels
from .read_demo_scene import ReadDemoScene
from .untargeted_attack import UntargetedAttack


class Provoke(ComfyExtension):
    """The pack, as the host loads it."""

    async def on_load(self) -> None:
        register_model_folders()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            UntargetedAttack,
            DemoPhoto,
            DemoScene,
            ReadDemoScene,
            LoadDemoModels,
        ]

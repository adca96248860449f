"""What a user sees: the one list of nodes."""

from __future__ import annotations

from ..host.api import ComfyExtension, io
from ..host.folders import register_model_folders
from ..host.live import page_server, register_curves_route
from ..host.recipe import register_recipes
from ..host.stop import register_stop_route
from .adversarial_token import AdversarialToken
from .best_of_seeds import BestOfSeeds
from .clip_targeted_attack import ClipTargetedAttack
from .clip_targeted_attack_sampler import ClipTargetedAttackSampler, ClipTargetedAttackSamplerCustom
from .compare_pictures import ComparePictures
from .conditioning_files import LoadConditioning, SaveConditioning
from .demo_photo import DemoPhoto
from .demo_scene import DemoScene
from .embedding_files import SaveEmbedding
from .failure_report import FailureReport
from .latent_search import LatentSearch, LatentSearchCustom
from .load_demo_models import LoadDemoModels
from .load_judges import LoadClassifier, LoadScorer, ScorerFromClip, ZeroShotClassifier
from .load_language import LoadLanguage
from .load_vlm import LoadVlm
from .noise_files import LatentFromNoise, NoiseFromLatent
from .objectives import ClassObjective, ClipObjective, CombineObjectives, DirectionObjective, DistanceObjective
from .prompt_search import PromptSearch
from .read_demo_scene import ReadDemoScene
from .robust_objective import RobustClassObjective
from .score_images import PickBest, ScoreImages
from .untargeted_attack import UntargetedAttack
from .untargeted_attack_sampler import UntargetedAttackSampler, UntargetedAttackSamplerCustom
from .vlm_inversion import VlmInversion, VlmInversionSampler
from .vlm_objective import VlmObjective


class Provoke(ComfyExtension):
    """The pack, as the host loads it."""

    async def on_load(self) -> None:
        register_model_folders()
        register_stop_route()
        register_curves_route()
        register_recipes(page_server())

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            UntargetedAttack,
            ClipTargetedAttack,
            UntargetedAttackSampler,
            UntargetedAttackSamplerCustom,
            ClipTargetedAttackSampler,
            ClipTargetedAttackSamplerCustom,
            LatentSearch,
            LatentSearchCustom,
            VlmInversionSampler,
            VlmInversion,
            AdversarialToken,
            SaveEmbedding,
            PromptSearch,
            BestOfSeeds,
            NoiseFromLatent,
            LatentFromNoise,
            SaveConditioning,
            LoadConditioning,
            DistanceObjective,
            ClipObjective,
            DirectionObjective,
            ClassObjective,
            RobustClassObjective,
            VlmObjective,
            CombineObjectives,
            LoadScorer,
            ScorerFromClip,
            LoadClassifier,
            ZeroShotClassifier,
            LoadVlm,
            LoadLanguage,
            ScoreImages,
            PickBest,
            ComparePictures,
            FailureReport,
            LoadDemoModels,
            DemoPhoto,
            DemoScene,
            ReadDemoScene,
        ]

"""VLM inversion's own parts: copies, hard examples, the balance with a given pull, the average and its restarts."""

from __future__ import annotations

import itertools
import math
import weakref

import pytest
import torch
from torch import Tensor

from provoke.core import augment, inversion
from provoke.core.budgets import per_item
from provoke.core.distillation import WEIGHTS, Distillation, drawn_ratio, share_to_ratio
from provoke.core.errors import ProvokeError
from provoke.core.inversion import Anywhere, Ascent, Averaged, HardExamples, Pulled, warmed
from provoke.core.problem import Differentiable, Evaluation, ImageProblem
from provoke.core.search import search

from .test_problem import finite_difference_error, network, picture


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def objective(image: Tensor) -> Tensor:
    return -(image - 0.3).square().flatten(1).mean(1) + 0.1 * image.sin().flatten(1).sum(1)


def generator() -> Differentiable:
    net = network()
    return Differentiable(lambda z: net(z).tanh() * 0.5 + 0.5)


# ------------------------------------------------------------------------------------------------------ the copies

AUGMENTATIONS = {
    "perspective": augment.perspective(0.2),
    "jitter": augment.colour_jitter(brightness=0.1, contrast=0.1, saturation=0.1),
    "erasing": augment.erasing(),
    "mirrored": augment.mirrored,
    "the published set": inversion.views(),
    "with flips": inversion.views(flips=True),
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_gradient_through_every_change(name: str) -> None:
    problem = ImageProblem(generator(), objective, augment=AUGMENTATIONS[name], copies=3)
    assert finite_difference_error(problem, picture(2)) < 1e-6


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_copy_is_drawn_once_for_the_batch_and_repeats(name: str) -> None:
    change, images = AUGMENTATIONS[name], picture(3)
    once = change(images, rng(4))
    assert once.shape == images.shape
    torch.testing.assert_close(once, change(images, rng(4)))
    torch.testing.assert_close(once[1:2], change(images[1:2], rng(4)))


def test_perspective_moves_corners_inwards_and_nothing_at_0() -> None:
    image = picture(1)
    torch.testing.assert_close(augment.perspective(0.0)(image, rng()), image)
    ramp = torch.linspace(-1, 1, 65, dtype=torch.float64).expand(1, 3, 65, 65)
    for seed in range(8):
        seen = augment.perspective(0.2)(ramp, rng(seed))
        assert float(seen.min()) >= -1
        assert bool((seen[..., 1:] >= seen[..., :-1] - 1e-9).all())  # straight lines keep their order
        assert float((seen - ramp).abs().max()) < 0.5


def test_published_views_are_not_mirrored() -> None:
    """A picture whose left half is bright stays so in every copy; with flips about half of the copies turn."""
    image = torch.zeros(1, 3, 32, 32)
    image[..., :16] = 1
    for flips, most in ((False, 0), (True, 20)):
        change = inversion.views(flips=flips, noise=0.0)
        draw = rng(1)
        copies = [change(image, draw) for _ in range(30)]
        turned = sum(bool(copy[..., :16].mean() < copy[..., 16:].mean()) for copy in copies)
        assert (turned == 0) if most == 0 else (5 <= turned <= 25)


def test_erased_share() -> None:
    image, draw = torch.zeros(1, 3, 64, 64), rng(2)
    shares = [float((augment.erasing()(image, draw) != 0).float().mean()) for _ in range(200)]
    assert min(shares) > 0.01
    assert max(shares) < 0.36


# ------------------------------------------------------------------------------------------------------ hard examples


def test_the_hardest_copies_alone_give_the_gradient() -> None:
    """Against all copies' gradients one by one, and the choice made per image."""
    x, copies, hardest = picture(3) * torch.tensor([1.0, -4.0, 9.0], dtype=torch.float64).view(3, 1, 1, 1), 5, 2
    change = inversion.views()
    problem = HardExamples(generator(), objective, augment=change, copies=copies, hardest=hardest)
    draw = rng(7)
    found = problem.evaluate(x, draw, gradient=True)
    after = draw.get_state()
    image, pullback = generator().vjp(x)
    draw, gradients, scores = rng(7), [], []
    for _ in range(copies):
        leaf = image.clone().requires_grad_(True)
        score = objective(change(leaf, draw))
        gradients.append(torch.autograd.grad(score.sum(), leaf)[0])
        scores.append(score.detach())
    assert torch.equal(draw.get_state(), after)  # what is drawn afterwards does not depend on the choice
    worst = torch.stack(scores).argsort(0)[:hardest]
    assert problem.looks == copies + len(worst.unique())
    wanted = torch.zeros_like(image)
    for place in worst:
        for item, copy in enumerate(place.tolist()):
            wanted[item] += gradients[copy][item] / hardest
    torch.testing.assert_close(found.gradient, pullback(wanted))
    torch.testing.assert_close(found.score, torch.stack(scores).float().mean(0), check_dtype=False)
    assert len({tuple(column) for column in worst.T.tolist()}) > 1  # or the choice per image was not seen


def test_all_copies_are_the_ordinary_problem() -> None:
    x = picture(2)
    for hardest in (0, 4, 9):
        mine = HardExamples(generator(), objective, augment=inversion.views(), copies=4, hardest=hardest)
        usual = ImageProblem(generator(), objective, augment=inversion.views(), copies=4)
        a, b = (one.evaluate(x, rng(3), gradient=True) for one in (mine, usual))
        torch.testing.assert_close(a.gradient, b.gradient)
        torch.testing.assert_close(a.score, b.score)


def kept_at_once(problem: ImageProblem) -> int:
    """Bytes that autograd holds at the same time in one evaluation with its gradient, counted."""
    alive, peak = [0], [0]

    def packed(tensor: Tensor) -> Tensor:
        size = tensor.numel() * tensor.element_size()
        alive[0] += size
        peak[0] = max(peak[0], alive[0])
        kept = tensor.detach().clone()
        weakref.finalize(kept, lambda: alive.__setitem__(0, alive[0] - size))
        return kept

    with torch.autograd.graph.saved_tensors_hooks(packed, lambda tensor: tensor):
        problem.evaluate(picture(1), rng(3), gradient=True)
    return peak[0]


@pytest.mark.parametrize("hardest", [0, 2])
def test_memory_does_not_grow_with_the_copies(hardest: int) -> None:
    judge = network()

    def judged(image: Tensor) -> Tensor:
        return judge(judge(image)).square().flatten(1).mean(1)

    def made(copies: int) -> HardExamples:
        return HardExamples(generator(), judged, augment=inversion.views(), copies=copies, hardest=hardest)

    def ten_at_once(image: Tensor) -> Tensor:
        draw, change = rng(4), inversion.views()
        return torch.stack([judged(change(image, draw)) for _ in range(10)]).mean(0)

    ten = kept_at_once(made(10))
    assert ten <= 1.1 * kept_at_once(made(3))  # (which changes are drawn differs a little)
    assert ten <= kept_at_once(ImageProblem(generator(), ten_at_once)) / 3


# ------------------------------------------------------------------------------------------------------ the pull


class Fixed:
    """A problem with a known gradient."""

    def __init__(self, gradient: Tensor) -> None:
        self.gradient, self.asked = gradient, list[bool]()

    def evaluate(self, variable: Tensor, rng: torch.Generator, *, gradient: bool) -> Evaluation:
        self.asked.append(gradient)
        given = self.gradient if gradient else None
        return Evaluation(variable.flatten(1).sum(1), variable[:, :3], given, {"score": variable.flatten(1).sum(1)}, 1)


def rms(x: Tensor) -> Tensor:
    return x.flatten(1).square().mean(1).sqrt()


def test_the_gradient_is_scaled_to_the_pulls_norm_per_image() -> None:
    x, pull = picture(3), picture(3, seed=5) * torch.tensor([1.0, 7.0, 1e-3], dtype=torch.float64).view(3, 1, 1, 1)
    gradient = picture(3, seed=6) * torch.tensor([1e-20, 3.0, 1e6], dtype=torch.float64).view(3, 1, 1, 1)
    problem = Pulled(Fixed(gradient), lambda *_: pull, steps=10, weight=0.5, balance=2.0)
    total = problem.evaluate(x, rng(), gradient=True).gradient
    climb = total - 0.5 * pull
    torch.testing.assert_close(rms(climb), 2.0 * rms(0.5 * pull))
    torch.testing.assert_close(climb / per_item(rms(climb), climb), gradient / per_item(rms(gradient), gradient))


def test_without_balance_and_without_pull() -> None:
    x, pull, gradient = picture(2), picture(2, seed=5), picture(2, seed=6)
    raw = Pulled(Fixed(gradient), lambda *_: pull, steps=9, balance=3.0, balanced=False)
    torch.testing.assert_close(raw.evaluate(x, rng(), gradient=True).gradient, 3 * gradient + pull)
    alone = Pulled(Fixed(gradient), None, steps=9, balance=2.0)
    torch.testing.assert_close(rms(alone.evaluate(x, rng(), gradient=True).gradient), torch.full((2,), 2.0).double())
    only = Pulled(Fixed(gradient), lambda *_: pull, steps=9, balance=0.0)
    torch.testing.assert_close(only.evaluate(x, rng(), gradient=True).gradient, pull)


def test_norms_are_those_of_what_may_change() -> None:
    x, pull, gradient = picture(1), picture(1, seed=5), picture(1, seed=6)
    mask = torch.zeros_like(x)
    mask[..., :4] = 1
    budget = Anywhere(x, mask=mask)
    found = Pulled(Fixed(gradient), lambda *_: pull, steps=9, free=budget.free)
    total = found.evaluate(x, rng(), gradient=True).gradient
    assert not bool((total * (1 - mask)).any())
    torch.testing.assert_close(rms(total - pull * mask), 2 * rms(pull * mask))


def test_the_last_steps_follow_the_pull_alone_at_one_evaluation_a_step() -> None:
    x, pull, fixed = picture(1), picture(1, seed=5), Fixed(picture(1, seed=6))
    seen: list[float] = []

    def pulled(variable: Tensor, progress: float, rng: torch.Generator) -> Tensor:
        seen.append(progress)
        return pull

    problem = Pulled(fixed, pulled, steps=8, alone=3)
    rule = Ascent(0.1, schedule=lambda progress: 1.0)
    for _ in search(problem, Anywhere(x), rule, start=x, steps=8, rng=rng()):
        pass
    assert seen == [i / 8 for i in range(8)]
    assert fixed.asked == [True] * 5 + [False] * 3 + [False]


# ------------------------------------------------------------------------------------------------------ the rule


def test_the_average_is_one_and_a_restart_copies_it() -> None:
    x = picture(2)
    rule = Averaged(Ascent(1.0, schedule=lambda progress: 1.0), decay=0.9, restarts=[3], rng=rng())
    budget, gradients = Anywhere(x), [picture(2, seed=10 + i) for i in range(6)]
    now, average = x, x
    for i, gradient in enumerate(gradients):
        moved = now + gradient
        average = 0.9 * average + 0.1 * moved
        now = rule.update(now, gradient, torch.zeros(2), budget, i / 6)
        wanted = average if i == 2 else moved
        torch.testing.assert_close(now, wanted)
        torch.testing.assert_close(rule.average, average)
        assert now.data_ptr() != rule.average.data_ptr()  # aliased, the average would follow every step
        kept = rule.average.clone()
        now.add_(0.0)
        now.mul_(1.0)
        torch.testing.assert_close(rule.average, kept)
    before = rule.average.clone()
    now += 5
    torch.testing.assert_close(rule.average, before)


def test_a_restart_resets_the_inner_rule() -> None:
    class Counted(Ascent):
        resets = 0

        def reset(self) -> None:
            type(self).resets += 1

    x = picture(1)
    rule = Averaged(Counted(1.0, schedule=lambda progress: 1.0), decay=0.5, restarts=[2], rng=rng())
    first = Counted.resets
    for i in range(3):
        x = rule.update(x, picture(1, seed=i), torch.zeros(1), Anywhere(x), i / 3)
    assert Counted.resets == first + 1


def test_noise_in_the_moves_keeps_to_the_mask_and_repeats() -> None:
    x = picture(3)
    mask = torch.zeros_like(x)
    mask[:, :, 2:5] = 1
    budget = Anywhere(x, mask=mask)

    def moved(batch: Tensor, within: Anywhere) -> Tensor:
        rule = Averaged(Ascent(1.0, schedule=lambda progress: 1.0), decay=0.9, noise=0.3, rng=rng(5))
        return rule.update(batch, torch.zeros_like(batch), torch.zeros(len(batch)), within, 0.0)

    whole = moved(x, budget)
    assert torch.equal(whole * (1 - mask), x * (1 - mask))
    assert 0.15 < float((whole - x)[mask > 0].std()) < 0.45
    torch.testing.assert_close(moved(x[1:2], Anywhere(x[1:2], mask=mask[1:2])), whole[1:2])


def test_the_schedule() -> None:
    rises = warmed(0.1, 0.5)
    values = [rises(i / 100) for i in range(101)]
    assert 0 < values[0] < 0.2
    assert all(a < b for a, b in itertools.pairwise(values[:11]))
    assert values[10] == pytest.approx(1.0)
    assert all(a >= b for a, b in itertools.pairwise(values[10:]))
    assert values[100] == pytest.approx(0.5)
    assert warmed(0.0, 1.0)(0.0) == pytest.approx(1.0)


# ------------------------------------------------------------------------------------------------------ distillation


def test_ratios_are_even_in_log_snr_and_annealed() -> None:
    draw = rng(1)
    logs = torch.tensor([math.log(drawn_ratio(0.1, 10.0, draw)) for _ in range(4000)])
    low, high = math.log(0.1), math.log(10.0)
    share = ((logs - low) / (high - low)).sort().values
    assert float((share - torch.linspace(0, 1, 4000)).abs().max()) < 0.03  # Kolmogorov and Smirnov, 5 %: 0.021
    one = Distillation(lambda z, noise, ratio: z, low=0.1, high=10.0, high_end=1.0)
    assert one.range_at(0.0) == pytest.approx((0.1, 10.0))
    assert one.range_at(0.5) == pytest.approx((0.1, math.sqrt(10)))
    assert one.range_at(1.0) == pytest.approx((0.1, 1.0))
    assert share_to_ratio(0.75) == pytest.approx(3)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_the_pull_leads_to_the_prediction(weight: str) -> None:
    z, goal = picture(2), picture(2, seed=3)
    seen: list[tuple[Tensor, float]] = []

    def predict(latent: Tensor, noise: Tensor, ratio: float) -> Tensor:
        seen.append((noise, ratio))
        return goal

    pull = Distillation(predict, low=0.5, high=2.0, weight=weight)(z, 0.0, rng(2))
    noise, ratio = seen[0]
    assert 0.5 <= ratio <= 2
    assert torch.equal(noise[0], noise[1])
    alpha = 1 / math.sqrt(1 + ratio**2)  # a variance-preserving model's
    wanted = {
        "picture": goal - z,
        "noise": (goal - z) / ratio,
        "velocity": (goal - z) * (1 + ratio) / ratio,
        "noise, by its variance": (1 - alpha**2) * (goal - z) / ratio,
    }[weight]
    torch.testing.assert_close(pull, wanted)


def test_delta_denoising_of_the_same_thing_is_nothing() -> None:
    z = picture(1)

    def predict(latent: Tensor, noise: Tensor, ratio: float) -> Tensor:
        return latent * 0.7 + ratio * noise

    same = Distillation(predict, low=0.5, high=2.0, reference=(z, predict))
    assert not bool(same(z, 0.3, rng()).any())
    moved = same(z + 1, 0.3, rng())
    torch.testing.assert_close(moved, torch.full_like(z, -0.3))


@pytest.mark.parametrize("ends", [(0.0, 1.0, 1.0), (2.0, 1.0, 1.0), (1.0, 2.0, 0.5)])
def test_ranges_that_are_none(ends: tuple[float, float, float]) -> None:
    low, high, end = ends
    with pytest.raises(ProvokeError, match="a low end below the high ends"):
        Distillation(lambda z, noise, ratio: z, low=low, high=high, high_end=end)
    with pytest.raises(ProvokeError, match="above 0 and below 1"):
        share_to_ratio(1.0)

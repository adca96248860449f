"""The search: best per item, stops, bad gradients, determinism; and what each step rule must reach."""

from __future__ import annotations

import pytest
import torch

from provoke.core import steps
from provoke.core.budgets import L1, L2, LInf
from provoke.core.errors import GradientError, ProvokeError
from provoke.core.problem import Evaluation
from provoke.core.search import Step, best_start, sample_generators, search, select

GOAL = torch.tensor([0.9, 0.1, 0.9, 0.1]).view(1, 1, 2, 2)


class Toy:
    """score = -|x - goal|^2, with hooks that spoil it."""

    def __init__(self, spoil=lambda i, gradient, score: (gradient, score), noise: float = 0.0) -> None:
        self.spoil, self.noise, self.calls = spoil, noise, 0

    def evaluate(self, variable, rng, *, gradient):
        jitter = self.noise * torch.randn((), generator=rng)
        score = -(variable - GOAL).square().flatten(1).sum(1) + jitter
        slope = -2 * (variable - GOAL)
        slope, score = self.spoil(self.calls, slope, score)
        self.calls += 1
        return Evaluation(score, variable, slope if gradient else None, {"part": score}, 2.0 if gradient else 1.0)


def somewhere(batch: int) -> torch.Tensor:
    return torch.rand(batch, 1, 2, 2, generator=torch.Generator().manual_seed(1))


def run(problem=None, rule=None, batch: int = 1, steps_: int = 20, budget=None, **options) -> list[Step]:
    budget = budget or LInf(torch.full((batch, 1, 2, 2), 0.5), 0.3)
    rng = torch.Generator().manual_seed(0)
    start = options.pop("start", budget.center)
    rule = rule or steps.Steepest(0.05)
    return list(search(problem or Toy(), budget, rule, start=start, steps=steps_, rng=rng, **options))


RULES = {
    "pgd": lambda: steps.Steepest(0.05),
    "pgd cosine": lambda: steps.Steepest(0.1, schedule=steps.cosine),
    "momentum": lambda: steps.Momentum(0.05),
    "adam": lambda: steps.Adam(0.05),
    "signed": lambda: steps.Signed(0.02),
    "clipped": lambda: steps.ClippedAscent(0.01),
    "apgd": lambda: steps.APGD(0.3, 20),
}


@pytest.mark.parametrize("norm", [LInf, L2, L1])
@pytest.mark.parametrize("name", RULES)
def test_every_rule_reaches_the_corner_of_its_ball(name, norm):
    epsilon = 0.2
    budget = norm(torch.full((1, 1, 2, 2), 0.5), epsilon)
    last = run(rule=RULES[name](), budget=budget, steps_=20)[-1]
    nearest = budget.project(GOAL)  # the optimum: the score is a distance
    assert float(last["best_score"]) >= float(-(nearest - GOAL).square().sum()) - 5e-3
    assert float(budget.measure(last["best"])) <= epsilon + 1e-5


def test_fgsm_is_one_step_of_size_epsilon():
    last = run(rule=steps.Steepest(0.3), steps_=1)[-1]
    torch.testing.assert_close(last["best"], torch.tensor([0.8, 0.2, 0.8, 0.2]).view(1, 1, 2, 2))


def test_the_best_is_kept_per_item():
    """Steps far too large make the score jump; each item keeps its own best."""
    found = run(rule=steps.Steepest(0.37), batch=3, start=somewhere(3))
    scores = torch.stack([s["score"] for s in found])
    torch.testing.assert_close(found[-1]["best_score"], scores.max(0).values)
    torch.testing.assert_close(-(found[-1]["best"] - GOAL).square().flatten(1).sum(1), found[-1]["best_score"])
    assert [s["i"] for s in found] == list(range(21))
    assert found[-1]["cost"] == 20 * 2 + 1


def test_group_members_come_from_the_same_step():
    found = run(
        rule=steps.Steepest(0.37),
        batch=4,
        group_size=2,
        start=somewhere(4),
    )
    means = torch.stack([s["score"].view(2, 2).mean(1) for s in found])
    torch.testing.assert_close(found[-1]["best_score"].view(2, 2).mean(1), means.max(0).values)
    for g in range(2):
        i = int(means[:, g].argmax())
        assert torch.equal(found[-1]["best"][2 * g : 2 * g + 2], found[i]["variable"][2 * g : 2 * g + 2])


@pytest.mark.parametrize("name", RULES)
def test_a_result_does_not_depend_on_its_neighbours(name):
    start = somewhere(3)
    center = torch.full((3, 1, 2, 2), 0.5)
    together = run(rule=RULES[name](), budget=LInf(center, 0.3), start=start, target=-0.08)[-1]
    alone = run(rule=RULES[name](), budget=LInf(center[:1], 0.3), start=start[1:2], target=-0.08)[-1]
    torch.testing.assert_close(together["best"][1:2], alone["best"])


def test_stops():
    assert run(target=-0.2)[-1]["stopped"].startswith("every result reached")
    assert len(run(target=-0.2)) < 21
    assert run(time_limit=0.0)[-1]["stopped"].startswith("time limit")
    asked = iter([False, False, True])
    assert len(run(should_stop=lambda: next(asked))) == 3
    assert run()[-1]["stopped"] == "all steps done"
    assert len(run(steps_=0)) == 1


def test_a_group_is_done_together():
    """One member at the target must not freeze the others short of it: the group counts."""
    start = torch.cat([GOAL, torch.full((1, 1, 2, 2), 0.5)])
    budget = LInf(start, 0.3)
    found = run(batch=2, budget=budget, start=start + 0.02, group_size=2, target=-0.1, steps_=30)[-1]
    assert found["stopped"].startswith("every result")
    assert float(found["best_score"].mean()) >= -0.1


def test_breaking_out_closes_the_search():
    budget = LInf(torch.full((1, 1, 2, 2), 0.5), 0.3)
    loop = search(Toy(), budget, steps.Steepest(0.05), start=budget.center, steps=9, rng=torch.Generator())
    first = next(loop)
    loop.close()
    assert torch.equal(first["best"], budget.center)


def test_zero_gradient_raises():
    with pytest.raises(GradientError, match="item 1 is exactly zero"):
        run(Toy(lambda i, g, s: (torch.cat([g[:1], g[1:] * 0]), s)), batch=2)


def test_a_gradient_outside_the_mask_is_zero():
    mask = torch.tensor([1.0, 0, 0, 0]).view(1, 1, 2, 2)
    budget = LInf(torch.full((1, 1, 2, 2), 0.5), 0.3, mask=mask)
    with pytest.raises(GradientError, match="zero"):
        run(Toy(lambda i, g, s: (g * (1 - mask), s)), budget=budget)


def test_a_gradient_that_vanishes_later_is_counted_not_raised():
    found = run(Toy(lambda i, g, s: (g * 0 if i > 3 else g, s)))
    assert int(found[-1]["skipped"]) == 16


def test_missing_gradient_raises():
    with pytest.raises(GradientError, match="no gradient"):
        run(Toy(lambda i, g, s: (None, s)))


def test_one_bad_step_is_skipped_counted_and_leaves_no_trace():
    spoiled = run(Toy(lambda i, g, s: (g * float("nan") if i == 2 else g, s)), batch=2)
    assert spoiled[-1]["skipped"].tolist() == [1, 1]
    assert torch.isfinite(spoiled[-1]["best"]).all()
    torch.testing.assert_close(spoiled[-1]["best"], run(batch=2)[-1]["best"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_lasting_bad_gradients_raise(bad):
    with pytest.raises(GradientError, match="8 times in a row"):
        run(Toy(lambda i, g, s: (g * bad, s)))


@pytest.mark.parametrize("steps_", [1, 2])
def test_a_run_without_any_usable_gradient_raises(steps_):
    """FGSM makes a single step: three in a row would never come."""
    with pytest.raises(GradientError, match="whole run"):
        run(Toy(lambda i, g, s: (g * float("nan"), s)), steps_=steps_)


def test_a_wall_of_nan_is_approached_not_stared_at():
    """A deterministic model that breaks beyond a line: the search goes halfway back and gets closer, each time."""

    class Walled(Toy):
        def evaluate(self, variable, rng, *, gradient):
            now = super().evaluate(variable, rng, gradient=gradient)
            broken = (variable.flatten(1).amax(1) > 0.7).view(-1, 1, 1, 1)
            slope = None if now.gradient is None else torch.where(broken, float("nan"), now.gradient)
            score = torch.where(broken.flatten(), float("nan"), now.score)
            return Evaluation(score, now.image, slope, now.terms, now.cost)

    last = run(Walled(), rule=steps.Steepest(0.15), steps_=20)[-1]
    assert float(last["best"].max()) > 0.66
    assert int(last["skipped"]) > 0


def test_adam_is_adam():
    x = torch.nn.Parameter(torch.full((1, 1, 2, 2), 0.5))
    reference = torch.optim.Adam([x], lr=0.02)
    found = run(rule=steps.Adam(0.02), steps_=20, budget=LInf(x.detach().clone(), 10.0, box=None))
    for step in found[:-1]:
        torch.testing.assert_close(step["variable"], x.detach(), rtol=0, atol=1e-6)
        reference.zero_grad()
        (x - GOAL).square().sum().backward()
        reference.step()


def test_clipped_ascent_is_sgd_with_nesterov_and_clipping():
    """The clip is at the length of the first gradient."""
    x = torch.nn.Parameter(torch.full((1, 1, 2, 2), 0.5))
    found = run(rule=steps.ClippedAscent(0.02), steps_=20, budget=LInf(x.detach().clone(), 10.0, box=None))
    (x - GOAL).square().sum().backward()
    clip = float(x.grad.norm())  # as long as the root mean square is 1: two, for four entries
    reference = torch.optim.SGD([x], lr=0.02 * 2 / clip, momentum=0.9, nesterov=True)
    for step in found[:-1]:
        torch.testing.assert_close(step["variable"], x.detach(), rtol=0, atol=1e-6)
        reference.zero_grad()
        (x - GOAL).square().sum().backward()
        torch.nn.utils.clip_grad_norm_([x], clip)
        reference.step()


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_signed_and_clipped_steps_do_not_depend_on_the_unit_of_the_score(size):
    for rule in (steps.Signed, steps.ClippedAscent):
        one, other = (run(Toy(lambda i, g, s, f=f: (f * g, s)), rule=rule(0.01))[-1] for f in (1.0, size))
        torch.testing.assert_close(one["variable"], other["variable"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", RULES)
def test_infinity_outside_the_mask_does_not_count(name):
    mask = torch.tensor([1.0, 1, 1, 0]).view(1, 1, 2, 2)
    spoil = torch.tensor([0.0, 0, 0, float("inf")]).view(1, 1, 2, 2)
    budget = LInf(torch.full((1, 1, 2, 2), 0.5), 0.3, mask=mask)
    found = run(Toy(lambda i, g, s: (g + spoil, s)), rule=RULES[name](), budget=budget)[-1]
    assert torch.isfinite(found["best"]).all()
    assert float(found["best_score"]) > float(run(steps_=0)[0]["score"])


def test_a_nan_score_is_never_the_best():
    found = run(Toy(lambda i, g, s: (g, torch.where(torch.tensor(i % 3 == 1), float("nan"), s))))
    assert torch.isfinite(found[-1]["best_score"]).all()


def test_random_draws_are_reproducible_and_need_no_gradient():
    def draws():
        budget = LInf(torch.full((2, 1, 2, 2), 0.5), 0.3)
        rule = steps.RandomDraws(sample_generators(3, 1, 2))
        return run(Toy(lambda i, g, s: (None, s)), rule=rule, budget=budget, start=budget.center)

    a, b = draws(), draws()
    assert torch.equal(a[-1]["best"], b[-1]["best"])
    assert a[-1]["cost"] == 21
    assert float(a[-1]["best_score"].min()) > float(a[0]["score"].min())


def test_apgd_checkpoints_are_the_published_ones():
    assert steps.apgd_checkpoints(100) == (22, 41, 57, 70, 80, 87, 93, 99)


def test_apgd_halves_when_it_oscillates():
    rule = steps.APGD(0.3, 40)
    run(rule=rule, steps_=40)
    assert float(rule.step_size) < 0.6


def test_select_rescoring_beats_a_lucky_noisy_score():
    budget = LInf(torch.full((2, 1, 2, 2), 0.5), 0.3)
    worse, better = budget.center, budget.project(GOAL.expand(2, 1, 2, 2))
    picked = select(Toy(noise=0.01), budget, {"worse": worse, "better": better}, seeds=(0, 1))
    assert picked.chosen == ["better", "better"]
    mixed = select(Toy(), budget, {"a": torch.cat([worse[:1], better[1:]]), "b": torch.cat([better[:1], worse[1:]])})
    assert mixed.chosen == ["b", "a"]
    torch.testing.assert_close(mixed.variable, better)


def test_select_lets_nothing_out_of_the_budget():
    budget = LInf(torch.full((1, 1, 2, 2), 128 / 255), 4 / 255)
    picked = select(Toy(), budget, {"cheat": GOAL}, levels=255)
    assert float(picked.distance) <= 4 / 255 + 1e-6
    assert torch.equal(picked.variable, (picked.variable * 255).round() / 255)

    class Cheat(LInf):
        def project(self, x):
            return x

    with pytest.raises(ProvokeError, match="at most epsilon"):
        select(Toy(), Cheat(budget.center, 0.1), {"cheat": GOAL})


def test_sample_generators_follow_the_variation_not_the_place():
    a = [torch.rand((), generator=g) for g in sample_generators(11, 2, 3)]
    assert a[:3] == a[3:]
    assert len({float(x) for x in a[:3]}) == 3
    sample_generators(2**64 - 1, 1, 9)


# ---------------------------------------------------------------------------------------------- where it starts


def test_the_best_start_is_picked_per_item_and_counted():
    far, near = torch.zeros(2, 1, 2, 2), GOAL.expand(2, 1, 2, 2).clone()
    mixed = torch.cat((near[:1], far[1:]))
    found, cost = best_start(Toy(), [far, mixed], 0)
    assert torch.equal(found, mixed)
    assert cost == 2.0
    found, _ = best_start(Toy(), [mixed, far, near], 0)
    assert torch.equal(found, near)


def test_members_of_a_group_start_together():
    """Each takes the start at which their mean is highest, not its own best."""
    near, far = GOAL.expand(2, 1, 2, 2).clone(), torch.zeros(2, 1, 2, 2)
    first, second = torch.cat((near[:1], far[1:])), near - 0.1
    found, _ = best_start(Toy(), [first, second], 0, group_size=2)
    assert torch.equal(found, second)


def test_starts_without_a_score_are_passed_over():
    def spoil(call, gradient, score):
        return gradient, torch.full_like(score, torch.nan) if call == 0 else score

    points = [torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)]
    assert torch.equal(best_start(Toy(spoil), points, 0)[0], points[1])
    assert torch.equal(best_start(Toy(lambda i, g, s: (g, s * torch.nan)), points, 0)[0], points[0])


def test_starts_are_told_apart_by_the_same_chance_and_can_be_stopped():
    near = GOAL.expand(1, 1, 2, 2).clone()
    points = [near, near - 0.01, near - 0.02]
    assert torch.equal(best_start(Toy(noise=100.0), points[::-1], 3)[0], near)
    toy = Toy()
    assert torch.equal(best_start(toy, points[::-1], 0, should_stop=lambda: toy.calls == 2)[0], points[1])
    assert torch.equal(best_start(Toy(), points[::-1], 0, should_stop=lambda: True)[0], points[2])

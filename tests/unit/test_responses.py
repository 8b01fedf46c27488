"""What slates teach: the weights behind answers, whatever the place, the policy and the delay."""

from __future__ import annotations

import numpy as np
import pytest

from streamrec.engine.arrays.batch import MicroBatch
from streamrec.engine.arrays.feedback import SlateFeedback
from streamrec.engine.fusion.choice_model import FIRST_OUTSIDE, ChoiceModel
from streamrec.engine.fusion.fusion import FeedbackUse, Fusion

MODELS = ("good", "noise")
PLACES = 8
WORTH = -0.3 * np.arange(PLACES)
"""Of each place, in log-odds: people look from the top."""
ANSWERED = -0.5


class Shoppers:
    """Answer slates by the first model's share alone, more readily further up."""

    def __init__(self, weight: float, seed: int = 1) -> None:
        self.weight = weight
        self.rng = np.random.default_rng(seed)
        self.fusion = Fusion(MODELS, forgetting=1.0)

    def features(self) -> np.ndarray:
        """(places, features) of a slate: shares as the fusion would see them."""
        batch = MicroBatch.empty(1, 1, len(MODELS), self.fusion.width)
        batch.candidates.items[0, :30] = np.arange(30)
        batch.candidates.scores[:, 0, :30] = self.rng.normal(0, 1.5, (len(MODELS), 30))
        moments = np.zeros(30, np.int64)
        self.fusion.describe(batch.queries, slice(0, 1), batch.candidates, moments, moments)
        return batch.candidates.features[0, self.rng.permutation(30)[:PLACES]]

    def answer(self, features: np.ndarray) -> np.ndarray:
        """Reward of each place: 1 for the answered one, if any."""
        utility = self.weight * (features[:, 0] + 0.7) + WORTH + ANSWERED
        chances = np.exp(utility) / (1 + np.exp(utility).sum())
        reward = np.zeros(PLACES)
        at = self.rng.choice(PLACES + 1, p=[*chances, 1 - chances.sum()])
        if at < PLACES:
            reward[at] = 1.0
        return reward

    def slate_feedback(self, *, favouring: float = 0.0) -> SlateFeedback:
        """A slate shown in an order that favours the second model, and what came of it."""
        features = self.features()
        keys = favouring * features[:, 1] + self.rng.gumbel(size=PLACES)
        features = features[np.argsort(-keys)]
        return SlateFeedback("p", 0, features, np.full(PLACES, 1 / PLACES), self.answer(features), PLACES, 0)


def empty(fusion: Fusion) -> MicroBatch:
    return MicroBatch.empty(1, 1, len(MODELS), fusion.width)


@pytest.mark.parametrize("favouring", [0.0, 20.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_weight_behind_answers_is_found_whatever_the_policy_prefers_to_show_on_top(
    favouring: float, weighted: bool
) -> None:
    shoppers = Shoppers(4.0)
    fusion = Fusion(MODELS, forgetting=1.0, feedback_use=FeedbackUse.BY_IMPORTANCE if weighted else FeedbackUse.EQUAL)
    for _ in range(150):
        fusion.learn(empty(fusion), [shoppers.slate_feedback(favouring=favouring) for _ in range(32)])
    slates = np.stack([shoppers.features() for _ in range(200)]).astype(np.float64)
    truth, found = 4.0 * slates[:, :, 0], slates @ fusion.mean
    truth, found = truth - truth.mean(1, keepdims=True), found - found.mean(1, keepdims=True)
    # The prior holds the weights back a little: 0.90 of the truth after 4,800 slates, 0.95 after 19,200.
    assert 0.8 < float((found * truth).sum() / (truth * truth).sum()) < 1.05
    assert np.corrcoef(found.ravel(), truth.ravel())[0, 1] > 0.94
    worth = fusion.responses.offsets[1 : 1 + PLACES]
    assert np.corrcoef(worth, WORTH)[0, 1] > 0.95
    assert worth[-1] < -1.0
    assert fusion.skipped == 0


def test_what_is_answered_as_often_anywhere_teaches_nothing_but_how_often() -> None:
    shoppers = Shoppers(0.0)
    fusion = Fusion(MODELS, forgetting=1.0, prior={"good": 0.0, "noise": 0.0})
    for _ in range(60):
        fusion.learn(empty(fusion), [shoppers.slate_feedback() for _ in range(32)])
    assert np.abs(fusion.mean[: len(MODELS)]).max() < 0.35
    found = fusion.responses.offsets[0] + fusion.responses.offsets[1 : 1 + PLACES]
    assert found == pytest.approx(ANSWERED + WORTH, abs=0.6)
    assert found.mean() == pytest.approx((ANSWERED + WORTH).mean(), abs=0.2)
    assert fusion.responses.offsets[0] > FIRST_OUTSIDE


def test_late_lessons_teach_what_prompt_ones_do() -> None:
    shoppers, prompt, late = Shoppers(4.0), Fusion(MODELS), Fusion(MODELS)
    feedback = [shoppers.slate_feedback() for _ in range(1_600)]
    for start in range(0, 1_600, 32):
        prompt.learn(empty(prompt), feedback[start : start + 32])
    for start in range(-640, 1_600, 32):  # twenty micro-batches later
        late.learn(empty(late), feedback[start : start + 32] if start >= 0 else [])
    assert (late.mean == prompt.mean).all()
    assert late.version == prompt.version  # micro-batches without lessons moved nothing


def test_refusals_push_down_what_was_refused() -> None:
    fusion, shoppers = Fusion(MODELS, forgetting=1.0), Shoppers(0.0)
    before = fusion.mean[0]
    for _ in range(20):
        slate_feedback = shoppers.slate_feedback()
        best = slate_feedback.features[:, 0].argmax()
        reward = np.where(np.arange(PLACES) == best, -0.5, 0.0)
        fusion.learn(
            empty(fusion),
            [SlateFeedback("p", 0, slate_feedback.features, slate_feedback.propensity, reward, PLACES, 0)],
        )
    assert fusion.mean[0] < before - 0.1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_number_in_a_lesson_never_reaches_the_weights(bad: float) -> None:
    fusion, shoppers = Fusion(MODELS), Shoppers(4.0)
    fusion.learn(empty(fusion), [shoppers.slate_feedback()])
    before = fusion.state()
    poisoned = shoppers.slate_feedback()
    poisoned.features[1, 2] = bad
    with np.errstate(all="ignore"):
        fusion.learn(empty(fusion), [poisoned])
    after = fusion.state()
    assert fusion.skipped == 1
    assert all((before[name] == after[name]).all() for name in before if name != "counts")


def test_lessons_that_nobody_wants_teach_nothing() -> None:
    slate_feedback, apprentice = Shoppers(4.0).slate_feedback(), Fusion(MODELS)
    apprentice.imitating = True
    for fusion in (Fusion(MODELS, feedback_use=FeedbackUse.IGNORED), apprentice):
        fusion.learn(empty(fusion), [slate_feedback])
        assert fusion.version == 0


def test_places_survive_a_snapshot() -> None:
    shoppers, first = Shoppers(4.0), ChoiceModel()
    mean = np.zeros(shoppers.fusion.width)
    first.step([shoppers.slate_feedback() for _ in range(50)], mean)
    second = ChoiceModel()
    second.restore(first.state())
    feedback = [shoppers.slate_feedback() for _ in range(5)]
    assert (first.step(feedback, mean).gradient == second.step(feedback, mean).gradient).all()
    assert all((array == second.state()[name]).all() for name, array in first.state().items())

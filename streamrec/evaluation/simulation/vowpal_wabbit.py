"""Vowpal Wabbit's contextual bandits over the same candidates, features and rewards, as a policy of the worker.

VW runs `--cb_explore_adf` with an explorer (Bietti, Agarwal, Langford: A contextual bandit bake-off, JMLR 2021). Slates
are made the way its own `--ccb_explore_adf` makes them: place after place, each an exploration over the candidates that
are left. Every place that was seen is a training example: the action set of that place, the chosen action's cost (its
reward, negated) and the exact probability with which VW chose it. VW gets more than `SlateFeedback` holds, on purpose:
whole action sets, where the fusion gets only what was seen.

A slate is kept until its feedback comes; it is found by the features of its first item, in the half precision that
feedback has.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamrec.config.settings import Settings
from streamrec.engine.arrays.batch import NOTHING, Float32, Float64
from streamrec.engine.arrays.compiled import uniform
from streamrec.engine.arrays.feedback import SlateFeedback
from streamrec.engine.policies import Components, PolicyInput, Posterior
from streamrec.engine.policies.plackett_luce_sampling import SEED_BITS
from streamrec.engine.policies.registry import PolicyRegistry
from streamrec.engine.policies.stateless import Unlearned
from streamrec.errors import ConfigError
from streamrec.evaluation.simulation.systems import WorkerSystem
from streamrec.worker.loop import Worker

EXPLORERS: Mapping[str, str] = {
    "epsilon": "--epsilon 0.05",
    "softmax": "--softmax --lambda 20",
    "bag": "--bag 5 --epsilon 0.02",
    "cover": "--cover 5 --epsilon 0.02",
    "squarecb": "--squarecb --gamma_scale 1000 -l 0.1 -q ff",
    "squarecb-linear": "--squarecb --gamma_scale 10000 -l 0.1",
    "regcb": "--regcb --mellowness 0.01",
}
"""Explorers by the names they are asked for; anything else is handed to VW as it stands. The arguments are the best of
those tried in worlds 101 and 102, squarecb the best of all and squarecb-linear the second."""
OPEN_SLATES = 4_096
SLOTS = 10
"""Places that VW fills; further ones follow in candidate order."""
SLOT_COUNTER = 500
"""Where the counters of its draws begin."""


@dataclass(frozen=True, slots=True)
class PendingSlate:
    """A slate whose feedback has not come yet."""

    lines: Sequence[str]  # (candidates,) in VW's text format
    shared: str
    chosen: Sequence[int]  # candidates, place by place
    propensity: Sequence[float]  # of each, given those before


class VowpalWabbit(Unlearned):
    """A policy that leaves ranking and learning to VW. The ranking of a row is one draw from VW's distribution."""

    estimated_from = 1

    def __init__(self, name: str, arguments: str, seed: int = 0, slots: int = SLOTS) -> None:
        """`arguments` are VW's, beside `--cb_explore_adf`; predictions are told by `slots` places.

        Raises:
            ConfigError: VW is not installed, or does not know an argument.
        """
        try:
            import vowpalwabbit

            self._vw: Any = vowpalwabbit.Workspace(f"--cb_explore_adf --quiet --random_seed {seed} {arguments}")
        except ImportError as error:
            raise ConfigError("Vowpal Wabbit is not installed; install `streamrec[simulate]`") from error
        except RuntimeError as error:
            raise ConfigError(f"Vowpal Wabbit refused {arguments!r}: {error}") from error
        self.name = name
        self.arguments = arguments
        self.slots = slots
        self.unmatched = 0  # lessons whose slate was not remembered
        self._pending: OrderedDict[bytes, PendingSlate] = OrderedDict()

    def components(self, asked: PolicyInput, posterior: Posterior) -> Components:
        rows, width = asked.items.shape
        scores = np.full((rows, width, 1), -np.inf)
        for row in range(rows):
            used = int((asked.items[row] != NOTHING).sum())
            scores[row, :used, 0] = -np.arange(used)
            if used:
                seed = int(asked.seeds[row]) & SEED_BITS
                features = asked.features[row, :used].astype(np.float16).astype(np.float32)
                chosen = self._slate(features, int(asked.context[row]), seed)
                scores[row, chosen, 0] = width - np.arange(len(chosen))
        return Components(np.ones((rows, 1)), scores, hard=True)

    def learn(self, feedback: Sequence[SlateFeedback]) -> None:
        for slate_feedback in feedback:
            pending = self._pending.pop(slate_feedback.features[0].tobytes(), None)
            if pending is None:
                self.unmatched += 1
                continue
            for slot, reward in enumerate(slate_feedback.reward.tolist()[: len(pending.chosen)]):
                self._teach(pending, slot, reward)

    def _slate(self, features: Float32, context: int, seed: int) -> list[int]:
        """Candidates, from the top: each place is one exploration over what is left."""
        lines, shared = [_line(row) for row in features], f"shared |c {context}:1"
        examples = self._vw.parse("\n".join([shared, *lines]))
        left, chosen = list(range(len(lines))), list[int]()
        propensity = list[float]()
        for slot in range(min(self.slots, len(lines))):
            chances = np.array(self._vw.predict([examples[0], *(examples[1 + action] for action in left)]))
            at = _drawn(chances, float(uniform(seed, SLOT_COUNTER + slot)))
            chosen.append(left.pop(at))
            propensity.append(float(chances[at] / chances.sum()))
        self._vw.finish_example(examples)
        first = features[chosen[0]].tobytes()
        self._pending[first] = PendingSlate(lines, shared, chosen, propensity)
        while len(self._pending) > OPEN_SLATES:
            self._pending.popitem(last=False)
        return chosen

    def _teach(self, pending: PendingSlate, slot: int, reward: float) -> None:
        """One place that was seen: the actions there were, the one chosen, its cost and its probability."""
        gone, action = set(pending.chosen[:slot]), pending.chosen[slot]
        label = f"0:{-reward:.6g}:{max(pending.propensity[slot], 1e-6):.6g} "
        lines = [(label if n == action else "") + line for n, line in enumerate(pending.lines) if n not in gone]
        self._vw.learn("\n".join([pending.shared, *lines]))


def vw_system(explorer: str, settings: Settings) -> WorkerSystem:
    """The worker with VW in the place of its policy.

    Raises:
        ConfigError: VW is not installed, or refuses its arguments.
    """
    policy = VowpalWabbit(f"vw:{explorer}", EXPLORERS.get(explorer, explorer), settings.learning.seed)

    def prepare(worker: Worker) -> None:
        worker.pipeline.answers.policies = PolicyRegistry(lambda name: policy)

    return WorkerSystem(settings, prepare)


def _line(features: Float32) -> str:
    """An action in VW's text format; features that are 0 are left out."""
    return "|f " + " ".join(f"{place}:{value:.5g}" for place, value in enumerate(features.tolist()) if value)


def _drawn(chances: Float64, number: float) -> int:
    """Which action a uniform number means."""
    sums = np.cumsum(chances)
    return min(int(np.searchsorted(sums, number * sums[-1], side="right")), len(chances) - 1)

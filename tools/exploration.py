"""How much of a slate's first place is left to chance, by how much is known of who asks (docs/13-figures.md).

    python tools/exploration.py yoochoose100k --rows 30000

Reads the log as a backtest does, with the fast preset, and asks the default policy at every ranking what it would have
put first; nothing is drawn, and nothing learns from it. Entropies are of the policy's own probabilities, with the
reserved share of places; `by belief` is what of it comes of not knowing the weights, the mutual information between the
first place and the weight vector drawn.
"""

from __future__ import annotations

import argparse
import os
from itertools import pairwise
from pathlib import Path

import numpy as np

from streamrec.config.groups import FusionSettings, Learning
from streamrec.config.settings import Settings
from streamrec.engine.arrays.batch import NOTHING, Float64
from streamrec.engine.batch_result import BatchResult
from streamrec.engine.policies import PolicyInput, Posterior
from streamrec.engine.policies.plackett_luce import PlackettLuce
from streamrec.replay.logs import open_log
from streamrec.wiring import build_rehearsal

LOGS = {
    "yoochoose100k": {"positives": ("click",), "collapse_repeats": True},
    "ml100k": {"positives": ("rating>=4",), "exclude_seen": True},
}
PASTS = ((0, 0), (1, 1), (2, 2), (3, 9), (10, 31), (32, 64))
"""From how many items of the user's past to how many."""
STAGES = (0, 500, 1_000, 2_000, 10_000, 10_000_000)
"""Events learned before."""
POLICY = PlackettLuce("plackett-luce", FusionSettings().temperature, FusionSettings().explore)


def measured(asked: PolicyInput, posterior: Posterior) -> tuple[Float64, Float64, Float64]:
    """Entropy of the first place, what of it is by belief, and the chance of the best by the mean, (rows,) each."""
    made = POLICY.components(asked, posterior)
    raised = np.exp(made.scores - made.scores.max(1, keepdims=True))  # (rows, candidates, particles)
    within = raised / raised.sum(1, keepdims=True)
    drawn = np.einsum("rcm,rm->rc", within, made.weights)
    there = asked.items != NOTHING
    whole = (1 - made.explore) * drawn + made.explore * there / there.sum(1, keepdims=True)
    belief = entropy(drawn) - np.einsum("rm,rm->r", entropy(within), made.weights)
    return entropy(whole), belief, whole[np.arange(len(whole)), asked.utility.argmax(1)]


def entropy(chances: Float64) -> Float64:
    """Over the candidates, nats."""
    return -(chances * np.log(np.maximum(chances, 1e-300))).sum(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", choices=LOGS)
    parser.add_argument("--rows", type=int, default=30_000)
    given = parser.parse_args()
    fast = Settings(preset="fast")
    learning = Learning(models=fast.learning.models, device="cpu", **LOGS[given.log])
    settings = fast.model_copy(update={"learning": learning})
    path = Path(os.environ["STREAMREC_DATA"], given.log, "events.parquet")
    log = open_log(path, mapping={"type": "event"}, rows=(0, given.rows))
    log.check()
    found: list[Float64] = []

    def observe(batch_result: BatchResult) -> None:
        pipeline, rows = worker.pipeline, np.unique(np.array(batch_result.trial.rows, np.int64))
        rows = rows[(pipeline.batch.candidates.items[rows] != NOTHING).sum(1) > 1]
        if len(rows):
            batch, features = pipeline.batch, pipeline.features
            items = batch.candidates.items[rows]
            uncertainty = features.uncertainty.of(items, batch.queries.ts[rows])
            boost = np.where(items == NOTHING, 0.0, features.catalogue.boost[items])
            asked = pipeline.fusion.asked(batch.queries, rows, batch.candidates, boost, uncertainty, [None] * len(rows))
            past = (batch.queries.items[rows] != NOTHING).sum(1)
            events = np.full(len(rows), batch_result.logged_events[0].offset)
            found.append(np.stack([past, events, *measured(asked, pipeline.fusion.posterior)], axis=1))

    worker = build_rehearsal(settings, lambda: log.records(settings.topics.events), observe, None)
    worker.run()
    past, events, whole, belief, best = np.concatenate(found).T
    for stage, until in pairwise(STAGES):
        for least, most in PASTS:
            mask = (events >= stage) & (events < until) & (past >= least) & (past <= most)
            if mask.sum() >= 50:
                figures = [values[mask].mean() for values in (whole, belief, best)]
                print(f"after {stage:>6,} events, past {least:>2} to {most:>2}: {mask.sum():>6,} rankings", end=", ")
                print("entropy {:.2f} nats, by belief {:.3f}, best first {:.2f}".format(*figures))


if __name__ == "__main__":
    main()

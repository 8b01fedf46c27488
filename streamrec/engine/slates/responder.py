"""A slate for each request: the plan says which policy answers, the policy decides.

Knows nothing of how candidates were found and scored, nor of where slates go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from streamrec.engine.arrays.batch import NOTHING, Float32, Int32, Int64, MicroBatch
from streamrec.engine.arrays.feedback import ShownAds, SlateFeedback
from streamrec.engine.arrays.logged_event import LoggedEvent
from streamrec.engine.attribution.attribution import FITS_NOTHING, ServedSlate
from streamrec.engine.features import FeatureStore
from streamrec.engine.fusion.fusion import Fusion
from streamrec.engine.models import Model, Tracing
from streamrec.engine.policies import PolicyInput
from streamrec.engine.policies.registry import PolicyRegistry
from streamrec.engine.rollout.plan import Plan
from streamrec.engine.rollout.revisions import Mode
from streamrec.engine.scenarios.rules import RequestRules
from streamrec.engine.scenarios.scenario import Worth
from streamrec.engine.slates.compose import composed, shown
from streamrec.engine.slates.explanations import Applied, Scorers, reasons_of
from streamrec.events import Reason, Slate

SITE = "site"
"""What an apprentice imitates: the order of the site's own impressions."""

LogPlace = tuple[int, int]
"""The partition and offset of what asked."""
NOT_YET: Mapping[LogPlace, Slate] = {}
"""Where no request was answered before."""


class Request(NamedTuple):
    """What asks for a slate, and the query row that was ranked for it."""

    query: int
    logged: LoggedEvent


class SlateResponder:
    """Turns ranked queries into slates."""

    def __init__(
        self,
        *,
        models: Sequence[Model],
        fusion: Fusion,
        features: FeatureStore,
        policies: PolicyRegistry,
        plan: Plan,
        k: int = 20,
        imitate: str = SITE,
        stale: Callable[[int], tuple[str, ...]] = lambda now_ms: (),
    ) -> None:
        """`k` items when a request does not say; `imitate` names the teacher of an apprentice, SITE or a policy.

        `stale` names the parts that are too old to be used at a time, ms.
        """
        self.models = tuple(models)
        self.fusion = fusion
        self._features = features
        self.policies = policies
        self.k = k
        self.model_version: int | None = None  # the offset in the examples that the models stand for
        self._imitate = imitate
        self._stale = stale
        self._tracing = [model for model in self.models if isinstance(model, Tracing)]
        self.follow(plan)

    def follow(self, plan: Plan) -> None:
        """From the next request on, this plan says which policy answers which user."""
        self.plan = plan
        self.fusion.imitating = self.imitated is not None
        self.fusion.ruled = self.imitated not in (None, SITE)

    @property
    def imitated(self) -> str | None:
        """The teacher of the fusion, SITE or a policy; None when it learns from users."""
        return self._imitate if self.plan.mode is Mode.APPRENTICE else None

    def slates(
        self,
        batch: MicroBatch,
        requests: Sequence[Request],
        rules_by_query: Mapping[int, RequestRules],
        published: Mapping[LogPlace, Slate] = NOT_YET,
    ) -> tuple[dict[LogPlace, Slate], dict[LogPlace, ServedSlate]]:
        """A slate for each request, and what to keep of it to learn from what comes.

        Args:
            batch: holds the ranked queries.
            requests: in log order.
            rules_by_query: the rules for each, by query row.
            published: the slates of requests that were answered before, which are what was shown.
        """
        slates: dict[LogPlace, Slate] = {}
        served_slates: dict[LogPlace, ServedSlate] = {}
        if not requests:
            return slates, served_slates
        asked = self._asked(batch, requests, rules_by_query)
        decisions = [self.plan.decide(logged.event.user_id) for _, logged in requests]
        longest = max(logged.event.k or self.k for _, logged in requests)
        chosen = self.policies.choose(asked, self.fusion.posterior, decisions, longest)
        for row, ((query, logged), one, context) in enumerate(
            zip(requests, chosen, asked.context.tolist(), strict=True)
        ):
            k = logged.event.k or self.k
            place, places = (logged.partition, logged.offset), shown(one, k)
            if place in published:
                slates[place] = published[place]
                served_slates[place] = self._served_before(
                    published[place], batch, query, context, rules_by_query[query]
                )
                continue
            slate = composed(
                logged, query, batch, one, self.fusion, self._features.items.ids, k, self._stale(logged.event.ts)
            )
            slate = msgspec.structs.replace(slate, model_version=self.model_version)
            if logged.event.explain:
                applied = Applied(rules_by_query[query], one.explore, asked.uncertainty[row], places)
                slate = msgspec.structs.replace(slate, reasons=self._reasons(slate, batch, query, applied))
            slates[place] = slate
            features, traces = batch.candidates.features[query, places], self._traces(batch, query, places)
            offered = self._offered(rules_by_query[query], batch.candidates.items[query, places], features)
            served_slates[place] = ServedSlate(context, self.fusion.schema, features, traces, offered)
        return slates, served_slates

    def imitable(
        self, batch: MicroBatch, requests: Sequence[Request], rules_by_query: Mapping[int, RequestRules]
    ) -> list[tuple[Request, int]]:
        """What the policy that is imitated would put first for each request, by item index; NOTHING is left out."""
        if not requests or self.imitated in (None, SITE):
            return []
        asked = self._asked(batch, requests, rules_by_query)
        places = self.policies.favourites(str(self.imitated), asked, self.fusion.posterior)
        items = [
            (request, int(batch.candidates.items[request.query, place]))
            for request, place in zip(requests, places.tolist(), strict=True)
        ]
        return [(request, item) for request, item in items if item >= 0]

    def learn(self, feedback: Sequence[SlateFeedback]) -> None:
        """Models that look back at slates, and policies, take what came of them. The fusion learns by itself."""
        if self.fusion.learn_outcomes:
            for model in self._tracing:
                model.learn_outcomes(feedback)
        self.policies.learn(feedback)

    def _asked(
        self, batch: MicroBatch, requests: Sequence[Request], rules_by_query: Mapping[int, RequestRules]
    ) -> PolicyInput:
        rows = np.array([request.query for request in requests], np.int64)
        items = batch.candidates.items[rows]
        listed = np.where(items == NOTHING, np.float32(0), self._features.catalogue.boost[items])
        ruled = np.stack([rules_by_query[row].boost for row in rows.tolist()])
        uncertainty = self._features.uncertainty.of(items, batch.queries.ts[rows])
        constraints = [rules_by_query[row].constraints for row in rows.tolist()]
        boost = (listed + ruled).astype(np.float64)
        return self.fusion.asked(batch.queries, rows, batch.candidates, boost, uncertainty, constraints)

    def _served_before(
        self, slate: Slate, batch: MicroBatch, query: int, context: int, request_rules: RequestRules
    ) -> ServedSlate:
        """What to keep of a slate that was published before: its items as they are ranked now.

        Where one of them is no candidate any more, nothing can be learned from the slate: it fits no schema.
        """
        found = {item: place for place, item in enumerate(batch.candidates.items[query].tolist()) if item != NOTHING}
        items = np.array([self._features.items.lookup(shown.item_id) for shown in slate.items], np.int32)
        places = np.array([found.get(item, NOTHING) for item in items.tolist()], np.int64)
        features = batch.candidates.features[query, places]
        if (places == NOTHING).any():
            features = np.zeros_like(features)
            return ServedSlate(context, FITS_NOTHING, features, {}, self._offered(request_rules, items, features))
        traces, offered = self._traces(batch, query, places), self._offered(request_rules, items, features)
        return ServedSlate(context, self.fusion.schema, features, traces, offered)

    def _traces(self, batch: MicroBatch, query: int, places: Int64) -> dict[str, Int32]:
        """The traces that models get back with the feedback on these places."""
        items = batch.candidates.items[query, places]
        return {model.name: model.trace(batch.queries, query, items) for model in self._tracing}

    def _offered(self, request_rules: RequestRules, items: Int32, features: Float32) -> ShownAds | None:
        """What to keep of a slate whose clicks cost something: it was ranked by bids, whatever its scenario's name."""
        if request_rules.scenario.worth is not Worth.BID:
            return None
        return self._features.ads.shown(
            items, features @ self.fusion.mean, request_rules.event.ts, request_rules.partition
        )

    def _reasons(self, slate: Slate, batch: MicroBatch, query: int, applied: Applied) -> tuple[Reason, ...]:
        scorers = Scorers(self.models, self.fusion, self._features.items)
        return reasons_of(slate, batch.queries, query, batch.candidates.items[query], scorers, applied)

"""The bandit's belief: what every model says of a candidate becomes one score, with weights that are learned.

A multinomial logit over the candidates of a query, P(wanted = c) = exp(w . x_c) / sum_d exp(w . x_d), whose weights
have a Gaussian posterior N(m, L^-1) that moves by Laplace steps (Newton's method on each micro-batch, with
forgetting):

    L <- g L + (1 - g) L_0 + sum_q X_q^T (diag(p_q) - p_q p_q^T) X_q
    m <- m + L^-1 (sum_q X_q^T (y_q - p_q) + (1 - g) L_0 (m_0 - m))

It learns from what people did by themselves, over all candidates of the moment, and from what they did with a slate,
over the items that they saw (`responses`). Policies (`policies`) turn the posterior into slates.

The features are linear in what the models say (`fusion_features`); a small network may add one that is not
(`residual`). It is weighed like the others, so the posterior is one over the last layer (Riquelme et al.: Deep Bayesian
bandits showdown, ICLR 2018), and the ways to explore and to explain stay the same.

Knows nothing of how candidates were found, nor of events, topics or stores.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg

from streamrec.engine.arrays.batch import NOTHING, Array, Candidates, Float32, Float64, Int64, MicroBatch, Queries
from streamrec.engine.arrays.compiled import standard_normal
from streamrec.engine.arrays.feedback import SlateFeedback
from streamrec.engine.arrays.labels import IMITATED, WANTED
from streamrec.engine.arrays.log_shares import BY_MODEL
from streamrec.engine.following.served import Arrays, ChangedRows, Rows
from streamrec.engine.fusion.choice_model import ChoiceModel
from streamrec.engine.fusion.features import contexts, describe, names
from streamrec.engine.policies import Constraints, PolicyInput, Posterior
from streamrec.engine.users.user_feature import UserFeature

if TYPE_CHECKING:
    from streamrec.engine.fusion.residual import Residual

RESIDUAL = "residual"
RESPONSES = "responses"
PRIOR_PRECISION = 8.0
PRIOR_WEIGHT = 0.3
"""Weight of a model's log share before anything is learned, unless `prior` says otherwise."""
LARGEST_STEP = 0.5
"""No weight moves further than this in one micro-batch."""


class FeedbackUse(Enum):
    """How feedback on slates counts."""

    IGNORED = 0
    EQUAL = 1
    BY_IMPORTANCE = 2
    """The more, the less likely the slate was (`SlateFeedback.importance`)."""


class Fusion:
    """Weighs what models say; `models` in the order of their scores."""

    def __init__(
        self,
        models: Sequence[str],
        *,
        particles: int = 8,
        forgetting: float = 0.9999,
        seed: int = 0,
        prior: Mapping[str, float] | None = None,
        form: str = "linear",
        feedback_use: FeedbackUse = FeedbackUse.EQUAL,
        user_features: Sequence[UserFeature] = (),
    ) -> None:
        """`prior` gives the weights of some models' log shares before anything is learned; `form` is linear or mlp.

        What `user_features` say of
        candidates comes after what is known of items.
        """
        self.models = tuple(models)
        self.forgetting = forgetting
        self.seed = seed
        self.learn_outcomes = feedback_use is not FeedbackUse.IGNORED
        self.imitating = False  # examples are the choices of another policy, and only these are learned
        # The other policy chose under the same rules: what these add to a score is not for the weights to explain.
        self.ruled = False
        count = len(self.models)
        self.names = names(self.models)
        self._user_features = [feature for feature in user_features if feature.names]
        self.names += tuple(name for feature in self._user_features for name in feature.names)
        self.plain = len(self.names)  # features that are no network's
        self.residual: Residual | None = None
        if form == "mlp":
            from streamrec.engine.fusion.residual import Residual

            self.residual = Residual(self.plain, seed=seed)
            self.names += (RESIDUAL,)
        self.width = len(self.names)
        self.schema = zlib.crc32("/".join(self.names).encode())  # feedback must carry the same
        self.responses = ChoiceModel(feedback_use is FeedbackUse.BY_IMPORTANCE)
        self._prior_mean = np.zeros(self.width)
        self._prior_mean[self.plain :] = 1.0
        self._prior_mean[:count] = [(prior or {}).get(model, PRIOR_WEIGHT) for model in self.models]
        self.mean = self._prior_mean.copy()
        self.precision = np.eye(self.width) * PRIOR_PRECISION
        self.particles = np.tile(self.mean, (particles, 1))  # (particles, features)
        self.version = 0
        self.skipped = 0  # updates refused because a number in them was not finite

    def describe(self, queries: Queries, rows: slice, candidates: Candidates, first_ts: Int64, last_ts: Int64) -> bool:
        """Fill features and mean utility of these rows from the models' scores.

        Returns False when its weights or its network make no number of them: then the utility is that of untaught
        weights, so that slates go on.
        """
        items = candidates.items[rows]
        features = candidates.features[rows]
        known = describe(candidates.scores[:, rows], items, queries, rows, (first_ts, last_ts))
        at = known.shape[2]
        features[:, :, :at] = known  # (rows, candidates, features)
        for feature in self._user_features:
            said = feature.describe(queries, rows, items)  # (rows, candidates, its names)
            counts = np.isfinite(said) & (items != NOTHING)[:, :, None]
            features[:, :, at : at + len(feature.names)] = np.where(counts, said, np.float32(0))
            at += len(feature.names)
        if self.residual is not None:
            plain = np.ascontiguousarray(features[:, :, : self.plain])
            features[:, :, self.plain] = self.residual.score(plain, queries, rows)
        utility = features @ self.mean.astype(np.float32)  # (rows, candidates)
        sound = bool(np.isfinite(utility).all())
        if not sound:
            features[:, :, self.plain :] = 0.0
            utility = features @ self._prior_mean.astype(np.float32)
        candidates.utility[rows] = np.where(items == NOTHING, -np.inf, utility)
        return sound

    @property
    def posterior(self) -> Posterior:
        """What is believed of the weights now; what was believed at first, when it is none that holds numbers."""
        if all(np.isfinite(part).all() for part in (self.mean, self.precision, self.particles)):
            return Posterior(self.mean, self.precision, self.particles, self.version)
        particles = np.tile(self._prior_mean, (len(self.particles), 1))
        return Posterior(self._prior_mean, np.eye(self.width) * PRIOR_PRECISION, particles, self.version)

    @property
    def refused(self) -> int:
        """Updates of its weights and of its network that were refused."""
        return self.skipped + (0 if self.residual is None else self.residual.skipped)

    def asked(
        self,
        queries: Queries,
        rows: Int64,
        candidates: Candidates,
        boost: Float64,
        uncertainty: Float64,
        constraints: Sequence[Constraints | None],
    ) -> PolicyInput:
        """What policies see of these query rows.

        `boost` (rows, candidates) is in the candidates' utility already; `uncertainty` has the same shape;
        `constraints` (rows,).
        """
        return PolicyInput(
            seeds=queries.seed[rows],
            items=candidates.items[rows],
            features=candidates.features[rows],
            utility=candidates.utility[rows].astype(np.float64),
            scores=candidates.scores[:, rows],
            context=contexts(queries, rows),
            boost=boost,
            uncertainty=uncertainty,
            constraints=tuple(constraints),
        )

    def shares(self, features: Float32, places: Int64) -> Float64:
        """Each model's part of the score of the chosen, beside the average candidate: (chosen, models + 1).

        Args:
            features: (candidates, features) of one query.
            places: (chosen,) which of the candidates. The last column is the item's own features.
        """
        if len(places) == 0:
            return np.empty((0, len(self.models) + 1))
        parts = (features[places] - features.mean(0)) * self.mean  # (chosen, features)
        count = len(self.models)
        by_model = parts[:, : BY_MODEL * count].reshape(len(parts), BY_MODEL, count).sum(1)
        return np.concatenate([by_model, parts[:, BY_MODEL * count :].sum(1, keepdims=True)], axis=1)

    def learn(self, batch: MicroBatch, feedback: Sequence[SlateFeedback] = ()) -> None:
        """One Laplace step on the queries of a micro-batch that were followed by a wanted item, and on feedback."""
        gradient = np.zeros(self.width)
        curvature = np.zeros((self.width, self.width))
        learned = 0
        for q, wanted in self._targets(batch).items():
            used = int((batch.candidates.items[q] != NOTHING).sum())
            x = batch.candidates.features[q, :used].astype(np.float64)  # (used, features)
            score = batch.candidates.utility[q, :used].astype(np.float64) if self.ruled else x @ self.mean
            p = np.exp(score - score.max())
            p /= p.sum()
            mean = p @ x
            gradient += x[wanted].mean(0) - mean
            curvature += (x * p[:, None]).T @ x - np.outer(mean, mean)
            learned += 1
            if self.residual is not None:
                self.residual.remember(batch.candidates.features[q, :used, : self.plain], batch.queries, q, wanted)
        if feedback and self.learn_outcomes and not self.imitating:
            step = self.responses.step(feedback, self.mean)
            gradient, curvature, learned = gradient + step.gradient, curvature + step.curvature, learned + step.feedback
        if learned == 0:
            return
        kept = self.forgetting**learned
        precision = kept * self.precision + curvature
        precision[np.diag_indices(self.width)] += (1.0 - kept) * PRIOR_PRECISION
        gradient += (1.0 - kept) * PRIOR_PRECISION * (self._prior_mean - self.mean)
        self._move(precision, gradient)
        if self.residual is not None:
            self.residual.learn(self.mean[: self.plain])

    def _targets(self, batch: MicroBatch) -> dict[int, list[int]]:
        """Places of the items to learn among the candidates, by query row."""
        examples, targets = batch.examples, dict[int, list[int]]()
        label = IMITATED if self.imitating else WANTED
        for e in np.flatnonzero(examples.label[: batch.learned] == label).tolist():
            q = int(examples.query[e])
            if q == NOTHING:
                continue
            places = np.flatnonzero(batch.candidates.items[q] == examples.item[e])
            if len(places):
                targets.setdefault(q, []).append(int(places[0]))
        return targets

    def _move(self, precision: Float64, gradient: Float64) -> None:
        try:
            lower = scipy.linalg.cholesky(precision, lower=True)
            step = scipy.linalg.cho_solve((lower, True), gradient)
        except (ValueError, scipy.linalg.LinAlgError):  # a number that is none; or no precision, however it came to it
            self.skipped += 1
            return
        step *= min(1.0, LARGEST_STEP / max(float(np.abs(step).max()), 1e-12))
        if not np.isfinite(step).all():
            self.skipped += 1
            return
        self.precision = precision
        self.mean = self.mean + step
        self.version += 1
        noise = standard_normal(self.seed + 7, self.version * 1_000_003, *self.particles.shape)  # (particles, features)
        self.particles = self.mean + scipy.linalg.solve_triangular(lower, noise.T, trans="T", lower=True).T

    def weights(self) -> dict[str, float]:
        """The mean weight of each model's log share, for plots."""
        return {model: float(w) for model, w in zip(self.models, self.mean[: len(self.models)], strict=True)}

    def served(self) -> dict[str, Rows]:
        """The posterior and what the network scores by."""
        network = {} if self.residual is None else self.residual.served()
        return {
            "mean": self.mean,
            "precision": self.precision,
            "particles": self.particles,
            "counts": np.array([self.version, self.skipped], np.int64),
            **{f"{RESIDUAL}.{name}": rows for name, rows in network.items()},
        }

    def serve(self, arrays: Arrays, changed: ChangedRows | None = None) -> None:
        """Weigh as another one has learned to."""
        self.mean, self.precision, self.particles = arrays["mean"], arrays["precision"], arrays["particles"]
        self.version, self.skipped = (int(count) for count in arrays["counts"])
        if self.residual is not None:
            self.residual.serve(_part(arrays, RESIDUAL))

    def state(self) -> dict[str, Array]:
        parts: dict[str, dict[str, Array]] = {RESPONSES: self.responses.state()}
        if self.residual is not None:
            parts[RESIDUAL] = self.residual.state()
        return {
            "mean": self.mean.copy(),
            "precision": self.precision.copy(),
            "particles": self.particles.copy(),
            "counts": np.array([self.version, self.skipped], np.int64),
            **{f"{part}.{name}": array for part, held in parts.items() for name, array in held.items()},
        }

    def restore(self, arrays: Mapping[str, Array]) -> None:
        self.mean = np.array(arrays["mean"])
        self.precision = np.array(arrays["precision"])
        self.particles = np.array(arrays["particles"])
        self.version, self.skipped = (int(count) for count in arrays["counts"])
        self.responses.restore(_part(arrays, RESPONSES))
        if self.residual is not None:
            self.residual.restore(_part(arrays, RESIDUAL))


def _part(arrays: Arrays, part: str) -> dict[str, Array]:
    """The arrays of one part, by their own names."""
    return {name[len(part) + 1 :]: array for name, array in arrays.items() if name.startswith(part + ".")}

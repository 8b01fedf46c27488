"""A simulated shop: its catalogue, the latent tastes of its shoppers, and the true expected reward of every item.

The pull of item j on shopper u is the log-odds of a click, given that the item is examined:

    pull = base + chattiness_u + appeal * a_j + taste * (t_u . v_j) + intent * [category_j = intent of the session]
           - thrift * (price_j - budget_u)^2 / 2 - sated * [u has bought j]

The expected reward of a click follows from how often it ends in a cart and a purchase, which depends on the item's
quality. So the expected reward of an examined item is known, and the best slate is the items sorted by it: positions
are examined from the top with falling probability, whatever is shown (a position-based model; Craswell et al.: An
experimental comparison of click position-bias models, WSDM 2008).

Knows nothing of events, slates or policies.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from scipy.special import expit

from streamrec.evaluation.simulation.draws import Float64, Int64, Purpose, normals, uniforms

STARTED_MS = 1_704_067_200_000
"""2024-01-01: in the past, so that no event is dated ahead of its sending."""
HOUR_MS = 3_600_000
FAVOURITES = 2
"""Categories that a shopper comes back to."""
ROTATION = np.pi / 2
"""The angle by which taste vectors turn at a drift: old and new are orthogonal."""
SHIFTED = 0.5
"""Share of the items whose appeal is drawn again at a drift."""


class AttackKind(StrEnum):
    """What bots do; see `attack`."""

    HAMMER = "hammer"
    FLOOD = "flood"
    VIEWS = "views"
    RING = "ring"
    CLICKER = "clicker"


class DriftKind(StrEnum):
    """What changes at a drift."""

    TASTES = "tastes"
    POPULARITY = "popularity"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class AssortmentSettings:
    """The catalogue. A share of its items, `new`, arrives evenly over the log; the others are there from the start."""

    items: int = 600
    categories: int = 24
    dimension: int = 8
    new: float = 0.2


@dataclass(frozen=True, slots=True)
class CrowdSettings:
    """Shoppers, whose log activity has the standard deviation `spread`, and bots."""

    shoppers: int = 500
    spread: float = 0.7
    bots: int = 0
    attack: AttackKind = AttackKind.HAMMER
    attack_at: float = 0.0  # share of the log's time after which bots come


@dataclass(frozen=True, slots=True)
class TrafficSettings:
    """Requests and browsing. In the share `lost` of sessions, responses are lost from half-way on; requests are not."""

    requests: int = 6_000
    hours: float = 48.0
    per_session: float = 3.0
    browsed: float = 1.5
    lost: float = 0.05
    k: int = 10
    start_ms: int = STARTED_MS


@dataclass(frozen=True, slots=True)
class ClickSettings:
    """Coefficients of the log-odds of a click; see the top of the file."""

    base: float = -4.5
    appeal: float = 0.7
    taste: float = 1.1
    intent: float = 1.2
    thrift: float = 0.3
    sated: float = 3.0


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """How a slate is examined and responded to.

    `patience` is the probability of examining the next position; `skip` that of refusing an item that was examined and
    not clicked. A purchase comes between `delay_s` and `latest_s` after the click, exponentially with mean
    `mean_delay_s` past the least. Without `impressions`, no event says what was examined.
    """

    patience: float = 0.85
    cart: float = 0.25
    purchase: float = 0.4
    skip: float = 0.02
    delay_s: float = 120.0
    mean_delay_s: float = 720.0
    latest_s: float = 3_000.0
    impressions: bool = True


@dataclass(frozen=True, slots=True)
class DriftSettings:
    """A sudden change after the share `at` of the log's time."""

    kind: DriftKind
    at: float = 0.5


@dataclass(frozen=True, slots=True)
class RewardSettings:
    """Rewards of the responses, as `attribution.values`; the most valuable response to an item counts."""

    click: float = 0.2
    cart: float = 0.5
    purchase: float = 1.0
    skip: float = -0.1


@dataclass(frozen=True, slots=True)
class WorldSettings:
    """Everything that defines a world: equal settings make equal worlds."""

    seed: int = 0
    assortment: AssortmentSettings = field(default_factory=AssortmentSettings)
    crowd: CrowdSettings = field(default_factory=CrowdSettings)
    traffic: TrafficSettings = field(default_factory=TrafficSettings)
    pull: ClickSettings = field(default_factory=ClickSettings)
    manners: AnswerSettings = field(default_factory=AnswerSettings)
    rewards: RewardSettings = field(default_factory=RewardSettings)
    drift: DriftSettings | None = None


class World:
    """Catalogue, tastes and true rewards. Immutable: purchases are kept by `Shoppers`."""

    def __init__(self, settings: WorldSettings) -> None:
        self.settings = settings
        self.start_ms = settings.traffic.start_ms
        self.end_ms = self.start_ms + int(settings.traffic.hours * HOUR_MS)
        drift = settings.drift
        self.drift_ms = None if drift is None else self._moment(drift.at)
        self.attack_ms = self._moment(settings.crowd.attack_at)
        self._make_items()
        self._make_shoppers()
        self._make_drift()
        manners, rewards = settings.manners, settings.rewards
        places = np.arange(settings.traffic.k, dtype=np.float64)
        self.examination = np.power(manners.patience, places)  # (k,) probability that a position is examined
        self.cart = expit(_logit(manners.cart) + 0.8 * self.quality)  # (items,) given a click
        self.purchase = expit(_logit(manners.purchase) + 0.6 * self.quality)  # (items,) given a cart
        in_cart = (1 - self.purchase) * rewards.cart + self.purchase * rewards.purchase
        self.click_worth = (1 - self.cart) * rewards.click + self.cart * in_cart  # (items,)
        self.item_ids = tuple(f"item-{item}" for item in range(settings.assortment.items))
        self.index = {item_id: item for item, item_id in enumerate(self.item_ids)}
        self.categories = tuple(f"category-{category}" for category in self.category.tolist())  # (items,) by item

    def pull(self, shopper: int, intent: int, ts: int, bought: list[int]) -> Float64:
        """Log-odds of a click on each item if it is examined now, (items,); -inf for items not on sale yet."""
        weights = self.settings.pull
        late = self.drift_ms is not None and ts >= self.drift_ms
        taste = (self.later_taste if late else self.taste)[shopper]
        pull = (self.later_appeal if late else self.appeal) * weights.appeal
        pull += weights.base + self.chattiness[shopper] + weights.taste * (self.vectors @ taste)
        pull -= 0.5 * weights.thrift * (self.price - self.budget[shopper]) ** 2
        pull[self.category == intent] += weights.intent
        pull[bought] -= weights.sated
        pull[self.released_ms > ts] = -np.inf
        return pull

    def value(self, pull: Float64) -> Float64:
        """Expected reward of each item if it is examined, (items,); -inf for items not on sale."""
        clicked = expit(pull)
        refused = self.settings.manners.skip * (1 - clicked)
        value = clicked * self.click_worth + refused * self.settings.rewards.skip
        return np.where(np.isfinite(pull), value, -np.inf)

    def best(self, value: Float64) -> Int64:
        """The slate with the largest expected reward, (k,) items, best first."""
        k = min(self.settings.traffic.k, len(value))
        top = np.argpartition(-value, k - 1)[:k]
        return top[np.argsort(-value[top], kind="stable")]

    def expected(self, value: Float64, slate: Int64) -> float:
        """Expected reward of a slate of known items; items not on sale earn nothing."""
        worth = value[slate]
        return float(self.examination[: len(slate)] @ np.where(np.isfinite(worth), worth, 0.0))

    def _moment(self, share: float) -> int:
        return self.start_ms + int(share * (self.end_ms - self.start_ms))

    def _make_items(self) -> None:
        made, seed = self.settings.assortment, self.settings.seed
        items, dimension = np.arange(made.items), np.arange(made.dimension)
        centres = normals(seed, Purpose.CENTRE, np.arange(made.categories)[:, None], dimension)
        self.centres = centres / np.linalg.norm(centres, axis=1, keepdims=True)  # (categories, dimension)
        self.category = (uniforms(seed, Purpose.CATEGORY, items) * made.categories).astype(np.int64)  # (items,)
        noise = normals(seed, Purpose.ITEM, 0, items[:, None], dimension)
        self.vectors = 2.0 * self.centres[self.category] + 0.5 * noise  # (items, dimension)
        self.appeal = normals(seed, Purpose.ITEM, 1, items)  # (items,)
        self.quality = normals(seed, Purpose.ITEM, 2, items)  # (items,)
        self.price = normals(seed, Purpose.ITEM, 3, items)  # (items,) log price, in standard deviations
        late = uniforms(seed, Purpose.RELEASE, 0, items) < made.new
        when = uniforms(seed, Purpose.RELEASE, 1, items) * (self.end_ms - self.start_ms)
        self.released_ms = self.start_ms + np.where(late, when, 0).astype(np.int64)  # (items,)
        there = np.flatnonzero(~late)
        # What bots push: of what is on sale from the start, the item in the middle by appeal.
        self.target = int(there[np.argsort(self.appeal[there], kind="stable")[len(there) // 2]])

    def _make_shoppers(self) -> None:
        crowd, made, seed = self.settings.crowd, self.settings.assortment, self.settings.seed
        people = np.arange(crowd.shoppers)
        self.favourites, self.taste = self._tastes(turn=0)
        self.chattiness = 0.4 * normals(seed, Purpose.ACTIVITY, 0, people)  # (shoppers,)
        self.activity = np.exp(crowd.spread * normals(seed, Purpose.ACTIVITY, 1, people))  # (shoppers,)
        self.budget = normals(seed, Purpose.ACTIVITY, 2, people)  # (shoppers,)
        self.fan_of = uniforms(seed, Purpose.BOT, np.arange(crowd.bots)[:, None], np.arange(3)) * made.items

    def _tastes(self, turn: int) -> tuple[Int64, Float64]:
        """Favourite categories (shoppers, FAVOURITES) and unit taste vectors (shoppers, dimension)."""
        crowd, made, seed = self.settings.crowd, self.settings.assortment, self.settings.seed
        people = np.arange(crowd.shoppers)[:, None]
        places = uniforms(seed, Purpose.FAVOURITE, turn, people, np.arange(FAVOURITES))
        favourites = (places * made.categories).astype(np.int64)
        noise = normals(seed, Purpose.TASTE, turn, people, np.arange(made.dimension))
        taste = self.centres[favourites].sum(1) + 0.25 * noise
        return favourites, taste / np.linalg.norm(taste, axis=1, keepdims=True)

    def _make_drift(self) -> None:
        """Tastes and appeal as they are after the drift, if there is one."""
        self.later_taste, self.later_favourites, self.later_appeal = self.taste, self.favourites, self.appeal
        drift, seed = self.settings.drift, self.settings.seed
        if drift is None:
            return
        if drift.kind is not DriftKind.POPULARITY:
            self.later_favourites, other = self._tastes(turn=1)
            other = other - (other * self.taste).sum(1, keepdims=True) * self.taste  # what it shares with the old
            other /= np.linalg.norm(other, axis=1, keepdims=True)
            self.later_taste = np.cos(ROTATION) * self.taste + np.sin(ROTATION) * other
        if drift.kind is not DriftKind.TASTES:
            items = np.arange(len(self.appeal))
            moved = uniforms(seed, Purpose.DRIFT, 0, items) < SHIFTED
            self.later_appeal = np.where(moved, normals(seed, Purpose.DRIFT, 1, items), self.appeal)


def _logit(chance: float) -> float:
    return float(np.log(chance / (1 - chance)))

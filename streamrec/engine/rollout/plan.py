"""Which policy answers which user: a plan, and what it decides for a user.

    online        all users get the policy, but for those in an experiment's arms; or two policies share each slate
    canary        a share of the users gets it, the others the baseline
    shadow        the baseline answers all, and what the policy would have done is logged beside
    apprentice    likewise, while it is taught to do as the baseline or the site does

A user's place in [0, 1) is a hash of the salt and the id, so it needs no memory and is the same on every worker. A
canary is the places below its share. Arms are made of places too, and each grows from an edge of its own: see
`_owners`. Another salt gives places that have nothing to do with these: experiments with different salts do not disturb
one another.

Knows nothing of topics, stores, settings or clocks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from streamrec.engine.arrays.logged_event import name_hash
from streamrec.engine.rollout.revisions import Mode, Revision
from streamrec.errors import ConfigError

CANARY, CONTROL = "canary", "control"
ROUNDING = 1e-9  # ten arms of 0.1 are not more than all
SLOTS = 10_000
"""Equal parts of [0, 1) that arms are made of, so their shares are multiples of 0.0001."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Which policy a user gets.

    `publish` makes the slate; where `interleaved` names two policies they make it in turns, and `publish` is both their
    names with a `+` between. `arm` is the part of an experiment or a canary that the user is in. `beside` are the
    policies whose choices are logged with the slate, never one that makes it.
    """

    publish: str
    mode: Mode
    arm: str | None = None
    interleaved: tuple[str, str] | None = None
    beside: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """Which users get which policy. The words are those of the `[rollout]` settings; `policy` is the one on trial.

    Raises:
        ConfigError: the parts do not fit together.
    """

    policy: str
    mode: Mode = Mode.ONLINE
    baseline: str = "model:popularity"
    share: float = 0.05
    arms: tuple[tuple[str, float], ...] = ()
    interleave: tuple[str, ...] = ()
    salt: str = "streamrec"
    evaluate: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, share in (("rollout.share", self.share), *((f"rollout.arms.{n}", s) for n, s in self.arms)):
            if not 0 <= share <= 1:
                raise ConfigError(f"{name} is {share:g}, expected 0 to 1: a share of the users")
        together = sum(share for _, share in self.arms)
        if together > 1 + ROUNDING:
            arms = ", ".join(f"{name} {share:g}" for name, share in self.arms)
            raise ConfigError(f"rollout.arms are {together:g} together ({arms}), expected at most 1: make them smaller")
        for name, share in self.arms:
            if share and not round(share * SLOTS):
                raise ConfigError(f"rollout.arms.{name} is {share:g}, expected 0 or at least {1 / SLOTS:g}")
        if self.arms and self.interleave:
            raise ConfigError("rollout.arms and rollout.interleave are both set; a user is in one of them: drop one")
        if self.interleave and len(set(self.interleave)) != 2:
            given = ", ".join(self.interleave)
            raise ConfigError(f"rollout.interleave is {given}, expected two different policies")
        if self.mode is not Mode.ONLINE and (self.arms or self.interleave):
            what = "arms" if self.arms else "interleave"
            raise ConfigError(f"rollout.{what} is set and rollout.mode is {self.mode.value!r}; experiments run online")
        if self.mode is not Mode.ONLINE and self.baseline == self.policy:
            raise ConfigError(
                f"rollout.baseline and fusion.policy are both {self.policy!r} and rollout.mode is {self.mode.value!r}: "
                "nothing is on trial; name another baseline, or go online"
            )

    @classmethod
    def of(cls, revision: Revision, evaluate: Iterable[str] = ()) -> Self:
        """The plan of a revision. What is logged beside slates is no part of it: `evaluate` is from the settings.

        Raises:
            ConfigError: the revision's parts do not fit together.
        """
        return cls(
            policy=revision.policy,
            mode=revision.mode,
            baseline=revision.baseline,
            share=revision.share,
            arms=tuple(revision.arms.items()),
            interleave=tuple(revision.interleave),
            salt=revision.salt,
            evaluate=tuple(evaluate),
        )

    def decide(self, user_id: str) -> Decision:
        """Which policy answers this user; the same at every call."""
        if self.mode is Mode.CANARY:
            chosen = place(self.salt, user_id) < self.share
            publish = self.policy if chosen else self.baseline
            return Decision(publish, self.mode, CANARY if chosen else CONTROL, None, self._beside(publish))
        if self.mode is not Mode.ONLINE:
            return Decision(self.baseline, self.mode, None, None, self._beside(self.baseline))
        if self.interleave:
            first, second = self.interleave
            return Decision(f"{first}+{second}", self.mode, None, (first, second), self._beside(first, second))
        arm = self._arm(user_id)
        publish = arm or self.policy
        return Decision(publish, self.mode, arm, None, self._beside(publish))

    def policies(self) -> tuple[str, ...]:
        """Every policy that may be asked, each once."""
        if self.mode is not Mode.ONLINE:
            asked = [self.policy, self.baseline]
        elif self.interleave:
            asked = list(self.interleave)
        else:
            asked = [self.policy, *(name for name, share in self.arms if share)]
        return tuple(dict.fromkeys([*asked, *self.evaluate]))

    def _arm(self, user_id: str) -> str | None:
        if not self.arms:
            return None
        return _owners(self.arms)[int(place(self.salt, user_id) * SLOTS)]

    def _beside(self, *publishing: str) -> tuple[str, ...]:
        on_trial = () if self.mode is Mode.ONLINE else (self.policy,)
        return tuple(name for name in dict.fromkeys([*on_trial, *self.evaluate]) if name not in publishing)


def place(salt: str, user_id: str) -> float:
    """A user's place in [0, 1): uniform over users, independent between salts."""
    hashed = name_hash(f"{salt}\x00{user_id}")  # 64 bits, of which a float holds 53
    return (hashed >> 11) * 2.0**-53


@lru_cache(maxsize=64)
def _owners(arms: tuple[tuple[str, float], ...]) -> tuple[str | None, ...]:
    """The arm of each slot, (SLOTS,), None for those in none.

    Slots form a circle. Two arms grow away from each edge, one to the right and one to the left; edges are at 0, 1/2,
    1/4, 3/4, 1/8 and so on, as many as are needed, so an arm that is added at the end has an edge that is free. All
    arms grow at once and pass over what they meet, so a slot belongs to the nearest arm that wants so many.

    A changed share then moves users between that arm and those in none alone while the arms that face each other have
    room between their edges: two arms always do, up to four while none is larger than a quarter. No rule without a
    memory does so for all shares of three arms: beside A with a half, B with a half must be all that is not A, and so
    must C, though B and C with a half each have nobody in common.
    """
    owners: list[str | None] = [None] * SLOTS
    growing = [
        (name, _edge(number // 2) - number % 2, -1 if number % 2 else 1, round(share * SLOTS))
        for number, (name, share) in enumerate(arms)
    ]
    for step in range(SLOTS):
        growing = [arm for arm in growing if arm[-1]]
        if not growing:
            break
        for at, (name, first, direction, wanted) in enumerate(growing):
            slot = (first + direction * step) % SLOTS
            if owners[slot] is None:
                owners[slot] = name
                growing[at] = (name, first, direction, wanted - 1)
    return tuple(owners)


def _edge(number: int) -> int:
    """The slot that begins at the edge of this number, counted from 0: the number's bits mirrored behind the point."""
    mirrored = int(f"{number:b}"[::-1], 2)
    return mirrored * SLOTS >> number.bit_length()

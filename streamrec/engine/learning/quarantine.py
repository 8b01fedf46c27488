"""Takes a learning part that does harm out of service, and lets it in again after it was rolled back.

    trusted --(PATIENCE strikes, or an array that is no number)--> sentenced --(rolled back)--> on probation
       ^                                                                                             |
       +------------------------(PROBATION cuts in a row without a strike)---------------------------+

A strike is a learning cut in which a part refused an update, because a number was not finite or the loss exploded, or
gave a score that is not a number. Harmless cuts take strikes back, so that an accident now and then is forgiven. A
model that is not trusted counts as one that knows nothing; the fusion and the policies have no stand-in, so they go on
from where they were rolled back to, watched in the same way.

Parties are named as the components of a snapshot are. Everything is counted in cuts of the log and saved with the
models. Knows nothing of what models are, nor of snapshots, clocks or logs; `sentenced` names the parts to be rolled
back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from streamrec.engine.arrays.batch import Array, Float32
from streamrec.engine.arrays.packing import packed_strings, unpacked_strings
from streamrec.engine.following.served import Arrays, ChangedRows, Rows

PATIENCE = 8
"""Strikes that are one too many by default: a model that is broken has them within 8 of its updates."""
FORGIVEN = 0.5 ** (1 / 128)
"""Of the strikes by each harmless cut. A model that learns in one cut of twenty, and refuses each time, still comes to
eight; one bad micro-batch in thirty cuts never comes to more than seven."""
PROBATION = 32
"""Harmless cuts in a row that bring trust back, 1,024 events: some ten updates of the slowest model."""
SUSPICIOUS = 1.0
"""Strikes from which on a snapshot is no good for rolling back to: one, until the first harmless cut after it."""
FUSION, MODEL, POLICY = "fusion", "model.", "policy."
"""The fusion, and what stands before a model's and a policy's name, among the components of a snapshot."""
UNSETTLED = frozenset({"origin", "clock", "guard.levels"})
"""Arrays in which a number that is none says that nothing has come yet."""


class Phase(IntEnum):
    """Whether a part is trusted."""

    TRUSTED = 0
    SENTENCED = 1
    PROBATION = 2


@dataclass(slots=True)
class PartyRecord:
    """What is on record of one party."""

    phase: Phase = Phase.TRUSTED
    strikes: float = 0.0  # decayed
    harmless: int = 0  # cuts in a row
    nonsense: bool = False  # said something in this cut that is no score
    refused: int = 0  # updates as of the last cut
    rollbacks: int = 0
    back_at: str | None = None  # on probation: the snapshot that was rolled back to, "" where there was none

    def judge(self, refused: int, patience: int) -> None:
        """One cut is over; so many updates were refused since the beginning."""
        harmed = self.nonsense or refused > self.refused
        self.refused, self.nonsense = refused, False
        if self.phase is Phase.SENTENCED:
            return
        if harmed:
            self.strikes, self.harmless = self.strikes + 1.0, 0
            if self.strikes > patience - 0.5:  # strikes of late have faded a little
                self.phase = Phase.SENTENCED
            return
        self.strikes *= FORGIVEN
        self.harmless += 1
        if self.phase is Phase.PROBATION and self.harmless >= PROBATION:
            self.phase, self.strikes, self.back_at = Phase.TRUSTED, 0.0, None


class Quarantine:
    """The record of every part that learns; `models` in the order of their scores."""

    def __init__(self, models: Sequence[str], patience: int = PATIENCE) -> None:
        self._retry = patience
        self._models = tuple(MODEL + model for model in models)
        self._cases: dict[str, PartyRecord] = {}

    # At rankings and at cuts

    def hear(self, scores: Float32) -> None:
        """Make "not known" of what is no score, and of all that untrusted models say, in place.

        Args:
            scores: (models, rows, candidates) log masses.
        """
        tops = scores.max(axis=(1, 2))  # (models,) no number if one of them is none
        for at in np.flatnonzero(~(tops < np.inf)).tolist():
            self.complain(self._models[at])
            scores[at][~(scores[at] < np.inf)] = -np.inf
        for at, model in enumerate(self._models):
            if self.out(model):
                scores[at] = -np.inf

    def complain(self, name: str) -> None:
        """This one said something that is no score."""
        self._case(name).nonsense = True

    def judge(self, refused: Mapping[str, int]) -> None:
        """A learning cut is over. `refused` counts the updates that each has refused since it began."""
        for name in refused:
            self._case(name)
        for name, case in self._cases.items():
            case.judge(refused.get(name, 0), self._retry)

    def condemn(self, names: Iterable[str]) -> None:
        """These hold arrays that are no numbers, which no harmless cut will mend.

        It came into them since: the snapshot they were rolled back to, if any, held none and may be taken again.
        """
        for name in names:
            case = self._case(name)
            case.phase, case.back_at = Phase.SENTENCED, None

    # Rolling back

    def sentenced(self) -> tuple[str, ...]:
        """The parts to be rolled back."""
        return tuple(name for name, case in self._cases.items() if case.phase is Phase.SENTENCED)

    def before(self, name: str) -> str | None:
        """The snapshot that this one's next must be older than: what the last rollback took has failed too."""
        return self._case(name).back_at

    def rolled_back(self, name: str, reference: str | None, refused: int) -> None:
        """This one is what it was in that snapshot, or untaught; from here on it is on probation."""
        rollbacks = self._case(name).rollbacks + 1
        self._cases[name] = PartyRecord(Phase.PROBATION, refused=refused, rollbacks=rollbacks, back_at=reference or "")

    # What is asked of it

    def out(self, name: str) -> bool:
        """Whether this one is not trusted."""
        case = self._cases.get(name)
        return case is not None and case.phase is not Phase.TRUSTED

    def suspects(self) -> frozenset[str]:
        """Whose arrays of this moment no rollback may take."""
        return frozenset(
            name for name, case in self._cases.items() if case.phase is not Phase.TRUSTED or case.strikes >= SUSPICIOUS
        )

    def standing(self) -> dict[str, bool]:
        """Whether each is out, by name; only of those that there is a record of."""
        return {name: self.out(name) for name in self._cases}

    def _case(self, name: str) -> PartyRecord:
        return self._cases.setdefault(name, PartyRecord())

    # Snapshots

    def served(self) -> dict[str, Rows]:
        """Which parts are out."""
        return {"phases": np.array([case.phase for case in self._cases.values()], np.int8), "names": list(self._cases)}

    def serve(self, arrays: Arrays, changed: ChangedRows | None = None) -> None:
        """Trust whom another one trusts, who judges."""
        phases = map(Phase, arrays["phases"].tolist())
        self._cases = {name: PartyRecord(phase) for name, phase in zip(arrays["names"], phases, strict=True)}

    def state(self) -> dict[str, Array]:
        """What a snapshot holds."""
        cases = self._cases.values()
        rows = [[case.strikes, *map(int, _counts(case))] for case in cases]
        return {
            "phases": np.array([case.phase for case in cases], np.int8),
            "cases": np.array(rows, np.float64).reshape(len(rows), 5),
            **packed_strings("names", list(self._cases)),
            **packed_strings("back_at", [NEVER if case.back_at is None else case.back_at for case in cases]),
        }

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """The inverse of `state`."""
        names, back_at = unpacked_strings("names", arrays), unpacked_strings("back_at", arrays)
        self._cases = {}
        phases, cases = arrays["phases"].tolist(), arrays["cases"].tolist()
        for name, at, phase, (strikes, *counts) in zip(names, back_at, phases, cases, strict=True):
            harmless, nonsense, refused, rollbacks = map(int, counts)
            back = None if at == NEVER else at
            self._cases[name] = PartyRecord(Phase(phase), strikes, harmless, bool(nonsense), refused, rollbacks, back)


HALF_EXPONENT = 0x7C00
"""All ones where half a precision's number is none."""
NEVER = "-"
"""In place of a snapshot's name: there was no rollback."""


def _counts(case: PartyRecord) -> tuple[int, bool, int, int]:
    return case.harmless, case.nonsense, case.refused, case.rollbacks


def unsound(components: Mapping[str, Mapping[str, Array]], names: Collection[str]) -> list[str]:
    """Which of these components hold an array with something in it that is no number."""
    return [name for name in names if not _sound(components[name])]


def _sound(arrays: Mapping[str, Array]) -> bool:
    return all(_finite(array) for name, array in arrays.items() if name not in UNSETTLED)


def _finite(array: Array) -> bool:
    if array.dtype.kind != "f" or array.size == 0:
        return True
    if array.dtype == np.float16:  # its own arithmetic takes ten times as long as that of its bits
        return bool((array.view(np.uint16) & HALF_EXPONENT).max() < HALF_EXPONENT)
    # Both are none if one of all is, and need no second array.
    return bool(np.isfinite(array.max()) and np.isfinite(array.min()))

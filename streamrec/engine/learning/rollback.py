"""Everything that learns, by its component in a snapshot: judged together, rolled back one by one.

Knows nothing of events, of clocks, or of where snapshots lie.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from streamrec.engine.arrays.batch import Array
from streamrec.engine.arrays.feedback import CountsRefusals
from streamrec.engine.arrays.fitting import GO_BACK, fitting, misfit, other_rows
from streamrec.engine.following.served import Served
from streamrec.engine.fusion.fusion import Fusion
from streamrec.engine.items.item_table import ItemTable, renamed
from streamrec.engine.learning.quarantine import FUSION, MODEL, POLICY, Quarantine, unsound
from streamrec.engine.models import Model
from streamrec.engine.policies.registry import PolicyRegistry

QUARANTINE = "quarantine"
"""The component of a snapshot that says which parts are trusted."""
Components = Mapping[str, Mapping[str, Array]]


class RollbackControl:
    """Models, fusion and policies, and the record of which of them may be trusted."""

    def __init__(
        self,
        models: Sequence[Model],
        unheard: Sequence[Model],
        fusion: Fusion,
        policies: PolicyRegistry,
        items: ItemTable,
        rollback_after: int,
    ) -> None:
        """All of them untaught: that is what they go back to when nothing better is left.

        Models that the fusion does not hear (`unheard`) are not judged: they can harm no slate.
        """
        self.quarantine = Quarantine([model.name for model in models], rollback_after)
        self._policies = policies
        self._items = items
        self._fusion = fusion
        self._models = {MODEL + model.name: model for model in models}
        self._unheard = {MODEL + model.name: model for model in unheard}
        self._parts: dict[str, Model | Fusion] = {**self._models, FUSION: fusion}
        self._refusing = {name: part for name, part in self._parts.items() if isinstance(part, CountsRefusals)}
        self.untaught: Components = {name: part.state() for name, part in (self._parts | self._unheard).items()}

    def judge(self) -> None:
        """A learning cut is over."""
        self.quarantine.judge(self._refused())

    def suspects(self, state: Components) -> frozenset[str]:
        """The components of a state of this moment that no rollback may take.

        Whoever holds a number that is none is sentenced by it.
        """
        watched = [name for name in state if name in self._parts or name.startswith(POLICY)]
        self.quarantine.condemn(unsound(state, watched))
        return self.quarantine.suspects()

    def roll_back(self, name: str, reference: str | None, arrays: Components | None) -> None:
        """One of them becomes what it was in a snapshot, whose arrays are given whole, or untaught without one.

        Items whose places others have taken since then are forgotten by it.
        """
        if name.startswith(POLICY):
            policy = self._policies.renewed(name[len(POLICY) :])
            if arrays is not None:
                policy.restore(arrays[name])
        else:
            part = self._parts[name]
            part.restore(self.untaught[name] if arrays is None else arrays[name])
            if arrays is not None and not isinstance(part, Fusion):
                gone = renamed(arrays["items"], self._items)
                if len(gone):
                    part.forget(gone)
        self.quarantine.rolled_back(name, reference, self._refused().get(name, 0))

    def parts(self, named: Iterable[str] = ()) -> dict[str, Served]:
        """All of them and the quarantine, by component, to be served or to serve by.

        Policies are among them that were made, or are `named`, as a snapshot or an update of others' may name them.
        """
        asked = (name[len(POLICY) :] for name in named if name.startswith(POLICY))
        policies = {**self._policies.made(), **{name: self._policies.policy(name) for name in asked}}
        return {
            FUSION: self._fusion,
            QUARANTINE: self.quarantine,
            **self._models,
            **self._unheard,
            **{POLICY + name: policy for name, policy in policies.items()},
        }

    def refuse_foreign(self, arrays: Components) -> None:
        """To be called before arrays are served that are not restored.

        Raises:
            StateError: those of one of them are not its own; what is said names it.
        """
        for name, untaught in self.untaught.items():
            if why := other_rows(arrays.get(name, {}), untaught):
                raise misfit(_spoken(name), why, _remedy(name))

    def state(self) -> dict[str, dict[str, Array]]:
        """What they learned, and which are trusted, by component."""
        return {
            FUSION: self._fusion.state(),
            QUARANTINE: self.quarantine.state(),
            **{name: model.state() for name, model in (self._models | self._unheard).items()},
            **{POLICY + name: state for name, state in self._policies.state().items()},
        }

    def restore(self, arrays: Components) -> None:
        """The inverse of `state`.

        Raises:
            StateError: the arrays of one of them are not its own; what is said names it.
        """
        if QUARANTINE in arrays:  # snapshots of before knew of none
            self.quarantine.restore(arrays[QUARANTINE])
        for name, part in (self._parts | self._unheard).items():  # those that are unheard may be missing
            found = arrays.get(name, {})
            with fitting(_spoken(name), found, self.untaught[name], _remedy(name)):
                part.restore(found)
        self._policies.restore({name[len(POLICY) :]: arrays[name] for name in arrays if name.startswith(POLICY)})

    def _refused(self) -> dict[str, int]:
        """How many updates each has refused since it began."""
        policies = {POLICY + name: count for name, count in self._policies.refused().items()}
        return {name: part.refused for name, part in self._refusing.items()} | policies


def _spoken(name: str) -> str:
    """A model or the fusion, as people call it."""
    return f"model {name[len(MODEL) :]!r}" if name.startswith(MODEL) else f"the {name}"


def _remedy(name: str) -> str:
    """What to do where it does not fit."""
    if not name.startswith(MODEL):
        return GO_BACK
    return (
        f"{GO_BACK}, or leave {name[len(MODEL) :]!r} out of learning.models until a snapshot without it is kept, and "
        "put it back: it begins untaught then"
    )

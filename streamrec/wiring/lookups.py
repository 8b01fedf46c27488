"""What is stored of users and items, for the command line and the gateway alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from streamrec.engine.rollout.plan import Decision, Plan
from streamrec.errors import ConfigError
from streamrec.state import inspection
from streamrec.state.segments import segments
from streamrec.wiring.connections import build_rollout_store, build_store
from streamrec.wiring.policies import settled_revision

if TYPE_CHECKING:
    from streamrec.config.settings import Settings

Known = dict[str, Any]


class StoredLookups:
    """Looks into the configured Redis and changes nothing there; from any thread.

    Raises:
        ConfigError: the URL is none.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = build_store(settings)
        self._rollouts = build_rollout_store(settings)

    def user(self, user_id: str) -> Known | None:
        """A user, the segments and who answers; None for a user never seen. `titles` is for the caller to fill in.

        Raises:
            StateError: the store does not answer, or a stored value cannot be read.
        """
        known = inspection.user(self._store, user_id)
        if known is None:
            return None
        decision = self.decision(user_id)
        answered = None if decision is None else _plain(decision)
        return {**known, "segments": list(segments(known)), "answered_by": answered, "titles": {}}

    def item(self, item_id: str) -> Known | None:
        """An item; None for one never seen.

        Raises:
            StateError: the store does not answer, or a stored value cannot be read.
        """
        return inspection.item(self._store, item_id)

    def decision(self, user_id: str) -> Decision | None:
        """Who answers the user, by the rollout in force; None where the settings here fit no rollout.

        Raises:
            StateError: the store does not answer.
        """
        revision = self._rollouts.latest() or settled_revision(self._settings)
        try:
            return Plan.of(revision).decide(user_id)
        except ConfigError:
            return None

    def close(self) -> None:
        """Let go of connections."""
        self._store.close()
        self._rollouts.close()


def _plain(decision: Decision) -> Known:
    return {
        "policy": decision.publish,
        "mode": decision.mode.value,
        "arm": decision.arm,
        "interleaved": None if decision.interleaved is None else list(decision.interleaved),
    }

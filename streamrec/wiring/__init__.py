"""Where the parts are put together.

Models, retrievers and policies are listed by name in `config/parts.py` and loaded from there; every other concrete
class is named here and nowhere else. What is slow to import (torch, river, Kafka's and Redis's clients) is imported by
the function that needs it: many commands need none of them.
"""

from __future__ import annotations

from streamrec.wiring.compilation import compile_ahead
from streamrec.wiring.connections import (
    build_redis_copy,
    build_redriven,
    build_rollout_store,
    build_store,
    connect_worker,
    kafka_sink,
)
from streamrec.wiring.engine_run import answers, bring_in, run_engine
from streamrec.wiring.features import build_encoder, build_features
from streamrec.wiring.lookups import StoredLookups
from streamrec.wiring.models import build_model, build_models, build_retrievers
from streamrec.wiring.pipeline import build_pipeline, build_scenarios
from streamrec.wiring.policies import build_plan, build_policy, following, settled_revision
from streamrec.wiring.processor import steady_arithmetic, torch_device
from streamrec.wiring.worker import (
    build_open_slates,
    build_rehearsal,
    build_validation_limits,
    build_warmup,
    build_worker,
)

__all__ = [
    "StoredLookups",
    "answers",
    "bring_in",
    "compile_ahead",
    "build_rollout_store",
    "build_encoder",
    "build_features",
    "build_model",
    "build_models",
    "build_open_slates",
    "build_plan",
    "build_policy",
    "build_pipeline",
    "build_redis_copy",
    "build_redriven",
    "build_rehearsal",
    "build_retrievers",
    "build_scenarios",
    "build_store",
    "build_validation_limits",
    "build_warmup",
    "build_worker",
    "connect_worker",
    "following",
    "kafka_sink",
    "run_engine",
    "settled_revision",
    "steady_arithmetic",
    "torch_device",
]

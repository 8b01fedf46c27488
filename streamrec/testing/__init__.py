"""Small real parts for tests, ours and those of programs that use streamrec, and the checks that our own parts pass.

    from streamrec.testing import check_model
    check_model(ENTRY)                          # raises AssertionError with a sentence

`shop`, `records` and `recount` make a shop's log and count it by hand. A `check_...` runs every promise of its kind on
a part; `..._CHECKS` are the promises one by one, for a test runner that shows them so: each takes the kind's bench, or
a store or transport that is new. Needs no test runner.
"""

from __future__ import annotations

from streamrec.testing.expectations import expect
from streamrec.testing.models import MODEL_CHECKS, ModelBench, check_model
from streamrec.testing.patterns import PATTERNS, Pattern
from streamrec.testing.policies import POLICY_CHECKS, PolicyBench, check_policy
from streamrec.testing.retrievers import RETRIEVER_CHECKS, RetrieverBench, check_retriever
from streamrec.testing.shop import (
    HEADERS,
    STARTED_MS,
    WEIGHTS,
    Recount,
    partition_of,
    records,
    recount,
    requests,
    shop,
)
from streamrec.testing.stores import STORE_CHECKS, check_store
from streamrec.testing.transports import TRANSPORT_CHECKS, Transport, check_transport
from streamrec.testing.user_features import check_user_feature
from streamrec.testing.visits import Visits

__all__ = [
    "HEADERS",
    "MODEL_CHECKS",
    "PATTERNS",
    "POLICY_CHECKS",
    "RETRIEVER_CHECKS",
    "STARTED_MS",
    "STORE_CHECKS",
    "TRANSPORT_CHECKS",
    "WEIGHTS",
    "ModelBench",
    "Pattern",
    "PolicyBench",
    "Recount",
    "RetrieverBench",
    "Transport",
    "Visits",
    "check_model",
    "check_policy",
    "check_retriever",
    "check_store",
    "check_transport",
    "check_user_feature",
    "expect",
    "partition_of",
    "records",
    "recount",
    "requests",
    "shop",
]

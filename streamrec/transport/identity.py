"""Which topic a name stands for just now: a topic that was deleted and made anew has another id (KIP-516).

Knows nothing of positions, nor of what is to be done about it.
"""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from streamrec.errors import TransportError, TransportUnavailable
from streamrec.transport import TopicIdentity
from streamrec.transport.librdkafka import HOPELESS, LOG, Settings, connect, for_admin

NO_ID = "AAAAAAAAAAAAAAAAAAAAAA"
"""What a broker says that has no ids: zero."""

UNTOLD = frozenset(
    {KafkaError._UNSUPPORTED_FEATURE, KafkaError.UNSUPPORTED_VERSION, KafkaError.CLUSTER_AUTHORIZATION_FAILED}
)
"""What comes of brokers that do not know the question, or answer it to others."""


class IdentityReader:
    """Asks the brokers; one connection for as long as it lives."""

    def __init__(self, topic: str, settings: Settings) -> None:
        """Connect in the background.

        Raises:
            ConfigError: librdkafka does not know a setting.
        """
        self._topic = topic
        self._admin = connect(lambda config: AdminClient(config, logger=LOG), dict(for_admin(settings)))

    def identity(self, timeout_s: float = 10.0) -> TopicIdentity:
        """What the brokers tell of the topic.

        Raises:
            TransportUnavailable: they did not answer in time, or do not know the topic (yet).
            TransportError: they refuse to tell.
        """
        names = TopicCollection([self._topic])
        topics = self._admin.describe_topics(names, request_timeout=timeout_s)
        cluster = self._admin.describe_cluster(request_timeout=timeout_s)
        try:
            # A little longer than librdkafka's own limit, whose error says more.
            cluster_id = cluster.result(timeout_s + 1.0).cluster_id
            described = topics[self._topic].result(timeout_s + 1.0)
        except TimeoutError:
            raise self._unanswered(TransportUnavailable, KafkaError(KafkaError._TIMED_OUT), timeout_s) from None
        except KafkaException as error:
            if error.args[0].code() in UNTOLD:
                return TopicIdentity("", "", 0)
            kind = TransportError if error.args[0].code() in HOPELESS else TransportUnavailable
            raise self._unanswered(kind, error.args[0], timeout_s) from error
        topic_id = str(described.topic_id)
        return TopicIdentity("" if topic_id == NO_ID else topic_id, cluster_id or "", len(described.partitions))

    def _unanswered(self, kind: type[TransportError], error: KafkaError, timeout_s: float) -> TransportError:
        return kind(
            f"the brokers did not tell which topic {self._topic!r} is (time limit {timeout_s:g} s): {error.str()}; "
            "check bootstrap.servers, and that this user may describe the topic"
        )

"""Faust's consumer with an isolation level: Faust itself reads committed records only where it writes transactions too.

Knows nothing of counts.
"""

from __future__ import annotations

from typing import Any

from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport


def transport(isolation_level: str) -> type[Transport]:
    """Faust's transport, whose consumers read by `isolation_level`: `read_committed` or `read_uncommitted`."""

    class IsolatedThread(AIOKafkaConsumerThread):
        def _create_worker_consumer(self, transport: Any) -> Any:
            consumer = super()._create_worker_consumer(transport)
            consumer._isolation_level = isolation_level  # read when it starts; Faust has no setting for it
            return consumer

    class IsolatedConsumer(Consumer):
        def _new_consumer_thread(self) -> AIOKafkaConsumerThread:
            return IsolatedThread(self, loop=self.loop, beacon=self.beacon)

    class IsolatedTransport(Transport):
        pass

    IsolatedTransport.Consumer = IsolatedConsumer
    return IsolatedTransport

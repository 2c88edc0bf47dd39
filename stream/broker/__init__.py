"""What is found out about a Kafka broker at start, and the topics that nudge needs there."""

from stream.broker.capabilities import Capabilities, probe
from stream.broker.connection import BrokerError, Connection
from stream.broker.topics import TopicSpec, TopicState, describe_topics, ensure_topics

__all__ = [
    "BrokerError",
    "Capabilities",
    "Connection",
    "TopicSpec",
    "TopicState",
    "describe_topics",
    "ensure_topics",
    "probe",
]

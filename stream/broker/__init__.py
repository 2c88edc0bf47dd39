"""What is found out about a Kafka broker at start, what is waited for, and the topics that nudge needs there."""

from stream.broker.capabilities import Capabilities, probe
from stream.broker.connection import BrokerError, BrokerSilent, Connection
from stream.broker.coordinator import await_coordinators
from stream.broker.reading import find_ends, read_all
from stream.broker.topics import TopicSpec, TopicState, describe_topics, ensure_topics

__all__ = [
    "BrokerError",
    "BrokerSilent",
    "Capabilities",
    "Connection",
    "TopicSpec",
    "TopicState",
    "await_coordinators",
    "describe_topics",
    "ensure_topics",
    "find_ends",
    "probe",
    "read_all",
]

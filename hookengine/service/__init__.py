"""The operations of the API, once, for HTTP and Python alike."""

from hookengine.service.deliveries import DeliveryOperations
from hookengine.service.event_types import EventTypeOperations
from hookengine.service.events import EventOperations
from hookengine.service.observation import HEARTBEAT, Observation, Stream
from hookengine.service.operations import RequestKey, request_digest
from hookengine.service.replays import ReplayOperations
from hookengine.service.statistics import StatisticsOperations
from hookengine.service.subscriptions import SubscriptionOperations
from hookengine.service.tenants import TenantOperations
from hookengine.service.tokens import TokenOperations
from hookengine.service.trials import TrialOperations

__all__ = ["HEARTBEAT", "RequestKey", "Service", "Stream", "request_digest"]


class Service(
    EventOperations,
    SubscriptionOperations,
    DeliveryOperations,
    ReplayOperations,
    TrialOperations,
    StatisticsOperations,
    EventTypeOperations,
    TenantOperations,
    TokenOperations,
    Observation,
):
    """What can be asked of a running engine, by whom."""

"""The operations of the API, once, for HTTP and Python alike."""

from hookengine.service.deliveries import DeliveryOperations
from hookengine.service.events import EventOperations
from hookengine.service.operations import RequestKey, request_digest
from hookengine.service.replays import ReplayOperations
from hookengine.service.statistics import StatisticsOperations
from hookengine.service.subscriptions import SubscriptionOperations
from hookengine.service.trials import TrialOperations

__all__ = ["RequestKey", "Service", "request_digest"]


class Service(
    EventOperations, SubscriptionOperations, DeliveryOperations, ReplayOperations, TrialOperations, StatisticsOperations
):
    """What can be asked of a running engine, by whom."""

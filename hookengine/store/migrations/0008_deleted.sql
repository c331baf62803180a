-- Deleted subscriptions, which stay until nothing is left of what they had: found without passing all that are not.
CREATE INDEX subscriptions_deleted ON subscriptions (deleted_at) WHERE deleted_at IS NOT NULL;
